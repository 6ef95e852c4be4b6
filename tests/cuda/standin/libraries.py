"""cuSOLVER and cuBLAS on raw pointers, column-major, called as CuPy calls them."""

from __future__ import annotations

import ctypes
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from scipy.linalg import lapack, solve_triangular

__all__ = ["cublas", "cusolver"]

HANDLE = 0xC0B1A5
OP_N, OP_T, OP_C = range(3)
LOWER, UPPER = range(2)
LEFT, RIGHT = range(2)
_KINDS = {"s": np.float32, "d": np.float64}


def _check(condition: bool, call: str) -> None:
    if not condition:
        raise RuntimeError(f"{call}: CUBLAS_STATUS_INVALID_VALUE / CUSOLVER_STATUS_INVALID_VALUE")


def _integers(call: str, *values: Any) -> None:
    if not all(isinstance(v, int | np.integer) for v in values):
        raise TypeError(f"{call}: an integer is required, also for a pointer; got {values}")


def _matrix(pointer: int, rows: int, columns: int, ld: int, dtype: Any) -> np.ndarray:
    """Return the column-major matrix at an address."""
    size = np.dtype(dtype).itemsize
    if rows == 0 or columns == 0:
        return np.zeros((rows, columns), dtype)
    if pointer == 0:
        raise RuntimeError("a null pointer")
    length = (columns - 1) * ld + rows
    flat = np.frombuffer((ctypes.c_char * (length * size)).from_address(int(pointer)), dtype)
    return as_strided(flat, (rows, columns), (size, ld * size))


def _pointers(pointer: int, count: int) -> list[int]:
    return (
        [] if count == 0 else [int(v) for v in _matrix(pointer, count, 1, count, np.uint64)[:, 0]]
    )


def _scalar(pointer: int, dtype: Any) -> Any:
    return _matrix(pointer, 1, 1, 1, dtype)[0, 0]


def _transposed(a: np.ndarray, op: int) -> np.ndarray:
    return a if op == OP_N else a.T


# -- cuSOLVER -------------------------------------------------------------------------------------


def _factor(dtype: Any, call: str, uplo: int, n: int, a: int, lda: int) -> int:
    """Factor in place one triangle; the other is left alone.  Return info."""
    A = _matrix(a, n, n, lda, dtype)
    if n == 0:
        return 0
    potrf = lapack.get_lapack_funcs("potrf", (A,))
    triangle = np.tril if uplo == LOWER else np.triu
    factor, info = potrf(np.asfortranarray(triangle(A)), lower=uplo == LOWER, clean=1)
    _check(info >= 0, call)
    where = triangle(np.ones((n, n), bool))
    A[where] = factor[where]
    return info


def _potrf_buffer_size(kind: str, handle: int, uplo: int, n: int, A: int, lda: int) -> int:
    _integers("potrf_bufferSize", handle, uplo, n, A, lda)
    _check(handle == HANDLE and n >= 0 and lda >= max(1, n), "potrf_bufferSize")
    return 32 * n


def _potrf(
    kind: str, handle: int, uplo: int, n: int, A: int, lda: int, work: int, lwork: int, info: int
) -> None:
    _integers("potrf", handle, uplo, n, A, lda, work, lwork, info)
    _check(handle == HANDLE and n >= 0 and lda >= max(1, n) and lwork >= 32 * n, "potrf")
    _matrix(work, lwork, 1, max(1, lwork), _KINDS[kind])[...] = np.nan
    _matrix(info, 1, 1, 1, np.int32)[0, 0] = _factor(_KINDS[kind], "potrf", uplo, n, A, lda)


def _potrf_batched(
    kind: str, handle: int, uplo: int, n: int, A: int, lda: int, info: int, batch: int
) -> None:
    _integers("potrfBatched", handle, uplo, n, A, lda, info, batch)
    _check(handle == HANDLE and n >= 0 and lda >= max(1, n) and batch >= 0, "potrfBatched")
    dtype = _KINDS[kind]
    for i, a in enumerate(_pointers(A, batch)):
        _matrix(info, batch, 1, batch, np.int32)[i, 0] = _factor(
            dtype, "potrfBatched", uplo, n, a, lda
        )
        # the library works in the other triangle
        other = (np.triu if uplo == LOWER else np.tril)(
            np.ones((n, n), bool), 1 if uplo == LOWER else -1
        )
        _matrix(a, n, n, lda, dtype)[other] = np.nan


# -- cuBLAS ---------------------------------------------------------------------------------------


def _gemm(
    kind: str, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int,
    A: int, lda: int, B: int, ldb: int, beta: int, C: int, ldc: int,
) -> None:  # fmt: skip
    _integers("gemm", handle, transa, transb, m, n, k, alpha, A, lda, B, ldb, beta, C, ldc)
    _check(handle == HANDLE and min(m, n, k) >= 0, "gemm")
    a_shape, b_shape = ((m, k), (k, m))[transa != OP_N], ((k, n), (n, k))[transb != OP_N]
    leading = lda >= max(1, a_shape[0]) and ldb >= max(1, b_shape[0]) and ldc >= max(1, m)
    _check(leading, "gemm")
    dtype = _KINDS[kind]
    a = _transposed(_matrix(A, *a_shape, lda, dtype), transa)
    b = _transposed(_matrix(B, *b_shape, ldb, dtype), transb)
    c = _matrix(C, m, n, ldc, dtype)
    by, kept = _scalar(alpha, dtype), _scalar(beta, dtype)
    c[...] = by * (a @ b) + (kept * c if kept else dtype(0))


