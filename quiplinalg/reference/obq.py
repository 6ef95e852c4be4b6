"""OBQ in greedy order, the inverse of what is left of H computed anew at every step."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.grids import _round, per_column
from quiplinalg.reference.rounded import Rounded

__all__ = ["obq"]


def obq(
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    group_index: np.ndarray | None = None,
    outliers_first: bool = False,
) -> tuple[Rounded, np.ndarray]:
    """Round always the weight of least cost, and move those that are left to their optimum.

    With F the columns of a row not yet rounded, X = (H_FF)^-1 and e_q = w_q - Q(w_q)::

        q = argmin e_q^2 / X_qq,   w_F <- w_F - (e_q / X_qq) X_:q

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
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.
    outliers_first : bool
        While weights have a nearest code on the unbounded grid that is beyond this one, take the
        one of the largest |e_q|.

    Returns
    -------
    Rounded
        Codes, errors and losses; ``costs`` in the caller's column order.
    order : ndarray, (m, n), int64
        The column of each step of each row.  Of equal costs the lowest column.

    Notes
    -----
    m n inverses, n^4 / 4 multiply-adds a row.

    References
    ----------
    Frantar, Singh, Alistarh, Optimal Brain Compression, arXiv 2208.11580, algorithm 3.

    Examples
    --------
    >>> W, H = np.array([[0.4, 1.1]]), np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> rounded, order = obq(W, H, np.ones((1, 1)), np.zeros((1, 1)), 3.0)
    >>> order, rounded.codes
    (array([[1, 0]]), array([[0, 1]]))
    """
    W, H, (m, n) = np.asarray(W, np.float64), np.asarray(H, np.float64), np.shape(W)
    s, o = (
        np.broadcast_to(per_column(a, n, group_index).astype(float), (m, n)) for a in (scale, zero)
    )
    z, codes = np.zeros((m, n)), np.zeros((m, n), np.int64)
    costs, order = np.zeros((m, n)), np.zeros((m, n), np.int64)
    for i in range(m):
        w, F = W[i].copy(), np.arange(n)
        for k in range(n):
            X = np.linalg.inv(H[np.ix_(F, F)])
            code = _round(w[F], s[i, F], o[i, F], maxq)
            e = w[F] - s[i, F] * (code - o[i, F])
            cost = e**2 / np.diag(X)
            outlier = code != _round(w[F], s[i, F], o[i, F], np.inf)
            if outliers_first and outlier.any():
                j = int(np.argmax(np.where(outlier, np.abs(e), -1.0)))
            else:
                j = int(np.argmin(cost))
            q = F[j]
            order[i, k], codes[i, q], costs[i, q], z[i, q] = q, code[j], cost[j], w[q]
            w[F] -= e[j] / X[j, j] * X[:, j]
            F = np.delete(F, j)
    return Rounded.of(W, H, codes, z, costs, scale, zero, group_index), order
