"""S += A^T B for a chunk of tokens, on fixed tiles: every thread count gives the same bits."""

from __future__ import annotations

import numpy as np

from quiplinalg.hessian.tokens import Chunk
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["add_product", "weighted", "widen", "zeros"]

_LEAST, _MOST = 2.0**-50, 2.0**45  # products and weighted products stay normal float32 numbers
_LEAST_WEIGHT, _MOST_WEIGHT = 2.0**-20, 2.0**20


def widen(chunk: Chunk) -> Chunk:
    """Return the chunk in float64 where float32 products could overflow or vanish."""
    if chunk.arrays[0].dtype == np.float64:
        return chunk
    fits = all(_fits(array) for array in chunk.arrays)
    if fits and chunk.weights is not None:
        fits = chunk.weights.min() >= _LEAST_WEIGHT and chunk.weights.max() <= _MOST_WEIGHT
    if fits:
        return chunk
    return Chunk(tuple(array.astype(np.float64) for array in chunk.arrays), chunk.weights)


def _fits(array: np.ndarray) -> bool:
    """Whether the largest number of each column is 0, or far from both ends of float32."""
    sizes = np.maximum(array.max(axis=0), -array.min(axis=0))
    return bool(sizes.max(initial=0.0) <= _MOST and sizes[sizes > 0].min(initial=1.0) >= _LEAST)


def weighted(chunk: Chunk, index: int = 0) -> np.ndarray:
    """Return the rows of an array of the chunk times their weights, in its dtype."""
    array = chunk.arrays[index]
    if chunk.weights is None:
        return array
    out = np.empty_like(array)
    return np.multiply(array, chunk.weights[:, None], out=out, casting="same_kind")


def add_product(A: np.ndarray, B: np.ndarray, S: np.ndarray, upper: bool) -> None:
    """S += A^T B, of float32 or float64 A and B (k, n), in the float64 S (n, n).

    With ``upper`` only the tiles on and above the diagonal, the others being their transposes.

    Notes
    -----
    S_IJ += A_I^T B_J tile by tile, each one product on a single BLAS thread (of A_I by itself on
    the diagonal where B is A), so that the addition finds the product in cache.  In float64 those
    off the diagonal are twice as wide as high, which BLAS is faster at.  The tiles depend on n and
    the dtype alone.  n^2 k flops with ``upper``, else twice that; 16 side^2 bytes a thread.
    """
    n = S.shape[0]
    side = _side(n)
    width = 2 * side if A.dtype == np.float64 else side
    tasks = []
    for i in range(0, n, side):
        rows = i, min(i + side, n)
        if upper:
            tasks.append((A, B, S, *rows, *rows))
        columns = range(rows[1] if upper else 0, n, width)
        tasks += [(A, B, S, *rows, j, min(j + width, n)) for j in columns]
    with single_blas_thread():
        run_all(_add_tile, tasks)


def zeros(n: int) -> np.ndarray:
    """Return zeros (n, n) that were written, row by row.

    Those of `np.zeros` are mapped when a tile first touches them, by a read and then a write: two
    page faults each, and small pages, which cost a tenth of the products of a few thousand tokens.
    """
    S = np.empty((n, n))
    S.fill(0)
    return S


def _side(n: int) -> int:
    """Rows of a tile: large ones are faster, and four a side keep two threads busy."""
    return min(512, max(64, -(-n // 128) * 32))


def _add_tile(
    A: np.ndarray, B: np.ndarray, S: np.ndarray, i0: int, i1: int, j0: int, j1: int
) -> None:
    product = A[:, i0:i1].T @ B[:, j0:j1]
    tile = S[i0:i1, j0:j1]
    np.add(tile, product.astype(np.float64, copy=False), out=tile)
