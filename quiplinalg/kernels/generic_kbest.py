"""The generic twins of the kernels of the M-algorithm, in NumPy."""

from __future__ import annotations

import numpy as np

from quiplinalg.kernels.record import PANEL

__all__ = ["kbest_block", "kbest_trace"]


def kbest_block(Z, X, F, P, Q, U, grid, plan, span, state, stats):
    paths, _, shared = state
    shared[:] = 0  # every path has all of its errors
    columns = plan[0]
    K = X.shape[1]
    for j in range(*span):
        if columns[j] < 0:
            X[:, :paths, j], P[:, j, :paths], Q[:, j, :paths] = 0, np.arange(paths)[:, None], 0
            continue
        panel = U[8 * (j // PANEL) * (j // PANEL + 1) :]
        u = panel[j % PANEL : j * PANEL + j % PANEL : PANEL][:j]
        z = Z[:, None, j] + np.einsum("tpkr,k->tpr", X[:, :paths, :j], u)
        cost, parent, code, outside = _candidates(z, grid, plan[1][j], j, K, stats[:, 0, :paths])
        best = np.argsort(cost, axis=1, kind="stable")[:, : min(K, cost.shape[1])]
        cost, parent, code = (np.take_along_axis(a, best, axis=1) for a in (cost, parent, code))
        count = int(np.isfinite(cost).sum(axis=1).min())
        cost, parent, code = cost[:, :count], parent[:, :count], code[:, :count]
        scale, zero = (a[:, None, grid[2][j]] for a in grid[:2])
        error = Z[:, None, j] - scale * (code - zero)
        X[:, :count, :j] = np.take_along_axis(X[:, :paths, :j], parent[:, :, None], axis=1)
        X[:, :count, j], P[:, j, :count], Q[:, j, :count] = error, parent, code
        damped = np.take_along_axis(stats[:, 1], parent, axis=1)
        clipped = np.take_along_axis(stats[:, 2], parent, axis=1)
        stats[:, 0, :count] = cost
        stats[:, 1, :count] = damped + plan[2][j] * error.astype(np.float64) ** 2
        stats[:, 2, :count] = clipped + np.take_along_axis(outside, parent, axis=1)
        paths = count
    return paths


def _candidates(z, grid, D, j, K, before):
    """Costs, parents and codes (tiles, paths * most, lanes), and which targets are clipped.

    Parent by parent, of each the codes in the order of their distance from the target.
    """
    scale, zero, group, low, high = grid
    s, o = scale[:, None, group[j]], zero[:, None, group[j]]
    floor = np.floor(o)
    y = z / s + (o - floor)
    near = np.rint(y)
    side = y - near
    near = near + floor
    outside = (near < low) | (near > high)
    near = np.clip(near, low, high)
    above, below = near + 1, near - 1
    most = int(min(K, high - low + 1))
    costs, codes = [], []
    for i in range(most):
        code = near
        if i > 0:
            up = (above <= high) & ((below < low) | ((above - near) - side < (near - below) + side))
            code = np.where(up, above, below)
            above, below = np.where(up, above + 1, above), np.where(up, below, below - 1)
        eta = (s * (code - o)).astype(np.float64) - z
        costs.append(before + D * (eta * eta))
        codes.append(code)
    shape = (z.shape[0], -1, z.shape[2])
    lanes = (*z.shape[:2], most, z.shape[2])
    parents = np.broadcast_to(np.arange(z.shape[1])[:, None, None], lanes)
    cost, code = (np.stack(a, axis=2).reshape(shape) for a in (costs, codes))
    return cost, parents.reshape(shape), code, outside


def kbest_trace(P, Q, C):
    tiles, N, _, lanes = P.shape
    t, r = np.indices((tiles, lanes))
    path = np.zeros((tiles, lanes), np.int64)
    for j in range(N - 1, -1, -1):
        C[:, j] = Q[t, j, path, r]
        path = P[t, j, path, r].astype(np.int64)
