"""Structured pruning against the oracle, its optimality conditions, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql
from quiplinalg import reference


def damped(H, p):
    return H + p.damp * np.eye(len(H))


@pytest.mark.parametrize("backend", ("cpu", "generic"))
@pytest.mark.parametrize("kind", ("well", "power", "outlier", "lowrank"))
@pytest.mark.parametrize("m", (1, 5, 40))
def test_it_is_the_definition(backend, kind, m):
    P = make_problem(m, 60, 0, hessian=kind)
    for count in (0, 1, 29, 55, 60):
        p = ql.prune_columns(P.W, P.H, count=count, backend=backend)
        weights, order, costs = reference.obs_columns(P.W, damped(P.H, p), count)
        assert p.trace.order[0].tolist() == order.tolist()
        whole = ql.proxy_loss(0 * P.W, P.W, P.H)
        assert np.abs(p.trace.costs[0] - costs).max(initial=0) <= 1e-11 * whole
        # least squares of condition numbers up to 1e4
        assert np.abs(p.weights - weights).max() <= 1e-10 * np.abs(weights).max() + 1e-300
        assert (p.mask == np.isin(np.arange(60), order)).all()
        loss = reference.proxy_loss(p.weights, P.W, damped(P.H, p))
        assert abs(p.trace.costs.sum() - loss) <= 1e-10 * whole


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_kept_columns_are_stationary(dtype):
    P = make_problem(90, 120, 1, hessian="outlier")
    W = P.W.astype(dtype)
    p = ql.prune_columns(W, P.H)
    E, Hd = p.weights.astype(float) - W, damped(P.H, p)
    size = (np.abs(E) + np.abs(W)) @ np.abs(Hd)
    assert (np.abs(E @ Hd) / size)[~p.mask].max() <= 120 * np.finfo(dtype).eps
    assert p.sparsity == 0.5 and p.pattern == "columns" and p.weights.dtype == dtype
    loss = reference.proxy_loss(p.weights, W, P.H)
    assert abs(p.loss - loss) <= 1e-12 * loss


def test_budgets_and_shares():
    P = make_problem(20, 64, 2)
    whole = ql.proxy_loss(0 * P.W, P.W, P.H)
    for budget in (0.0, 0.01, 0.2):
        p = ql.prune_columns(P.W, P.H, loss_budget=budget)
        spent = p.trace.costs.sum()
        assert p.loss <= spent <= budget * whole
        more = ql.prune_columns(P.W, P.H, count=p.trace.counts[0] + 1)
        assert more.trace.costs.sum() > budget * whole
        assert more.trace.order[0, :-1].tolist() == p.trace.order[0].tolist()
    assert ql.prune_columns(P.W, P.H, 0.25).mask[0].sum() == 16
    assert ql.prune_columns(P.W, P.H, 0.25, loss_budget=1e9).mask[0].sum() == 16
    assert ql.prune_columns(P.W, P.H, loss_budget=1e9).mask.all()
    assert (ql.prune_columns(P.W, P.H, count=0).weights == P.W).all()


def test_the_least_useful_inputs_go():
    """Columns that repeat others exactly cost nothing; the survivor of each pair takes over."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 10))
    X = np.hstack([X, X + 1e-6 * rng.standard_normal(X.shape)])
    W, H = rng.standard_normal((6, 20)), X.T @ X / 400
    p = ql.prune_columns(W, H, count=10, damp=1e-9)
    kept = np.flatnonzero(~p.mask[0])
    assert sorted(kept % 10) == list(range(10))
    assert p.loss <= 1e-9 * ql.proxy_loss(0 * W, W, H)
    assert np.abs(p.weights[:, kept] - (W[:, :10] + W[:, 10:])[:, kept % 10]).max() <= 1e-4


def test_the_same_bits_for_any_number_of_threads():
    P = make_problem(300, 170, 7, hessian="outlier")
    results = []
    for threads in (1, 2, 3):
        with ql.num_threads(threads):
            results.append(ql.prune_columns(P.W, P.H, 0.6))
    for other in results[1:]:
        assert other.weights.tobytes() == results[0].weights.tobytes()
        assert other.trace.costs.tobytes() == results[0].trace.costs.tobytes()


def test_dead_columns_go_first():
    P = make_problem(12, 30, 4, dead=4)
    dead = np.flatnonzero(np.diag(P.H) == 0)
    for damp in (0.01, 0.0):
        p = ql.prune_columns(P.W, P.H, damp=damp)
        assert sorted(p.trace.order[0, :4]) == dead.tolist() and not p.trace.costs[0, :4].any()
        only = ql.prune_columns(P.W, P.H, loss_budget=0.0, damp=damp)
        assert only.mask[0].sum() == 4 and only.loss == 0
