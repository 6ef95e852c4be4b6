"""Codebooks on the CPU: k-means of a row, rounding with feedback to levels, descent on codes.

Everything is row-major: a code that changes adds a row of H to a row of G = E H and to two rows of
T, the sums of H by code, that the normal equations of the levels are made of.
"""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.cpu_descent import add_scaled
from quiplinalg.kernels.cpu_tile import jit

__all__ = ["descend_levels", "level_sums", "lloyd", "round_levels"]

_COLUMNS = 256  # of T at a time: the sums of a row at 4 bits, 16 KB, stay in L1
_STEPS = 64  # rows of H at a time: with the columns 64 KB, which stay in L2


@jit()
def _code(levels, target, code):
    """The level nearest to a target, the lower of two that tie; ``code`` is where to look first."""
    while code < levels.size - 1 and (levels[code] + levels[code + 1]) / 2 < target:
        code += 1
    while code > 0 and not (levels[code - 1] + levels[code]) / 2 < target:
        code -= 1
    return code


@jit()
def lloyd(X, levels, passes):
    """k-means of rows X, (rows, n) ascending: levels, (rows, K) float64 ascending, in place."""
    n, count = X.shape[1], levels.shape[1]
    ends = np.zeros(n + 1)
    for i in range(X.shape[0]):
        x, own = X[i], levels[i]
        for j in range(n):
            ends[j + 1] = ends[j] + np.float64(x[j])
        for _ in range(passes):
            moved = False
            first = 0
            below = own[0]  # as it was before this pass
            for c in range(count):
                last = n
                level = below
                if c < count - 1:
                    below = own[c + 1]
                    last = np.searchsorted(x, (level + below) / 2, side="right")
                if last > first:
                    own[c] = (ends[last] - ends[first]) / (last - first)
                    moved |= own[c] != level
                first = max(first, last)
            if not moved:
                break


@jit()
def round_levels(W, F, U, levels, codes, E):
    """Round the columns of a block in turn, with feedback from each to those that follow.

    W, F, codes, E are (rows, width); F is the feedback of the columns before the block and is
    overwritten; U (width, width); levels (rows, K) float64.  E is W less its level.
    """
    rows, width = W.shape
    flat_f, flat_u = F.reshape(-1), U.reshape(-1)
    for i in range(rows):
        own = levels[i]
        code = np.int64(own.size // 2)
        for k in range(width):
            code = _code(own, np.float64(W[i, k] + F[i, k]), code)
            codes[i, k] = code
            E[i, k] = W[i, k] - own[code]
            at = k + 1
            add_scaled(flat_f, i * width + at, E[i, k], flat_u, k * width + at, width - at)


@jit()
def level_sums(H, codes, T):
    """T[i, l] = sum of the rows k of H with codes[i, k] == l, (rows, K, n)."""
    rows, count, n = T.shape
    flat_t, flat_h = T.reshape(-1), H.reshape(-1)
    for at in range(flat_t.size):
        flat_t[at] = 0
    one = flat_t.dtype.type(1)
    for j0 in range(0, n, _COLUMNS):
        width = min(_COLUMNS, n - j0)
        for k0 in range(0, n, _STEPS):
            for i in range(rows):
                row = codes[i]
                for k in range(k0, min(k0 + _STEPS, n)):
                    t_at = (i * count + row[k]) * n + j0
                    add_scaled(flat_t, t_at, one, flat_h, k * n + j0, width)


@jit()
def descend_levels(G, codes, T, H, levels, rows, least, found):
    """One pass of coordinate descent over the columns, each code to the level of the least loss.

    G = E H (m, n), codes and T, see `level_sums`, are kept up to date; levels (m, K) float64.  A
    change of W_hat_k by d must gain more than ``least`` H_kk d^2.  found is (gain, changed), each
    row's fall of the loss and its changed codes, set; ``rows`` says which rows to do.
    """
    gain, changed = found
    n, count = H.shape[0], levels.shape[1]
    flat_g, flat_h, flat_t = G.reshape(-1), H.reshape(-1), T.reshape(-1)
    step = np.empty(1, G.dtype)
    one = step.dtype.type(1)
    for i in rows:
        gain[i] = 0
        changed[i] = 0
        own, q, g = levels[i], codes[i], G[i]
        for k in range(n):
            curve, slope = np.float64(H[k, k]), np.float64(g[k])
            if not curve > 0:
                continue
            old = np.int64(q[k])
            new = _code(own, own[old] - slope / curve, old)
            d = own[new] - own[old]
            fall = -d * (2 * slope + curve * d)
            if fall > least * curve * d * d:
                q[k] = new
                gain[i] += fall
                changed[i] += 1
                step[0] = d
                add_scaled(flat_g, i * n, step[0], flat_h, k * n, n)
                add_scaled(flat_t, (i * count + old) * n, -one, flat_h, k * n, n)
                add_scaled(flat_t, (i * count + new) * n, one, flat_h, k * n, n)
