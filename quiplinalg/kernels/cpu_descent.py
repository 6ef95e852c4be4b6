"""Coordinate descent on codes, on the CPU: G = E H once, then one update of G per changed code.

E = W_hat - W is loaded as tiles of rows (tiles, N, lanes), as for rounding with feedback; G and the
codes are row-major, because a code that changes by d / s adds d H[k] to one row of G.  Few codes
change (1 in 100 in a first pass), so that all passes together cost little more than E H does.
Every element of G is one chain of fused multiply-adds in ascending k, then of the updates in the
order in which codes changed: codes depend on neither block nor threads.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from quiplinalg.kernels.cpu_tile import _INDEX, PANEL, _Vectors, fma_tile, jit, rint

__all__ = ["descend", "load_errors", "pack_square", "residual"]

_ROWS = 8  # rows moved at a time between row-major arrays and tiles
_COLUMNS = 1024  # of G updated at a time: that part of a block of rows of H stays in L2
_GLANCE = 32  # columns looked at together for a g that may change its code


@jit()
def pack_square(H, P, p0, p1):
    """P[b, p, k, c] = H[steps b + k, 4p + c] of a symmetric H, for panels p0 .. p1; else zero."""
    blocks, _, steps, _ = P.shape
    n = H.shape[0]
    for p in range(p0, p1):
        for c in range(PANEL):
            j = p * PANEL + c
            for b in range(blocks):
                panel = P[b, p]
                real = min(steps, n - b * steps) if j < n else 0
                if real > 0:
                    row = H[j]
                    for k in range(real):
                        panel[k, c] = row[b * steps + k]
                for k in range(max(real, 0), steps):
                    panel[k, c] = 0


@jit()
def load_errors(W, codes, grid, first, Z):
    """Z[t, k, r] = (scale (code - zero) - W)[first + t*lanes + r, k]; elsewhere zero.

    grid is (scale, zero, group): (m, groups) twice, and the group of each column.
    """
    scale, zero, group = grid
    tiles, N, lanes = Z.shape
    m, n = W.shape
    kind = W.dtype.type
    rows = np.empty((_ROWS, N + 16), Z.dtype)  # 16: rows in different cache sets
    for t in range(tiles):
        for r0 in range(0, lanes, _ROWS):
            height = min(_ROWS, lanes - r0)
            for r in range(height):
                i = first + t * lanes + r0 + r
                end = n if i < m else 0
                if end > 0:
                    w, q, s, o = W[i], codes[i], scale[i], zero[i]
                    if s.size == 1:  # a loop of its own: it runs in vectors
                        for k in range(n):
                            rows[r, k] = s[0] * (kind(q[k]) - o[0]) - w[k]
                    else:
                        for k in range(n):
                            rows[r, k] = s[group[k]] * (kind(q[k]) - o[group[k]]) - w[k]
                for k in range(end, N):
                    rows[r, k] = 0
            for k in range(N):
                for r in range(height):
                    Z[t, k, r0 + r] = rows[r, k]


@jit()
def residual(Z, P, F, G, loss):
    """G = E H for the E in Z, F.shape[1] columns at a time; loss (tiles, lanes) = diag(E G^T)."""
    tiles, N, lanes = Z.shape
    panels, steps = P.shape[1], P.shape[2]
    rows, n = G.shape
    width = F.shape[1]
    f, e, h = F.reshape(-1), Z.reshape(-1), P.reshape(-1)
    few = np.empty((_ROWS, width + 16), Z.dtype)
    for t in range(tiles):
        for r in range(lanes):
            loss[t, r] = 0
    for c0 in range(0, N, width):
        p0, p1 = c0 // PANEL, min(c0 + width, N) // PANEL
        for i in range(f.size):
            f[i] = 0
        # F = sum over b of E[:, steps b ..] H[steps b .., c0 : c0 + width]
        for b in range(P.shape[0]):
            k0 = b * steps
            for t in range(tiles):
                for p in range(p0, p1):
                    f_at = (t * width + (p - p0) * PANEL) * lanes
                    h_at = (b * panels + p) * steps * PANEL
                    fma_tile(f, f_at, e, (t * N + k0) * lanes, h, h_at, min(steps, N - k0))
        real = min(c0 + width, n) - c0
        for t in range(tiles):
            for c in range(real):
                for r in range(lanes):
                    loss[t, r] += np.float64(Z[t, c0 + c, r]) * np.float64(F[t, c, r])
            for r0 in range(0, lanes, _ROWS):
                height = min(_ROWS, lanes - r0, rows - t * lanes - r0)
                for c in range(real):
                    for r in range(height):
                        few[r, c] = F[t, c, r0 + r]
                for r in range(height):
                    target = G[t * lanes + r0 + r]
                    for c in range(real):
                        target[c0 + c] = few[r, c]


@intrinsic
def add_scaled(typingctx, G, g_at, d, H, h_at, count):
    """G[g_at + j] += d H[h_at + j] for j < count; G and H are flat, and may not overlap.

    A product and a sum, each rounded, as NumPy does it.
    """
    at = types.intp
    signature = types.void(G, at, G.dtype, H, at, at)

    def codegen(context, builder, signature, args):
        emit = _Vectors(context, builder, signature.args[0].dtype)
        g, h = emit.data(signature.args[0], args[0]), emit.data(signature.args[3], args[3])
        _, g_at, d, _, h_at, count = args

        def add(first, steps, width):
            vector = ir.VectorType(emit.element, width) if width > 1 else emit.element
            factor = emit.splat(d) if width > 1 else d

            def step(k, _):
                k = builder.add(first, builder.mul(k, _INDEX(width)))
                place = builder.add(g_at, k)
                more = builder.fmul(factor, emit.load(h, builder.add(h_at, k), vector))
                emit.store(builder.fadd(emit.load(g, place, vector), more), g, place)
                return []

            emit.loop(steps, [], step)

        vectors = builder.sdiv(count, _INDEX(emit.width))
        whole = builder.mul(vectors, _INDEX(emit.width))
        add(_INDEX(0), vectors, emit.width)
        add(whole, builder.sub(count, whole), 1)
        return context.get_dummy_value()

    return signature, codegen


@jit(cache=False)
def _quiet(g, bound, size):
    """Whether |g| <= bound size everywhere: no branch, so that it runs in vectors."""
    loud = 0
    for k in range(g.size):
        loud += abs(g[k]) > bound[k] * size
    return loud == 0


@jit()
def descend(G, codes, H, grid, rows, width, found):
    """One pass of coordinate descent over the columns of some rows of codes; G is kept up to date.

    grid is (scale, group, bound, low, high, tie, least): (m, groups); the group of each column;
    (n,) g of a column below ``bound s`` leaves its code alone; the ends of the grid; the distance
    to a tie that is reported; and the share of H_kk d^2 that a change must gain.  found is (gain,
    changed, ties): each row's fall of the loss and its changed codes, set; whether it met a tie,
    added to.  All are of the rows of G and codes, and ``rows`` says which of them to do.
    """
    scale, group, bound, low, high, tie, least = grid
    gain, changed, ties = found
    n = H.shape[0]
    flat_g, flat_h = G.reshape(-1), H.reshape(-1)
    where = np.empty((rows.size, width), np.int32)
    step = np.empty((rows.size, width), G.dtype)
    count = np.empty(rows.size, np.int64)
    for i in rows:
        gain[i] = 0
        changed[i] = 0
    for k0 in range(0, n, width):
        k1 = min(k0 + width, n)
        most = 0
        for at in range(rows.size):
            i = rows[at]
            g, q, s = G[i], codes[i], scale[i]
            done = 0
            for a in range(k0, k1, _GLANCE):
                b = min(a + _GLANCE, k1)
                if s.size == 1 and _quiet(g[a:b], bound[a:b], s[0]):
                    continue
                for k in range(a, b):
                    if not abs(g[k]) > bound[k] * s[group[k]]:
                        continue
                    size, curve = np.float64(s[group[k]]), np.float64(H[k, k])
                    slope, old = np.float64(g[k]), np.float64(q[k])
                    target = old - slope / (curve * size)
                    new = rint(target)
                    if low <= target <= high and 0.5 - abs(target - new) < tie:
                        ties[i] = True
                    new = min(max(new, low), high)
                    d = size * (new - old)
                    fall = -d * (2 * slope + curve * d)
                    if fall > least * curve * d * d:
                        q[k] = int(new)
                        gain[i] += fall
                        where[at, done], step[at, done] = k, d
                        add_scaled(flat_g, i * n + k0, step[at, done], flat_h, k * n + k0, k1 - k0)
                        done += 1
            count[at] = done
            changed[i] += done
            most = max(most, done)
        # G[:, outside] += D H[k0:k1, outside], D the changes of this block, by columns of G
        for start, end in ((0, k0), (k1, n)):
            for j0 in range(start, end if most > 0 else start, _COLUMNS):
                j1 = min(j0 + _COLUMNS, end)
                for at in range(rows.size):
                    g_at = rows[at] * n + j0
                    for c in range(count[at]):
                        h_at = where[at, c] * n + j0
                        add_scaled(flat_g, g_at, step[at, c], flat_h, h_at, j1 - j0)
