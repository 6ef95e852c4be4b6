"""Theorem 1 of QuIP: LDLQ's feedback is the best there is, and what it and its rivals cost.

Beside the code they are about: the averages tr D / 12 and tr D / 6 (tests/reference and
tests/rounding), the inverse map and the pointwise bound tr D / 4 on the fast path
(tests/rounding/test_rounding.py).
"""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import hessians, make_hessian, problems

import quiplinalg as ql

REGULAR = ("well", "power", "outlier", "diagonal")
UNIT = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)


def unit_upper(n, seed, scale=1.0):
    R = np.triu(scale * np.random.default_rng(seed).standard_normal((n, n)), 1)
    return R + np.eye(n)


def nearest_unit(W):
    return np.rint(W) - W


@given(H=hessians(max_n=12), seed=st.integers(0, 2**32 - 1))
def test_no_unit_upper_r_has_a_smaller_trace(H, seed):
    """tr(R H R^T) >= tr D for every unit upper R, with equality at R = T^-1 (theorem 1)."""
    factor = ql.udu(H)
    least, size = factor.D.sum(), np.trace(H)
    for scale in (0.0, 0.1, 1.0):
        R = unit_upper(len(H), seed, scale)
        assert np.trace(R @ H @ R.T) >= least - 1e-13 * len(H) * size
    R = np.linalg.inv(factor.T)
    tolerance = 1e-13 * len(H) * size * max(1.0, np.square(R).sum())
    assert abs(np.trace(R @ H @ R.T) - least) <= tolerance


@given(H=hessians(max_n=8, kinds=REGULAR), seed=st.integers(0, 2**32 - 1))
def test_worst_case_of_nearest(H, seed):
    """Nearest's worst loss is (1/4) max over signs s of s^T H s, not (1/4) tr H."""
    n = len(H)
    W = np.random.default_rng(seed).uniform(-3, 3, (20, n))
    E = nearest_unit(W)
    losses = ((E @ H) * E).sum(axis=1)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    worst = ((signs @ H) * signs).sum(axis=1).max() / 4
    assert losses.max() <= worst * (1 + 1e-12)
    # it is attained, up to ties: at half a step in the direction of the worst signs
    s = signs[((signs @ H) * signs).sum(axis=1).argmax()]
    near = 0.5 * (1 - 1e-9) * s
    assert (nearest_unit(near) == -near).all()
    assert near @ H @ near >= worst * (1 - 1e-8)


def test_averages_without_feedback():
    """(1/12) tr H for nearest and (1/6) tr H for stochastic rounding of uniform weights."""
    n, m = 8, 40_000
    H = make_hessian("outlier", n, 3)
    W = np.random.default_rng(0).uniform(0, 1, (m, n))
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)
    for keywords, expected in (
        ({}, np.trace(H) / 12),
        ({"rounding": "stochastic", "seed": 5}, np.trace(H) / 6),
    ):
        E = ql.nearest(W, grid=grid, **keywords).__array__(np.float64) - W
        losses = ((E @ H) * E).sum(axis=1)
        sigma = losses.std() / np.sqrt(m)
        assert abs(losses.mean() - expected) <= 5 * sigma


@given(problem=problems(max_n=12, max_m=4, bits=(None,), order_kinds=("natural", "act")))
def test_the_pointwise_bound_in_every_order(problem):
    """l <= (1/4) tr D for every row on the unbounded grid, whatever the order."""
    W = 10 * problem.W
    for order in ("natural", "act", "min-pivot"):
        q = ql.ldlq(W, problem.H, grid=UNIT, damp=0.0, order=order)
        E = q.codes - W
        rows = ((E @ problem.H) * E).sum(axis=1)
        assert (rows <= q.trace_D / 4 * (1 + 1e-9) + 1e-9).all(), order


@given(problem=problems(max_n=10, max_m=4, bits=(None,)), seed=st.integers(0, 2**32 - 1))
def test_the_inverse_map_in_every_order(problem, seed):
    """W := Z - eta T^-1 with |eta| < 1/2, T that of the order, is rounded to Z exactly."""
    rng = np.random.default_rng(seed)
    Z = rng.integers(-9, 9, (problem.m, problem.n))
    eta = rng.uniform(-0.499, 0.499, Z.shape)
    for order in ("act", "min-pivot"):
        q = ql.ldlq(np.zeros(Z.shape), problem.H, grid=UNIT, damp=0.0, order=order)
        perm = q.permutation
        T = ql.udu(problem.H[np.ix_(perm, perm)]).T
        W = np.empty(Z.shape)
        W[:, perm] = Z[:, perm] - np.linalg.solve(T.T, eta.T).T
        assert (ql.ldlq(W, problem.H, grid=UNIT, damp=0.0, order=order).codes == Z).all(), order


def test_the_worst_case_is_attained():
    """sup l = (1/4) tr D: at W = Z - eta T^-1 with every |eta| just below 1/2."""
    for kind in REGULAR:
        H = make_hessian(kind, 9, 2)
        factor = ql.udu(H)
        eta = (0.5 - 1e-9) * np.sign(np.random.default_rng(1).standard_normal((5, 9)))
        W = -np.linalg.solve(factor.T.T, eta.T).T
        q = ql.ldlq(W, H, grid=UNIT, damp=0.0, order="natural")
        assert (q.codes == 0).all()
        assert abs(q.loss / (5 * factor.D.sum() / 4) - 1) <= 1e-8
