"""Rotations on the CPU: as many rows at a time as a vector has lanes, in a tile kept in cache.

A tile is (n, lanes), coordinate by coordinate.  It is loaded with the permutation and the signs
applied, rotated where it is, and stored.  Every row is computed by the same operations in the same
order, whichever tile and lane it is in.
"""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.cpu_lanes import (
    FIBRES,
    FLIP,
    butterflies,
    drain,
    flip_block,
    fold,
    load_block,
    move,
    product,
    store_block,
    vector,
)
from quiplinalg.kernels.cpu_tile import jit
from quiplinalg.kernels.record import FACTOR, FOLDED, OUTPUTS, WALSH

__all__ = ["mirror", "rotate"]

_VECTOR_BYTES = 4 * vector(np.dtype(np.float32))
_LARGE = 1 << 23  # bytes


@jit(cache=False)
def _load(X, first, height, rows, place, scale, work, lanes):
    """work[place[j], r] = scale[j] times element j of row (or column) first + r of X."""
    n = place.shape[0]
    flat = X.reshape(-1)
    full = height == lanes
    j = 0
    if full and rows:
        while j + lanes <= n:
            load_block(flat, first * n + j, n, work, place, scale, j)
            j += lanes
    elif full:
        while j < n:
            move(work, place[j] * lanes, flat, j * X.shape[1] + first, scale[j], 0)
            j += 1
    while j < n:
        for r in range(lanes):
            x = work[0] * 0
            if r < height:
                x = (X[first + r, j] if rows else X[j, first + r]) * scale[j]
            work[place[j] * lanes + r] = x
        j += 1


@jit(cache=False)
def _store(work, lanes, place, scale, out, first, height, layout):
    """Element j of row (or column) first + r of out = scale[j] work[place[j], r]."""
    _, rows, upper = layout
    n = place.shape[0]
    flat = out.reshape(-1)
    full = height == lanes
    # Columns of a large array: each store is a cache line of its own, not read again soon.
    past = out.size * out.itemsize >= _LARGE and _VECTOR_BYTES == 64 and first % lanes == 0
    past = past and (out.ctypes.data | out.shape[1] * out.itemsize) % 64 == 0
    j = first if upper else 0
    if full and rows:
        while j + lanes <= n:
            store_block(work, place, scale, j, flat, first * n + j, n)
            j += lanes
    elif full and past:
        while j < n:
            move(flat, j * out.shape[1] + first, work, place[j] * lanes, scale[j], 1)
            j += 1
        drain()
    elif full:
        while j < n:
            move(flat, j * out.shape[1] + first, work, place[j] * lanes, scale[j], 0)
            j += 1
    while j < n:
        for r in range(height):
            x = work[place[j] * lanes + r] * scale[j]
            if rows:
                out[first + r, j] = x
            else:
                out[j, first + r] = x
        j += 1


@jit(cache=False)
def _walsh(work, lanes, start, outer, size, inner):
    """Walsh-Hadamard transform of every fibre of an axis, at most 4 levels a pass."""
    left = 0
    while 1 << left < size:
        left += 1
    passes = (left + 3) // 4
    half = size * inner
    while passes > 0:
        levels = (left + passes - 1) // passes
        whole = half
        half >>= levels
        for block in range(start, start + outer * size * inner, whole):
            for at in range(block * lanes, (block + half) * lanes, lanes):
                if levels == 4:
                    butterflies(work, at, half * lanes, 4)
                elif levels == 3:
                    butterflies(work, at, half * lanes, 3)
                elif levels == 2:
                    butterflies(work, at, half * lanes, 2)
                else:
                    butterflies(work, at, half * lanes, 1)
        left -= levels
        passes -= 1


