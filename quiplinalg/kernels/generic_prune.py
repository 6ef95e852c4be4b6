"""Pruning in NumPy: the twin of cpu_prune.py."""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.record import PANEL

__all__ = ["eliminate_blocks", "prune_block"]


def _column(U, c0, j):
    """U[c0:j, j] of the packed U."""
    p = j // PANEL
    at = 8 * p * (p + 1)
    return U[at : at + 16 * (p + 1)].reshape(-1, PANEL)[c0:j, j % PANEL]


def prune_block(F, Z, C, U, grid, plan, span, rule, stats):
    """Prune columns c0 .. c1 of Z; see the kernel of this name."""
    c0, c1 = span
    columns = plan[0]
    mask, first, drop, width = rule
    tiles, _, lanes = Z.shape
    rows = slice(first, min(first + tiles * lanes, mask.shape[0]))
    for j in range(c0, c1):
        if drop >= 0 and (j - c0) % width == 0:
            _choose(F, Z, U, plan, (c0, j, min(j + width, c1)), mask[rows], drop)
        if columns[j] < 0:
            continue
        z = F[:, j - c0] + np.einsum("tkr,k->tr", Z[:, c0:j], _column(U, c0, j))
        pruned = np.zeros(tiles * lanes, bool)
        pruned[: rows.stop - first] = mask[rows, columns[j]]
        C[:, j - c0] = _settle(z, pruned.reshape(tiles, lanes), Z, grid, plan, j, stats)


def _choose(F, Z, U, plan, span, mask, drop):
    columns, _, _, salience = plan
    c0, g0, g1 = span
    W = Z[:, g0:g1]
    shift = F[:, g0 - c0 : g1 - c0] - W  # of the columns before c0; those before g0 are added
    for c in range(g1 - g0):
        u = _column(U, c0, g0 + c)
        shift[:, c] += np.einsum("tkr,k->tr", Z[:, c0:g0], u[: g0 - c0])
        shift[:, c] -= np.einsum("tkr,k->tr", shift[:, :c], u[g0 - c0 :])
    real = columns[g0:g1] >= 0
    score = np.abs(W + shift) * salience[g0:g1, None].astype(Z.dtype)
    score = score[:, real].transpose(0, 2, 1).reshape(-1, real.sum())
    least = np.argsort(score, axis=1, kind="stable")[: mask.shape[0], :drop]
    chosen = np.zeros((mask.shape[0], score.shape[1]), bool)
    np.put_along_axis(chosen, least, True, axis=1)
    mask[:, columns[g0:g1][real]] = chosen


def _settle(z, pruned, Z, grid, plan, j, stats):
    scale, zero, group, low, high = grid
    value = code = np.where(pruned, z.dtype.type(0), z)
    if scale.size:
        s, o = scale[:, group[j]], zero[:, group[j]]
        whole = np.floor(o)
        y = z / s + (o - whole)
        k = np.rint(y)
        distance = z.dtype.type(0.5) - np.abs(y - k)
        y, k = y + whole, k + whole
        tied = ~pruned & (y >= low) & (y < high) & (distance < stats[:, 2])
        stats[:, 2] = np.where(tied, distance, stats[:, 2])
        stats[:, 3] += ~pruned & ((k < low) | (k > high))
        k = np.clip(k, low, high)
        value = np.where(pruned, 0, s * (k - o))
        code = np.where(pruned, np.where((whole == o) & (o >= low) & (o <= high), o, 0), k)
    eta = value.astype(np.float64) - z
    Z[:, j] -= value
    stats[:, 0] += plan[1][j] * eta * eta
    stats[:, 1] += plan[2][j] * Z[:, j].astype(np.float64) ** 2
    return code


def eliminate_blocks(W, Hinv, size, work, order, costs):
    """Remove blocks of weights, those of the least cost first; see the kernel of this name."""
    rows, n = W.shape
    for i in range(rows):
        X, w, left = Hinv.copy(), W[i].copy(), np.arange(n // size)
        for step in range(n // size):
            tiles = X.reshape(left.size, size, left.size, size)
            diagonal = np.einsum("iaib->iab", tiles)
            try:
                L = np.linalg.cholesky(diagonal)
            except np.linalg.LinAlgError:
                return i
            u = np.linalg.solve(L, w.reshape(-1, size, 1))[:, :, 0]
            cost = np.square(u).sum(axis=1)
            if not np.isfinite(cost).all():
                return i
            p = int(np.argmin(cost))
            order[i, step], costs[i, step] = left[p] * size, cost[p]
            V = np.linalg.solve(L[p], X[p * size : (p + 1) * size])
            stay = np.delete(np.arange(left.size * size), np.s_[p * size : (p + 1) * size])
            w = (w - u[p] @ V)[stay]
            X = (X - V.T @ V)[np.ix_(stay, stay)]
            left = np.delete(left, p)
    return -1
