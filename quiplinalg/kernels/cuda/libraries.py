"""The factorisation on a device: cuSOLVER for one matrix, cuSOLVER and cuBLAS for a stack."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["cholesky"]

_BLOCK = 128  # columns of a stack factored between two products
_LARGEST = 4096  # one larger matrix fills a device, so that a stack gains nothing


def cholesky(A: Any) -> tuple[Any, int]:
    """Factor matrices in place: the lower triangle of each in Fortran order becomes L.

    Parameters
    ----------
    A : cupy.ndarray, (b, n, n), float32 or float64, C order
        So that its upper triangle is what is read.  The other triangle may be overwritten by
        anything.

    Returns
    -------
    info : cupy.ndarray, (steps, b), int32
        0, or 1 + the column of a step that could not be factored.
    block : int
        Columns of a step.

    Notes
    -----
    n^3/3 flops a matrix.  A stack of matrices that do not fill a device one by one goes through
    together, left-looking: A_JJ and all below -= (their rows of L) (rows J of L)^T in one batched
    product, then the diagonal block is factored and the rest solved with it.
    """
    import cupy

    b, n, _ = A.shape
    if b > 1 and n <= _LARGEST:
        return _together(A)
    info = cupy.zeros((1, b), np.int32)
    for i in range(b if n else 0):
        _one(A[i], info[0, i : i + 1])
    return info, max(n, 1)


def _one(A: Any, info: Any) -> None:
    import cupy
    from cupy_backends.cuda.libs import cublas, cusolver

    n, lower = A.shape[0], cublas.CUBLAS_FILL_MODE_LOWER
    handle = cupy.cuda.device.get_cusolver_handle()
    single = A.dtype == np.float32
    size_of = cusolver.spotrf_bufferSize if single else cusolver.dpotrf_bufferSize
    potrf = cusolver.spotrf if single else cusolver.dpotrf
    size = size_of(handle, lower, n, A.data.ptr, n)
    work = cupy.empty(size, A.dtype)
    potrf(handle, lower, n, A.data.ptr, n, work.data.ptr, size, info.data.ptr)


def _together(A: Any) -> tuple[Any, int]:
    import cupy
    from cupy_backends.cuda.libs import cublas, cusolver

    b, n, _ = A.shape
    single = A.dtype == np.float32
    gemm = cublas.sgemmStridedBatched if single else cublas.dgemmStridedBatched
    trsm = cublas.strsmBatched if single else cublas.dtrsmBatched
    potrf = cusolver.spotrfBatched if single else cusolver.dpotrfBatched
    blas, solver = (
        cupy.cuda.device.get_cublas_handle(),
        cupy.cuda.device.get_cusolver_handle(),
    )
    plain, turned = cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T
    right, lower = cublas.CUBLAS_SIDE_RIGHT, cublas.CUBLAS_FILL_MODE_LOWER
    one, minus = np.ones((), A.dtype), np.full((), -1, A.dtype)
    edges = range(0, n, _BLOCK)
    info = cupy.zeros((len(edges), b), np.int32)
    # where the diagonal block of each step and member is, and what lies below it
    members = np.arange(b, dtype=np.uintp) * np.uintp(n * n * A.itemsize) + np.uintp(A.data.ptr)

    def at(row: int, column: int) -> np.ndarray:
        return members + np.uintp((row + column * n) * A.itemsize)

    ends = [min(j + _BLOCK, n) for j in edges]
    places = [[at(j, j), at(end, j)] for j, end in zip(edges, ends, strict=True)]
    pointers = cupy.asarray(np.array(places, np.uintp))  # (steps, 2, b)
    for step, (j, end) in enumerate(zip(edges, ends, strict=True)):
        width, rows = end - j, n - j
        here = A.data.ptr + j * A.itemsize
        if j:
            # A[j:, J] -= L[j:, :j] L[J, :j]^T
            gemm(
                blas, plain, turned, rows, width, j, minus.ctypes.data, here, n, n * n,
                here, n, n * n, one.ctypes.data, here + j * n * A.itemsize, n, n * n, b,
            )  # fmt: skip
        diagonal, below = pointers[step, 0], pointers[step, 1]
        potrf(solver, lower, width, diagonal.data.ptr, n, info[step].data.ptr, b)
        if end < n:
            # L[end:, J] = A[end:, J] L[J, J]^-T
            trsm(
                blas, right, lower, turned, cublas.CUBLAS_DIAG_NON_UNIT, n - end, width,
                one.ctypes.data, diagonal.data.ptr, n, below.data.ptr, n, b,
            )  # fmt: skip
    return info, _BLOCK
