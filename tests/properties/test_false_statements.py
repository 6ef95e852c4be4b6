"""Statements that look like theorems and are false: each with its counterexample.

No test may assert one of them; here is why.
"""

from __future__ import annotations

import numpy as np
from strategies import clamped_counterexample, make_hessian

import quiplinalg as ql

UNIT = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)


def test_ldlq_is_not_better_than_nearest_on_every_w():
    """Only on average: of random n = 3 problems a few in a hundred are worse."""
    rng = np.random.default_rng(0)
    worse = total = 0
    for seed in range(40):
        H = make_hessian("power", 3, seed)
        W = rng.uniform(-3, 3, (100, 3))
        E, F = ql.ldlq(W, H, grid=UNIT, damp=0.0).codes - W, np.rint(W) - W
        worse += int((((E @ H) * E).sum(axis=1) > ((F @ H) * F).sum(axis=1) + 1e-12).sum())
        total += 100
    assert 0.005 * total <= worse <= 0.2 * total, worse / total


def test_the_bound_does_not_hold_on_a_grid_that_clips():
    """l <= tr D / 4 fails by far where targets leave the grid."""
    W, H = clamped_counterexample(64)
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), 2)
    q = ql.ldlq(W, H, grid=grid, damp=0.0, order="natural")
    assert q.loss > 10 * q.trace_D / 4


def test_min_pivot_does_not_always_have_the_least_trace():
    """A greedy choice: of some H another order has a smaller tr D."""
    rng = np.random.default_rng(0)
    smaller = 0
    for seed in range(150):
        H = make_hessian("lowrank", 4, seed)
        least = ql.ldlq(np.zeros((1, 4)), H, damp=0.0, order="min-pivot").trace_D
        for perm in (rng.permutation(4) for _ in range(5)):
            smaller += bool(ql.udu(H[np.ix_(perm, perm)]).D.sum() < least * (1 - 1e-9))
    assert 1 <= smaller <= 75, smaller  # 1 % of the tries


def test_codes_are_not_the_same_in_every_precision():
    """A target near a tie falls on either side, and its row goes another way: losses agree."""
    rng = np.random.default_rng(3)
    H, W = make_hessian("power", 64, 3), rng.uniform(-1e3, 1e3, (2000, 64))
    grid = ql.UniformGrid(np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), None)
    run = {"grid": grid, "damp": 0.0, "order": "natural"}
    single = ql.ldlq(W.astype(np.float32), H, **run)
    double = ql.ldlq(W.astype(np.float32).astype(np.float64), H, **run)
    apart = (single.codes != double.codes).any(axis=1)
    assert 1 <= apart.sum() <= 0.05 * len(W), apart.sum()
    assert abs(single.loss / double.loss - 1) <= 1e-3


def test_an_eigenbasis_of_a_degenerate_h_does_not_tell_mu():
    """mu is of the best eigenbasis; where eigenvalues repeat, eigh returns any."""
    found = ql.mu_hessian(np.diag([1.0, 1.0, 1.0, 1.0]))
    assert found.degenerate == 4 and found.lower < found.upper
