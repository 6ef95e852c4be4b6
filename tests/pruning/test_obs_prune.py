"""Exact pruning against the oracles, its optimality conditions, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.pruning.choice import choose_steps, steps_within, taken_mask

KINDS = ("well", "power", "outlier", "lowrank")
PATTERNS = (None, "2:4", "4:8", "1:3", "block:4", "block:2")


def damped(H, p):
    return H + p.damp * np.eye(len(H))


def oracle(W, H, pattern, share):
    """Masks and weights by naive steps, rows merged step by step."""
    m, n = W.shape
    weights = np.empty((m, n))
    if pattern is not None and pattern[0] != "b":
        keep, size = (int(part) for part in pattern.split(":"))
        for i, w in enumerate(W):
            weights[i] = reference.obs(w, H, n, width=size, quota=size - keep)[0]
        return weights
    size = 1 if pattern is None else int(pattern[6:])
    traces = [reference.obs_blocks(w, H, size, n // size) for w in W]
    costs = np.array([trace[2] for trace in traces])
    taken = reference.merge_traces(costs, int(np.floor(share * costs.size + 0.5)))
    for i, w in enumerate(W):
        weights[i] = reference.obs_blocks(w, H, size, taken[i])[0]
    return weights


@pytest.mark.parametrize("backend", ("cpu", "generic"))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_it_is_the_definition(backend, kind, pattern):
    for seed, share in ((0, 0.5), (1, 0.2)):
        P = make_problem(5, 24, seed, hessian=kind)
        quota = pattern is not None and pattern[0] != "b"
        p = ql.obs_prune(P.W, P.H, None if quota else share, pattern=pattern, backend=backend)
        expected = oracle(P.W, damped(P.H, p), pattern, share)
        assert (p.mask == (expected == 0)).all()
        # least squares of condition numbers up to 1e4
        assert np.abs(p.weights - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_kept_weights_are_stationary_and_costs_add_up(pattern, dtype):
    for kind in KINDS:
        P = make_problem(9, 72, 2, hessian=kind)
        W = P.W.astype(dtype)
        p = ql.obs_prune(W, P.H, pattern=pattern)
        Hd = damped(P.H, p)
        E = p.weights.astype(float) - W
        eps = np.finfo(dtype).eps
        assert not p.weights[p.mask].any() and p.weights.dtype == dtype
        # the gradient; each sum of 72 products is rounded, and so are the weights
        size = (np.abs(E) + np.abs(W)) @ np.abs(Hd)
        assert (np.abs(E @ Hd) / size)[~p.mask].max() <= 72 * eps
        loss = reference.proxy_loss(p.weights, W, P.H)
        assert abs(p.loss - loss) <= 1e-12 * loss
        taken = np.arange(p.trace.costs.shape[1]) < p.trace.counts[:, None]
        whole = reference.proxy_loss(p.weights, W, Hd)
        assert abs(p.trace.costs[taken].sum() - whole) <= 1e3 * eps * whole
        assert (taken_mask(p.trace.order, p.trace.counts, 72, _size(pattern)) == p.mask).all()


def _size(pattern):
    return int(pattern[6:]) if pattern is not None and pattern[0] == "b" else 1


def test_every_pattern_is_kept():
    P = make_problem(11, 48, 3)
    for pattern, keep, size in (("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4), ("4:4", 4, 4)):
        p = ql.obs_prune(P.W, P.H, pattern=pattern)
        assert (p.mask.reshape(11, -1, size).sum(axis=2) == size - keep).all()
        assert p.sparsity == 1 - keep / size
    for size in (1, 3, 8, 48):
        p = ql.obs_prune(P.W, P.H, 0.25, pattern=f"block:{size}")
        blocks = p.mask.reshape(11, -1, size)
        assert (blocks.all(axis=2) == blocks.any(axis=2)).all()
        assert blocks[:, :, 0].sum() == int(np.floor(0.25 * 11 * 48 / size + 0.5))


@pytest.mark.parametrize("sparsity", (0.0, 0.01, 1 / 3, 0.5, 0.9, 1.0))
def test_the_sparsity_is_reached_exactly(sparsity):
    P = make_problem(7, 33, 5)
    p = ql.obs_prune(P.W, P.H, sparsity)
    assert p.mask.sum() == int(np.floor(sparsity * 7 * 33 + 0.5))
    if sparsity == 0:
        assert (p.weights == P.W).all() and p.loss == 0
    if sparsity == 1:
        assert not p.weights.any() and p.loss == ql.proxy_loss(0 * P.W, P.W, P.H)


def test_blocks_of_one_are_single_weights():
    P = make_problem(6, 40, 8, hessian="outlier")
    single, blocks = (ql.obs_prune(P.W, P.H, 0.6, pattern=p) for p in (None, "block:1"))
    assert (single.mask == blocks.mask).all() and (single.weights == blocks.weights).all()
    assert (single.trace.order == blocks.trace.order).all()
    assert np.abs(single.trace.costs / blocks.trace.costs - 1).max() <= 1e-9


@pytest.mark.parametrize("pattern", (None, "block:3"))
def test_a_budget_is_used_up_and_kept(pattern):
    for seed in range(4):
        P = make_problem(10, 36, seed)
        whole = ql.proxy_loss(0 * P.W, P.W, P.H)
        for budget in (0.0, 0.003, 0.05, 0.5):
            p = ql.obs_prune(P.W, P.H, loss_budget=budget, pattern=pattern)
            assert p.loss <= budget * whole
            taken = np.arange(p.trace.costs.shape[1]) < p.trace.counts[:, None]
            spent = p.trace.costs[taken].sum()
            assert spent <= budget * whole
            largest = np.maximum.accumulate(p.trace.costs, axis=1)
            following = np.where(taken, np.inf, largest).min()
            least = p.trace.costs[~taken & (largest == following)][0]
            assert spent + least > budget * whole  # not one more
        both = ql.obs_prune(P.W, P.H, 0.1, loss_budget=0.5, pattern=pattern)
        assert both.mask.sum() == ql.obs_prune(P.W, P.H, 0.1, pattern=pattern).mask.sum()
    assert ql.obs_prune(P.W, P.H, loss_budget=1e9).mask.all()


def test_rows_are_merged_as_by_the_oracle():
    rng = np.random.default_rng(0)
    for ties in (False, True):
        for _ in range(50):
            rows, steps = rng.integers(1, 6, 2)
            costs = rng.integers(0, 4, (rows, steps)) + 0.0 if ties else rng.random((rows, steps))
            for count in range(costs.size + 1):
                counts = choose_steps(costs, count)
                assert (counts == reference.merge_traces(costs, count)).all()
                taken = np.arange(steps) < counts[:, None]
                spent = costs[taken].sum()
                assert steps_within(costs, spent + 1e-9, costs.size) >= count


def test_it_beats_one_pass_on_average_and_each_row_shares_as_it_should():
    for keywords in (dict(sparsity=0.5), dict(pattern="2:4")):
        gains = []
        for seed in range(8):
            P = make_problem(24, 64, seed, hessian="power")
            exact, fast = ql.obs_prune(P.W, P.H, **keywords), ql.sparsegpt(P.W, P.H, **keywords)
            gains.append(10 * np.log10(fast.loss / exact.loss))
        # dB; seen: 3.4 and 2.1.  On one layer it need not be above 0
        assert np.mean(gains) >= 1, gains
    scaled = P.W * np.r_[[10.0] * 12, [0.1] * 12][:, None]
    counts = ql.obs_prune(scaled, P.H, 0.5).trace.counts
    assert counts[:12].max() < counts[12:].min()


def test_the_same_bits_for_any_number_of_threads():
    P = make_problem(130, 60, 7, hessian="outlier")
    for pattern in (None, "2:4", "block:5"):
        results = []
        for threads in (1, 2, 3):
            with ql.num_threads(threads):
                results.append(ql.obs_prune(P.W, P.H, pattern=pattern))
        for other in results[1:]:
            assert other.weights.tobytes() == results[0].weights.tobytes()
            assert other.trace.costs.tobytes() == results[0].trace.costs.tobytes()
            assert other.loss == results[0].loss


def test_dead_columns_go_first_and_cost_nothing():
    P = make_problem(12, 30, 4, dead=4)
    dead = np.flatnonzero(np.diag(P.H) == 0)
    for damp in (0.01, 0.0):
        for pattern in (None, "2:3", "block:1"):
            p = ql.obs_prune(P.W, P.H, pattern=pattern, damp=damp)
            assert p.dead.tolist() == dead.tolist()
            if pattern != "2:3":
                assert p.mask[:, dead].all()
            kept = ~p.mask
            kept[:, np.setdiff1d(np.arange(30), dead)] = False
            assert (p.weights[kept] == P.W[kept]).all()
        only = ql.obs_prune(P.W, P.H, loss_budget=0.0, damp=damp)
        assert (only.mask == np.isin(np.arange(30), dead)).all() and only.loss == 0
