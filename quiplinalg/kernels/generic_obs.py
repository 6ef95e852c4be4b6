"""Elimination of coordinates of rows under a quadratic loss (OBS, OBQ) in NumPy, a step at a time.

The twin of cpu_obs.py: the same choices and the same results, up to rounding errors, from a copy of
the inverse that is downdated by one outer product a step.
"""

from __future__ import annotations

import numpy as np

__all__ = ["eliminate_rows", "eliminate_space"]


def eliminate_space(n):
    """Elements of the float64 work space of `eliminate_rows`."""
    return n * n


def eliminate_rows(W, Hinv, grid, plan, work, found):
    """Eliminate coordinates of each row, in its own order; -1, or the row that failed.

    It failed where X_qq is not positive: q and X_qq stand where the order and cost would.

    With F the coordinates that are left, X = (H_FF)^-1 and t_q the target of w_q, a step is

        q by the rule;  e = w_q - t_q;  cost = e^2 / X_qq;
        w_F -= (e / X_qq) X_:q;  w_q = t_q;  F = F \\ q;  X = X - X_:q X_q: / X_qq.

    Parameters
    ----------
    W : (rows, n) float64
    Hinv : (n, n) float64, symmetric positive definite; only the upper triangle counts
    grid : (scale, zero, group, low, high)
        (rows, groups) float64 twice, the (n,) int32 group of each column, and the ends of the
        grid.  t_q = s (k - o), k = clamp(rint(w / s + frac(o)) + floor(o), low, high).  With no
        groups every target is 0 (pruning), and codes are left alone.
    plan : (order, mask, steps, quota, width, outliers)
        order (n,) int64: columns in the order to take; (0,): the least cost first, of equal ones
        the lowest column.  mask (rows, n) bool: those are eliminated first, with target 0; (0, 0):
        none.  steps (rows,) int64: the most eliminations of each row.  quota (ceil(n / width),)
        int64: the most of each block of ``width`` columns; (0,): no such limit.  outliers: where
        rint(w / s + frac(o)) + floor(o) lies beyond an end of the grid for some columns, that of
        the largest |e| among them is next, of equal ones the lowest; without ``order`` only.
    work : (eliminate_space(n),) float64
    found : (order, costs, weights, codes, stats)
        Set.  (rows, n) int32 and float64: the column and the cost of each step, -1 and 0 where
        there was none; (rows, n) float64: the weights after the last step, eliminated ones exactly
        their targets; (rows, n) int32; (rows, 3) float64: the least distance of a target to a
        rounding tie, in steps (0.5: none), the count of clipped ones, and sum 1 / X_qq.
    """
    order, mask, steps, quota, width, outliers = plan
    n = Hinv.shape[0]
    X = work[: n * n].reshape(n, n)
    for i in range(W.shape[0]):
        upper = np.triu(Hinv)
        X[:] = upper + np.triu(Hinv, 1).T
        own = tuple(a[i] for a in grid[:2]), *grid[2:]
        first = mask[i] if mask.size else np.zeros(n, bool)
        if not _row(W[i], X, own, (order, first, steps[i], quota, width, outliers), found, i):
            return i
    return -1


def _row(start, X, grid, plan, found, i):
    """Do row i; whether all its pivots were positive."""
    orders, costs, weights, codes, stats = found
    order, first, steps, quota, width, outliers = plan
    (scale, zero), group, low, high = grid
    n = start.size
    w = weights[i]
    w[:] = start
    orders[i], costs[i], stats[i] = -1, 0, (0.5, 0, 0)
    prune = scale.size == 0
    s, o = (np.ones(n), np.zeros(n)) if prune else (scale[group], zero[group])
    whole = np.floor(o)
    live, block = np.ones(n, bool), np.arange(n) // width
    left = quota.copy()
    for k in range(steps):
        open_ = live & (left[block] > 0) if quota.size else live.copy()
        masked = bool((open_ & first).any())
        if masked:
            open_ &= first
        elif not prune and not (open_ & ~first).any():
            break
        if not open_.any():
            break
        X_qq = X.diagonal()
        with np.errstate(all="ignore"):
            y = w / s + (o - whole)
            free = np.rint(y) + whole
            code = np.clip(free, low, high)
            t = np.zeros(n) if prune or masked else s * (code - o)
            e = w - t
            cost = np.where(open_, e * e / X_qq, np.inf)
        beyond = open_ & (code != free) & bool(outliers and not (prune or masked))
        if order.size:
            q = int(order[open_[order]][0])
        elif beyond.any():
            q = int(np.argmax(np.where(beyond, np.abs(e), -1.0)))
        else:
            q = int(np.flatnonzero(open_)[np.argmin(cost[open_])])
        pivot = X_qq[q]
        if not 0 < pivot < np.inf:
            orders[i, k], costs[i, k] = q, pivot
            return False
        orders[i, k], costs[i, k] = q, e[q] * e[q] / pivot
        stats[i, 2] += 1 / pivot
        if not prune:
            codes[i, q] = np.clip(np.rint(o[q] - whole[q]) + whole[q], low, high)
        if not (prune or masked):
            codes[i, q] = code[q]
            target = y[q] + whole[q]
            if low <= target < high:
                stats[i, 0] = min(stats[i, 0], 0.5 - abs(y[q] - (free[q] - whole[q])))
            stats[i, 1] += code[q] != free[q]
        live[q] = False
        if quota.size:
            left[block[q]] -= 1
        column = X[:, q].copy()
        w[live] -= e[q] / pivot * column[live]
        w[q] = t[q]
        X -= np.outer(column, column / pivot)
    return True
