"""A block of steps of the symmetrically pivoted Cholesky factorisation on the CPU."""

from __future__ import annotations

import math

import numpy as np

from quiplinalg.kernels.cpu_tile import jit

__all__ = ["pivot_panel"]

_ROWS = 4  # finished rows subtracted in one pass over the new one


@jit()
def pivot_panel(A, j0, j1, order, diagonal):
    """Rows j0 .. j1 of L^T, each with the least remaining Schur diagonal; -1, or what failed.

    The upper triangle of A from row j0 on holds the Schur complement after j0 steps, and
    ``diagonal`` its diagonal; A[i, i] itself is only written.  ``order`` is the index of each
    position, and is permuted with A and ``diagonal``: of equal diagonals the lowest index is
    taken.  Rows above j0 are left as they are.
    """
    kind = A.dtype.type
    for j in range(j0, j1):
        p = _least(diagonal, order, j)
        if p != j:
            _exchange(A, j0, j, p)
            diagonal[j], diagonal[p] = diagonal[p], diagonal[j]
            order[j], order[p] = order[p], order[j]
        pivot = diagonal[j]
        if not 0 < pivot < np.inf:
            return j
        # l_jj l_j = a_j - sum_b l_bj l_b over the rows b of this block
        row = A[j, j + 1 :]
        b = j0
        while b + _ROWS <= j:
            row_0, row_1 = A[b, j + 1 :], A[b + 1, j + 1 :]
            row_2, row_3 = A[b + 2, j + 1 :], A[b + 3, j + 1 :]
            l_0, l_1, l_2, l_3 = A[b, j], A[b + 1, j], A[b + 2, j], A[b + 3, j]
            for c in range(row.size):
                row[c] = row[c] - l_0 * row_0[c] - l_1 * row_1[c] - l_2 * row_2[c] - l_3 * row_3[c]
            b += _ROWS
        while b < j:
            row_0, l_0 = A[b, j + 1 :], A[b, j]
            for c in range(row.size):
                row[c] = row[c] - l_0 * row_0[c]
            b += 1
        root = kind(math.sqrt(pivot))
        A[j, j] = root
        schur = diagonal[j + 1 :]
        for c in range(row.size):
            row[c] = row[c] / root
            schur[c] -= np.float64(row[c]) * np.float64(row[c])
    return -1


@jit(cache=False)
def _least(diagonal, order, j):
    """The position from j on of the least diagonal, of equal ones that of the lowest index."""
    least, p = np.inf, j
    for i in range(j, diagonal.size):
        d = diagonal[i]
        if d < least or (d == least and order[i] < order[p]):
            least, p = d, i
    return p


@jit(cache=False)
def _exchange(A, j0, j, p):
    """Exchange positions j < p in the rows from j0 on of a symmetric A, upper triangle."""
    top, bottom = A[j], A[p]
    for b in range(j0, j):
        A[b, j], A[b, p] = A[b, p], A[b, j]
    for i in range(j + 1, p):  # down column p: one pass, each cache line is touched once
        x = A[i, p]
        A[i, p] = top[i]
        top[i] = x
    for c in range(p + 1, A.shape[0]):
        top[c], bottom[c] = bottom[c], top[c]
