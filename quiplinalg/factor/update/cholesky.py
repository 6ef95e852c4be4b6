"""The Cholesky factor of A + X X^T and of A - X X^T from that of A."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.factor.update.checks import vectors
from quiplinalg.factor.update.turning import (
    check_diagonal,
    copy_lower,
    factor_in,
    factor_into,
    rows_of,
    turn,
)
from quiplinalg.kernels.record import select

__all__ = [
    "cholesky_downdate",
    "cholesky_downdate_into",
    "cholesky_update",
    "cholesky_update_into",
]

_REMEDY = "Take off less, or data that is in A; or add damping to A first."


def cholesky_update(L: Any, X: Any, *, backend: str = "auto") -> np.ndarray:
    """Return the Cholesky factor of L L^T + X X^T.

    Column j of L and each column x of X are rotated so that x_j vanishes (Givens)::

        r = hypot(L_jj, x_j),  c = L_jj / r,  s = x_j / r
        L_j, x = c L_j + s x,  c x - s L_j

    Parameters
    ----------
    L : array, (n, n) or (b, n, n), floating
        Lower triangular with a positive diagonal; the upper triangle is not read.  float64 in
        float64, anything narrower in float32.  Not changed.
    X : array, (n,) or (n, k), for a stack (b, n) or (b, n, k)
        One vector, or k columns, for each factor.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    ndarray, like L
        Lower triangular with zeros above, a positive diagonal; NumPy, each factor in Fortran
        order.

    Raises
    ------
    NotPositiveDefiniteError
        A diagonal element of L is not positive.
    NonFiniteError, InvalidArgumentError, DTypeError
        NaN or infinity in X or the lower triangle of L; shapes that do not fit; not floating.

    Notes
    -----
    3 k n^2 flops.  Reads L once and writes the triangle once, whatever k is: 32 columns of L take
    all their rotations by all k vectors before the next are read.  Backward stable: the error of
    L L^T is a few n eps of its norm.  The same bits for any number of threads (which share the
    members of a stack), and for a factor alone or in a stack.

    References
    ----------
    Gill, Golub, Murray and Saunders, Methods for modifying matrix factorizations,
    Math. Comp. 28 (1974), method C3.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.cholesky_update(np.array([[3.0, 0.0], [1.0, 2.0]]), np.array([4.0, 3.0]))
    array([[5.        , 0.        ],
           [3.        , 2.23606798]])
    """
    return _changed(L, X, 1, backend)


def cholesky_downdate(L: Any, X: Any, *, backend: str = "auto") -> np.ndarray:
    """Return the Cholesky factor of L L^T - X X^T.

    The rotation of `cholesky_update` the other way round, in its mixed form::

        s = x_j / L_jj,  c = sqrt((1 - s)(1 + s))
        L_j = (L_j - s x) / c,  then  x = c x - s L_j  with the new L_j

    Parameters
    ----------
    L, X, backend
        As in `cholesky_update`.

    Returns
    -------
    ndarray, like L
        As in `cholesky_update`.

    Raises
    ------
    NotPositiveDefiniteError
        L L^T - X X^T is not positive definite; ``index`` is the first row whose pivot is not
        positive, ``pivot`` what is left there.  Or a diagonal element of L is not positive.
    NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky_update`.

    Notes
    -----
    Cost and determinism of `cholesky_update`.  Using the new L_j makes it a plain rotation read
    backwards, so that L_new L_new^T + X X^T is L L^T up to a few n eps of the norm of L L^T:
    relative to a much smaller result, that is a large error, which no method that starts from L
    avoids.

    References
    ----------
    Bojanczyk, Brent, Van Dooren and de Hoog, A note on downdating the Cholesky factorization,
    SIAM J. Sci. Stat. Comput. 8 (1987).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> L = ql.cholesky_update(np.array([[3.0, 0.0], [1.0, 2.0]]), np.array([4.0, 3.0]))
    >>> np.round(ql.cholesky_downdate(L, np.array([4.0, 3.0])), 12)
    array([[3., 0.],
           [1., 2.]])
    """
    return _changed(L, X, -1, backend)


def cholesky_update_into(L: np.ndarray, X: Any, *, backend: str = "auto") -> np.ndarray:
    """Overwrite the lower triangle of L with the Cholesky factor of L L^T + X X^T.

    Parameters
    ----------
    L : ndarray, (n, n) or (b, n, n), float32 or float64, writable
        Fortran order, as `cholesky` returns it, is changed where it lies.  In C order it goes
        through a work copy of n^2.  A leading block of such an array will do.  The upper triangle
        is neither read nor written.
    X, backend
        As in `cholesky_update`.

    Returns
    -------
    ndarray
        ``L`` itself.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky_update`.  Where it is found in the diagonal of L or in X, L is unchanged; NaN
        below the diagonal leaves L without a meaning.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> L = np.array([[3.0, 0.0], [4.0, 5.0]], order="F")
    >>> _ = ql.cholesky_update_into(L, np.array([4.0, 3.0]))
    >>> np.round(L @ L.T, 12)
    array([[25., 24.],
           [24., 50.]])
    """
    return _change(L, X, 1, backend)


def cholesky_downdate_into(L: np.ndarray, X: Any, *, backend: str = "auto") -> np.ndarray:
    """Overwrite the lower triangle of L with the Cholesky factor of L L^T - X X^T.

    Parameters
    ----------
    L, X, backend
        As in `cholesky_update_into`.

    Returns
    -------
    ndarray
        ``L`` itself.

    Raises
    ------
    NotPositiveDefiniteError
        As `cholesky_downdate`; L, changed up to the column that failed, has no meaning then.
        Keep a copy where that may happen, or use `cholesky_downdate`.
    NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky_update_into`.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> L = np.array([[5.0, 0.0], [3.0, 2.0]], order="F")
    >>> _ = ql.cholesky_downdate_into(L, np.array([3.0, 1.0]))
    >>> np.round(L @ L.T, 12)
    array([[16., 12.],
           [12., 12.]])
    """
    return _change(L, X, -1, backend)


def _changed(L: Any, X: Any, sign: int, backend: str) -> np.ndarray:
    R, single = factor_in(L)
    columns = vectors(X, "X", R, single)
    check_diagonal(R, single)
    out = np.zeros(R.shape, R.dtype)
    none = np.empty((len(R), 0), R.dtype)
    turn(R, none, columns, sign, out, select(backend), single=single, remedy=_REMEDY)
    out = out.swapaxes(1, 2)
    return out[0] if single else out


def _change(L: np.ndarray, X: Any, sign: int, backend: str) -> np.ndarray:
    R, single = factor_into(L)
    columns = vectors(X, "X", R, single)
    check_diagonal(R, single)
    out = R if rows_of(R) else np.empty(R.shape, R.dtype)
    none = np.empty((len(R), 0), R.dtype)
    turn(R, none, columns, sign, out, select(backend), single=single, remedy=_REMEDY)
    if out is not R:
        copy_lower(out, R)
    return L
