"""The lower triangle of a symmetric matrix as one row-major vector, and back."""

from __future__ import annotations

import numpy as np

from quiplinalg.parallel import run_all

__all__ = ["pack_lower", "packed_size", "unpack_lower"]

_PANEL = 256  # rows and columns copied at a time: both sides then stay in the cache


def packed_size(n: int) -> int:
    """Elements of the lower triangle, n (n + 1) / 2."""
    return n * (n + 1) // 2


def pack_lower(H: np.ndarray) -> np.ndarray:
    """Pack H[0, 0], H[1, 0], H[1, 1], H[2, 0] … of an (n, n) array into a vector.

    Examples
    --------
    >>> pack_lower(np.array([[1, 2], [2, 3]]))
    array([1, 2, 3])
    """
    n = len(H)
    packed = np.empty(packed_size(n), H.dtype)
    for i in range(n):
        start = packed_size(i)
        packed[start : start + i + 1] = H[i, : i + 1]
    return packed


def unpack_lower(packed: np.ndarray, n: int) -> np.ndarray:
    """Expand a packed lower triangle to the full symmetric (n, n) array.

    Examples
    --------
    >>> unpack_lower(np.array([1, 2, 3]), 2)
    array([[1, 2],
           [2, 3]])
    """
    H = np.empty((n, n), packed.dtype)

    def panel(i0: int, i1: int) -> None:
        for i in range(i0, i1):
            start = packed_size(i)
            H[i, : i + 1] = packed[start : start + i + 1]
            H[i0:i, i] = H[i, i0:i]  # the diagonal block
        for j in range(0, i0, _PANEL):
            H[j : j + _PANEL, i0:i1] = H[i0:i1, j : j + _PANEL].T

    run_all(panel, [(i, min(i + _PANEL, n)) for i in range(0, n, _PANEL)])
    return H
