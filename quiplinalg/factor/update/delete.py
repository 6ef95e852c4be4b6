"""The Cholesky factor of A without one of its rows and columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.factor.update.checks import member_rows
from quiplinalg.factor.update.turning import (
    check_diagonal,
    check_lower,
    factor_in,
    factor_into,
    turn_from,
)
from quiplinalg.kernels.record import Kernels, select

__all__ = ["cholesky_delete", "cholesky_delete_into"]


def cholesky_delete(L: Any, q: Any, *, backend: str = "auto") -> np.ndarray:
    """Return the Cholesky factor of A = L L^T without its row and column q.

    Rows above q stay, and what is below q in column q is added to the trailing factor::

        L_33' L_33'^T = L_33 L_33^T + l l^T,  l = L[q+1:, q]

    Parameters
    ----------
    L : array, (n, n) or (b, n, n), floating
        As in `cholesky_update`.
    q : int, or (b,)
        The row that goes; for a stack, the same of all or one for each.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    ndarray, (n - 1, n - 1) or (b, n - 1, n - 1)
        As in `cholesky_update`.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky_update`; q out of range.

    Notes
    -----
    3 (n - q)^2 flops and a copy: deleting the last row costs the copy only.  Backward stable; it
    never fails for a factor.  Determinism as `cholesky_update`.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 6.5.4.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> L = np.array([[2.0, 0.0, 0.0], [3.0, 1.0, 0.0], [1.0, 4.0, 1.0]])
    >>> left = ql.cholesky_delete(L, 0)
    >>> np.round(left @ left.T, 12), (L @ L.T)[1:, 1:]
    (array([[10.,  7.],
           [ 7., 18.]]), array([[10.,  7.],
           [ 7., 18.]]))
    """
    R, single = factor_in(L)
    check_diagonal(R, single)
    b, n, _ = R.shape
    places = member_rows(q, "q", b, n, single)
    out = np.zeros((b, max(n - 1, 0), max(n - 1, 0)), R.dtype)
    _delete(R, places, out, single, select(backend))
    out = out.swapaxes(1, 2)
    return out[0] if single else out


def cholesky_delete_into(L: np.ndarray, q: Any, *, backend: str = "auto") -> np.ndarray:
    """Overwrite the leading block of L with the factor of L L^T without its row and column q.

    Parameters
    ----------
    L : ndarray, (n, n) or (b, n, n), float32 or float64, writable
        As in `cholesky_update_into`.  What lies outside of the leading block afterwards, its last
        row, has no meaning; the upper triangle is left as it is.
    q, backend
        As in `cholesky_delete`.

    Returns
    -------
    ndarray, (n - 1, n - 1) or (b, n - 1, n - 1)
        A view of L: its leading block.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky_delete`.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> L = np.array([[2.0, 0.0, 0.0], [3.0, 4.0, 0.0], [1.0, 4.0, 1.0]], order="F")
    >>> left = ql.cholesky_delete_into(L, 0)
    >>> np.round(left @ left.T, 12)
    array([[25., 19.],
           [19., 18.]])
    """
    R, single = factor_into(L)
    check_diagonal(R, single)
    b, n, _ = R.shape
    places = member_rows(q, "q", b, n, single)
    view = R[:, : n - 1, : n - 1]
    _delete(R, places, view, single, select(backend))
    return L[..., : n - 1, : n - 1]


def _delete(
    R: np.ndarray, places: list[int], out: np.ndarray, single: bool, kernels: Kernels
) -> None:
    """out = the factor without rows ``places``; out may be the leading block of R."""
    b, n, _ = R.shape
    X = np.zeros((b, 1, max(n - 1, 0)), R.dtype)
    for m, q in enumerate(places):
        X[m, 0, q:] = R[m, q, q + 1 :]
        # rows of R = L^T move up and left; those above q only left
        _shift(R[m], out[m], q)
    if not np.may_share_memory(R, out) and not np.isfinite(out).all():
        check_lower(R, single)
    turn_from(out, X, 1, places, single, kernels, "L must be a Cholesky factor.")


def _shift(R: np.ndarray, out: np.ndarray, q: int) -> None:
    n = len(R)
    for j in range(n - 1):
        if j < q:
            out[j, q:] = R[j, q + 1 :]
            if not np.may_share_memory(R, out):
                out[j, j:q] = R[j, j:q]
        else:
            out[j, j:] = R[j + 1, j + 1 :]
