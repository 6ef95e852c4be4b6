"""The driver of eliminations on a device: all rows of a layer in one launch."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.grids.apply import check_reached, code_ends
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import DeviceKernels
from quiplinalg.rounding.elimination import _REMEDY, Eliminated

__all__ = ["eliminate_on_device", "inverse_of_factor"]

_RESIDENT = 2  # rows that an SM works on at a time
_SHARE = 0.8  # of the free memory that their work spaces may take
_NONE = 2**31 - 1


def inverse_of_factor(factor: Any, permutation: np.ndarray, kernels: DeviceKernels) -> Any:
    """Return the inverse of what `factor_in_order` factored, in the caller's order of columns.

    Parameters
    ----------
    factor : device array, (n, n), float64, C order
        L^T in its upper triangle, L L^T = J (H + shift) J in the order of ``permutation``, J the
        reversal.  Not changed; its other triangle is not read.
    permutation : ndarray, (n,)
    kernels : DeviceKernels

    Returns
    -------
    device array, (n, n), float64, C order
        Exactly symmetric.

    Notes
    -----
    2 n^3 flops in cuBLAS; two matrices besides the result.
    """
    xp, n = kernels.xp, factor.shape[0]
    inverse = xp.eye(n)
    if n == 0:
        return inverse
    kernels.inverse_in_place(factor, inverse)
    place = np.empty(n, np.int64)
    place[permutation] = np.arange(n)[::-1]
    there = xp.asarray(place)
    inverse = inverse[there][:, there]
    return xp.ascontiguousarray((inverse + inverse.T) * 0.5)


def eliminate_on_device(
    weight: Any,
    Hinv: Any,
    kernels: DeviceKernels,
    *,
    grid: UniformGrid | None = None,
    order: Any = None,
    mask: Any = None,
    steps: Any = None,
    quota: Any = None,
    width: int | None = None,
    outliers: bool = False,
) -> Eliminated:
    """Eliminate coordinates of each row of ``weight`` as `eliminate`: the same bits.

    Parameters
    ----------
    weight : device array, (m, n), float32 or float64
        Not changed.
    Hinv : device array, (n, n), float64, C order
        Symmetric; not changed.
    kernels : DeviceKernels
    grid : UniformGrid, optional
        Its scales and zeros on either side.
    order, mask, steps, quota, width, outliers
        As in `eliminate`, on either side.

    Returns
    -------
    Eliminated
        Its matrices are on the device; ties, clipped and trace_D, (m,) each, are on the host.

    Raises
    ------
    NotPositiveDefiniteError
        As `eliminate`: of the first row that failed.

    Notes
    -----
    The host waits once, at the end.  4 n^2 + 600 n bytes for each row at work, two for each SM if
    the memory that is free suffices; the results are the same however many.
    """
    xp = kernels.xp
    m, n = weight.shape
    width = int(width or max(n, 1))
    blocks = -(-n // width)
    limits = xp.empty(0, np.int64)
    if quota is not None:
        limits = _spread(quota, blocks, xp)
    most = _spread(n if steps is None else steps, m, xp)
    common = xp.empty(0, np.int64) if order is None else _array(order, np.int64, xp)
    masked = xp.empty((0, 0), np.bool_) if mask is None else _array(mask, np.bool_, xp)
    if grid is None:
        scale = zero = xp.empty((1, 0))
        group, ends = np.zeros(n, np.int32), (0.0, 0.0)
    else:
        scale, zero = (_array(a, np.float64, xp) for a in (grid.scale, grid.zero))
        group, ends = grid.columns(n), code_ends(grid.bits)
    orders, codes = xp.empty((m, n), np.int32), xp.empty((0 if grid is None else m, n), np.int32)
    costs, weights, stats = xp.empty((m, n)), xp.empty((m, n)), xp.empty((m, 3))
    if m and n:
        state = xp.asarray(np.array([_NONE, 0], np.int32))
        kernels.eliminate_rows(
            _array(weight, np.float64, xp),
            _array(Hinv, np.float64, xp),
            (scale, zero, xp.asarray(group), *ends),
            (common, masked, most, limits, width, bool(outliers)),
            xp.empty((_rows_at_once(m, n, kernels), kernels.eliminate_space(n))),
            (orders, costs, weights, codes, stats, state),
        )
        row = int(state[0])
        if row != _NONE:
            made, pivots = orders[row].get(), costs[row].get()
            last = int(np.flatnonzero(made >= 0)[-1])
            raise NotPositiveDefiniteError(int(made[last]), float(pivots[last]), _REMEDY)
        ties, clipped, trace_D = np.ascontiguousarray(stats.get().T)
    else:
        ties, clipped, trace_D = np.full(m, 0.5), np.zeros(m), np.zeros(m)
    if grid is not None:
        check_reached(grid.bits, clipped.sum())
    found = None if grid is None else codes
    return Eliminated(orders, costs, weights, found, ties, clipped, trace_D)


def _array(a: Any, dtype: Any, xp: Any) -> Any:
    return xp.ascontiguousarray(xp.asarray(a), dtype)


def _spread(value: Any, count: int, xp: Any) -> Any:
    """Return a number, or an array of numbers, as (count,) int64."""
    return _array(xp.broadcast_to(_array(value, np.int64, xp), (count,)), np.int64, xp)


def _rows_at_once(m: int, n: int, kernels: DeviceKernels) -> int:
    device, pool = kernels.xp.cuda.Device(), kernels.xp.get_default_memory_pool()
    free = device.mem_info[0] + pool.free_bytes()
    fit = int(_SHARE * free) // (8 * kernels.eliminate_space(n))
    return max(1, min(m, fit, _RESIDENT * int(device.attributes["MultiProcessorCount"])))
