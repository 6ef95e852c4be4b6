"""Factorisation on a device: what `factor_reversed` does, for a stack of matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.kernels.record import DeviceKernels

__all__ = ["factor_members"]

REMEDY = 'Raise damp (it is a fraction of the mean diagonal), or pass damp="auto".'


def factor_members(
    H: Any,
    order: np.ndarray,
    shift: np.ndarray,
    kernels: DeviceKernels,
    dtype: type = np.float64,
    names: Sequence[str] = ("H",),
    remedy: str = REMEDY,
) -> tuple[Any, dict[int, NotPositiveDefiniteError]]:
    """Factor every H[order][:, order] + diag(shift) from its last row to its first.

    Parameters
    ----------
    H : device array, (b, n, n), symmetric, C order
    order : ndarray, (b, n), int64
    shift : ndarray, (b, n), float64
        In the caller's column order.
    names : sequence of str
        Of the members, for the messages.

    Returns
    -------
    A : device array, (b, n, n), ``dtype``
        As `factor_reversed` returns it; what lies below the diagonal is undefined.
    failed : dict
        The error of each member that could not be factored.
    """
    xp = kernels.xp
    b, n, _ = H.shape
    A = xp.empty((b, n, n), dtype)
    permuted = np.take_along_axis(shift, order, axis=1)
    kernels.reverse_rows(H, xp.asarray(order), xp.asarray(permuted), A)
    info, block = kernels.cholesky(A)
    steps = info.get()
    failed = {}
    for i in np.flatnonzero(steps.any(axis=0)).tolist():
        step = int(np.flatnonzero(steps[:, i])[0])
        at = step * block + int(steps[step, i]) - 1
        pivot = _pivot(H[i], order[i], permuted[i], at, kernels, dtype)
        row = int(order[i, n - 1 - at])
        failed[i] = NotPositiveDefiniteError(row, pivot, remedy, names[i])
    return A, failed


def _pivot(
    H: Any, order: np.ndarray, shift: np.ndarray, at: int, kernels: DeviceKernels, dtype: type
) -> float:
    """Return the pivot that was not positive: a - l l^T, L_11 l^T = the rest of its row."""
    xp = kernels.xp
    last = np.ascontiguousarray(order[::-1][: at + 1])
    back = xp.asarray(last)
    part = H[back][:, back].astype(dtype)
    part += xp.diag(xp.asarray(shift[::-1][: at + 1].astype(dtype)))
    value = float(part[at, at])
    if at:
        row, L = part[at, :at].copy(), xp.ascontiguousarray(part[:at, :at])
        info, _ = kernels.cholesky(L[None])
        if info.get().any():  # it could be, in another order of sums
            return 0.0
        column = xp.linalg.solve(xp.triu(L).T, row)
        value -= float(column @ column)
    return value if value < 0 else 0.0  # rounded anew, it may be above 0 by a little
