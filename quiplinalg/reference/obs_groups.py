"""OBS pruning of a matrix by the letter: groups of weights, whole columns, rows side by side."""

from __future__ import annotations

import numpy as np

__all__ = ["merge_traces", "obs_blocks", "obs_columns"]


def merge_traces(costs: np.ndarray, steps: int) -> np.ndarray:
    """Take ``steps`` steps of all rows together, always the next step that costs least.

    Parameters
    ----------
    costs : ndarray, (rows, most)
        What the steps of each row cost, which must be taken in order.
    steps : int

    Returns
    -------
    ndarray, (rows,), int64
        How many steps each row takes; of equal costs the first row's is next.

    References
    ----------
    Frantar, Singh, Alistarh, Optimal Brain Compression, arXiv 2208.11580, algorithm 2.

    Examples
    --------
    >>> merge_traces(np.array([[2.0, 1.0, 5.0], [3.0, 4.0, 9.0]]), 3)  # 2, 1, then 3
    array([2, 1])
    """
    taken = np.zeros(len(costs), np.int64)
    for _ in range(steps):
        following = [c[k] if k < len(c) else np.inf for c, k in zip(costs, taken, strict=True)]
        taken[int(np.argmin(following))] += 1
    return taken


def obs_blocks(w: np.ndarray, H: np.ndarray, size: int, steps: int) -> tuple[np.ndarray, ...]:
    """Set blocks of ``size`` consecutive weights of a row to zero, the least cost first.

    With F the weights left, X = (H_FF)^-1, computed anew at every step, and B a block in F::

        B = argmin w_B (X_BB)^-1 w_B^T,   w_F <- w_F - w_B (X_BB)^-1 X_BF

    Parameters
    ----------
    w : ndarray, (n,)
    H : ndarray, (n, n)
        Symmetric positive definite, damped already.
    size : int
        Divides n.
    steps : int

    Returns
    -------
    weights : ndarray, (n,)
    order : ndarray, (steps,), int64
        The first weight of each block.
    costs : ndarray, (steps,)

    Examples
    --------
    >>> obs_blocks(np.array([3.0, 4.0, 1.0, 1.0]), np.eye(4), 2, 1)
    (array([3., 4., 0., 0.]), array([2]), array([2.]))
    """
    w, H = np.array(w, np.float64), np.asarray(H, np.float64)
    F, order, costs = np.arange(len(w)), [], []
    for _ in range(steps):
        X = np.linalg.inv(H[np.ix_(F, F)])
        blocks = [np.arange(a, a + size) for a in range(0, len(F), size)]
        moves = [np.linalg.solve(X[np.ix_(B, B)], w[F[B]]) for B in blocks]
        cost = [w[F[B]] @ move for B, move in zip(blocks, moves, strict=True)]
        best = int(np.argmin(cost))
        B = blocks[best]
        order.append(F[B[0]])
        costs.append(cost[best])
        w[F] -= X[:, B] @ moves[best]
        w[F[B]] = 0
        F = np.delete(F, B)
    return w, np.array(order, np.int64), np.array(costs)


def obs_columns(W: np.ndarray, H: np.ndarray, steps: int) -> tuple[np.ndarray, ...]:
    """Set whole columns to zero, the least cost over all rows first.

    With F the columns left and X = (H_FF)^-1, computed anew at every step::

        q = argmin sum_r w_rq^2 / X_qq,   w_F <- w_F - w_q X_qF / X_qq

    Parameters
    ----------
    W : ndarray, (m, n)
    H : ndarray, (n, n)
        Symmetric positive definite, damped already.
    steps : int

    Returns
    -------
    weights : ndarray, (m, n)
    order : ndarray, (steps,), int64
    costs : ndarray, (steps,)

    Examples
    --------
    >>> obs_columns(np.array([[1.0, 0.5]]), np.array([[1.0, 0.5], [0.5, 1.0]]), 1)
    (array([[1.25, 0.  ]]), array([1]), array([0.1875]))
    """
    W, H = np.array(W, np.float64), np.asarray(H, np.float64)
    F, order, costs = np.arange(len(H)), [], []
    for _ in range(steps):
        X = np.linalg.inv(H[np.ix_(F, F)])
        cost = (W[:, F] ** 2).sum(axis=0) / np.diag(X)
        j = int(np.argmin(cost))
        order.append(F[j])
        costs.append(cost[j])
        W[:, F] -= np.outer(W[:, F[j]] / X[j, j], X[j])
        W[:, F[j]] = 0
        F = np.delete(F, j)
    return W, np.array(order, np.int64), np.array(costs)