def _gemm_strided_batched(
    kind: str, handle: int, transa: int, transb: int, m: int, n: int, k: int, alpha: int,
    A: int, lda: int, stride_a: int, B: int, ldb: int, stride_b: int,
    beta: int, C: int, ldc: int, stride_c: int, batch: int,
) -> None:  # fmt: skip
    _integers("gemmStridedBatched", stride_a, stride_b, stride_c, batch)
    size = np.dtype(_KINDS[kind]).itemsize
    for i in range(batch):
        _gemm(
            kind, handle, transa, transb, m, n, k, alpha, A + i * stride_a * size, lda,
            B + i * stride_b * size, ldb, beta, C + i * stride_c * size, ldc,
        )  # fmt: skip


def _trsm(
    kind: str, handle: int, side: int, uplo: int, trans: int, diag: int, m: int, n: int,
    alpha: int, A: int, lda: int, B: int, ldb: int,
) -> None:  # fmt: skip
    _integers("trsm", handle, side, uplo, trans, diag, m, n, alpha, A, lda, B, ldb)
    order = m if side == LEFT else n
    _check(handle == HANDLE and min(m, n) >= 0 and lda >= max(1, order), "trsm")
    _check(ldb >= max(1, m), "trsm")
    if min(m, n) == 0:
        return
    dtype = _KINDS[kind]
    a, b = _matrix(A, order, order, lda, dtype), _matrix(B, m, n, ldb, dtype)
    options: dict[str, Any] = {"unit_diagonal": bool(diag), "check_finite": False}
    flipped = (trans != OP_N) != (side == RIGHT)  # X op(A) = B is op(A)^T X^T = B^T
    if not diag and not np.all(np.diag(a)):
        b[...] = np.nan
        return
    right = _scalar(alpha, dtype) * (b if side == LEFT else b.T)
    x = solve_triangular(a, right, trans=int(flipped), lower=uplo == LOWER, **options)
    b[...] = x if side == LEFT else x.T


def _trsm_batched(
    kind: str, handle: int, side: int, uplo: int, trans: int, diag: int, m: int, n: int,
    alpha: int, A: int, lda: int, B: int, ldb: int, batch: int,
) -> None:  # fmt: skip
    for a, b in zip(_pointers(A, batch), _pointers(B, batch), strict=True):
        _trsm(kind, handle, side, uplo, trans, diag, m, n, alpha, a, lda, b, ldb)


def _syrk(
    kind: str, handle: int, uplo: int, trans: int, n: int, k: int, alpha: int,
    A: int, lda: int, beta: int, C: int, ldc: int,
) -> None:  # fmt: skip
    _integers("syrk", handle, uplo, trans, n, k, alpha, A, lda, beta, C, ldc)
    shape = (n, k) if trans == OP_N else (k, n)
    _check(handle == HANDLE and lda >= max(1, shape[0]) and ldc >= max(1, n), "syrk")
    dtype = _KINDS[kind]
    a = _transposed(_matrix(A, *shape, lda, dtype), trans)
    c = _matrix(C, n, n, ldc, dtype)
    by, kept = _scalar(alpha, dtype), _scalar(beta, dtype)
    where = (np.tril if uplo == LOWER else np.triu)(np.ones((n, n), bool))
    c[where] = (by * (a @ a.T) + (kept * c if kept else dtype(0)))[where]


def _build() -> tuple[ModuleType, ModuleType]:
    cublas = ModuleType("cupy_backends.cuda.libs.cublas")
    cusolver = ModuleType("cupy_backends.cuda.libs.cusolver")
    for name, value in {
        "OP_N": 0, "OP_T": 1, "OP_C": 2, "FILL_MODE_LOWER": 0, "FILL_MODE_UPPER": 1,
        "SIDE_LEFT": 0, "SIDE_RIGHT": 1, "DIAG_NON_UNIT": 0, "DIAG_UNIT": 1,
        "POINTER_MODE_HOST": 0, "POINTER_MODE_DEVICE": 1,
    }.items():  # fmt: skip
        setattr(cublas, f"CUBLAS_{name}", value)
    for kind in _KINDS:
        for module, name, call in (
            (cusolver, "potrf_bufferSize", _potrf_buffer_size),
            (cusolver, "potrf", _potrf),
            (cusolver, "potrfBatched", _potrf_batched),
            (cublas, "gemm", _gemm),
            (cublas, "gemmStridedBatched", _gemm_strided_batched),
            (cublas, "trsm", _trsm),
            (cublas, "trsmBatched", _trsm_batched),
            (cublas, "syrk", _syrk),
        ):
            setattr(module, f"{kind}{name}", partial(call, kind))
    for module in (cublas, cusolver):
        module.setStream = lambda handle, stream: None  # type: ignore[attr-defined]
    cublas.getPointerMode = lambda handle: 0  # type: ignore[attr-defined]

    def set_pointer_mode(handle: int, mode: int) -> None:
        if mode != 0:
            raise NotImplementedError("the stand-in reads scalars from the host")

    cublas.setPointerMode = set_pointer_mode  # type: ignore[attr-defined]
    return cublas, cusolver


cublas, cusolver = _build()
