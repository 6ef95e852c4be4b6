"""The inverse of A + sigma U U^T from the inverse of A: Sherman-Morrison and Woodbury."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.update.checks import scaled, symmetric_stack, vectors, writable
from quiplinalg.factor.update.engine import MANY, add_many, apply, condense, product
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.parallel import single_blas_thread

__all__ = [
    "capacitance",
    "sherman_morrison",
    "sherman_morrison_into",
    "subtract",
    "woodbury",
    "woodbury_into",
]

_REMEDY = "Taking off less (a smaller |sigma|), or data that is in A, keeps it so."


def sherman_morrison(Ainv: Any, u: Any, sigma: float = 1.0, *, backend: str = "auto") -> np.ndarray:
    """Return the inverse of A + sigma u u^T from that of A.

    With w = A^-1 u and d = 1 + sigma u^T w::

        (A + sigma u u^T)^-1 = A^-1 - (sigma / d) w w^T

    Parameters
    ----------
    Ainv : array, (n, n) or (b, n, n), floating
        Inverse of a symmetric positive definite A, or a stack of them; both triangles are checked.
        float64 in float64, anything narrower in float32.  Not changed.
    u : array, (n,) or (b, n)
        One vector for each matrix.
    sigma : float
        Not 0; a negative one takes data off.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    ndarray, like Ainv
        NumPy, C order, as symmetric as Ainv to the last bit.

    Raises
    ------
    NotPositiveDefiniteError
        d <= 0: A + sigma u u^T is not positive definite.  ``pivot`` is d, the ratio of the two
        determinants; ``index`` is 0, the number of the vector.
    NonFiniteError, InvalidArgumentError, DTypeError
        NaN or infinity; shapes that do not fit, a sigma of 0; not real floating.

    Notes
    -----
    4 n^2 flops and three passes over n^2 elements, one of them the check.  The error of the
    result, relative to ||Ainv||, is a small multiple of n eps max(cond(A), cond(A + sigma u u^T)):
    it is not backward stable, and errors of a chain of updates add up; see `ActiveInverse`.
    The same bits for any number of threads, and for a matrix alone or in a stack.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 2.1.4.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.sherman_morrison(np.eye(2), np.array([1.0, 0.0]))
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    kernels = select(backend)
    inverse, single = symmetric_stack(Ainv, "Ainv", kernels)
    U = vectors(u, "u", inverse, single)
    _one_each(U)
    out = np.empty_like(inverse)
    _woodbury(inverse, U, sigma, single, out, kernels)
    return out[0] if single else out


def sherman_morrison_into(
    Ainv: np.ndarray, u: Any, sigma: float = 1.0, *, backend: str = "auto"
) -> np.ndarray:
    """Overwrite the inverse of A with that of A + sigma u u^T.

    Parameters
    ----------
    Ainv : ndarray, (n, n) or (b, n, n), float32 or float64, writable
        C or Fortran order, or a leading block of such an array.  Only its shape is checked: this
        is the form for inner loops.
    u, sigma, backend
        As in `sherman_morrison`.

    Returns
    -------
    ndarray
        ``Ainv`` itself.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `sherman_morrison`; Ainv is unchanged then.

    Notes
    -----
    No work space of more than n elements; the rest as in `sherman_morrison`.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> Ainv = np.eye(2)
    >>> ql.sherman_morrison_into(Ainv, np.array([1.0, 0.0])) is Ainv
    True
    >>> Ainv
    array([[0.5, 0. ],
           [0. , 1. ]])
    """
    inverse, single = _by_rows(Ainv)
    U = vectors(u, "u", inverse, single)
    _one_each(U)
    _woodbury(inverse, U, sigma, single, inverse, select(backend))
    return Ainv


