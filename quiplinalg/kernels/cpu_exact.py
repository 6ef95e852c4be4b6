"""The best codes of a row on the CPU: depth-first search, nearest children first (Schnorr-Euchner).

A node at depth k has the codes of columns 0 .. k-1 in the order of the search.  Its cost, the sum
of D_i eta_i^2 over them, can only grow below it.  The targets of all columns are kept for every
depth: fixing column k adds its error times row k of U to those that follow, in vectors, so that a
node costs O(n - k), and going back costs nothing.
"""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.cpu_tile import jit, rint

__all__ = ["exact_rows"]


@jit(cache=False)
def _cost(z, s, o, q, low, high, weight, before):
    """What the node costs in which this column has the code q; infinite beyond the grid."""
    if q < low or q > high:
        return np.inf
    eta = s * (q - o) - z
    return before + weight * (eta * eta)


@jit(cache=False)
def _feed(target, k, e, U):
    """The targets at depth k + 1 from those at depth k, column k being off by e."""
    here, below, u = target[k], target[k + 1], U[k]
    for j in range(k + 1, U.shape[0]):
        below[j] = here[j] + e * u[j]


@jit()
def exact_rows(W, U, D, grid, budget, codes, loss, nodes, proven):
    """Replace codes (rows, n) by those of least loss, sum_k D_k eta_k^2, in the order of search.

    W (rows, n) and U (n, n), strictly upper, are in that order; grid is (scale, zero, low, high),
    (rows, n) twice and the ends.  Columns 0 .. n-1 of codes hold an answer to start with, kept
    until a smaller loss is found.  After ``budget`` nodes a row is left unproven.
    """
    scale, zero, low, high = grid
    rows, n = W.shape
    target = np.empty((n + 1, n))
    cost = np.zeros(n + 1)
    path, up, down = np.empty(n), np.empty(n), np.empty(n)
    up_cost, down_cost = np.empty(n), np.empty(n)
    for r in range(rows):
        w, s, o = W[r], scale[r], zero[r]
        for j in range(n):
            target[0, j] = w[j]
        # the loss of the start, by the very sums of the search
        best = 0.0
        for k in range(n):
            q = np.float64(codes[r, k])
            best = _cost(target[k, k], s[k], o[k], q, -np.inf, np.inf, D[k], best)
            _feed(target, k, w[k] - s[k] * (q - o[k]), U)
        count, k, entered = 0, 0 if n > 0 else -1, True
        while k >= 0:
            if entered:
                z = target[k, k]
                q = min(max(rint(z / s[k] + o[k]), low), high)
                above = s[k] * (q - o[k]) - z >= 0
                up[k], down[k] = (q, q - 1) if above else (q + 1, q)
                up_cost[k] = _cost(z, s[k], o[k], up[k], low, high, D[k], cost[k])
                down_cost[k] = _cost(z, s[k], o[k], down[k], low, high, D[k], cost[k])
            upward = up_cost[k] < down_cost[k]
            here = up_cost[k] if upward else down_cost[k]
            if not here < best or count >= budget:
                if here < best:
                    break
                k -= 1
                entered = False
                continue
            count += 1
            z = target[k, k]
            q = up[k] if upward else down[k]
            path[k] = q
            if upward:
                up[k] = q + 1
                up_cost[k] = _cost(z, s[k], o[k], q + 1, low, high, D[k], cost[k])
            else:
                down[k] = q - 1
                down_cost[k] = _cost(z, s[k], o[k], q - 1, low, high, D[k], cost[k])
            if k == n - 1:
                best = here
                for j in range(n):
                    codes[r, j] = int(path[j])
                entered = False
                continue
            _feed(target, k, w[k] - s[k] * (q - o[k]), U)
            cost[k + 1] = here
            k += 1
            entered = True
        loss[r], nodes[r], proven[r] = best, count, k < 0
