"""The reference eliminations against every single step there is, and the KKT system."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import make_hessian, make_weights

from quiplinalg.reference import obq, obq_fixed, obs, pruned_optimum

EPS = np.finfo(np.float64).eps
ONE = np.ones((1, 1))  # step and zero of the grid
KINDS = ("well", "power", "outlier", "diagonal")


def problem(n, seed, kind):
    return make_weights("heavy", 1, n, seed)[0] * 1.5, make_hessian(kind, n, seed)


def fixed_optimum(w, H, S, values):
    """min delta^T H delta subject to (w + delta)_S = values, by eliminating the constraint."""
    S = np.asarray(S)
    free = np.setdiff1d(np.arange(len(w)), S)
    delta = np.zeros(len(w))
    delta[S] = np.asarray(values) - w[S]
    if free.size:
        delta[free] = -np.linalg.solve(H[np.ix_(free, free)], H[np.ix_(free, S)] @ delta[S])
    return w + delta, float(delta @ H @ delta)


@pytest.mark.parametrize("n", (1, 2, 3, 4))
def test_each_pruning_step_is_the_best_single_one_and_costs_what_the_optimum_rises_by(n):
    for seed in range(30):
        w, H = problem(n, seed, KINDS[seed % 4])
        scale = np.linalg.cond(H) * n * EPS  # of what an inverse loses
        _, order, costs = obs(w, H, n)
        before = 0.0
        for k in range(n):
            rises = {
                q: pruned_optimum(w, H, np.array([*order[:k], q]))[1] - before
                for q in set(range(n)) - set(order[:k].tolist())
            }
            least = min(rises.values())
            size = 100 * scale * (before + least)
            assert abs(costs[k] - rises[int(order[k])]) <= size, (seed, k, costs[k], rises)
            assert rises[int(order[k])] <= least + size
            before += costs[k]


@pytest.mark.parametrize("n", (1, 2, 3, 4))
def test_each_rounding_step_is_the_best_single_one(n):
    for seed in range(30):
        w, H = problem(n, seed, KINDS[seed % 4])
        for maxq, outliers in ((3.0, False), (np.inf, False), (3.0, True)):
            rounded, order = obq(w[None], H, ONE, ONE, maxq, outliers_first=outliers)
            values, S, before = [], [], 0.0
            for q in order[0]:
                now = w if not S else fixed_optimum(w, H, S, values)[0]
                rises, gaps = {}, {}
                for j in set(range(n)) - set(S):
                    code = np.clip(np.rint(now[j]) + 1, 0 if np.isfinite(maxq) else -np.inf, maxq)
                    gaps[j] = abs(now[j] + 1 - code)
                    rises[j] = fixed_optimum(w, H, [*S, j], [*values, code - 1])[1] - before
                size = 100 * n * EPS * np.linalg.cond(H) * (1 + before + min(rises.values()))
                cost = rounded.costs[0, q]
                assert abs(cost - rises[int(q)]) <= size, (seed, S, q, cost, rises)
                beyond = {j: gap for j, gap in gaps.items() if gap > 0.5 + 1e-9}
                if outliers and beyond:
                    assert gaps[int(q)] >= max(beyond.values()) - 1e-9, (seed, S, q, gaps)
                else:
                    assert rises[int(q)] <= min(rises.values()) + size, (seed, S, q, rises)
                values.append(rounded.codes[0, q] - 1.0)
                S.append(int(q))
                before += cost


def test_greedy_rounding_is_rounding_in_the_order_it_found():
    for seed in range(20):
        n = 5 + seed % 4
        W, H = make_weights("normal", 3, n, seed), make_hessian(KINDS[seed % 4], n, seed)
        scale = np.full((3, 2), 0.4)
        scale[:, 1] = 0.7
        group = np.arange(n) % 2
        greedy, order = obq(W, H, scale, np.full((3, 2), 3.0), 7.0, group_index=group)
        for i in range(3):
            forced = obq_fixed(
                W[i : i + 1], H, scale[:1], np.full((1, 2), 3.0), 7.0, order=order[i],
                group_index=group,
            )  # fmt: skip
            assert (forced.codes[0] == greedy.codes[i]).all()
            gap = np.abs(forced.costs[0] - greedy.costs[i]).max()
            assert gap <= 100 * n * EPS * np.linalg.cond(H) * (1 + greedy.loss[i])
        gap = np.abs(greedy.costs.sum(axis=1) - greedy.loss)
        assert (gap <= 100 * n * EPS * np.linalg.cond(H) * (1 + greedy.loss)).all()


def test_a_quota_of_each_block_is_kept_and_used_up():
    for seed in range(10):
        w, H = problem(10, seed, "power")
        weights, order, _ = obs(w, H, 10, width=4, quota=2)
        counts = np.bincount(order // 4, minlength=3)
        assert (counts == 2).all() and (weights == 0).sum() == 6
        best, value = pruned_optimum(w, H, order)
        assert np.abs(weights - best).max() <= 1e-10 and value > 0