def woodbury(Ainv: Any, U: Any, sigma: float = 1.0, *, backend: str = "auto") -> np.ndarray:
    """Return the inverse of A + sigma U U^T from that of A, U of k columns.

    With W = A^-1 U and the capacitance matrix C = I + sigma U^T W = G G^T (Cholesky)::

        (A + sigma U U^T)^-1 = A^-1 - sigma V^T V,   V = G^-1 W^T

    Parameters
    ----------
    Ainv : array, (n, n) or (b, n, n), floating
        As in `sherman_morrison`.
    U : array, (n, k) or (b, n, k)
        The columns that come in; (n,) or (b, n) for one.
    sigma : float
        Not 0, for all columns.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    ndarray, like Ainv
        NumPy, C order, as symmetric as Ainv to the last bit.

    Raises
    ------
    NotPositiveDefiniteError
        C is not positive definite, which is so exactly where A + sigma U U^T is not; ``index``
        is the first column of U at which it fails, ``pivot`` its pivot in C.
    NonFiniteError, InvalidArgumentError, DTypeError
        As `sherman_morrison`.

    Notes
    -----
    4 k n^2 + 3 k^2 n flops, and the passes over n^2 elements of `sherman_morrison`; k n elements
    of work space.  What depends on k alone is computed in float64.  The error is bounded as that
    of `sherman_morrison`, with cond(C) <= the worse of cond(A) and cond(A + sigma U U^T).  The
    result is that of k updates by one column, up to rounding.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 2.1.4.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> U = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> B = ql.woodbury(np.eye(3), U)
    >>> bool(np.abs(B @ (np.eye(3) + U @ U.T) - np.eye(3)).max() < 1e-15)
    True
    """
    kernels = select(backend)
    inverse, single = symmetric_stack(Ainv, "Ainv", kernels)
    out = np.empty_like(inverse)
    _woodbury(inverse, vectors(U, "U", inverse, single), sigma, single, out, kernels)
    return out[0] if single else out


def woodbury_into(
    Ainv: np.ndarray, U: Any, sigma: float = 1.0, *, backend: str = "auto"
) -> np.ndarray:
    """Overwrite the inverse of A with that of A + sigma U U^T.

    Parameters
    ----------
    Ainv : ndarray, (n, n) or (b, n, n), float32 or float64, writable
        As in `sherman_morrison_into`.
    U, sigma, backend
        As in `woodbury`.

    Returns
    -------
    ndarray
        ``Ainv`` itself.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `woodbury`; Ainv is unchanged then.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> Ainv = np.eye(2)
    >>> _ = ql.woodbury_into(Ainv, np.eye(2), 3.0)
    >>> Ainv
    array([[0.25, 0.  ],
           [0.  , 0.25]])
    """
    inverse, single = _by_rows(Ainv)
    columns = vectors(U, "U", inverse, single)
    _woodbury(inverse, columns, sigma, single, inverse, select(backend))
    return Ainv


def _one_each(U: np.ndarray) -> None:
    if U.shape[1] != 1:
        raise InvalidArgumentError(
            f"u must be one vector for each matrix; got {U.shape[1]} columns. "
            "Use woodbury for several."
        )


def _by_rows(Ainv: np.ndarray) -> tuple[np.ndarray, bool]:
    """A symmetric matrix that is written into, its last axis the one of unit stride."""
    a, single = writable(Ainv, "Ainv")
    return (a if a.strides[2] == a.itemsize else a.swapaxes(1, 2)), single


def capacitance(A: np.ndarray, U: np.ndarray, sign: int, kernels: Kernels) -> tuple:
    """Return W = U A and C = I + sign U W^T (the lower triangle counts), (b, k, k) float64."""
    W = product(A, U, kernels)
    with np.errstate(over="ignore", invalid="ignore"):  # `condense` looks at C
        return W, _capacitance(U, W, sign)


def _capacitance(U: np.ndarray, W: np.ndarray, sign: int) -> np.ndarray:
    b, k, _ = U.shape
    if k == 1:  # all members at once, each element for itself: the same bits as one by one
        return sign * (U.astype(np.float64) * W).sum(axis=2, keepdims=True) + 1
    C = np.empty((b, k, k))
    with single_blas_thread():
        for m in range(b):
            C[m] = sign * (U[m].astype(np.float64) @ W[m].T.astype(np.float64)) + np.eye(k)
    return C


def subtract(
    A: np.ndarray,
    W: np.ndarray,
    C: np.ndarray,
    sign: int,
    single: bool,
    out: np.ndarray,
    kernels: Kernels,
) -> None:
    """Set out = A - sign W^T C^-1 W."""
    name = "I + sigma U^T Ainv U, and with it A + sigma U U^T,"
    V = condense(C, W, None, _REMEDY, name, single)
    if V.shape[1] >= MANY:
        add_many(A, V, -sign, out)
        return
    keep = np.broadcast_to(np.arange(A.shape[1]), A.shape[:2]).copy()
    apply(A, V, -sign, keep, out, kernels)


def _woodbury(
    A: np.ndarray, U: np.ndarray, sigma: Any, single: bool, out: np.ndarray, kernels: Kernels
) -> None:
    """out = A - sigma W^T C^-1 W; A is (b, n, n), U (b, k, n) and not kept."""
    sign = scaled(sigma, U)
    W, C = capacitance(A, U, sign, kernels)
    subtract(A, W, C, sign, single, out, kernels)
