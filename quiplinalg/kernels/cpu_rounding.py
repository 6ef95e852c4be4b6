"""Rounding with feedback on the CPU: load, accumulate, round, store, over tiles of rows.

Work arrays are (tiles, N, lanes): row r of a tile is a lane, columns are in rounding order, and N
is a multiple of 4; ``columns[c] < 0`` marks a padding column, which holds zeros and is skipped.
Z holds W in the columns not yet rounded and E = W - W_hat in those that are; F holds the rounding
targets W + E U of the columns being rounded.
"""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.cpu_tile import PANEL, fma, fma_tile, jit, panel_offset, rint

__all__ = ["accumulate", "load", "philox", "round_block", "store"]

_STEPS = 256  # rows of U per pass: a 256 x 256 float32 piece of U stays in the second-level cache
_CHUNK = 128  # columns moved at a time between row-major arrays and tiles


@jit()
def load(W, first, columns, Z):
    """Z[t, c, r] = W[first + t*lanes + r, columns[c]]; rows beyond m and padding are zero."""
    tiles, N, lanes = Z.shape
    m = W.shape[0]
    for t in range(tiles):
        for c0 in range(0, N, _CHUNK):
            c1 = min(c0 + _CHUNK, N)
            for r in range(lanes):
                i = first + t * lanes + r
                if i < m:
                    for c in range(c0, c1):
                        j = columns[c]
                        Z[t, c, r] = W[i, j] if j >= 0 else 0
                else:
                    for c in range(c0, c1):
                        Z[t, c, r] = 0


@jit()
def store(C, first, columns, codes):
    """codes[first + t*lanes + r, columns[c]] = C[t, c, r], but for padding."""
    tiles, N, lanes = C.shape
    m = codes.shape[0]
    for t in range(tiles):
        for c0 in range(0, N, _CHUNK):
            c1 = min(c0 + _CHUNK, N)
            for r in range(lanes):
                i = first + t * lanes + r
                if i < m:
                    for c in range(c0, c1):
                        j = columns[c]
                        if j >= 0:
                            codes[i, j] = C[t, c, r]


@jit()
def accumulate(F, Z, U, c0, c1):
    """F[:, : c1 - c0] = Z[:, c0:c1] + E[:, :c0] U[:c0, c0:c1]; c0 and c1 are multiples of 4."""
    tiles, N, lanes = Z.shape
    f, e = F.reshape(-1), Z.reshape(-1)
    f_tile = F.shape[1] * lanes
    for t in range(tiles):
        F[t, : c1 - c0] = Z[t, c0:c1]
    for k0 in range(0, c0, _STEPS):
        steps = min(_STEPS, c0 - k0)
        for t in range(tiles):
            for p in range(c0 // PANEL, c1 // PANEL):
                f_at = t * f_tile + (p * PANEL - c0) * lanes
                u_at = panel_offset(p) + k0 * PANEL
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
    f, e = F.reshape(-1), Z.reshape(-1)
    f_tile = F.shape[1] * lanes
    for t in range(tiles):
        for p in range(c0 // PANEL, c1 // PANEL):
            at = panel_offset(p)
            first = p * PANEL
            f_at = t * f_tile + (first - c0) * lanes
            fma_tile(f, f_at, e, (t * N + c0) * lanes, U, at + c0 * PANEL, first - c0)
            for j in range(first, first + PANEL):
                if columns[j] < 0:
                    continue
                z = F[t, j - c0]
                for b in range(first, j):
                    u = U[at + b * PANEL + j - first]
                    error = Z[t, b]
                    for r in range(lanes):
                        z[r] = fma(error[r], u, z[r])
                s, o = scale[t, group[j]], zero[t, group[j]]
                if noise.size > 0:
                    _codes_stochastic(z, s, o, noise[t, j - c0], low, high, C[t, j], stats[t])
                else:
                    _codes_nearest(z, s, o, low, high, C[t, j], stats[t])
                _errors(z, s, o, C[t, j], D[j], damping[j], Z[t, j], stats[t])


@jit()
def _codes_nearest(z, s, o, low, high, q, stats):
    """q = clamp(rint(z/s + frac(o)) + floor(o)), ties to even; near ties and clipping counted."""
    tie, clipped = stats[2], stats[3]
    half = z.dtype.type(0.5)
    for r in range(z.size):
        whole = np.floor(o[r])
        y = z[r] / s[r] + (o[r] - whole)
        k = rint(y)
        distance = half - abs(y - k)
        y += whole
        k += whole
        is_tie = (y >= low) & (y < high) & (distance < tie[r])
        tie[r] = distance if is_tie else tie[r]
        clipped[r] += 1.0 if ((k < low) | (k > high)) else 0.0
        k = k if k > low else low
        k = k if k < high else high
        q[r] = k


@jit()
def _codes_stochastic(z, s, o, noise, low, high, q, stats):
    """q = clamp(floor(z/s + frac(o) + u) + floor(o)) with u uniform in [0, 1)."""
    clipped = stats[3]
    for r in range(z.size):
        whole = np.floor(o[r])
        k = np.floor(z[r] / s[r] + (o[r] - whole) + noise[r]) + whole
        clipped[r] += 1.0 if ((k < low) | (k > high)) else 0.0
        k = k if k > low else low
        k = k if k < high else high
        q[r] = k


@jit()
def _errors(z, s, o, q, d, damping, w, stats):
    """w <- w - w_hat, and the two sums of the loss, eta = w_hat - z."""
    loss, damped = stats[0], stats[1]
    for r in range(z.size):
        value = s[r] * (z.dtype.type(q[r]) - o[r])
        eta = np.float64(value) - np.float64(z[r])
        error = w[r] - value
        loss[r] += d * (eta * eta)
        damped[r] += damping * (np.float64(error) * np.float64(error))
        w[r] = error


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
