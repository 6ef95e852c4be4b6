"""Blocked Cholesky factorisation, A = L L^T."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.factor.recursive import factor_reversed
from quiplinalg.kernels.record import DeviceKernels, select
from quiplinalg.results import Cholesky
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["cholesky"]


def cholesky(A: Any, *, block: int | None = None, backend: str = "auto") -> Cholesky:
    """Factor a symmetric positive definite matrix as A = L L^T.

    Parameters
    ----------
    A : array, (n, n), floating
        Both triangles are checked; the upper one is factored.  float64 in float64, anything
        narrower in float32 (on a device in float64 too, and rounded).  Not changed.
    block : int, optional
        Columns of the diagonal blocks that LAPACK factors; the result depends on it only by
        rounding.
    backend : str
        "auto", "cpu", "generic" or "cuda"; "auto" works where A is.

    Returns
    -------
    Cholesky
        ``L`` (n, n) lower triangular, with ``reconstruct()`` and ``solve(b)``.  Its columns are
        contiguous and an odd number of cache lines apart, a leading block of an array in Fortran
        order: np.asfortranarray(L) where another library wants one piece.

    Raises
    ------
    NotPositiveDefiniteError
        With the global index and the value of the pivot that is not positive.
    NonFiniteError, InvalidArgumentError, DTypeError
        NaN or infinity; not square or not symmetric; not a real floating matrix.

    Notes
    -----
    n^3/3 flops; one n x n copy.  Backward error ||L L^T - A||_1 of a few n ||A||_1 eps, and the
    same bits for any number of threads.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 4.2.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> factor = ql.cholesky(np.array([[4.0, 2.0], [2.0, 3.0]]))
    >>> np.round(factor.reconstruct(), 12)
    array([[4., 2.],
           [2., 3.]])
    """
    kernels = select(backend, A=A)
    with kernels.running(A):
        matrix = symmetric_matrix(A, "A", kernels)
        n = matrix.shape[0]
        backwards = np.arange(n)[::-1]
        device = isinstance(kernels, DeviceKernels)
        kind = np.float64 if device else matrix.dtype.type
        factor = factor_reversed(matrix, backwards, np.zeros(n), kernels, block, kind, name="A")
        if device:
            factor = kernels.xp.triu(factor).astype(matrix.dtype, copy=False)
        return Cholesky(L=kernels.back(A, factor.T))
