"""Factorisation in the order that it finds: the least Schur diagonal is eliminated first."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.factor.recursive import REMEDY, zero_columns
from quiplinalg.kernels.record import Kernels
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["factor_min_pivot"]

_BLOCK = 96  # steps between two updates of the trailing matrix
_TILE = 512  # rows and columns of a tile of that update
_ROWS = 256


def factor_min_pivot(
    H: np.ndarray,
    shift: np.ndarray,
    kernels: Kernels,
    dtype: type = np.float64,
    block: int = _BLOCK,
) -> tuple[np.ndarray, np.ndarray]:
    """Factor H + diag(shift) from its last row to its first, choosing the least pivot each time.

    With S the indices eliminated so far, the next is the k outside S with the least Schur diagonal
    H_kk - H_kS H_SS^-1 H_Sk; of equal ones the lowest k.  It is rounded before all of S, so that
    the first choice is rounded last.

    Parameters
    ----------
    H : ndarray, (n, n), symmetric, C order
        Not changed.
    shift : ndarray, (n,), float64
        In the caller's column order.
    kernels : Kernels
    dtype : type
        Of the factor, and of all but the Schur diagonals, which are float64.
    block : int
        Steps between two updates; the factor depends on it only by rounding.

    Returns
    -------
    A : ndarray, (n, n), ``dtype``, rows contiguous
        As `factor_reversed` for this order: A[n-1-k, n-1-i] = T[i, k] sqrt(D_k) for i <= k, in
        the permuted order; zero below.
    order : ndarray, (n,), int64
        The columns in the order they are rounded; ``order[n-1-j]`` was chosen at step j.

    Raises
    ------
    NotPositiveDefiniteError
        With the row of the caller's H and the pivot there, the least of all that remain.

    Notes
    -----
    n^3/3 flops, of which block n^2 / 2 choose and form the pivot rows in one thread and the rest
    are products of tiles; n^2 / 2 elements change places.  One n x n matrix, and n^2 / (2 block)
    indices.  The same bits for any number of threads.

    Equal means equal as computed.  Pivots that differ by no more than their rounding errors may be
    taken in either order, by another block size or another BLAS: each chosen pivot is the least up
    to those errors.  A greedy choice: tr D is usually below that of the natural order, not always.

    Examples
    --------
    >>> from quiplinalg.kernels.record import select
    >>> H = np.array([[1.0, 1.0, 0.0], [1.0, 5.0, 0.0], [0.0, 0.0, 4.0]])
    >>> factor_min_pivot(H, np.zeros(3), select("generic"))[1]  # pivots 4, 4, 1
    array([2, 1, 0])
    """
    n = H.shape[0]
    A = zero_columns(n, dtype)
    chosen = np.arange(n)  # by step; from the current step on, the index at each position
    backwards = chosen[::-1].copy()
    tasks = [(H, backwards, shift[backwards], A, j, min(j + _ROWS, n)) for j in range(0, n, _ROWS)]
    run_all(kernels.reverse_rows, tasks)
    diagonal = A.diagonal().astype(np.float64)
    L = A.T
    snapshots = []
    with single_blas_thread():
        for j0 in range(0, n, block):
            j1 = min(j0 + block, n)
            failed = kernels.pivot_panel(A, j0, j1, chosen, diagonal)
            if failed >= 0:
                pivot = float(diagonal[failed])
                raise NotPositiveDefiniteError(int(chosen[failed]), pivot, REMEDY)
            # A_22 -= L_21 L_21^T, lower triangle of A.T
            corners = range(j1, n, _TILE)
            tiles = [(i, min(i + _TILE, n), j, min(j + _TILE, n)) for j in corners for i in corners]
            run_all(
                kernels.update_tile, [(L, *tile, j0, j1) for tile in tiles if tile[0] >= tile[2]]
            )
            snapshots.append(chosen[j1:].copy())
    # later blocks exchanged positions under the rows of this one: put those right, all at once
    run_all(
        _settle,
        [
            (A[j0 : j0 + block], snapshot, chosen)
            for j0, snapshot in zip(range(0, n, block), snapshots, strict=True)
        ],
    )
    return A, chosen[::-1].copy()


def _settle(rows: np.ndarray, before: np.ndarray, chosen: np.ndarray) -> None:
    """Bring the last columns of some rows from the order ``before`` to their final order."""
    n, count = chosen.shape[0], before.shape[0]
    place = np.empty(n, np.int64)
    place[before] = np.arange(count)
    place = place[chosen[n - count :]]
    for row in rows[:, n - count :]:
        row[:] = row[place]
