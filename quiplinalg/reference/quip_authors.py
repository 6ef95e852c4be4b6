"""QuIP as its authors' code runs it: every step on dense matrices."""

from __future__ import annotations

import numpy as np

__all__ = ["quip_authors"]


def quip_authors(
    W: np.ndarray,
    H: np.ndarray,
    bits: int,
    U: np.ndarray,
    V: np.ndarray,
    scales: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rescale, rotate, clip, round from the last column to the first, and go back.

    With s_i = (H_ii / ||W_:i||^2)^(1/4): W <- U W diag(s) V^T, H <- diag(1/s) H diag(1/s),
    H <- V (H n / tr H + 0.01 I) V^T, and 0.01 of the mean diagonal of that once more.  In units
    where levels are 0 .. maxq, with H = L D L^T, L unit lower triangular::

        W_hat_k = clamp(floor(W_k + (W - W_hat)_{>k} L_{>k,k} + 1/2), 0, maxq),  k = n-1 .. 0

    Parameters
    ----------
    W : ndarray, (m, n)
    H : ndarray, (n, n)
        Not damped.
    bits : int
    U, V : ndarray, (m, m) and (n, n)
        Orthogonal.
    scales : ndarray, (n,), or None
        The s to use; None: as above.

    Returns
    -------
    codes, W_hat : ndarray, (m, n) int64 and (m, n) float64
        Codes in the rotated basis, rounded weights in the original one.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), algorithms 1 to 3, and the code published with it.

    Examples
    --------
    >>> codes, W_hat = quip_authors(np.array([[1.0, -1.0]]), np.eye(2), 1, np.eye(1), np.eye(2))
    >>> codes, np.round(W_hat, 6)
    (array([[1, 0]]), array([[ 2.4, -2.4]]))
    """
    m, n = W.shape
    s = (np.diag(H) / np.square(W).sum(axis=0)) ** 0.25 if scales is None else scales
    X, A = U @ (W * s) @ V.T, H / s[:, None] / s
    A = V @ (A * n / np.trace(A) + 0.01 * np.eye(n)) @ V.T
    A = A + 0.01 * np.mean(np.diag(A)) * np.eye(n)
    maxq = 2**bits - 1
    scale = 2.4 * np.sqrt(np.square(X).mean())
    X = np.clip((X / scale + 1) / 2 * maxq, 0, maxq)
    C = np.linalg.cholesky(A)
    L = C / np.diag(C)
    codes = np.zeros((m, n))
    for k in range(n - 1, -1, -1):
        z = X[:, k] + (X - codes)[:, k + 1 :] @ L[k + 1 :, k]
        codes[:, k] = np.clip(np.floor(z + 0.5), 0, maxq)
    X_hat = (codes / maxq * 2 - 1) * scale
    return codes.astype(np.int64), (U.T @ X_hat @ V) / s
