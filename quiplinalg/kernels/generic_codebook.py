"""The generic twins of the kernels of codebooks, in NumPy."""

from __future__ import annotations

import numpy as np

__all__ = ["descend_levels", "level_sums", "lloyd", "round_levels"]


def lloyd(X, levels, passes):
    ends = np.zeros((X.shape[0], X.shape[1] + 1))
    ends[:, 1:] = np.cumsum(X, axis=1, dtype=np.float64)
    for i, row in enumerate(X):
        for _ in range(passes):
            middles = (levels[i, 1:] + levels[i, :-1]) / 2
            at = np.r_[0, np.searchsorted(row, middles, side="right"), row.size]
            count = np.diff(at)
            mean = np.diff(ends[i, at]) / np.maximum(count, 1)
            new = np.where(count > 0, mean, levels[i])
            if (new == levels[i]).all():
                break
            levels[i] = new


def round_levels(W, F, U, levels, codes, E):
    every = np.arange(W.shape[0])
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    for k in range(W.shape[1]):
        codes[:, k] = (middles < (W[:, k] + F[:, k])[:, None]).sum(axis=1)
        E[:, k] = W[:, k] - levels[every, codes[:, k]]
        F[:, k + 1 :] += E[:, k, None] * U[k, k + 1 :]


def level_sums(H, codes, T):
    for i, row in enumerate(codes):
        T[i] = (row == np.arange(T.shape[1])[:, None]).astype(H.dtype) @ H


def descend_levels(G, codes, T, H, levels, rows, least, found):
    gain, changed = found
    gain[rows], changed[rows] = 0, 0
    middles = (levels[:, 1:] + levels[:, :-1]) / 2
    for k in range(H.shape[0]):
        curve = np.float64(H[k, k])
        if not curve > 0:
            continue
        slope, old = G[rows, k].astype(np.float64), codes[rows, k].astype(np.intp)
        target = levels[rows, old] - slope / curve
        new = (middles[rows] < target[:, None]).sum(axis=1)
        d = levels[rows, new] - levels[rows, old]
        fall = -d * (2 * slope + curve * d)
        better = fall > least * curve * d * d
        i, old, new = rows[better], old[better], new[better]
        codes[i, k] = new
        gain[i] += fall[better]
        changed[i] += 1
        G[i] += d[better].astype(G.dtype)[:, None] * H[k]
        T[i, old] -= H[k]
        T[i, new] += H[k]
