"""Blocked LDL^T factorisation without pivoting, A = L D L^T."""

from __future__ import annotations

from typing import Any

from quiplinalg.device_arrays import on_device_of
from quiplinalg.factor.cholesky import cholesky
from quiplinalg.results import LDL

__all__ = ["ldl"]


def ldl(A: Any, *, block: int | None = None, backend: str = "auto") -> LDL:
    """Factor a symmetric positive definite matrix as A = L diag(D) L^T, L unit lower triangular.

    Parameters
    ----------
    A, block, backend
        As in `cholesky`.

    Returns
    -------
    LDL
        ``L`` (n, n), laid out as of `cholesky`, and ``D`` (n,), with ``reconstruct()`` and
        ``solve(b)``.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky`.

    Notes
    -----
    L = C diag(C)^-1 and D = diag(C)^2 of the Cholesky factor C.  There is no pivoting: D_k is
    the Schur complement of row k in the natural order, which is what rounding needs
    (scipy.linalg.ldl pivots).  A positive D below the underflow threshold squared is not
    represented.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.ldl(np.array([[4.0, 2.0], [2.0, 3.0]])).D
    array([4., 2.])
    """
    C = cholesky(A, block=block, backend=backend).L
    with on_device_of(C):
        pivots = C.diagonal().copy()
        C /= pivots
        return LDL(L=C, D=pivots**2)
