"""OBQ in a forced order, each step solved anew from its optimality conditions."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.grids import _round, per_column
from quiplinalg.reference.rounded import Rounded

__all__ = ["obq_fixed"]


def obq_fixed(
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    order: np.ndarray | None = None,
    group_index: np.ndarray | None = None,
) -> Rounded:
    """Round the next column of the least-squares solution given all columns rounded so far.

    With S the columns rounded so far, the change of a row is the minimiser of delta^T H delta
    subject to delta_S = (W_hat - W)_S, from its KKT system::

        [ H    I_S ] [ delta  ]   [ 0              ]
        [ I_S' 0   ] [ lambda ] = [ (W_hat - W)_S' ]

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
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    Rounded
        Codes, errors and losses; ``costs`` is by how much each step raised the minimum of
        delta^T H delta.

    Notes
    -----
    Computes in float64 always; (2 n)^3 flops a step.

    References
    ----------
    Frantar, Singh, Alistarh, Optimal Brain Compression, arXiv 2208.11580, section 5.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> obq_fixed(W, H, np.ones((1, 1)), np.zeros((1, 1)), 3.0).codes
    array([[0, 1]])
    """
    W, H, (m, n) = np.asarray(W, np.float64), np.asarray(H, np.float64), np.shape(W)
    perm = np.arange(n) if order is None else np.asarray(order)
    s, o = (per_column(a, n, group_index).astype(float) for a in (scale, zero))
    z, codes, costs = np.zeros((m, n)), np.zeros((m, n), np.int64), np.zeros((m, n))
    E, delta, least = np.zeros((m, n)), np.zeros((m, n)), np.zeros(m)
    for k, q in enumerate(perm):
        z[:, q] = W[:, q] + delta[:, q]
        codes[:, q] = _round(z[:, q], s[:, q], o[:, q], maxq)
        E[:, q] = s[:, q] * (codes[:, q] - o[:, q]) - W[:, q]
        fixed, c = perm[: k + 1], k + 1
        A = np.eye(n)[fixed]
        kkt = np.block([[H, A.T], [A, np.zeros((c, c))]])
        delta = np.linalg.solve(kkt, np.vstack([np.zeros((n, m)), E[:, fixed].T]))[:n].T
        costs[:, q] = ((delta @ H) * delta).sum(axis=1) - least
        least = ((delta @ H) * delta).sum(axis=1)
    return Rounded.of(W, H, codes, z, costs, scale, zero, group_index)
