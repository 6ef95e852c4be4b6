"""SparseGPT as its paper states it: one pass over the columns through a factor of H^-1."""

from __future__ import annotations

import numpy as np

__all__ = ["sparsegpt"]


def sparsegpt(
    W: np.ndarray,
    H: np.ndarray,
    sparsity: float = 0.5,
    *,
    keep: int = 0,
    size: int = 0,
    block: int = 128,
    quantise=None,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose a mask group by group, and compensate each pruned weight in the columns after it.

    With H^-1 = U_c^T U_c, U_c upper triangular, and w the current weights::

        score_k = w_k^2 / U_c[k, k]^2              for all k of a group when it is reached
        err     = (w_k - w_hat_k) / U_c[k, k],     w_hat_k = 0 where pruned, else w_k or Q(w_k)
        w_j    <- w_j - err U_c[k, j]              for j >= k

    Parameters
    ----------
    W : ndarray, (m, n)
    H : ndarray, (n, n)
        Symmetric positive definite, damped already.
    sparsity : float
        In each block of columns the least scores of all rows go: so many that all together are
        floor(sparsity m n' + 1/2) after n' columns; of equals the first in row-major order.
    keep, size : int
        N and M of an N:M pattern, instead: N of each M consecutive weights stay.
    block : int
        Columns of a group without a pattern.
    quantise : callable, (column number, (m,) weights) -> (m,) grid points, optional
        Q.

    Returns
    -------
    W_hat : ndarray, (m, n)
    mask : ndarray, (m, n), bool
        True where pruned.

    References
    ----------
    Frantar, Alistarh, SparseGPT, arXiv 2301.00774, algorithm 1.

    Examples
    --------
    >>> sparsegpt(np.array([[0.4, 0.5]]), np.array([[1.0, 0.5], [0.5, 1.0]]), keep=1, size=2)[0]
    array([[0. , 0.7]])
    """
    W, H, (m, n) = np.array(W, np.float64), np.asarray(H, np.float64), np.shape(W)
    U = np.linalg.cholesky(np.linalg.inv(H)).T
    mask, step = np.zeros((m, n), bool), size or block
    for k in range(n):
        if k % step == 0:
            group = slice(k, min(k + step, n))
            score = W[:, group] ** 2 / np.diag(U)[group] ** 2
            if size:
                least = np.argsort(score, axis=1, kind="stable")[:, : size - keep]
                np.put_along_axis(mask[:, group], least, True, axis=1)
            else:
                count = int(np.floor(sparsity * m * group.stop + 0.5)) - mask.sum()
                flat = np.zeros(score.size, bool)
                flat[np.argsort(score, axis=None, kind="stable")[:count]] = True
                mask[:, group] = flat.reshape(score.shape)
        kept = W[:, k] if quantise is None else quantise(k, W[:, k])
        W_hat = np.where(mask[:, k], 0, kept)
        error = (W[:, k] - W_hat) / U[k, k]
        W[:, k:] -= np.outer(error, U[k, k:])
        W[:, k] = W_hat
    return W, mask
