"""Babai's nearest plane on the lattice whose Gram matrix is H."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.grids import _round, per_column
from quiplinalg.reference.rounded import Rounded

__all__ = ["babai"]


def babai(
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    order: np.ndarray | None = None,
    group_index: np.ndarray | None = None,
) -> Rounded:
    """Choose the nearest plane of the reversed basis, one basis vector after the other.

    With H = B^T B the loss of a row is |B w_hat - B w|^2.  Gram-Schmidt goes through the columns
    of B last to first, so that b*_k is orthogonal to b_{k+1}, ..., b_{n-1}; then, for k from 0
    and a target t that starts as B w::

        z_k = <t, b*_k> / <b*_k, b*_k>,   t <- t - Q(z_k) b_k

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
        Codes, errors and losses; ``costs`` is |b*_k|^2 (Q(z_k) - z_k)^2.

    Notes
    -----
    Computes in float64 always.  B is the symmetric root of H, from its eigenvectors; the choice
    of the root does not change the codes.

    References
    ----------
    Babai, On Lovasz' lattice reduction and the nearest lattice point problem, Combinatorica 6
    (1986).

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> babai(W, H, np.ones((1, 1)), np.zeros((1, 1)), 3.0).codes
    array([[0, 1]])
    """
    W, H, (m, n) = np.asarray(W, np.float64), np.asarray(H, np.float64), np.shape(W)
    perm = np.arange(n) if order is None else np.asarray(order)
    s, o = (per_column(a, n, group_index).astype(float) for a in (scale, zero))
    values, Q = np.linalg.eigh(H)
    B = (Q * np.sqrt(values)) @ Q.T
    B_star = np.zeros((n, n))
    done: list[int] = []
    for q in perm[::-1]:
        v = B[:, q].copy()
        for j in done + done:  # twice, for orthogonality to rounding error
            v -= (v @ B_star[:, j]) / (B_star[:, j] @ B_star[:, j]) * B_star[:, j]
        B_star[:, q] = v
        done.append(q)
    z, codes, costs = np.zeros((m, n)), np.zeros((m, n), np.int64), np.zeros((m, n))
    t = W @ B.T
    for q in perm:
        length2 = B_star[:, q] @ B_star[:, q]
        z[:, q] = t @ B_star[:, q] / length2
        codes[:, q] = _round(z[:, q], s[:, q], o[:, q], maxq)
        value = s[:, q] * (codes[:, q] - o[:, q])
        costs[:, q] = length2 * (value - z[:, q]) ** 2
        t = t - np.outer(value, B[:, q])
    return Rounded.of(W, H, codes, z, costs, scale, zero, group_index)
