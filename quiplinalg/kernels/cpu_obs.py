"""Elimination of coordinates of rows under a quadratic loss (OBS, OBQ) on the CPU.

Eliminating q from X = (H_FF)^-1 is a step of a Cholesky factorisation of X with pivot q: with
v = X_q: / sqrt(X_qq), what is left is X - v v^T.  Each row of W has pivots of its own.  A block of
steps keeps its v in V and X as it was, so that

    row q of X is A_q: - sum_i V_iq V_i:,      diag X = d, kept by d -= v v,

and after BLOCK steps A -= V^T V, lower triangle, in register tiles.  The last position moves into
that of an eliminated coordinate (symmetrically), so that positions 0 .. k - 1 are those left and
nothing dead is touched: n^3 / 6 multiply-adds for the tiles of a row, the floor, and
n^2 BLOCK / 4 for the rows of X.  Traffic: A is read and written once a block,
8 n^3 / (3 BLOCK) bytes a row; in the second-level cache from the point where it fits.

Layout: strips of L = lanes(float64) rows; A[i, j], j <= i, is element
L L I (I + 1) / 2 + j L + i % L, I = i // L, of the work space; V is [strip][step][lane].
"""

from __future__ import annotations

import math

import numpy as np
from numba import types
from numba.extending import intrinsic

from quiplinalg.kernels.cpu_tile import (
    _INDEX,
    PANEL,
    _Vectors,
    float_bits,
    fma_tile,
    jit,
    lanes,
    rint,
)

__all__ = ["eliminate_rows", "eliminate_space"]

_BLOCK = 64  # steps between two updates of A: 32 to 96 are within 6 %
_L = lanes(np.dtype(np.float64))
_NEVER = np.int64(2**63 - 1)
_W, _D, _S, _O, _FRAC, _WHOLE, _ROW, _VECTORS = range(8)  # vectors over positions


