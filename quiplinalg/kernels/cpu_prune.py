"""Pruning on the CPU: one pass with feedback, and the exact removal of blocks.

One pass: the work arrays are those of cpu_rounding.py.  A weight that is kept takes its target,
or the grid point nearest to it; one that is pruned becomes 0.  What a weight w leaves behind in Z
is w - w_hat, as in rounding.
"""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.cpu_tile import PANEL, fma_tile, jit, panel_offset, rint

__all__ = ["eliminate_blocks", "prune_block"]


@jit()
def prune_block(F, Z, C, U, grid, plan, span, rule, stats):
    """Prune columns c0 .. c1 of Z, whose feedback from the columns before c0 is in F.

    grid is that of `round_block` without its noise; with no scales in it kept weights stay at
    their targets.  plan is (columns, D, damping, salience).  rule is (mask, first, drop, width):
    the (m, n) mask in the caller's columns, the row of W that tile 0 starts with, and the work
    columns of a group, a multiple of 4.  With drop >= 0 the mask of each group is chosen here and
    written: the ``drop`` weights of a row with the least |w| salience, w as compensated when the
    group is reached, the first of equals.  C, of columns c0 .. c1 only like F, gets w_hat or
    codes.  stats is that of `round_block`, ties and clips of the weights that are kept.
    """
    c0, c1 = span
    columns = plan[0]
    mask, first, drop, width = rule
    tiles, N, lanes = Z.shape
    f, e = F.reshape(-1), Z.reshape(-1)
    shift = np.empty((width, lanes), Z.dtype)
    score = np.empty((width, lanes), Z.dtype)
    pruned = np.empty(lanes, np.bool_)
    z = np.empty(lanes, Z.dtype)
    for tile in range(tiles):
        row = first + tile * lanes
        f_tile = (tile * F.shape[1] - c0) * lanes
        e_tile = tile * N * lanes
        for g0 in range(c0, c1, width):
            panels = range(g0 // PANEL, min(g0 + width, c1) // PANEL)
            for p in panels:
                u_at = panel_offset(p) + c0 * PANEL
                f_at = f_tile + p * PANEL * lanes
                fma_tile(f, f_at, e, e_tile + c0 * lanes, U, u_at, g0 - c0)
            if drop >= 0:
                at = (f_tile + g0 * lanes, e_tile + g0 * lanes)
                group = (g0, min(g0 + width, c1))
                _choose(f, e, U, at, group, plan, (mask, row, drop), shift, score)
            for p in panels:
                start = p * PANEL
                u_at = panel_offset(p)
                f_at = f_tile + start * lanes
                fma_tile(f, f_at, e, e_tile + g0 * lanes, U, u_at + g0 * PANEL, start - g0)
                for j in range(start, start + PANEL):
                    column = columns[j]
                    if column < 0:
                        continue
                    for r in range(lanes):
                        pruned[r] = mask[row + r, column] if row + r < mask.shape[0] else False
                        z[r] = f[f_tile + j * lanes + r]
                    for i in range(start, j):
                        u = U[u_at + i * PANEL + j - start]
                        for r in range(lanes):
                            z[r] += e[e_tile + i * lanes + r] * u
                    _settle(z, pruned, Z[tile, j], C[tile, j - c0], grid, plan, j, tile, stats)


@jit(cache=False)
def _choose(f, e, U, at, span, plan, rule, shift, score):
    """Write the mask of one group: the weights with the least |w| salience of each row."""
    columns, salience = plan[0], plan[3]
    mask, row, drop = rule
    f_at, e_at = at
    c0, c1 = span
    lanes = shift.shape[1]
    for c in range(c1 - c0):
        # current weights: W + s, s T = F - W over the columns of the group, as in `compensate`
        u_at = panel_offset((c0 + c) // PANEL) + (c0 + c) % PANEL
        for r in range(lanes):
            shift[c, r] = f[f_at + c * lanes + r] - e[e_at + c * lanes + r]
        for b in range(c):
            u = U[u_at + (c0 + b) * PANEL]
            for r in range(lanes):
                shift[c, r] -= shift[b, r] * u
        weight = score.dtype.type(salience[c0 + c])
        for r in range(lanes):
            score[c, r] = abs(e[e_at + c * lanes + r] + shift[c, r]) * weight
    rank = np.empty(lanes, np.int32)
    for c in range(c1 - c0):
        column = columns[c0 + c]
        if column < 0:
            continue
        for r in range(lanes):
            rank[r] = 0
        for b in range(c1 - c0):
            if columns[c0 + b] < 0 or b == c:
                continue
            for r in range(lanes):
                before = score[b, r] < score[c, r] or (score[b, r] == score[c, r] and b < c)
                rank[r] += np.int32(before)
        for r in range(min(lanes, mask.shape[0] - row)):
            mask[row + r, column] = rank[r] < drop


@jit(cache=False)
def _settle(z, pruned, error, code, grid, plan, j, tile, stats):
    """Give one column of a tile its values; error holds W before and W - W_hat after."""
    scale, zero, group, low, high = grid
    D, damping = plan[1][j], plan[2][j]
    nothing, half = z.dtype.type(0), z.dtype.type(0.5)
    loss, damped, ties, clipped = stats[tile]
    if scale.size == 0:
        for r in range(z.size):
            value = nothing if pruned[r] else z[r]
            eta, left = np.float64(value) - np.float64(z[r]), error[r] - value
            code[r] = value
            error[r] = left
            loss[r] += D * eta * eta
            damped[r] += damping * np.float64(left) * np.float64(left)
        return
    step, offset = scale[tile, group[j]], zero[tile, group[j]]
    for r in range(z.size):
        whole = np.floor(offset[r])
        y = z[r] / step[r] + (offset[r] - whole)
        k = rint(y)
        distance = np.float64(half - abs(y - k))
        y, k = y + whole, k + whole
        kept = not pruned[r]
        if kept and y >= low and y < high and distance < ties[r]:
            ties[r] = distance
        if kept and (k < low or k > high):
            clipped[r] += 1
        k = min(max(k, low), high)
        value = step[r] * (k - offset[r]) if kept else nothing
        # the code of 0, where there is one
        none = offset[r] if whole == offset[r] and low <= whole <= high else nothing
        eta, left = np.float64(value) - np.float64(z[r]), error[r] - value
        code[r] = k if kept else none
        error[r] = left
        loss[r] += D * eta * eta
        damped[r] += damping * np.float64(left) * np.float64(left)


@jit()
def eliminate_blocks(W, Hinv, size, work, order, costs):
    """Remove blocks of ``size`` consecutive weights, each row those of the least cost first.

    Per row, with X the inverse over what is left: the cost of block B is w_B (X_BB)^-1 w_B^T; then
    with X_BB = L L^T, V = X_:B L^-T, u = L^-1 w_B: w -= u V^T, X -= V V^T.  W (rows, n) float64,
    Hinv (n, n) symmetric; work (n + size + 1, n).  order (rows, n / size) gets the first column of
    the block of each step, of equal costs the first block's.  Returns the row whose inverse was
    not positive definite, or -1.
    """
    rows, n = W.shape
    X, V, w = work[:n], work[n : n + size], work[n + size]
    where = np.empty(n // size, np.int64)  # the block that stands at each place
    L, u = np.empty((size, size)), np.empty(size)
    for i in range(rows):
        for a in range(n):
            w[a] = W[i, a]
            for b in range(n):
                X[a, b] = Hinv[a, b]
        for p in range(n // size):
            where[p] = p
        for step in range(n // size):
            left = n // size - step
            best, least = -1, np.inf
            for p in range(left):
                cost = _block_cost(X, w, p * size, L, u)
                if not cost >= 0:
                    return i
                if cost < least or (cost == least and where[p] < where[best]):
                    best, least = p, cost
            if best < 0:
                return i
            order[i, step], costs[i, step] = where[best] * size, least
            _block_cost(X, w, best * size, L, u)
            # the last block takes the place of the one that goes
            first, last = best * size, (left - 1) * size
            for c in range(size):
                for a in range(left * size):
                    V[c, a] = X[first + c, a]
            for c in range(size):
                for b in range(c):
                    for a in range(left * size):
                        V[c, a] -= L[c, b] * V[b, a]
                for a in range(left * size):
                    V[c, a] /= L[c, c]
            if best < left - 1:
                where[best] = where[left - 1]
                for c in range(size):
                    w[first + c] = w[last + c]
                    for b in range(size):
                        V[b, first + c] = V[b, last + c]
                    for a in range(last):
                        X[first + c, a] = X[last + c, a]
                for a in range(last):
                    for c in range(size):
                        X[a, first + c] = X[a, last + c]
                for a in range(size):
                    for c in range(size):
                        X[first + a, first + c] = X[last + a, last + c]
            for c in range(size):
                for a in range(last):
                    w[a] -= u[c] * V[c, a]
            for a in range(last):
                for c in range(size):
                    v = V[c, a]
                    for b in range(last):
                        X[a, b] -= v * V[c, b]
    return -1


@jit(cache=False)
def _block_cost(X, w, first, L, u):
    """X_BB = L L^T, u = L^-1 w_B; returns u u^T, or NaN where X_BB is not positive definite."""
    size = u.size
    cost = 0.0
    for a in range(size):
        for b in range(a + 1):
            total = X[first + a, first + b]
            for c in range(b):
                total -= L[a, c] * L[b, c]
            if a > b:
                L[a, b] = total / L[b, b]
            elif total > 0:
                L[a, a] = np.sqrt(total)
            else:
                return np.nan
        value = w[first + a]
        for c in range(a):
            value -= L[a, c] * u[c]
        u[a] = value / L[a, a]
        cost += u[a] * u[a]
    return cost
