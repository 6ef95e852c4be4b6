"""Updates of inverses and of factors, computed anew from the matrix itself."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.reference.cholesky import cholesky
from quiplinalg.reference.ldl import ldl
from quiplinalg.reference.precision import working_dtype

__all__ = [
    "cholesky_delete",
    "cholesky_downdate",
    "cholesky_insert",
    "cholesky_update",
    "inverse",
    "inverse_adjoin",
    "inverse_remove",
    "ldl_update",
    "sherman_morrison",
    "woodbury",
]


def inverse(A: np.ndarray) -> np.ndarray:
    """Invert a symmetric positive definite A.

    A = L L^T, L Y = I row by row, A^-1 = Y^T Y.

    Parameters
    ----------
    A : ndarray, (n, n)

    Returns
    -------
    ndarray, (n, n), float64, or longdouble for a longdouble A

    Raises
    ------
    NotPositiveDefiniteError
        As `cholesky`.

    Examples
    --------
    >>> inverse(np.array([[4.0, 2.0], [2.0, 2.0]]))
    array([[ 0.5, -0.5],
           [-0.5,  1. ]])
    """
    L = cholesky(A)
    Y = np.eye(len(L), dtype=L.dtype)
    for i in range(len(L)):
        Y[i] = (Y[i] - L[i, :i] @ Y[:i]) / L[i, i]
    return Y.T @ Y


def sherman_morrison(Ainv: np.ndarray, u: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Invert A + sigma u u^T, A the inverse of Ainv.

    Parameters
    ----------
    Ainv : ndarray, (n, n)
    u : ndarray, (n,)
    sigma : float

    Returns
    -------
    ndarray, (n, n)

    Examples
    --------
    >>> sherman_morrison(np.eye(2), np.array([1.0, 0.0]))
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    return woodbury(Ainv, np.reshape(u, (-1, 1)), sigma)


def woodbury(Ainv: np.ndarray, U: np.ndarray, sigma: float = 1.0) -> np.ndarray:
    """Invert A + sigma U U^T, A the inverse of Ainv.

    Parameters
    ----------
    Ainv : ndarray, (n, n)
    U : ndarray, (n, k)
    sigma : float

    Returns
    -------
    ndarray, (n, n)

    Examples
    --------
    >>> woodbury(np.eye(2), np.eye(2), 3.0)
    array([[0.25, 0.  ],
           [0.  , 0.25]])
    """
    dtype = working_dtype(Ainv, U)
    Ainv, U = np.asarray(Ainv, dtype), np.asarray(U, dtype)
    return inverse(inverse(Ainv) + sigma * (U @ U.T))


def inverse_remove(Hinv: np.ndarray, S: np.ndarray) -> np.ndarray:
    """Invert H_FF, H the inverse of Hinv and F all rows but S.

    Parameters
    ----------
    Hinv : ndarray, (n, n)
    S : ndarray of int, (k,)

    Returns
    -------
    ndarray, (n - k, n - k)

    Examples
    --------
    >>> inverse_remove(np.diag([1.0, 0.5, 0.25]), np.array([1]))
    array([[1.  , 0.  ],
           [0.  , 0.25]])
    """
    F = np.setdiff1d(np.arange(len(Hinv)), S)
    return inverse(inverse(Hinv)[np.ix_(F, F)])


def inverse_adjoin(Hinv: np.ndarray, a: np.ndarray, s: float, at: int) -> np.ndarray:
    """Invert H with the row and column (a, s) put in at position ``at``, H the inverse of Hinv.

    Parameters
    ----------
    Hinv : ndarray, (n, n)
    a : ndarray, (n,)
    s : float
    at : int

    Returns
    -------
    ndarray, (n + 1, n + 1)

    Examples
    --------
    >>> inverse_adjoin(np.array([[0.5]]), np.array([0.0]), 4.0, 0)
    array([[0.25, 0.  ],
           [0.  , 0.5 ]])
    """
    return inverse(_bordered(inverse(Hinv), a, s, at))


def cholesky_update(L: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Factor L L^T + X X^T.

    Parameters
    ----------
    L : ndarray, (n, n)
    X : ndarray, (n, k)

    Returns
    -------
    ndarray, (n, n)

    Examples
    --------
    >>> cholesky_update(np.array([[3.0]]), np.array([[4.0]]))
    array([[5.]])
    """
    return cholesky(_product(L, X) + np.asarray(X) @ np.transpose(X))


def cholesky_downdate(L: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Factor L L^T - X X^T.

    Parameters
    ----------
    L : ndarray, (n, n)
    X : ndarray, (n, k)

    Returns
    -------
    ndarray, (n, n)

    Examples
    --------
    >>> cholesky_downdate(np.array([[5.0]]), np.array([[4.0]]))
    array([[3.]])
    """
    return cholesky(_product(L, X) - np.asarray(X) @ np.transpose(X))


def cholesky_delete(L: np.ndarray, q: int) -> np.ndarray:
    """Factor L L^T without its row and column q.

    Parameters
    ----------
    L : ndarray, (n, n)
    q : int

    Returns
    -------
    ndarray, (n - 1, n - 1)

    Examples
    --------
    >>> cholesky_delete(np.array([[2.0, 0.0], [3.0, 4.0]]), 0)
    array([[5.]])
    """
    return cholesky(np.delete(np.delete(_product(L), q, 0), q, 1))


def cholesky_insert(L: np.ndarray, q: int, a: np.ndarray, s: float) -> np.ndarray:
    """Factor L L^T with the row and column (a, s) put in at position q.

    Parameters
    ----------
    L : ndarray, (n, n)
    q : int
    a : ndarray, (n,)
    s : float

    Returns
    -------
    ndarray, (n + 1, n + 1)

    Examples
    --------
    >>> cholesky_insert(np.array([[2.0]]), 1, np.array([2.0]), 10.0)
    array([[2., 0.],
           [1., 3.]])
    """
    return cholesky(_bordered(_product(L), a, s, q))


def ldl_update(
    L: np.ndarray, D: np.ndarray, x: np.ndarray, sigma: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Factor L diag(D) L^T + sigma x x^T.

    Parameters
    ----------
    L : ndarray, (n, n)
        Unit lower triangular.
    D : ndarray, (n,)
    x : ndarray, (n, k)
    sigma : float

    Returns
    -------
    L : ndarray, (n, n)
    D : ndarray, (n,)

    Examples
    --------
    >>> ldl_update(np.eye(2), np.ones(2), np.ones((2, 1)))
    (array([[1. , 0. ],
           [0.5, 1. ]]), array([2. , 1.5]))
    """
    A = _product(L * np.sqrt(np.asarray(D, working_dtype(L, D, x))), x)
    return ldl(A + sigma * (np.asarray(x) @ np.transpose(x)))


def _product(L: np.ndarray, *others: np.ndarray) -> np.ndarray:
    lower = np.tril(np.asarray(L, working_dtype(L, *others)))
    if not (lower.diagonal() > 0).all():
        raise NotPositiveDefiniteError(0, float(lower.diagonal().min()), "Pass a factor.", "L L^T")
    return lower @ lower.T


def _bordered(A: np.ndarray, a: np.ndarray, s: float, at: int) -> np.ndarray:
    larger = np.insert(np.insert(A, at, a, axis=0), at, 0, axis=1)
    larger[:, at] = np.insert(np.asarray(a, A.dtype), at, s)
    larger[at, at] = s
    return larger
