"""One-pass pruning against the published algorithm, its identities, and its promises."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql
from quiplinalg import reference

KINDS = ("well", "power", "outlier", "lowrank")


def damped(H, p):
    return H + p.damp * np.eye(len(H))


def eta_of(p, W, H, perm=None):
    """(W_hat - W) T and D in the order of the pass, in float64."""
    perm = np.arange(len(H)) if perm is None else perm
    T, D = reference.udu(damped(H, p)[np.ix_(perm, perm)])
    return ((p.weights.astype(float) - W)[:, perm]) @ T, D


@pytest.mark.parametrize("backend", ("cpu", "generic"))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "keywords,oracle",
    (
        (dict(sparsity=0.5, block=16), dict(sparsity=0.5, block=16)),
        (dict(sparsity=0.3, block=7), dict(sparsity=0.3, block=7)),
        (dict(sparsity=0.9), dict(sparsity=0.9)),
        (dict(pattern="2:4"), dict(keep=2, size=4)),
        (dict(pattern="4:8"), dict(keep=4, size=8)),
        (dict(pattern="1:3"), dict(keep=1, size=3)),
    ),
)
def test_it_is_the_published_algorithm(backend, kind, keywords, oracle):
    for seed in range(3 if backend == "cpu" else 1):
        P = make_problem(19, 48, seed, hessian=kind)
        p = ql.sparsegpt(P.W, P.H, backend=backend, **keywords)
        W_hat, mask = reference.sparsegpt(P.W, damped(P.H, p), **oracle)
        assert (p.mask == mask).all()
        # both solve triangular systems of H, of condition numbers up to 1e4
        assert np.abs(p.weights - W_hat).max() <= 1e-10 * np.abs(W_hat).max()


@pytest.mark.parametrize("order", ("natural", "act", "min-pivot"))
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_kept_weights_are_targets_and_the_loss_is_its_definition(order, dtype):
    for kind in KINDS:
        P = make_problem(50, 70, 1, hessian=kind)
        W = P.W.astype(dtype)
        p = ql.sparsegpt(W, P.H, 0.6, order=order)
        assert p.weights.dtype == dtype and not p.weights[p.mask].any() and p.order == order
        perm = {
            "natural": np.arange(70),
            "act": np.argsort(-np.diag(P.H), kind="stable"),
        }.get(order)
        eps = np.finfo(dtype).eps
        if perm is not None:
            eta, D = eta_of(p, W, P.H, perm)
            # targets are sums of 70 products; |W| is a few units
            assert np.abs(eta[~p.mask[:, perm]]).max() <= 70 * eps * np.abs(W).max()
            whole = (D * eta**2).sum()
            assert abs(whole - reference.proxy_loss(p.weights, W, damped(P.H, p))) <= 1e-5 * whole
        loss = reference.proxy_loss(p.weights, W, P.H)
        assert abs(p.loss - loss) <= 1e3 * eps * loss


@pytest.mark.parametrize("pattern,keep,size", (("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4),
                                               ("3:4", 3, 4), ("16:32", 16, 32)))  # fmt: skip
def test_every_group_keeps_its_number(pattern, keep, size):
    for dtype in (np.float32, np.float64):
        P = make_problem(77, 320, 3)
        p = ql.sparsegpt(P.W.astype(dtype), P.H, pattern=pattern)
        groups = p.mask.reshape(77, -1, size)
        assert (groups.sum(axis=2) == size - keep).all()
        assert p.sparsity == 1 - keep / size and p.pattern == pattern
        assert np.count_nonzero(p.weights) == p.mask.size - p.mask.sum()


@pytest.mark.parametrize("sparsity", (0.0, 0.001, 0.1, 1 / 3, 0.5, 0.77, 0.999, 1.0))
@pytest.mark.parametrize("block", (1, 10, 64, 10**9))
def test_the_sparsity_is_reached_exactly(sparsity, block):
    P = make_problem(37, 101, 5)
    p = ql.sparsegpt(P.W, P.H, sparsity, block=block)
    assert p.mask.sum() == int(np.floor(sparsity * 37 * 101 + 0.5))
    if sparsity == 0:
        assert (p.weights == P.W).all() and p.loss == 0
    if sparsity == 1:
        whole = reference.proxy_loss(0 * P.W, P.W, P.H)
        assert not p.weights.any() and abs(p.loss - whole) <= 1e-9 * whole


def test_each_block_has_its_share():
    P = make_problem(40, 96, 0, hessian="outlier")
    p = ql.sparsegpt(P.W, P.H, 0.4, block=32)
    assert [int(p.mask[:, a : a + 32].sum()) for a in (0, 32, 64)] == [512, 512, 512]


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_the_same_bits_for_any_number_of_threads_and_block(dtype):
    P = make_problem(333, 200, 7, hessian="outlier")
    W, H = P.W.astype(dtype), P.H.astype(dtype)
    for keywords in (dict(pattern="2:4"), dict(sparsity=0.5), dict(pattern="5:10")):
        results = []
        for threads in (1, 2, 3):
            with ql.num_threads(threads):
                results.append(ql.sparsegpt(W, H, **keywords))
        if "pattern" in keywords:  # no pattern is chosen block by block
            results += [ql.sparsegpt(W, H, block=b, **keywords) for b in (4, 1000)]
        alone = ql.sparsegpt(W[100:], H, **keywords) if "pattern" in keywords else None
        for other in results[1:]:
            assert other.weights.tobytes() == results[0].weights.tobytes()
            assert other.loss == results[0].loss
        if alone is not None:  # rows have nothing to do with each other
            assert alone.weights.tobytes() == results[0].weights[100:].tobytes()


def magnitude(W, share):
    flat = np.abs(W).ravel()
    last = np.partition(flat, int(share * flat.size))[int(share * flat.size)]
    return np.where(np.abs(W) < last, 0, W)


def test_it_is_far_better_than_pruning_by_magnitude_where_inputs_correlate():
    for keywords in (dict(sparsity=0.5), dict(pattern="2:4")):
        ratios = []
        for seed in range(6):
            P = make_problem(64, 128, seed, hessian="power")
            p = ql.sparsegpt(P.W, P.H, **keywords)
            ratios.append(p.loss / reference.proxy_loss(magnitude(P.W, 0.5), P.W, P.H))
        # without compensation this is about 1; seen: 0.27 and 0.42
        assert np.mean(ratios) <= 0.5, ratios


def test_without_correlation_it_is_magnitude_weighted_by_the_diagonal():
    """H diagonal: nothing to compensate; the weights with the least w^2 H_kk of a block go."""
    P = make_problem(30, 64, 2, hessian="diagonal")
    p = ql.sparsegpt(P.W, P.H, 0.5, block=64, damp=0.0)
    score = P.W**2 * np.diag(P.H)
    assert score[p.mask].max() <= score[~p.mask].min()
    assert (p.weights == np.where(p.mask, 0, P.W)).all()


def test_dead_columns_go_first_and_cost_nothing():
    P = make_problem(20, 64, 4, dead=5)
    dead = np.flatnonzero(np.diag(P.H) == 0)
    for damp in (0.01, 0.0, 0.9):
        for keywords in (dict(sparsity=0.2), dict(pattern="2:4")):
            p = ql.sparsegpt(P.W, P.H, damp=damp, **keywords)
            assert p.dead.tolist() == dead.tolist()
            if "sparsity" in keywords:
                assert p.mask[:, dead].all()
            loss = reference.proxy_loss(p.weights, P.W, P.H)
            assert abs(p.loss - loss) <= 1e-9 * loss
    only = ql.sparsegpt(P.W, P.H, 5 / 64)
    assert only.loss == 0 and only.mask[:, dead].all()
    nothing = ql.sparsegpt(P.W, 0 * P.H, 0.5)
    assert nothing.loss == 0 and nothing.sparsity == 0.5


def test_scaling_by_powers_of_two_changes_nothing():
    P = make_problem(20, 64, 6)
    for keywords in (dict(sparsity=0.5), dict(pattern="2:4")):
        p = ql.sparsegpt(P.W, P.H, **keywords)
        other = ql.sparsegpt(P.W * 2.0**60, P.H * 2.0**-200, **keywords)
        assert (other.mask == p.mask).all() and (other.weights == p.weights * 2.0**60).all()


def test_equal_scores_go_in_order():
    p = ql.sparsegpt(np.ones((3, 4)), np.eye(4), 0.5, damp=0.0)
    assert p.mask.ravel().tolist() == [True] * 6 + [False] * 6
    q = ql.sparsegpt(np.ones((3, 4)), np.eye(4), pattern="2:4", damp=0.0)
    assert q.mask.tolist() == [[True, True, False, False]] * 3
