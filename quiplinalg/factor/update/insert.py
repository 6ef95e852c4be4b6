"""The Cholesky factor of A with one more row and column."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.update.checks import check_range, member_rows, numbers, vectors
from quiplinalg.factor.update.turning import (
    check_diagonal,
    check_lower,
    factor_in,
    factor_into,
    turn_from,
)
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.parallel import single_blas_thread

__all__ = ["cholesky_insert", "cholesky_insert_into"]

_REMEDY = "Raise its diagonal element s, or damp A."


def cholesky_insert(L: Any, q: Any, a: Any, s: Any, *, backend: str = "auto") -> np.ndarray:
    """Return the Cholesky factor of A = L L^T with a row and column put in at position q.

    With L = [[L_11, 0], [L_31, L_33]] cut at q, the new row (l^T, r) and what is below it::

        L_11 l = a[:q],  r^2 = s - l^T l,  m = (a[q:] - L_31 l) / r
        L_33' L_33'^T = L_33 L_33^T - m m^T

    Parameters
    ----------
    L : array, (n, n) or (b, n, n), floating
        As in `cholesky_update`.
    q : int, or (b,)
        Position of the new row in the result, 0 to n; for a stack, the same in all or one each.
    a : array, (n,) or (b, n)
        The new column of A without its diagonal element.
    s : float, or (b,)
        Its diagonal element.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    ndarray, (n + 1, n + 1) or (b, n + 1, n + 1)
        As in `cholesky_update`.

    Raises
    ------
    NotPositiveDefiniteError
        The larger matrix is not positive definite; ``index`` is the row of the result whose pivot
        is not positive, ``pivot`` what is left there.
    NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky_update`; q out of range.

    Notes
    -----
    q^2 + 2 q (n - q) + 3 (n - q)^2 flops and a copy.  The part below q is a downdate, with the
    accuracy of `cholesky_downdate`; inserting at the end is backward stable.  Determinism as
    `cholesky_update`.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 6.5.4.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> L = ql.cholesky_insert(np.array([[2.0]]), 0, np.array([2.0]), 4.0)
    >>> np.round(L @ L.T, 12)
    array([[4., 2.],
           [2., 4.]])
    """
    R, single = factor_in(L)
    check_diagonal(R, single)
    b, n, _ = R.shape
    out = np.zeros((b, n + 1, n + 1), R.dtype)
    _insert(R, q, a, s, out, single, select(backend))
    out = out.swapaxes(1, 2)
    return out[0] if single else out


def cholesky_insert_into(
    L: np.ndarray, q: Any, a: Any, s: Any, *, backend: str = "auto"
) -> np.ndarray:
    """Overwrite an array, whose leading block is a Cholesky factor, with that of one row more.

    Parameters
    ----------
    L : ndarray, (n + 1, n + 1) or (b, n + 1, n + 1), float32 or float64, writable
        Its leading (n, n) block is the factor; its last row and column are not read.  See
        `cholesky_update_into`; the upper triangle is left as it is.
    q, a, s, backend
        As in `cholesky_insert`.

    Returns
    -------
    ndarray
        ``L`` itself.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky_insert`; L has no meaning where only the downdate finds it.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> room = np.zeros((2, 2), order="F")
    >>> room[0, 0] = 2.0
    >>> ql.cholesky_insert_into(room, 1, np.array([2.0]), 10.0)
    array([[2., 0.],
           [1., 3.]])
    """
    room, single = factor_into(L)
    if room.shape[1] == 0:
        raise InvalidArgumentError(
            f"L must have room for the new row, (n + 1, n + 1); got L.shape={L.shape}. "
            "Pass the array whose leading block the factor is."
        )
    R = room[:, :-1, :-1]
    check_diagonal(R, single)
    _insert(R, q, a, s, room, single, select(backend))
    return L


def _insert(
    R: np.ndarray, q: Any, a: Any, s: Any, out: np.ndarray, single: bool, kernels: Kernels
) -> None:
    """out = the factor with the new row; its leading block may be R."""
    from scipy.linalg import blas

    b, n, _ = R.shape
    places = member_rows(q, "q", b, n + 1, single, "position")
    columns = vectors(a, "a", R, single)
    if columns.shape[1] != 1:
        raise InvalidArgumentError(
            f"a must be one column for each factor; got {columns.shape[1]}. Insert one at a time."
        )
    diagonal = numbers(s, "s", R, single)
    trsv = blas.dtrsv if R.dtype == np.float64 else blas.strsv
    X = np.zeros((b, 1, n + 1), R.dtype)
    roots = np.empty(b, R.dtype)
    for m, p in enumerate(places):
        column = columns[m, 0]
        if p:
            with single_blas_thread():
                head = np.array(R[m, :p, :p], order="C").T  # L_11, whatever the strides
                column[:p] = trsv(head, column[:p], lower=1)
                column[p:] -= column[:p] @ np.ascontiguousarray(R[m, :p, p:])
        with np.errstate(over="ignore"):
            left = float(diagonal[m]) - float(np.square(column[:p], dtype=np.float64).sum())
        if not left > 0:
            check_lower(R, single)
            name = "A with the new row" if single else f"A[{m}] with the new row"
            raise NotPositiveDefiniteError(p, left, _REMEDY, name)
        roots[m] = np.sqrt(left)
        X[m, 0, p + 1 :] = column[p:] / roots[m]
    for m, p in enumerate(places):
        for j in range(n - 1, -1, -1):  # downwards: rows make room
            to = j + (j >= p)
            out[m, to, max(to, p + 1) :] = R[m, j, max(j, p) :].copy()
            if j < p:
                out[m, j, j:p] = R[m, j, j:p]
                out[m, j, p] = columns[m, 0, j]
        out[m, p, p] = roots[m]
        out[m, p, p + 1 :] = X[m, 0, p + 1 :]
    if not np.may_share_memory(R, out) and not np.isfinite(out).all():
        check_lower(R, single)
        check_range(out, "the larger factor")
    start = [p + 1 for p in places]
    turn_from(out, X, -1, start, single, kernels, _REMEDY)
