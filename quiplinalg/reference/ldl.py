"""The LDL factorisation by the textbook loops."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.reference.precision import working_dtype

__all__ = ["ldl"]


def ldl(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factor A = L diag(D) L^T, L unit lower triangular, without pivoting or square roots.

    Column j, from the entries A_ij = sum_{k <= j} L_ik D_k L_jk, i >= j::

        D_j  = A_jj - sum_{k < j} L_jk^2 D_k
        L_ij = (A_ij - sum_{k < j} L_ik D_k L_jk) / D_j,   i > j

    Parameters
    ----------
    A : ndarray, (n, n)
        Symmetric positive definite; only the lower triangle is read.

    Returns
    -------
    L : ndarray, (n, n), float64, or longdouble for a longdouble A
        Unit lower triangular.
    D : ndarray, (n,), the dtype of L
        The pivots, all positive.

    Raises
    ------
    NotPositiveDefiniteError
        A pivot is not positive (or is NaN); ``index`` is its row.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 4th edition, section 4.1.2.

    Examples
    --------
    >>> L, D = ldl(np.array([[4.0, 2.0], [2.0, 5.0]]))
    >>> L @ np.diag(D) @ L.T
    array([[4., 2.],
           [2., 5.]])
    """
    A = np.asarray(A, working_dtype(A))
    n = A.shape[0]
    L, D = np.eye(n, dtype=A.dtype), np.zeros(n, A.dtype)
    for j in range(n):
        D[j] = A[j, j] - (L[j, :j] * D[:j]) @ L[j, :j]
        if not 0 < D[j] < np.inf:
            raise NotPositiveDefiniteError(j, float(D[j]), "Add damping to its diagonal.", "A")
        for i in range(j + 1, n):
            L[i, j] = (A[i, j] - (L[i, :j] * D[:j]) @ L[j, :j]) / D[j]
    return L, D
