"""Stochastic rounding, unbiased inside the grid."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.grids import _round, per_column
from quiplinalg.reference.precision import working_dtype

__all__ = ["stochastic"]


def stochastic(
    W: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    uniforms: np.ndarray,
    *,
    group_index: np.ndarray | None = None,
) -> np.ndarray:
    """Round every weight up with the probability of its fractional part.

    ``t = w / scale + frac(zero)``, ``code = clamp(floor(t + u) + floor(zero), 0, maxq)``; over
    u ~ U[0, 1) the mean of the unclamped code is ``w / scale + zero``.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    maxq : float
        Largest code; inf for the unbounded grid.
    uniforms : ndarray, (m, n)
        The u of each weight, in [0, 1).
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    ndarray, (m, n), int64
        Codes.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, section 3.2 ("Stoch").

    Examples
    --------
    >>> W, one, u = np.array([[0.25, 0.25]]), np.ones((1, 1)), np.array([[0.7, 0.8]])
    >>> stochastic(W, one, 0 * one, 3.0, u)
    array([[0, 1]])
    """
    dtype, n = working_dtype(W, scale, zero), np.shape(W)[1]
    scale = per_column(scale, n, group_index).astype(dtype)
    zero = per_column(zero, n, group_index).astype(dtype)
    return _round(np.asarray(W, dtype), scale, zero, maxq, np.asarray(uniforms, dtype))
