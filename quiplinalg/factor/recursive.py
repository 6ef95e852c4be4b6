"""The recursive Cholesky factorisation that all factorisations in memory run on."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.device import REMEDY, factor_members
from quiplinalg.kernels.record import DeviceKernels, Kernels
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["factor_recursive", "factor_reversed", "zero_columns"]

_ROWS = 256  # of H that a task copies
_LEAF = 256  # columns that LAPACK factors in one call
_TILE = 1024  # rows and columns of a tile, at most
_LEAST_TILE = 128


def factor_recursive(A: np.ndarray, kernels: Kernels, block: int | None) -> int:
    """Overwrite the lower triangle of A with L, A = L L^T; return -1, or the index that failed.

    Parameters
    ----------
    A : ndarray, (n, n), float32 or float64, columns contiguous
        Only the lower triangle is read and written.  After a failure at index i, A[i, i] is the
        pivot that was not positive.
    block : int or None
        Columns of the diagonal blocks that LAPACK factors; None for 256.

    Notes
    -----
    L_11 = chol(A_11), L_21 = A_21 L_11^-T, L_22 = chol(A_22 - L_21 L_21^T), A_11 about half of A.
    Nearly all of the work is in a few large products, each cut into tiles of fixed boundaries with
    one BLAS thread each, so the bits of L do not depend on how many threads share them.  n^3/3
    flops, no work space.

    References
    ----------
    Gustavson, Recursion leads to automatic variable blocking for dense linear-algebra algorithms,
    IBM J. Res. Dev. 41 (1997).
    """
    _check_block(block)
    with single_blas_thread():
        return _factor(A, 0, A.shape[0], block or _LEAF, kernels)


def _factor(A: np.ndarray, i0: int, i1: int, leaf: int, kernels: Kernels) -> int:
    """Factor rows and columns i0 .. i1 of A, updated with those before; return as above."""
    if i1 - i0 <= leaf:
        info = kernels.factor_tile(A, i0, i1)
        return i0 + info - 1 if info else -1
    half = i0 + -(-(i1 - i0) // (2 * leaf)) * leaf
    failed = _factor(A, i0, half, leaf, kernels)
    if failed >= 0:
        return failed
    tiles = _tiles(half, i1)
    run_all(kernels.solve_tile, [(A, *rows, i0, half) for rows in tiles])
    # whole tiles first: those on the diagonal take half as long
    below = [(I, J) for j, J in enumerate(tiles) for I in tiles[j + 1 :]]
    pairs = [*below, *((J, J) for J in tiles)]
    run_all(kernels.update_tile, [(A, *I, *J, i0, half) for I, J in pairs])
    return _factor(A, half, i1, leaf, kernels)


def _tiles(i0: int, i1: int) -> list[tuple[int, int]]:
    """Return i0 .. i1 in parts: two at least for two cores, each of whole vectors."""
    size = min(_TILE, max(_LEAST_TILE, -(-(i1 - i0) // 16) * 8))
    return [(i, min(i + size, i1)) for i in range(i0, i1, size)]


def factor_reversed(
    H: np.ndarray,
    order: np.ndarray,
    shift: np.ndarray,
    kernels: Kernels,
    block: int | None = None,
    dtype: type = np.float64,
    name: str = "H",
) -> np.ndarray:
    """Factor H[order][:, order] + diag(shift) from its last row to its first.

    Parameters
    ----------
    H : ndarray, (n, n), symmetric, C order
    order : ndarray, (n,), int64
    shift : ndarray, (n,), float64
        In the caller's column order.

    Returns
    -------
    array of the backend, (n, n), ``dtype``, rows contiguous
        A with A[n-1-k, n-1-i] = T[i, k] sqrt(D_k) for i <= k, in the permuted order; zero below,
        but on a device, where it is undefined.

    Raises
    ------
    NotPositiveDefiniteError
        With the row of the caller's H and the pivot there.
    """
    n = H.shape[0]
    remedy = REMEDY if name == "H" else f"Add a multiple of the identity to {name}."
    if isinstance(kernels, DeviceKernels):
        _check_block(block)
        factors, errors = factor_members(
            H[None], order[None], shift[None], kernels, dtype, [name], remedy
        )
        if errors:
            raise errors[0]
        return factors[0]
    A = zero_columns(n, dtype)
    permuted = shift[order]
    tasks = [(H, order, permuted, A, j, min(j + _ROWS, n)) for j in range(0, n, _ROWS)]
    run_all(kernels.reverse_rows, tasks)
    failed = factor_recursive(A.T, kernels, block)
    if failed >= 0:
        index = int(order[n - 1 - failed])
        raise NotPositiveDefiniteError(index, float(A[failed, failed]), remedy, name)
    return A


def zero_columns(n: int, dtype: type) -> np.ndarray:
    """Return zeros, (n, n), C order but for its rows being an odd number of cache lines apart.

    The elements of a column are then in different sets of the caches.  At n = 4096 all would be in
    the same one: 5 % of a factorisation.
    """
    line = 64 // np.dtype(dtype).itemsize
    return np.zeros((n, (-(-n // line) | 1) * line), dtype)[:, :n]


def _check_block(block: int | None) -> None:
    if block is not None and (not isinstance(block, int) or block < 1):
        raise InvalidArgumentError(
            f"block must be a whole number of at least 1, or None; got block={block!r}. "
            "Leave it at None for the library's choice."
        )
