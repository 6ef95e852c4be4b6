"""Passes over H on the CPU: check it, reverse and damp it, pack the feedback U from its factor."""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.cpu_lanes import VECTOR_BYTES, farthest
from quiplinalg.kernels.cpu_tile import PANEL, jit, panel_offset

__all__ = ["asymmetry", "compensate", "pack_feedback", "reverse_rows", "unit_rows"]

_TILE = 64


@jit()
def asymmetry(H, i0, i1):
    """Return (max |H_ij - H_ji| over j <= i, whether all is finite) for rows i0 .. i1."""
    n, h = H.shape[0], H.reshape(-1)
    L = VECTOR_BYTES // H.itemsize
    most = np.zeros(L, H.dtype)  # compared as bits, which order NaN last
    whole = i0 + (i1 - i0) // L * L  # rows of whole blocks
    for a in range(i0, whole, _TILE):
        a1 = min(a + _TILE, whole)
        for b in range(0, a1, _TILE):
            for i in range(a, a1, L):
                for j in range(b, min(b + _TILE, i + L, n - L + 1), L):
                    farthest(h, i * n + j, j * n + i, n, most)
    worst = H.dtype.type(0)
    finite = True
    for r in range(L):
        finite &= most[r] < np.inf
        worst = most[r] if most[r] > worst else worst
    for i in range(i0, i1):  # what no block has: columns at the end, or all
        for j in range(n // L * L if i < whole else 0, i + 1):
            difference = abs(H[i, j] - H[j, i])
            finite &= difference < np.inf
            worst = difference if difference > worst else worst
    return worst, finite


@jit()
def reverse_rows(H, order, shift, A, j0, j1):
    """A[j, i] = H[order[n-1-j], order[n-1-i]] + shift on the diagonal, for i >= j0 <= j < j1.

    A is the transpose of a Fortran-order matrix: its upper triangle is the lower triangle that
    the factorisation works on.  order may leave out rows of H.
    """
    n = A.shape[0]
    for j in range(j0, j1):
        row = H[order[n - 1 - j]]
        for i in range(j, n):
            A[j, i] = row[order[n - 1 - i]]
        A[j, j] += shift[n - 1 - j]


@jit()
def unit_rows(A, j0, j1):
    """Row j of A and row n-1-j swap places, each reversed and divided by its own diagonal element.

    For all j < (n + 1) / 2 this turns the reversed factor, in place, into T^T, unit lower.
    """
    n = A.shape[0]
    for j in range(j0, j1):
        top, bottom = A[j], A[n - 1 - j]
        p, q = top[j], bottom[n - 1 - j]
        for i in range(n):
            k = n - 1 - i
            if j < n - 1 - j:
                x, y = top[i], bottom[k]
                top[i], bottom[k] = y / q, x / p
            elif i <= k:
                x, y = top[i], top[k]
                top[i], top[k] = y / p, x / p


@jit()
def pack_feedback(A, place, U, p0, p1):
    """Pack U = T - I from the reversed factor for panels p0 .. p1, which are all that U holds.

    T[i, k] = A[n-1-k, n-1-i] / A[n-1-k, n-1-k] for i < k.  place[c] is the position in the
    rounding order of work column c, or -1 for a padding column, whose entries are zero.  A may be
    without rows that these panels do not need, at its end.
    """
    n = A.shape[1]
    start = panel_offset(p0)
    for p in range(p0, p1):
        at, first = panel_offset(p) - start, p * PANEL
        for c in range(PANEL):
            k = place[first + c]
            row = A[n - 1 - k if k >= 0 else 0]
            inverse = 1.0 / row[n - 1 - k] if k >= 0 else 0.0
            for b in range(first + PANEL):
                i = place[b]
                value = row[n - 1 - i] * inverse if i >= 0 and k >= 0 else 0.0
                U[at + b * PANEL + c] = value if b < first + c else 0.0


@jit()
def compensate(F, U, columns, c0, c1, first, out):
    """out = F[:, c0:c1] T[c0:c1, c0:c1]^-1, row-major: the weights GPTQ would hold at column c0.

    LDLQ's targets in F carry the feedback of the columns before c0 only; GPTQ's current weights
    are the minimiser over all columns not yet rounded, which is this triangular solve away.
    F is (tiles, c1 - c0, lanes) as `accumulate` leaves it; W, the original, is in first.  U holds
    the panels of these columns.
    """
    tiles, width, lanes = F.shape
    start = panel_offset(c0 // PANEL)
    rows = out.shape[0]
    work = np.empty((width, lanes), F.dtype)
    for t in range(tiles):
        count = 0
        for c in range(c1 - c0):
            if columns[c0 + c] < 0:
                continue
            p = (c0 + c) // PANEL
            at = panel_offset(p) - start + (c0 + c) % PANEL
            shift = work[c]
            for r in range(lanes):
                shift[r] = F[t, c, r] - first[t, c0 + c, r]
            for b in range(c):
                if columns[c0 + b] >= 0:
                    u = U[at + (c0 + b) * PANEL]
                    for r in range(lanes):
                        shift[r] -= work[b, r] * u
            for r in range(lanes):
                if t * lanes + r < rows:
                    out[t * lanes + r, count] = first[t, c0 + c, r] + shift[r]
            count += 1
