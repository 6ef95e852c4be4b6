"""The upper factorisation that orders columns left to right, by direct backward recursion."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.reference.precision import working_dtype

__all__ = ["udu"]


def udu(H: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor H = T diag(D) T^T, T = I + U unit upper triangular.

    Column k, last to first, from the entries H_ik = sum_{j >= k} T_ij D_j T_kj, i <= k::

        D_k  = H_kk - sum_{j > k} T_kj^2 D_j
        T_ik = (H_ik - sum_{j > k} T_ij D_j T_kj) / D_k,   i < k

    Parameters
    ----------
    H : ndarray, (n, n)
        Symmetric positive definite; only the upper triangle is read.

    Returns
    -------
    T : ndarray, (n, n), float64, or longdouble for a longdouble H
        Unit upper triangular.
    D : ndarray, (n,), the dtype of T
        The pivots: ``D[k] = 1 / inv(H[k:, k:])[0, 0]``, never above ``H[k, k]``.

    Raises
    ------
    NotPositiveDefiniteError
        A pivot is not positive (or is NaN); ``index`` is its row.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, section 3 (the "LDL" of equation 4).

    Examples
    --------
    >>> T, D = udu(np.array([[5.0, 2.0], [2.0, 4.0]]))
    >>> T @ np.diag(D) @ T.T
    array([[5., 2.],
           [2., 4.]])
    """
    H = np.asarray(H, working_dtype(H))
    n = H.shape[0]
    T, D = np.eye(n, dtype=H.dtype), np.zeros(n, H.dtype)
    for k in range(n - 1, -1, -1):
        D[k] = H[k, k] - (T[k, k + 1 :] * D[k + 1 :]) @ T[k, k + 1 :]
        if not 0 < D[k] < np.inf:
            raise NotPositiveDefiniteError(k, float(D[k]), "Add damping to its diagonal.", "H")
        for i in range(k):
            T[i, k] = (H[i, k] - (T[i, k + 1 :] * D[k + 1 :]) @ T[k, k + 1 :]) / D[k]
    return T, D
