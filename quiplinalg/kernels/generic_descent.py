"""The generic twins of the kernels of coordinate descent, in NumPy."""

from __future__ import annotations

import numpy as np

__all__ = ["descend", "load_errors", "pack_square", "residual"]


def pack_square(H, P, p0, p1):
    blocks, _, steps, panel = P.shape
    n = H.shape[0]
    columns = slice(p0 * panel, min(p1 * panel, n))
    padded = np.zeros((blocks * steps, (p1 - p0) * panel), P.dtype)
    if columns.stop > columns.start:
        padded[:n, : columns.stop - columns.start] = H[columns].T
    P[:, p0:p1] = padded.reshape(blocks, steps, p1 - p0, panel).transpose(0, 2, 1, 3)


def load_errors(W, codes, grid, first, Z):
    scale, zero, group = grid
    tiles, N, lanes = Z.shape
    rows = slice(first, first + tiles * lanes)
    s, o = scale[rows][:, group], zero[rows][:, group]
    E = s * (codes[rows].astype(Z.dtype) - o) - W[rows]
    flat = np.zeros((tiles * lanes, N), Z.dtype)
    flat[: E.shape[0], : E.shape[1]] = E
    Z[:] = flat.reshape(tiles, lanes, N).transpose(0, 2, 1)


def residual(Z, P, F, G, loss):
    tiles, N, lanes = Z.shape
    H = P.transpose(0, 2, 1, 3).reshape(-1, N)[:N]
    E = Z.transpose(0, 2, 1).reshape(-1, N)
    product = E @ H
    G[:] = product[: G.shape[0], : G.shape[1]]
    loss[:] = np.einsum("ik,ik->i", E, product, dtype=np.float64).reshape(tiles, lanes)


def descend(G, codes, H, grid, rows, width, found):
    scale, group, bound, low, high, tie, least = grid
    gain, changed, ties = found
    gain[rows], changed[rows] = 0, 0
    for k in range(H.shape[0]):
        size = scale[rows, group[k]]
        near = np.abs(G[rows, k]) > bound[k] * size
        i, size, curve = rows[near], size[near].astype(np.float64), np.float64(H[k, k])
        if not i.size:
            continue
        slope, old = G[i, k].astype(np.float64), codes[i, k].astype(np.float64)
        target = old - slope / (curve * size)
        new = np.rint(target)
        ties[i] |= (low <= target) & (target <= high) & (0.5 - np.abs(target - new) < tie)
        d = size * (np.clip(new, low, high) - old)
        fall = -d * (2 * slope + curve * d)
        better = fall > least * curve * d * d
        i, d = i[better], d[better]
        codes[i, k] = np.clip(new[better], low, high)
        gain[i] += fall[better]
        changed[i] += 1
        G[i] += d.astype(G.dtype)[:, None] * H[k]
