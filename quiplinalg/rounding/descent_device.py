"""The driver of coordinate descent on a device: all rows of a layer at once, pass after pass."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import DeviceKernels
from quiplinalg.rounding.descent_driver import Descent, descent_limits, work_exponent

__all__ = ["descend_codes_on_device", "work_hessian_there"]


def work_hessian_there(
    H: Any, kind: np.dtype, kernels: DeviceKernels
) -> tuple[Any, np.ndarray, int]:
    """Return H in kind, its diagonal on the host, and the exponent of what they are in units of."""
    diagonal = kernels.xp.ascontiguousarray(H.diagonal()).get()
    exponent = work_exponent(diagonal, H.dtype == kind)
    if H.dtype != kind or exponent:
        factor = 2.0**-exponent  # of a Python float: in the precision of H, as on the host
        H, diagonal = ((a * factor).astype(kind) for a in (H, diagonal))
    return H, diagonal, exponent


def descend_codes_on_device(
    W: Any, H: Any, codes: Any, grid: UniformGrid, passes: int, kernels: DeviceKernels
) -> Descent:
    """Refine codes under H as `descend_codes`, with arrays on a device: the same codes.

    Read back: the diagonal of H, and in each pass how many rows changed, which says whether there
    is another; the vectors of `Descent`, at the end.  Memory: twice that of W, and H once more
    where it is not of the precision of W.

    Parameters
    ----------
    W : array, (m, n), float32 or float64, C order
    H : array, (n, n), float32 or float64, C order
        Symmetric.
    codes : array, (m, n), uint8, or int32 on an unbounded grid
        On the grid.  Not changed.
    grid : UniformGrid
        Of 1 or m rows, and n columns; its scales and zeros on the device.
    passes : int
        The most passes to do.
    kernels : DeviceKernels

    Returns
    -------
    Descent
        Its codes are on the device, the rest on the host.
    """
    xp, kind = kernels.xp, W.dtype
    m, n = W.shape
    codes = codes.copy()
    H, diagonal, exponent = work_hessian_there(H, kind, kernels)
    groups = grid.scale.shape[1]
    scale, zero = (
        xp.ascontiguousarray(xp.broadcast_to(a.astype(kind, copy=False), (m, groups)))
        for a in (grid.scale, grid.zero)
    )
    group = xp.asarray(grid.columns(n))
    E, G = xp.empty((m, n), kind), xp.empty((m, n), kind)
    kernels.errors(W, codes, scale, zero, group, E)
    loss = xp.empty(m, np.float64)
    kernels.residual(E, H, G, loss)
    del E
    bound, *limits = descent_limits(diagonal, grid)
    levels = (scale, group, xp.asarray(bound), *limits)
    ties = xp.zeros(m, np.bool_)
    gains: list[Any] = []
    changes: list[Any] = []
    rows = xp.arange(m if n else 0, dtype=np.int32)
    while rows.size and len(gains) < passes:
        gain, changed = xp.zeros(m, np.float64), xp.zeros(m, np.int64)
        kernels.descend(G, codes, H, levels, rows, (gain, changed, ties))
        gains.append(gain)
        changes.append(changed)
        # a row that was left alone would be again; their number is waited for
        rows = xp.flatnonzero(changed).astype(np.int32)
    done = len(gains) if m and n else min(passes, 1)
    unit = 2.0**exponent
    gained, moved = np.zeros((done, m)), 0
    if gains:
        gained = xp.stack(gains).get() * unit
        moved = int(changes[-1].sum())
    return Descent(
        codes=codes,
        loss=np.maximum(loss.get() * unit, 0.0),
        decrease=gained.sum(axis=0),
        ties=ties.get(),
        passes=done,
        changed=moved,
        history=tuple(gained.sum(axis=1).tolist()),
    )
