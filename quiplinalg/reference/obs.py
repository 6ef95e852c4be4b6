"""Pruning a row by the Optimal Brain Surgeon, and the optimum for a set of pruned weights."""

from __future__ import annotations

import numpy as np

__all__ = ["obs", "pruned_optimum"]


def obs(
    w: np.ndarray,
    H: np.ndarray,
    steps: int,
    *,
    width: int | None = None,
    quota: int | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Set always the weight of least cost to zero, and move those that are left to their optimum.

    With F the coordinates left and X = (H_FF)^-1, computed anew at every step::

        q = argmin w_q^2 / X_qq,   w_F <- w_F - (w_q / X_qq) X_:q

    Parameters
    ----------
    w : ndarray, (n,)
    H : ndarray, (n, n)
        Symmetric positive definite, damped already.
    steps : int
        Weights to prune.
    width, quota : int or None
        Prune at most ``quota`` weights of each block of ``width`` consecutive ones; stops where
        no block has any left.

    Returns
    -------
    weights : ndarray, (n,)
        Zero where pruned.
    order : ndarray, (steps made,), int64
        Of equal costs the lowest coordinate.
    costs : ndarray, (steps made,)
        What each step added to the loss; they add up to delta^T H delta.

    References
    ----------
    Hassibi, Stork, Second order derivatives for network pruning: Optimal Brain Surgeon, 1992; the
    loss here has no factor 1/2.

    Examples
    --------
    >>> obs(np.array([1.0, 0.5]), np.array([[1.0, 0.5], [0.5, 1.0]]), 1)
    (array([1.25, 0.  ]), array([1]), array([0.1875]))
    """
    w, H = np.array(w, np.float64), np.asarray(H, np.float64)
    n = len(w)
    F, order, costs = np.arange(n), [], []
    block = np.arange(n) // (width or max(n, 1))
    left = np.full(n + 1, n if quota is None else quota)
    for _ in range(steps):
        open_ = left[block[F]] > 0
        if not open_.any():
            break
        X = np.linalg.inv(H[np.ix_(F, F)])
        cost = w[F] ** 2 / np.diag(X)
        j = int(np.argmin(np.where(open_, cost, np.inf)))
        q = F[j]
        order.append(q)
        costs.append(cost[j])
        w[F] -= w[q] / X[j, j] * X[:, j]
        w[q] = 0
        left[block[q]] -= 1
        F = np.delete(F, j)
    return w, np.array(order, np.int64), np.array(costs)


def pruned_optimum(w: np.ndarray, H: np.ndarray, pruned: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the weights that are best where some are zero, and their loss, from the KKT system.

    The minimiser of delta^T H delta subject to (w + delta)_S = 0::

        [ H    I_S ] [ delta  ]   [  0   ]
        [ I_S' 0   ] [ lambda ] = [ -w_S ]

    Parameters
    ----------
    w : ndarray, (n,)
    H : ndarray, (n, n)
        Symmetric positive definite.
    pruned : ndarray, (n,), bool, or (count,) of indices
        S.

    Examples
    --------
    >>> pruned_optimum(np.array([1.0, 0.5]), np.array([[1.0, 0.5], [0.5, 1.0]]), np.array([1]))
    (array([1.25, 0.  ]), 0.1875)
    """
    w, H = np.asarray(w, np.float64), np.asarray(H, np.float64)
    A = np.eye(len(w))[pruned]
    c = len(A)
    kkt = np.block([[H, A.T], [A, np.zeros((c, c))]])
    delta = np.linalg.solve(kkt, np.concatenate([np.zeros(len(w)), -A @ w]))[: len(w)]
    weights = w + delta
    weights[pruned] = 0
    return weights, float(delta @ H @ delta)
