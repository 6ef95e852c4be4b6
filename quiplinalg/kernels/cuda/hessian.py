"""Passes over H on a device: check it, reverse and damp it, U and T from its factor."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.kernels.cuda.launch import launch, real

__all__ = [
    "asymmetry",
    "finite",
    "mirror",
    "pack_feedback",
    "reverse_rows",
    "unit_rows",
]

_TILE = 64
_THREADS = (64, 4)
_ROW_THREADS = 256
_BLOCKS = 1024  # of a pass over an array of any shape; 256 threads of 8 loads each
_SHARED = 48 << 10  # bytes that a block of any device may have


def _pairs(n: int) -> int:
    """Tiles on and below the diagonal."""
    tiles = -(-n // _TILE)
    return tiles * (tiles + 1) // 2


def asymmetry(H: Any) -> Any:
    """Return (max |H_ij - H_ji|, 1 if it is finite, else 0) of each member, (b, 2), on the device.

    With NaN or infinity anywhere in H, (b, n, n), its diagonal too, the maximum is not finite.
    """
    import cupy

    members, n, _ = H.shape
    result = cupy.zeros((members, 2), H.dtype)
    result[:, 1] = 1
    grid = (_pairs(n), members)
    launch("hessian", "asymmetry", grid, _THREADS, (H, np.int32(n), result), REAL=real(H))
    return result


def finite(X: Any) -> Any:
    """Return how many elements of X, contiguous, are not finite: () int32 on the device.

    The count stops at some hundreds of thousands in each of a thousand parts of X.
    """
    import cupy

    found = cupy.zeros((), np.int32)  # NumPy from 2.4 on takes no int of an array with axes
    blocks = min(-(-X.size // _ROW_THREADS), _BLOCKS)
    args = (X, np.int64(X.size), found)
    launch("hessian", "not_finite", (blocks,), (_ROW_THREADS,), args, REAL=real(X))
    return found


def reverse_rows(H: Any, order: Any, shift: Any, A: Any) -> None:
    """Fill A, (b, n, n) float64, with the reversed, permuted and damped upper triangle of H.

    A[j, i] = H[order[n-1-j], order[n-1-i]] + shift[n-1-j] (i = j) for i >= j; zero for i < j.
    order (b, n) int64 may leave out rows of H; shift (b, n) float64 is in rounding order.
    """
    members, n, _ = A.shape
    width = H.shape[-1]
    size = width * H.dtype.itemsize
    staged = size <= _SHARED
    args = (H, order, shift, np.int32(width), np.int32(n), np.int32(staged), A)
    shared = size if staged else 0
    block = (_ROW_THREADS,)
    launch("hessian", "reverse_rows", (n, members), block, args, shared, REAL=real(H))


def unit_rows(A: Any, T: Any, D: Any) -> None:
    """T[i, k] = A[n-1-k, n-1-i] / A[n-1-k, n-1-k], unit upper triangular; D[k] = A[n-1-k, n-1-k]^2.

    A (b, n, n) and D (b, n) are float64, T (b, n, n) float32 or float64.
    """
    members, n, _ = A.shape
    tiles = -(-n // _TILE)
    args = (A, np.int32(n), T, D)
    launch("hessian", "unit_rows", (tiles, tiles, members), _THREADS, args, REAL=real(T))


def pack_feedback(A: Any, place: Any, U: Any) -> None:
    """Fill U = T - I, (b, N, N), from the reversed factor A, (b, n, n) float64.

    place, (N,) int64, is where each work column is in the rounding order, or -1 for padding, whose
    row and column of U are zero.
    """
    members, N, _ = U.shape
    tiles = -(-N // _TILE)
    args = (A, place, np.int32(A.shape[-1]), np.int32(N), U)
    launch("hessian", "pack_feedback", (tiles, tiles, members), _THREADS, args, REAL=real(U))


def mirror(A: Any) -> None:
    """Copy the upper triangle of A, (b, n, n), over the lower one."""
    members, n, _ = A.shape
    grid = (_pairs(n), members)
    launch("hessian", "mirror", grid, _THREADS, (A, np.int32(n)), REAL=real(A))