@jit(cache=False)
def _factor(work, lanes, scratch, folded, step, constants):
    """Multiply every fibre of an axis by a dense factor, FIBRES of them at a time.

    Fibres are copied to x, interleaved, and multiplied to y, which is where they came from.  A
    folded factor multiplies e_k = x_k + x_-k by C and o_k = x_k - x_-k by S; from these sums c and
    s, y_k = c_k + s_k and y_-k = c_k - s_k.
    """
    _, start, outer, size, inner, at = step
    y_step = inner * lanes
    wide = FIBRES * lanes
    count = outer * inner
    odd = (size - 1) // 2 if folded else 0
    even = size - odd
    split = (even + OUTPUTS - 1) // OUTPUTS * OUTPUTS * even
    result = scratch + size * wide
    for f in range(0, count, FIBRES):
        y_at = (start + f // inner * size * inner + f % inner) * lanes
        y_next = 0  # a last fibre without a partner is multiplied twice
        if f + FIBRES <= count:
            g = f + FIBRES - 1
            y_next = (start + g // inner * size * inner + g % inner) * lanes - y_at
        for v in range(FIBRES):
            x, y = scratch + v * lanes, y_at + v * y_next
            for k in range(1, odd + 1):
                back = y + (size - k) * y_step
                fold(work, x + k * wide, x + (even + k - 1) * wide, y + k * y_step, back)
            k = 0  # what stands alone: x_0 and the middle of an even size, or all
            while k < even:
                move(work, x + k * wide, work, y + k * y_step, 1.0, 0)
                k += 1 + odd
        for part in range(2 if folded else 1):
            x_at, u_at, length = scratch, at, even
            to, to_step, to_next = y_at, y_step, y_next
            if folded:
                to, to_step, to_next = result, wide, lanes
            if part:
                x_at, u_at, length = scratch + even * wide, at + split, odd
                to += even * wide
            for c in range(0, length, OUTPUTS):
                product(
                    work, to + c * to_step, to_step, to_next, length - c, x_at,
                    constants, u_at + c * length, length,
                )  # fmt: skip
        if folded:
            for v in range(FIBRES):
                x, y = result + v * lanes, y_at + v * y_next
                for k in range(1, odd + 1):
                    back = y + (size - k) * y_step
                    fold(work, y + k * y_step, back, x + k * wide, x + (even + k - 1) * wide)
                k = 0
                while k < even:
                    move(work, y + k * y_step, work, x + k * wide, 1.0, 0)
                    k += 1 + odd


@jit()
def rotate(X, out, span, layout, plan, work):
    """Rotate rows (columns) of X into those of out; see incoherence/windows.py.

    span is (first, last, source): of out, and the first of X.  layout is (rows_in, rows_out,
    upper): rows or columns of X, and of out; only what is on or above the diagonal of out.  plan is
    (coordinates and factors of the columns of X, the same of the columns of out, steps,
    constants).  work holds n vectors, and 2 FIBRES times those of the largest factor.
    """
    first, last, source = span
    (to, load_scale), (fro, store_scale), steps, constants = plan
    n = to.shape[0]
    lanes = _VECTOR_BYTES // X.itemsize
    for i in range(first, last, lanes):
        height = min(lanes, last - i)
        _load(X, i - first + source, height, layout[0], to, load_scale, work, lanes)
        for s in range(steps.shape[0]):
            kind, start, outer, size, inner, at = steps[s]
            if kind == FACTOR or kind == FOLDED:
                step = (kind, start, outer, size, inner, at)
                _factor(work, lanes, n * lanes, kind == FOLDED, step, constants)
            elif kind == WALSH:
                _walsh(work, lanes, start, outer, size, inner)
            else:
                for k in range(size):
                    here = (start + k) * lanes
                    move(work, here, work, here, constants[at + k], 0)
        _store(work, lanes, fro, store_scale, out, i, height, layout)


@jit()
def mirror(A, i0, i1):
    """A[i, j] = A[j, i] for i0 <= i < i1 and j < i."""
    n = A.shape[0]
    flat = A.reshape(-1)
    whole = i0 + (i1 - i0) // FLIP * FLIP  # rows below here are in square blocks
    for j in range(0, i0 // FLIP * FLIP, FLIP):
        for i in range(i0, whole, FLIP):  # next to one another where they are read
            flip_block(flat, i * n + j, n, flat, j * n + i, n)
    for i in range(i0, i1):
        for j in range(i0 // FLIP * FLIP if i < whole else 0, i):
            A[i, j] = A[j, i]
