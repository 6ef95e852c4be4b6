"""The pruning oracles against enumeration and the KKT system, on problems of a few weights."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from quiplinalg import reference

SEEDS = range(20)


def problem(n, seed, m=1):
    rng = np.random.default_rng([n, seed])
    X = rng.standard_normal((n + 3, n)) @ rng.standard_normal((n, n))
    return rng.standard_normal((m, n)), X.T @ X / (n + 3) + 0.05 * np.eye(n)


def fixed_optimum(w, H, fixed, values):
    """The minimum of delta^T H delta with some of delta fixed, from its optimality conditions."""
    free = np.setdiff1d(np.arange(len(w)), fixed)
    delta = np.zeros(len(w))
    delta[fixed] = values
    delta[free] = -np.linalg.solve(H[np.ix_(free, free)], H[np.ix_(free, fixed)] @ values)
    return w + delta, float(delta @ H @ delta)


@pytest.mark.parametrize("seed", SEEDS)
def test_sparsegpt_prunes_the_best_weight_given_those_before_it(seed):
    n = 4
    (w,), H = problem(n, seed)
    tried = []
    for k in range(n):  # weights before k stay as they are, those after it follow
        values = np.zeros(k + 1)
        values[k] = -w[k]
        tried.append(fixed_optimum(w, H, np.arange(k + 1), values))
    best = min(range(n), key=lambda k: tried[k][1])
    W_hat, mask = reference.sparsegpt(w[None], H, keep=n - 1, size=n)
    assert np.flatnonzero(mask[0]).tolist() == [best]
    # a solution of 4 equations in float64, conditions up to 1e4
    assert np.abs(W_hat[0] - tried[best][0]).max() <= 1e-10
    unstructured = reference.sparsegpt(w[None], H, 1 / n, block=n)
    assert (unstructured[1] == mask).all()


@pytest.mark.parametrize("seed", SEEDS)
def test_sparsegpt_compensates_in_later_columns_only(seed):
    W, H = problem(6, seed, m=3)
    W_hat, mask = reference.sparsegpt(W, H, keep=1, size=3)
    assert (mask.reshape(3, 2, 3).sum(axis=2) == 2).all() and (W_hat[mask] == 0).all()
    T, D = reference.udu(H)
    eta = (W_hat - W) @ T
    assert np.abs(eta[~mask]).max() <= 1e-11  # E T = 0 where kept
    loss = reference.proxy_loss(W_hat, W, H)
    assert abs((D * eta**2).sum() - loss) <= 1e-11 * loss
    kept, none = reference.sparsegpt(W, H, 0.0)
    assert (kept == W).all() and not none.any()
    gone, every = reference.sparsegpt(W, H, 1.0)
    assert (gone == 0).all() and every.all()


@pytest.mark.parametrize("size", (1, 2, 3))
@pytest.mark.parametrize("seed", SEEDS)
def test_blocks_are_the_best_single_ones_and_stay_optimal(size, seed):
    (w,), H = problem(6, seed)
    starts = range(0, 6, size)
    first = {a: reference.pruned_optimum(w, H, np.arange(a, a + size))[1] for a in starts}
    order, costs = reference.obs_blocks(w, H, size, 6 // size)[1:]
    assert order[0] == min(first, key=first.get)
    assert abs(costs[0] - first[order[0]]) <= 1e-11 * costs[0]
    for steps in range(6 // size + 1):
        weights, _, spent = reference.obs_blocks(w, H, size, steps)
        pruned = np.concatenate([np.arange(a, a + size) for a in order[:steps]] or [[]])
        best, loss = reference.pruned_optimum(w, H, pruned.astype(int))
        assert np.abs(weights - best).max() <= 1e-10
        assert abs(spent.sum() - loss) <= 1e-10 * max(loss, 1e-3)
    if size == 1:
        weights, alone, spent = reference.obs(w, H, 6)
        assert (alone == order).all() and np.abs(spent - costs).max() <= 1e-10


@pytest.mark.parametrize("seed", SEEDS)
def test_columns_are_the_best_single_ones_and_stay_optimal(seed):
    W, H = problem(5, seed, m=3)
    first = [sum(reference.pruned_optimum(w, H, np.array([q]))[1] for w in W) for q in range(5)]
    order, costs = reference.obs_columns(W, H, 5)[1:]
    assert order[0] == np.argmin(first) and abs(costs[0] - min(first)) <= 1e-11 * costs[0]
    for steps in range(6):
        weights, _, spent = reference.obs_columns(W, H, steps)
        best = [reference.pruned_optimum(w, H, order[:steps]) for w in W]
        assert np.abs(weights - np.array([w for w, _ in best])).max() <= 1e-10
        assert abs(spent.sum() - sum(loss for _, loss in best)) <= 1e-10 * max(spent.sum(), 1e-3)
    one = reference.obs_columns(W[:1], H, 5)
    alone = reference.obs(W[0], H, 5)
    assert (one[1] == alone[1]).all() and np.abs(one[2] - alone[2]).max() <= 1e-10


@pytest.mark.parametrize("seed", SEEDS)
def test_merged_traces_are_the_least_where_costs_rise(seed):
    rng = np.random.default_rng(seed)
    costs = np.sort(rng.random((3, 3)), axis=1)
    spent = np.hstack([np.zeros((3, 1)), np.cumsum(costs, axis=1)])
    for steps in range(10):
        taken = reference.merge_traces(costs, steps)
        total = sum(spent[i, k] for i, k in enumerate(taken))
        ways = [t for t in product(range(4), repeat=3) if sum(t) == steps]
        least = min(sum(spent[i, k] for i, k in enumerate(t)) for t in ways)
        assert taken.sum() == steps and abs(total - least) <= 1e-14


def test_merged_traces_wait_behind_a_dear_step():
    costs = np.array([[5.0, 0.0, 0.0], [1.0, 2.0, 6.0]])
    counts = [reference.merge_traces(costs, k).tolist() for k in range(7)]
    assert counts == [[0, 0], [0, 1], [0, 2], [1, 2], [2, 2], [3, 2], [3, 3]]