def eliminate_space(n):
    """Elements of the float64 work space of `eliminate_rows`: about n^2 / 2 + 2 BLOCK n."""
    strips = -(-n // _L)
    return _L * _L * (strips * (strips + 1) // 2) + strips * _L * (2 * _BLOCK + _VECTORS) + _BLOCK


@intrinsic
def fma_column(typingctx, F, f_at, E, e_at, c_at, steps):
    """F[f_at + r] += sum_k E[e_at + k*LANES + r] F[c_at + k], k ascending, r over the lanes."""
    at = types.intp
    signature = types.void(F, at, E, at, at, at)

    def codegen(context, builder, signature, args):
        emit = _Vectors(context, builder, signature.args[0].dtype)
        f, e = emit.data(signature.args[0], args[0]), emit.data(signature.args[2], args[2])
        _, f_at, _, e_at, c_at, steps = args

        def step(k, sums):
            row = emit.load_row(e, builder.add(e_at, builder.mul(k, _INDEX(emit.lanes))))
            scalar = emit.splat(builder.load(builder.gep(f, [builder.add(c_at, k)])))
            return [emit.call("fma", x, scalar, s) for x, s in zip(row, sums, strict=True)]

        sums = emit.loop(steps, emit.load_row(f, f_at), step)
        for v, total in enumerate(sums):
            emit.store(total, f, emit.offset(f_at, v * emit.width))
        return context.get_dummy_value()

    return signature, codegen


@jit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _strip(i):
    """Where the strip of row i of A starts, less the column: its elements are lane by lane."""
    strip = i // _L
    return _L * _L * (strip * (strip + 1) // 2)


@jit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _fill(A, Hinv):
    """The lower triangle of A = Hinv, from its rows: Hinv is symmetric."""
    n = Hinv.shape[0]
    for i0 in range(0, n, _L):
        at, height = _strip(i0), min(_L, n - i0)
        for j in range(i0 + _L):
            for r in range(_L):
                A[at + j * _L + r] = Hinv[j, i0 + r] if j < n and r < height else 0.0


@jit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _keys(key, closed, vectors, count, low, high, zero, outliers):
    """What to eliminate first, as integers: the bits of the costs, and below them outliers."""
    w, d, s, o = vectors[_W], vectors[_D], vectors[_S], vectors[_O]
    frac, whole = vectors[_FRAC], vectors[_WHOLE]
    if zero:
        for j in range(count):
            cost = float_bits(w[j] * w[j] / d[j])
            key[j] = cost if closed[j] == 0 else _NEVER
        return
    for j in range(count):
        free = rint(w[j] / s[j] + frac[j]) + whole[j]
        code = low if free < low else free
        code = high if code > high else code
        e = w[j] - s[j] * (code - o[j])
        cost = float_bits(e * e / d[j])
        cost = -1 - float_bits(abs(e)) if outliers and code != free else cost
        key[j] = cost if closed[j] == 0 else _NEVER


@jit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _least(key, column, count):
    """The position of the least key, of equal ones that of the lowest column; -1: all closed."""
    least = _NEVER
    for j in range(count):
        least = min(least, key[j])
    lowest = _NEVER
    for j in range(count):  # two loops of integers: both run in vectors
        lowest = min(lowest, column[j] if key[j] == least else _NEVER)
    if least == _NEVER:
        return -1
    for j in range(count):
        if column[j] == lowest:
            return j
    return -1


@jit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _fetch(work, row_at, v_at, c_at, p, count, pending):
    """Row p of X into work[row_at:], zero from ``count`` to the end of its strip."""
    at, lane = _strip(p), p % _L
    for j in range(p):
        work[row_at + j] = work[at + j * _L + lane]
    for i0 in range(p - lane, count, _L):
        at = _strip(i0) + p * _L
        for r in range(_L):
            i = i0 + r
            if i >= p:
                work[row_at + i] = work[at + r] if i < count else 0.0
    # - sum_i V_ip V_i:
    at = v_at + p // _L * _BLOCK * _L + lane
    for i in range(pending):
        work[c_at + i] = -work[at + i * _L]
    for i0 in range(0, count, _L):
        fma_column(work, row_at + i0, work, v_at + i0 * _BLOCK, c_at, pending)


@jit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _move(work, v_at, p, last, pending):
    """Position ``last`` of A and V to position p < last; the diagonal is kept elsewhere."""
    source, target = _strip(last) + last % _L, _strip(p) + p % _L
    for j in range(p):
        work[target + j * _L] = work[source + j * _L]
    for i0 in range(p - p % _L, last, _L):
        at = _strip(i0) + p * _L - i0
        for i in range(max(i0, p + 1), min(i0 + _L, last)):
            work[at + i] = work[source + i * _L]
    source = v_at + last // _L * _BLOCK * _L + last % _L
    target = v_at + p // _L * _BLOCK * _L + p % _L
    for i in range(pending):
        work[target + i * _L] = work[source + i * _L]


@jit(cache=False, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def _flush(work, v_at, u_at, count):
    """A -= V^T V in the lower triangle of the first ``count`` positions."""
    panels = -(-count // PANEL)
    for p in range(panels):
        for i in range(_BLOCK):
            for c in range(PANEL):
                j = p * PANEL + c
                at = v_at + j // _L * _BLOCK * _L + i * _L + j % _L
                work[u_at + (p * _BLOCK + i) * PANEL + c] = -work[at]
    for i0 in range(0, count, _L):
        at, e_at = _strip(i0), v_at + i0 * _BLOCK
        for p in range(min(panels, (i0 + _L) // PANEL)):
            u = u_at + p * _BLOCK * PANEL
            fma_tile(work, at + p * PANEL * _L, work, e_at, work, u, _BLOCK)


@jit()
def eliminate_rows(W, Hinv, grid, plan, work, found):
    """Eliminate coordinates of each row, in its own order; see generic_obs.py.

    Positions hold what is left of the columns, in any order: ``column[p]`` is that of position p
    and ``place`` is its inverse.
    """
    scale, zero, group, low, high = grid
    order, mask, steps, quota, width, outliers = plan
    orders, costs, weights, codes, stats = found
    n = Hinv.shape[0]
    prune, greedy = scale.shape[1] == 0, order.size == 0
    size = -(-n // _L) * _L
    v_at = _strip(size)
    u_at = v_at + size * _BLOCK
    row_at = u_at + size * _BLOCK
    c_at = row_at + size * _VECTORS
    vectors = work[row_at:c_at].reshape(_VECTORS, size)
    row_at += _ROW * size
    w, d, row = vectors[_W], vectors[_D], vectors[_ROW]
    key, closed = np.empty(n, np.int64), np.empty(n, np.int64)
    column, place = np.empty(n, np.int64), np.empty(n, np.int64)
    left = np.empty(quota.size, np.int64)

    for i in range(W.shape[0]):
        _fill(work, Hinv)
        for j in range(v_at, u_at):
            work[j] = 0.0  # of V: positions beyond the last are multiplied too
        for j in range(vectors.size):
            work[row_at - _ROW * size + j] = 1.0
        masked = 0
        for j in range(n):
            column[j], place[j] = j, j
            w[j], d[j] = W[i, j], Hinv[j, j]
            orders[i, j], costs[i, j] = -1, 0.0
            if not prune:
                o = zero[i, group[j]]
                vectors[_S, j], vectors[_O, j] = scale[i, group[j]], o
                vectors[_WHOLE, j], vectors[_FRAC, j] = math.floor(o), o - math.floor(o)
            if mask.shape[1] > 0:
                masked += mask[i, j]
        for b in range(quota.size):
            left[b] = quota[b]
        stats[i, 0], stats[i, 1], stats[i, 2] = 0.5, 0.0, 0.0
        pending = np.int64(0)  # no literal: that would compile a second _fetch
        count, next_one, first = n, 0, masked > 0
        for j in range(n):
            closed[j] = first and not mask[i, j]
            if quota.size > 0 and left[j // width] <= 0:
                closed[j] = 1

        for step in range(min(steps[i], n)):
            # the position p to eliminate: -1 where none is open; after the masked ones, the rest
            p = -1
            while True:
                if greedy:
                    none = prune or first
                    _keys(key, closed, vectors, count, low, high, none, outliers)
                    p = _least(key, column, count)
                else:
                    while next_one < n:
                        p = place[order[next_one]]
                        next_one += 1
                        if p >= 0 and closed[p] == 0:
                            break
                        p = -1
                if p >= 0 or not first:
                    break
                first, next_one = False, 0
                for j in range(count):
                    closed[j] = quota.size > 0 and left[column[j] // width] <= 0
            if p < 0:
                break

            q, pivot = column[p], d[p]
            if not 0 < pivot < np.inf:
                orders[i, step], costs[i, step] = q, pivot
                return i
            target = 0.0
            if not prune:
                s, o = vectors[_S, p], vectors[_O, p]
                frac, whole = vectors[_FRAC, p], vectors[_WHOLE, p]
                y = (0.0 if first else w[p] / s) + frac
                free = rint(y) + whole
                code = min(max(free, low), high)
                codes[i, q] = int(code)
                if not first:
                    target = s * (code - o)
                    stats[i, 1] += code != free
                    if low <= y + whole < high:
                        stats[i, 0] = min(stats[i, 0], 0.5 - abs(y - rint(y)))
            e = w[p] - target
            orders[i, step], costs[i, step] = q, e * e / pivot
            stats[i, 2] += 1 / pivot
            weights[i, q] = target
            place[q] = -1
            count -= 1
            if quota.size > 0:
                left[q // width] -= 1
                if left[q // width] == 0:
                    for j in range(q // width * width, min(q // width * width + width, n)):
                        if place[j] >= 0:
                            closed[place[j]] = 1
            if count == 0:
                break

            # w -= (e / X_qq) X_q:, v = X_q: / sqrt(X_qq), d -= v v
            _fetch(work, row_at, v_at, c_at, p, count + 1, pending)
            by, inverse = e / pivot, 1 / math.sqrt(pivot)
            for j0 in range(0, count + 1, _L):
                at = v_at + j0 * _BLOCK + pending * _L
                for r in range(_L):
                    v = row[j0 + r] * inverse
                    w[j0 + r] -= by * row[j0 + r]
                    d[j0 + r] -= v * v
                    work[at + r] = v
            pending += 1
            if p < count:
                _move(work, v_at, p, count, pending)
                for a in range(_ROW):
                    vectors[a, p] = vectors[a, count]
                closed[p], column[p] = closed[count], column[count]
                place[column[p]] = p
            if pending == _BLOCK:
                _flush(work, v_at, u_at, count)
                pending = np.int64(0)
        for p in range(count):
            weights[i, column[p]] = w[p]
    return -1
