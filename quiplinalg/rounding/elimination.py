"""The driver of eliminations: coordinates of rows to targets, the others following (OBS, OBQ).

Per row, with F the coordinates left and X = (H_FF)^-1: q is chosen, e = w_q - t_q,
w_F -= (e / X_qq) X_:q, at a cost of e^2 / X_qq; the costs add up to the loss under the damped H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.factor.damping import AbsoluteDamp, damped
from quiplinalg.factor.orders import factor_in_order, host_diagonal
from quiplinalg.grids.apply import check_reached, code_ends
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import DeviceKernels, Kernels
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.symmetric import mirror

__all__ = ["DampedInverse", "Eliminated", "damped_inverse", "eliminate"]

_REMEDY = (
    "It is a diagonal element of the inverse of what was left of H: H is too near to a singular "
    "matrix for this. Raise damp."
)
_ALIGNED = 8  # float64 elements of a cache line
_PIECE = 2**31  # rows times n^3 of a call of the kernel: about a second


@dataclass(frozen=True, eq=False)
class DampedInverse:
    """(H + diag(shift))^-1 in the caller's column order, and what H was damped by.

    Attributes
    ----------
    Hinv : ndarray, (n, n), float64, C order, symmetric
    damp : float
        In H's units.
    shift : ndarray, (n,), float64
        ``damp``, and for dead columns what `damped` gives them.
    permutation : ndarray, (n,), int64
        The columns in the order that was asked for.
    trace_D : float
        tr D of the damped H in that order, less what dead columns were given where damp is 0.
    """

    Hinv: np.ndarray
    damp: float
    shift: np.ndarray
    permutation: np.ndarray
    trace_D: float


def damped_inverse(
    hessian: np.ndarray,
    damp: float | str | AbsoluteDamp,
    kernels: Kernels,
    order: str = "natural",
) -> DampedInverse:
    """Return the inverse of H with its damping, from the Cholesky factor in some order.

    Parameters
    ----------
    hessian : ndarray, (n, n)
        As `symmetric_matrix` returns it.  Not changed.
    damp : float, "auto" or AbsoluteDamp
        As in `ldlq`.
    kernels : Kernels
    order : str
        One of ORDERS; the inverse is that of the caller's order, up to rounding errors.

    Raises
    ------
    NotPositiveDefiniteError, InvalidArgumentError
        As `ldlq`.

    Notes
    -----
    n^3 flops, two n x n matrices.  The same bits for any number of threads.
    """
    diagonal = host_diagonal(hessian)
    (factor, permutation), value, shift = damped(
        lambda _, shift: factor_in_order(hessian, order, shift, kernels), diagonal, damp
    )
    n = hessian.shape[0]
    D = host_diagonal(factor)[::-1] ** 2
    trace = float(D.sum()) - float((shift - value).sum())
    if isinstance(kernels, DeviceKernels):
        from quiplinalg.rounding.elimination_device import inverse_of_factor

        Hinv = inverse_of_factor(factor, permutation, kernels)
        return DampedInverse(Hinv, value, shift, permutation, trace)
    if n:
        from scipy.linalg.lapack import dpotri

        # J (H + shift) J = L L^T, L the lower triangle of factor.T
        with single_blas_thread():
            inverse, info = dpotri(factor.T, lower=1, overwrite_c=1)
        assert info == 0
        # in C order the triangle that dpotri wrote is the upper one
        factor = mirror(inverse.T, kernels)
    place = np.empty(n, np.int64)
    place[permutation] = np.arange(n)[::-1]
    Hinv = np.ascontiguousarray(factor[np.ix_(place, place)])
    return DampedInverse(Hinv, value, shift, permutation, trace)


@dataclass(frozen=True, eq=False)
class Eliminated:
    """What became of the rows; steps are in the order in which each row made them.

    Attributes
    ----------
    order : ndarray, (m, n), int32
        The column of each step, -1 after the last.
    costs : ndarray, (m, n), float64
        What each step added to the loss under the damped H; 0 after the last.
    weights : ndarray, (m, n), float64
        Eliminated ones are exactly their targets, the others what the eliminations left them at.
    codes : ndarray, (m, n), int32, or None
        None without a grid.  Undefined where a coordinate was not eliminated.
    ties : ndarray, (m,)
        The least distance of a target to a rounding tie, in steps of the grid; 0.5 for none.
    clipped : ndarray, (m,)
        Targets beyond the ends of the grid.
    trace_D : ndarray, (m,)
        The sum of 1 / X_qq over the steps.
    """

    order: np.ndarray
    costs: np.ndarray
    weights: np.ndarray
    codes: np.ndarray | None
    ties: np.ndarray
    clipped: np.ndarray
    trace_D: np.ndarray


def eliminate(
    weight: np.ndarray,
    Hinv: np.ndarray,
    kernels: Kernels,
    *,
    grid: UniformGrid | None = None,
    order: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    steps: Any = None,
    quota: Any = None,
    width: int | None = None,
    outliers: bool = False,
) -> Eliminated:
    """Eliminate coordinates of each row of ``weight``; nothing is checked here.

    Parameters
    ----------
    weight : ndarray, (m, n), float32 or float64
        Not changed.
    Hinv : ndarray, (n, n), float64, C order
        Inverse of the damped H.  Not changed.
    kernels : Kernels
    grid : UniformGrid, optional
        Targets are the weights rounded to it as they are when they are eliminated; without it
        they are 0 (pruning).
    order : ndarray, (n,), optional
        A common order of the columns.  Default: each row the least cost first.
    mask : ndarray, (m, n), bool, optional
        Eliminated before all others, with target 0.
    steps : int or ndarray, (m,), optional
        The most eliminations of each row.  Default: all columns.
    quota : int or ndarray, (ceil(n / width),), optional
        The most eliminations of each block of ``width`` consecutive columns.
    width : int, optional
        Columns of such a block.  Default: n.
    outliers : bool
        Clipped weights at once, those of the largest error first; only without ``order``.

    Returns
    -------
    Eliminated

    Raises
    ------
    NotPositiveDefiniteError
        A diagonal element of the inverse was not positive.

    Notes
    -----
    n^3 / 3 flops for each row, and n^2 / 2 + 128 n float64 elements for each thread.  The same
    bits for any number of threads.
    """
    if isinstance(kernels, DeviceKernels):
        from quiplinalg.rounding.elimination_device import eliminate_on_device

        return eliminate_on_device(
            weight, Hinv, kernels, grid=grid, order=order, mask=mask, steps=steps, quota=quota,
            width=width, outliers=outliers,
        )  # fmt: skip
    m, n = weight.shape
    width = int(width or max(n, 1))
    blocks = -(-n // width)
    # copies all: for arrays that are read-only, or not in C order, a kernel is compiled once more
    limits = np.empty(0, np.int64)
    if quota is not None:
        limits = np.array(np.broadcast_to(quota, (blocks,)), np.int64)
    most = np.array(np.broadcast_to(n if steps is None else steps, (m,)), np.int64)
    common = np.array(np.empty(0) if order is None else order, np.int64)
    if grid is None:
        scale = zero = np.empty((1, 0))
        group, ends = np.zeros(n, np.int32), (0.0, 0.0)
    else:
        scale, zero, group = grid.scale, grid.zero, np.array(grid.columns(n))
        ends = code_ends(grid.bits)

    orders, codes = np.empty((m, n), np.int32), np.empty((m, n), np.int32)
    costs, weights, stats = np.empty((m, n)), np.empty((m, n)), np.empty((m, 3))
    # pieces of rows so small that Ctrl-C need not wait for long
    step = max(1, min(64, m // 16, _PIECE // max(n, 1) ** 3))
    space = kernels.eliminate_space(n)
    rooms: list[np.ndarray] = []  # those not in use, at most one for each thread

    def part(a: np.ndarray, rows: slice) -> np.ndarray:
        """Some rows of a matrix that has a row for each of W's, or one for all."""
        own = a if a.shape[0] == 1 else a[rows]
        shape = (min(rows.stop, m) - rows.start, a.shape[1])
        return np.array(np.broadcast_to(own, shape), np.float64, order="C")

    def piece(i: int) -> int:
        """Do some rows from row i on; return the one that failed, or -1."""
        try:
            room = rooms.pop()
        except IndexError:
            room = np.empty(space + _ALIGNED)
        first = -(room.ctypes.data // room.itemsize) % _ALIGNED  # vectors are whole cache lines
        rows = slice(i, i + step)
        own = np.zeros((0, 0), bool) if mask is None else np.array(mask[rows], order="C")
        row = kernels.eliminate_rows(
            np.array(weight[rows], np.float64, order="C"),
            Hinv,
            (part(scale, rows), part(zero, rows), group, *ends),
            (common, own, most[rows], limits, width, bool(outliers)),
            room[first : first + space],
            tuple(a[rows] for a in (orders, costs, weights, codes, stats)),
        )
        rooms.append(room)
        return -1 if row < 0 else i + row

    failed = []
    if m and n:
        failed = [row for row in run_all(piece, [(i,) for i in range(0, m, step)]) if row >= 0]
    else:
        stats[:] = (0.5, 0, 0)
    if failed:
        row = min(failed)
        last = int(np.flatnonzero(orders[row] >= 0)[-1])
        raise NotPositiveDefiniteError(int(orders[row, last]), float(costs[row, last]), _REMEDY)
    if grid is not None:
        check_reached(grid.bits, stats[:, 1].sum())
    found = None if grid is None else codes
    return Eliminated(orders, costs, weights, found, stats[:, 0], stats[:, 1], stats[:, 2])
