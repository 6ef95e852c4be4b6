"""The M-algorithm on the CPU: the K best partial roundings of every row, column by column.

Z is that of `round_block`, and holds W throughout.  Path p of row r of a tile has its errors
w - w_hat in X[tile, p, :, r], and (cost, damped part, clipped targets) in stats[tile, :, p, r],
paths by rising cost.

A path that survives twice must be copied, and this is put off.  Columns are taken ``_STEP`` at a
time, within which only the targets of those columns follow the paths; then the errors of the block,
and its targets to come, are sorted by path; at its end those before it.  By then the paths of a row
nearly always come from one path at the start of the block.  Where they do in all rows of a tile,
the errors before the block are those of path 0 for all (``shared`` of them): they are fed back
once, not K times.  Every target is one chain of fused multiply-adds in ascending k, as in rounding
with feedback, and with K = 1 the same one.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from quiplinalg.kernels.cpu_tile import PANEL, fma_tile, jit, panel_offset, rint

__all__ = ["kbest_block", "kbest_trace"]

_STEPS = 256  # rows of U per pass, as in cpu_rounding.py
_STEP = 16  # columns between two sortings of errors; a multiple of PANEL


@intrinsic
def fma(typingctx, a, b, c):
    """A b + c, rounded once."""
    if not (isinstance(a, types.Float) and a == b == c):
        return None

    def codegen(context, builder, signature, args):
        return builder.fma(*args)

    return a(a, a, a), codegen


@jit()
def kbest_block(Z, X, F, P, Q, U, grid, plan, span, state, stats):
    """Go through columns c0 .. c1; return how many paths a row has then, at most K.

    Z (tiles, N, lanes), X (tiles, K, N, lanes), F (tiles, K, width, lanes); P and Q (tiles, N, K,
    lanes) get the parent and the code of each path at each column.  grid is (scale, zero, group,
    low, high), plan is (columns, D, damping), both as in `round_block`.  state is (paths, rows,
    shared): the paths at c0, the rows in the tiles, and the (tiles,) counts of columns whose errors
    are in path 0 only, all 0 at first.  Of candidates that cost the same, those of the better
    parent are kept, then those of the code nearer to the target.
    """
    paths, rows, shared = state
    tiles, _, lanes = Z.shape
    _targets(Z, X, F, U, span, paths, shared)
    after = paths
    for t in range(tiles):
        real = min(max(rows - t * lanes, 0), lanes)
        after = _advance(t, Z, X, F, P, Q, U, grid, plan, span, (paths, real), shared, stats[t])
    return after


@jit(cache=False)
def _targets(Z, X, F, U, span, paths, shared):
    """F[t, p] = Z[t, c0:c1] + X[t, p, :c0] U[:c0, c0:c1], with path 0 up to shared[t]."""
    c0, c1 = span
    tiles, N, lanes = Z.shape
    K, width = F.shape[1], F.shape[2]
    f, x, z = F.reshape(-1), X.reshape(-1), Z.reshape(-1)
    size = (c1 - c0) * lanes
    for t in range(tiles):
        for i in range(size):
            f[t * K * width * lanes + i] = z[(t * N + c0) * lanes + i]
    for k0 in range(0, c0, _STEPS):  # all tiles use one piece of U
        for t in range(tiles):
            steps = min(_STEPS, shared[t] - k0)
            for p in range(c0 // PANEL, c1 // PANEL if steps > 0 else 0):
                f_at = (t * K * width + p * PANEL - c0) * lanes
                x_at = (t * K * N + k0) * lanes
                fma_tile(f, f_at, x, x_at, U, panel_offset(p) + k0 * PANEL, steps)
    for t in range(tiles):
        for path in range(1, paths):
            for i in range(size):
                f[(t * K + path) * width * lanes + i] = f[t * K * width * lanes + i]
        for k0 in range(shared[t], c0, _STEPS):
            for path in range(paths):
                row = t * K + path
                for p in range(c0 // PANEL, c1 // PANEL):
                    f_at = (row * width + p * PANEL - c0) * lanes
                    u_at = panel_offset(p) + k0 * PANEL
                    fma_tile(f, f_at, x, (row * N + k0) * lanes, U, u_at, min(_STEPS, c0 - k0))


@jit(cache=False)
def _advance(t, Z, X, F, P, Q, U, grid, plan, span, state, shared, stats):
    """Columns c0 .. c1 of one tile; the targets in F lack the errors from c0 on."""
    c0, c1 = span
    columns, D, damping = plan
    scale, zero, group, low, high = grid
    paths, real = state
    N, lanes = Z.shape[1:]
    K, width = F.shape[1], F.shape[2]
    f, x = F.reshape(-1), X.reshape(-1)
    E = np.empty((_STEP, K, lanes), Z.dtype)
    keep = np.empty((K, lanes), Z.dtype)
    # zeros: lanes beyond the last row choose nothing
    best = (np.zeros((K, lanes)), np.zeros((K, lanes), np.int32), np.zeros((K, lanes), Z.dtype))
    near = (np.empty((K, lanes), Z.dtype), np.empty((K, lanes), Z.dtype), np.empty((K, lanes)))
    root, anchor = np.empty((K, lanes), np.int32), np.empty((K, lanes), np.int32)
    place = np.empty((K, lanes), np.int32)
    for p in range(K):
        for r in range(lanes):
            anchor[p, r] = p
    for s0 in range(c0, c1, _STEP):
        s1 = min(s0 + _STEP, c1)
        for path in range(paths):
            row = t * K + path
            for p in range(s0 // PANEL, s1 // PANEL):
                f_at = (row * width + p * PANEL - c0) * lanes
                u_at = panel_offset(p) + c0 * PANEL
                fma_tile(f, f_at, x, (row * N + c0) * lanes, U, u_at, s0 - c0)
        for j in range(s0, s1):
            if columns[j] < 0:
                for p in range(paths):
                    for r in range(lanes):
                        P[t, j, p, r], Q[t, j, p, r], E[j - s0, p, r] = p, 0, 0
                continue
            column = (scale[t, group[j]], zero[t, group[j]], low, high, D[j], damping[j])
            z = F[t, :, j - c0]
            _nearest(z, column, paths, stats[0], near)
            after = paths
            for r in range(real):
                after = _choose(r, z, column, paths, stats[0], near, best)
            _take(Z[t, j], E[j - s0], P[t, j], Q[t, j], column, after, stats, near, best)
            # targets of the columns to come: of the parent, plus the new error
            for p in range(after):
                for r in range(lanes):
                    place[p, r] = best[1][p, r] * lanes + r
            flat = keep.reshape(-1)
            for i in range(j + 1, s1):
                u = U[panel_offset(i // PANEL) + j * PANEL + i % PANEL]
                for p in range(paths):
                    for r in range(lanes):
                        keep[p, r] = F[t, p, i - c0, r]
                for p in range(after):
                    for r in range(lanes):
                        F[t, p, i - c0, r] = fma(E[j - s0, p, r], u, flat[place[p, r]])
            paths = after
        # errors of these columns, by the paths that are left
        for p in range(paths):
            for r in range(lanes):
                root[p, r] = p
        for j in range(s1 - 1, s0 - 1, -1):
            for p in range(paths):
                for r in range(lanes):
                    X[t, p, j, r] = E[j - s0, root[p, r], r]
                    root[p, r] = P[t, j, root[p, r], r]
        _sort(X[t], root, c0, s0, paths, keep)
        _sort(F[t], root, s1 - c0, c1 - c0, paths, keep)
        for p in range(paths):
            for r in range(lanes):
                place[p, r] = anchor[root[p, r], r]
        for p in range(paths):
            for r in range(lanes):
                anchor[p, r] = place[p, r]
    one = True
    for p in range(paths):
        for r in range(real):
            one &= anchor[p, r] == anchor[0, r]
    _sort(X[t], anchor, shared[t], c0, 1 if one else paths, keep)
    if one:
        shared[t] = c0
    return paths


@jit(cache=False)
def _nearest(z, column, paths, cost, near):
    """The nearest code of each path, how far its target lies above it, and what it costs."""
    s, o, low, high, D, _ = column
    whole, side, first = near
    for p in range(paths):
        for r in range(s.size):
            floor = np.floor(o[r])
            y = z[p, r] / s[r] + (o[r] - floor)
            k = rint(y)
            side[p, r] = y - k
            k = k + floor
            whole[p, r] = k
            k = min(max(k, low), high)
            eta = np.float64(s[r] * (k - o[r])) - np.float64(z[p, r])
            first[p, r] = fma(D, eta * eta, cost[p, r])


@jit(cache=False)
def _choose(r, z, column, paths, cost, near, best):
    """The K best children of the paths of one row; return how many there are."""
    s, o, low, high, D, _ = column
    whole, side, first = near
    costs, parents, codes = best
    K, one = costs.shape[0], whole.dtype.type(1)
    count = 0
    for p in range(paths):
        if count == K and not cost[p, r] < costs[K - 1, r]:
            break
        k, d = min(max(whole[p, r], low), high), side[p, r]
        above, below = k + one, k - one
        code, value = k, first[p, r]
        while count < K or value < costs[K - 1, r]:
            # behind those that cost no more
            i = min(count, K - 1)
            while i > 0 and value < costs[i - 1, r]:
                costs[i, r], parents[i, r] = costs[i - 1, r], parents[i - 1, r]
                codes[i, r] = codes[i - 1, r]
                i -= 1
            costs[i, r], parents[i, r], codes[i, r] = value, p, code
            count = min(count + 1, K)
            if K == 1 or not (above <= high or below >= low):
                break
            if above <= high and (below < low or (above - k) - d < (k - below) + d):
                code = above
                above += one
            else:
                code = below
                below -= one
            eta = np.float64(s[r] * (code - o[r])) - np.float64(z[p, r])
            value = fma(D, eta * eta, cost[p, r])
    return count


@jit(cache=False)
def _take(w, E, P, Q, column, paths, stats, near, best):
    """Make the chosen children the paths: their errors, parents, codes and sums."""
    s, o, low, high, _, damping = column
    costs, parents, codes = best
    K, lanes = costs.shape
    before = np.empty((2, K))
    for r in range(lanes):
        for p in range(K):
            before[0, p], before[1, p] = stats[1, p, r], stats[2, p, r]
        for p in range(paths):
            parent, code = parents[p, r], codes[p, r]
            error = w[r] - s[r] * (code - o[r])
            wide, k = np.float64(error), near[0][parent, r]
            E[p, r], P[p, r], Q[p, r] = error, parent, int(code)
            stats[0, p, r] = costs[p, r]
            stats[1, p, r] = fma(damping, wide * wide, before[0, parent])
            stats[2, p, r] = before[1, parent] + (k < low or k > high)


@jit(cache=False)
def _sort(X, source, k0, k1, paths, keep):
    """X[p, k0:k1, r] = X[source[p, r], k0:k1, r]."""
    lanes = keep.shape[1]
    flat = keep.reshape(-1)
    most, same = 0, True
    for p in range(paths):
        for r in range(lanes):
            most = max(most, source[p, r])
            same &= source[p, r] == p
    if same:
        return
    for k in range(k0, k1):
        for p in range(most + 1):
            for r in range(lanes):
                keep[p, r] = X[p, k, r]
        for p in range(paths):
            for r in range(lanes):
                X[p, k, r] = flat[source[p, r] * lanes + r]


@jit()
def kbest_trace(P, Q, C):
    """C (tiles, N, lanes): the codes of path 0 of each row, followed back to the first column."""
    tiles, N, _, lanes = P.shape
    path = np.empty(lanes, np.int64)
    for t in range(tiles):
        for r in range(lanes):
            path[r] = 0
        for j in range(N - 1, -1, -1):
            for r in range(lanes):
                C[t, j, r] = Q[t, j, path[r], r]
                path[r] = P[t, j, path[r], r]
