"""LDLQ: rounding with linear feedback from the LDL factors of H."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.grids import _round, per_column
from quiplinalg.reference.precision import working_dtype
from quiplinalg.reference.rounded import Rounded
from quiplinalg.reference.udu import udu

__all__ = ["ldlq"]


def ldlq(
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    order: np.ndarray | None = None,
    uniforms: np.ndarray | None = None,
    group_index: np.ndarray | None = None,
) -> Rounded:
    """Round column by column, feeding back the errors of the columns before.

    With H = T diag(D) T^T, T = I + U unit upper triangular (rows and columns in the order of
    rounding)::

        z_k     = W_k + (W - W_hat)_{<k} U_{<k,k}
        W_hat_k = Q(z_k),   eta_k = W_hat_k - z_k

    Then E T = eta and the loss of a row is sum_k D_k eta_k^2, for any Q.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    H : ndarray, (n, n)
        Symmetric positive definite, damped already.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    maxq : float
        Largest code; inf for the unbounded grid.
    order : ndarray, (n,), or None
        Column ``order[k]`` is rounded at step k; None: left to right.
    uniforms : ndarray, (m, n), or None
        The u of each weight for stochastic rounding; None: nearest, ties to even.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    Rounded
        Codes, errors and losses in the caller's column order; ``costs`` is D_k eta_k^2.

    Raises
    ------
    NotPositiveDefiniteError
        H is not positive definite; ``index`` counts in the order of rounding.

    Notes
    -----
    Computes in longdouble if an input is longdouble.  On the unbounded grid with nearest rounding
    the loss of a row is at most tr(D) / 4; on a clipped grid there is no such bound.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, equations 2 and 4.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> ldlq(W, H, np.ones((1, 1)), np.zeros((1, 1)), 3.0).codes  # nearest is [[0, 0]]
    array([[0, 1]])
    """
    dtype, (m, n) = working_dtype(W, H, scale, zero), np.shape(W)
    W, H = np.asarray(W, dtype), np.asarray(H, dtype)
    perm = np.arange(n) if order is None else np.asarray(order)
    s, o = (per_column(a, n, group_index).astype(dtype)[:, perm] for a in (scale, zero))
    u = [None] * n if uniforms is None else np.asarray(uniforms, dtype)[:, perm].T
    T, D = udu(H[np.ix_(perm, perm)])
    X, X_hat = W[:, perm], np.zeros((m, n), dtype)
    z, codes = np.zeros((m, n), dtype), np.zeros((m, n), np.int64)
    for k in range(n):
        z[:, k] = X[:, k] + (X - X_hat)[:, :k] @ T[:k, k]
        codes[:, k] = _round(z[:, k], s[:, k], o[:, k], maxq, u[k])
        X_hat[:, k] = s[:, k] * (codes[:, k] - o[:, k])
    costs = D * (X_hat - z) ** 2
    back = np.argsort(perm)
    codes, z, costs = codes[:, back], z[:, back], costs[:, back]
    return Rounded.of(W, H, codes, z, costs, scale, zero, group_index)
