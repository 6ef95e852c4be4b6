"""Nearest rounding, the baseline without feedback."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.grids import quantise

__all__ = ["nearest"]


def nearest(
    W: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    group_index: np.ndarray | None = None,
) -> np.ndarray:
    """Round every weight to its nearest grid point, ties to even.

    ``code = clamp(rint(w / scale + frac(zero)) + floor(zero), 0, maxq)``.  On W ~ U[0, 1] and the
    unbounded unit grid the loss of a row is tr(H) / 12 on average.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    maxq : float
        Largest code; inf for the unbounded grid.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    ndarray, (m, n), int64
        Codes.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, section 3.2 ("Near").

    Examples
    --------
    >>> nearest(np.array([[0.4, 0.6]]), np.ones((1, 1)), np.zeros((1, 1)), 3.0)
    array([[0, 1]])
    """
    return quantise(W, scale, zero, maxq, group_index=group_index)
