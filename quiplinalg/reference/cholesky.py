"""The Cholesky factor by the textbook loops."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.reference.precision import working_dtype

__all__ = ["cholesky"]


def cholesky(A: np.ndarray) -> np.ndarray:
    """Factor A = L L^T, L lower triangular with a positive diagonal.

    Column j, from the entries A_ij = sum_{k <= j} L_ik L_jk, i >= j::

        L_jj = sqrt(A_jj - sum_{k < j} L_jk^2)
        L_ij = (A_ij - sum_{k < j} L_ik L_jk) / L_jj,   i > j

    Parameters
    ----------
    A : ndarray, (n, n)
        Symmetric positive definite; only the lower triangle is read.

    Returns
    -------
    L : ndarray, (n, n), float64, or longdouble for a longdouble A
        The factor; its upper triangle is zero.

    Raises
    ------
    NotPositiveDefiniteError
        A pivot is not positive (or is NaN); ``index`` is its row.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 4th edition, algorithm 4.2.1.

    Examples
    --------
    >>> L = cholesky(np.array([[4.0, 2.0], [2.0, 5.0]]))
    >>> L @ L.T
    array([[4., 2.],
           [2., 5.]])
    """
    A = np.asarray(A, working_dtype(A))
    n = A.shape[0]
    L = np.zeros_like(A)
    for j in range(n):
        pivot = A[j, j] - L[j, :j] @ L[j, :j]
        if not 0 < pivot < np.inf:
            raise NotPositiveDefiniteError(j, float(pivot), "Add damping to its diagonal.", "A")
        L[j, j] = np.sqrt(pivot)
        for i in range(j + 1, n):
            L[i, j] = (A[i, j] - L[i, :j] @ L[j, :j]) / L[j, j]
    return L
