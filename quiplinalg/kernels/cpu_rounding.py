"""Rounding with feedback on the CPU: load, accumulate, round, store, over tiles of rows.

Work arrays are (tiles, N, lanes): row r of a tile is a lane, columns are in rounding order, and N
is a multiple of 4; ``columns[c] < 0`` marks a padding column, which holds zeros and is skipped.
Z holds W in the columns not yet rounded and E = W - W_hat in those that are; F holds the rounding
targets W + E U of the columns being rounded.  U holds the panels of those columns, no others.
"""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.cpu_lanes import FLIP, flip_block
from quiplinalg.kernels.cpu_tile import PANEL, fma_tile, jit, panel_offset, round_column

__all__ = ["accumulate", "load", "philox", "round_block", "store"]

_STEPS = 256  # rows of U per pass: a 256 x 256 float32 piece of U stays in the second-level cache


@jit(cache=False)
def flip(target, to, to_step, source, fro, fro_step, rows, columns):
    """target[to + r*to_step + c] = source[fro + c*fro_step + r], r < rows and c < columns."""
    below, right = rows // FLIP * FLIP, columns // FLIP * FLIP  # where whole blocks end
    for r in range(0, below, FLIP):
        for c in range(0, right, FLIP):
            flip_block(
                target, to + r * to_step + c, to_step, source, fro + c * fro_step + r, fro_step
            )
    for c in range(right, columns):
        for r in range(below):
            target[to + r * to_step + c] = source[fro + c * fro_step + r]
    for r in range(below, rows):
        for c in range(columns):
            target[to + r * to_step + c] = source[fro + c * fro_step + r]


@jit()
def load(W, first, columns, Z):
    """Z[t, c, r] = W[first + t*lanes + r, columns[c]]; rows beyond m and padding are zero."""
    tiles, N, lanes = Z.shape
    m = W.shape[0]
    # rows are permuted one by one, then transposed; the 16 keep their starts off one cache set
    rows = np.empty((FLIP, N + 16), Z.dtype)
    z, flat, step = Z.reshape(-1), rows.reshape(-1), rows.shape[1]
    for t in range(tiles):
        for r0 in range(0, lanes, FLIP):
            height = min(FLIP, lanes - r0)
            for r in range(height):
                i = first + t * lanes + r0 + r
                if i < m:
                    source = W[i]
                    for c in range(N):
                        j = columns[c]
                        rows[r, c] = source[j] if j >= 0 else 0
                else:
                    for c in range(N):
                        rows[r, c] = 0
            flip(z, t * N * lanes + r0, lanes, flat, 0, step, N, height)


@jit()
def store(C, first, columns, codes):
    """codes[first + t*lanes + r, columns[c]] = C[t, c, r], but for padding."""
    tiles, N, lanes = C.shape
    m = codes.shape[0]
    rows = np.empty((FLIP, N + 64), C.dtype)
    flat, q, step = rows.reshape(-1), C.reshape(-1), rows.shape[1]
    for t in range(tiles):
        for r0 in range(0, lanes, FLIP):
            height = min(FLIP, lanes - r0)
            flip(flat, 0, step, q, t * N * lanes + r0, lanes, height, N)
            for r in range(height):
                i = first + t * lanes + r0 + r
                if i < m:
                    target = codes[i]
                    for c in range(N):
                        j = columns[c]
                        if j >= 0:
                            target[j] = rows[r, c]


@jit()
def accumulate(F, Z, U, c0, c1):
    """F[:, : c1 - c0] = Z[:, c0:c1] + E[:, :c0] U[:c0, c0:c1]; c0 and c1 are multiples of 4."""
    tiles, N, lanes = Z.shape
    f, e = F.reshape(-1), Z.reshape(-1)
    f_tile = F.shape[1] * lanes
    start = panel_offset(c0 // PANEL)
    for t in range(tiles):  # in a loop: a slice assignment takes seconds to compile
        source, target = Z[t, c0:c1].reshape(-1), F[t].reshape(-1)
        for i in range((c1 - c0) * lanes):
            target[i] = source[i]
    for k0 in range(0, c0, _STEPS):
        steps = min(_STEPS, c0 - k0)
        for t in range(tiles):
            for p in range(c0 // PANEL, c1 // PANEL):
                f_at = t * f_tile + (p * PANEL - c0) * lanes
                u_at = panel_offset(p) - start + k0 * PANEL
                fma_tile(f, f_at, e, (t * N + k0) * lanes, U, u_at, steps)


@jit()
def round_block(F, Z, C, U, grid, plan, span, stats):
    """Round columns c0 .. c1 of Z, whose feedback from the columns before c0 is in F.

    grid is (scale, zero, group, low, high, noise): scale and zero (tiles, groups, lanes), the
    group of each column, the least and the largest code, and (tiles, c1 - c0, lanes) uniforms for
    stochastic rounding, or an empty array.  plan is (columns, D, damping).  Adds to stats
    (tiles, 4, lanes): sum D eta^2, sum damping e^2, the least distance of a target to a tie (a
    minimum), and the count of clipped targets.
    """
    c0, c1 = span
    scale, zero, group, low, high, noise = grid
    columns, D, damping = plan
    tiles, N, lanes = Z.shape
    groups, width = scale.shape[1], F.shape[1]
    f, e, q, t = F.reshape(-1), Z.reshape(-1), C.reshape(-1), stats.reshape(-1)
    s, o, x = scale.reshape(-1), zero.reshape(-1), noise.reshape(-1)
    start = panel_offset(c0 // PANEL)
    for tile in range(tiles):
        for p in range(c0 // PANEL, c1 // PANEL):
            first = p * PANEL
            u_at = panel_offset(p) - start
            f_at = (tile * width + first - c0) * lanes
            fma_tile(f, f_at, e, (tile * N + c0) * lanes, U, u_at + c0 * PANEL, first - c0)
            for j in range(first, first + PANEL):
                if columns[j] < 0:
                    continue
                z_at = (tile * width + j - c0) * lanes
                e_at = (tile * N + j) * lanes
                at = u_at + first * PANEL + j - first
                s_at = (tile * groups + group[j]) * lanes
                x_at = (tile * (c1 - c0) + j - c0) * lanes
                if x.size > 0:
                    round_column(
                        f, z_at, e, e_at, j - first, U, at, s, o, s_at, low, high,
                        x, x_at, 1, q, e_at, D[j], damping[j], t, tile * 4 * lanes,
                    )  # fmt: skip
                else:
                    round_column(
                        f, z_at, e, e_at, j - first, U, at, s, o, s_at, low, high,
                        x, x_at, 0, q, e_at, D[j], damping[j], t, tile * 4 * lanes,
                    )  # fmt: skip


@jit()
def philox(key, first, columns, noise):
    """Uniforms of Philox-2x32-10 at counter (row, column): the same for any tile and thread."""
    tiles, width, lanes = noise.shape
    for t in range(tiles):
        for c in range(width):
            for r in range(lanes):
                x0 = np.uint32(first + t * lanes + r)
                x1 = np.uint32(columns[c])
                k = np.uint32(key)
                for _ in range(10):
                    product = np.uint64(x0) * np.uint64(0xD256D193)
                    x0 = np.uint32(product >> np.uint64(32)) ^ k ^ x1
                    x1 = np.uint32(product & np.uint64(0xFFFFFFFF))
                    k = np.uint32(k + np.uint32(0x9E3779B9))
                noise[t, c, r] = np.float32(x0 >> np.uint32(8)) * np.float32(2.0**-24)
