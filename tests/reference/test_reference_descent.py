"""The reference coordinate descent against enumeration of every change of one code."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import clamped_counterexample, problems

from quiplinalg import reference

EPS = np.finfo(np.float64).eps


def start(p, kind):
    """A grid with half of the seeds' zeros not whole, and codes to start from."""
    scale, zero = reference.minmax_grid(p.W, p.bits)
    zero = zero + 0.5 * (p.seed % 2)
    if kind == "nearest":
        return scale, zero, reference.nearest(p.W, scale, zero, p.maxq)
    if kind == "ldlq":
        H = p.H + 0.01 * np.eye(p.n)
        return scale, zero, reference.ldlq(p.W, H, scale, zero, p.maxq).codes
    codes = np.random.default_rng(p.seed).integers(0, int(p.maxq) + 1, (p.m, p.n))
    return scale, zero, codes


def tolerance(p, scale):
    """What rounding errors can do to a loss: n products, of weights a few steps wide."""
    size = np.abs(p.W).max() + np.max(scale) * (p.maxq + 1)
    return 100 * p.n**2 * EPS * size**2 * np.abs(p.H).max(initial=0)


@given(
    problems(max_m=3, max_n=4, bits=(1, 2), max_dead=1),
    st.sampled_from(("nearest", "ldlq", "random")),
)
def test_no_change_of_one_code_lowers_the_loss_at_a_fixed_point(p, kind):
    scale, zero, codes = start(p, kind)
    found = reference.descend(p.W, p.H, codes, scale, zero, p.maxq)
    assert found.changed[-1] == 0 and ((found.codes >= 0) & (found.codes <= p.maxq)).all()
    slack = tolerance(p, scale)
    for r, k in itertools.product(range(p.m), range(p.n)):
        for code in range(int(p.maxq) + 1):
            other = found.codes.copy()
            other[r, k] = code
            W_hat = reference.dequantise(other, scale, zero)
            assert reference.row_losses(W_hat, p.W, p.H)[r] >= found.losses[r, -1] - slack
    best = reference.exhaustive(p.W, p.H, scale, zero, p.maxq)[1]
    assert (found.losses[:, -1] >= best - slack).all()


@given(
    problems(max_m=3, max_n=4, bits=(1, 2), max_dead=1),
    st.sampled_from(("nearest", "ldlq", "random")),
)
def test_every_step_goes_down_and_they_make_up_the_whole_way(p, kind):
    scale, zero, codes = start(p, kind)
    found = reference.descend(p.W, p.H, codes, scale, zero, p.maxq)
    slack = tolerance(p, scale)
    assert len(found.steps) == sum(found.changed)
    fallen = np.zeros(p.m)
    for r, before, after in found.steps:
        assert after <= before + slack
        fallen[r] += before - after
    assert (np.diff(found.losses, axis=1) <= slack).all()
    drop = found.losses[:, 0] - found.losses[:, -1]
    assert (np.abs(drop - fallen) <= slack * (1 + len(found.steps))).all()
    dead = np.flatnonzero(p.H.diagonal() == 0)
    assert (found.codes[:, dead] == codes[:, dead]).all()


def test_one_column_is_rounded_to_nearest():
    """For n = 1 the best code is the nearest one, wherever the descent starts."""
    W = np.linspace(-2, 5, 41)[:, None] + 0.01
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    for first in range(4):
        found = reference.descend(W, 3 * one, np.full((41, 1), first), one, zero, 3.0)
        assert (found.codes == reference.nearest(W, one, zero, 3.0)).all()
        assert len(found.changed) <= 2


def test_groups_and_the_unbounded_grid():
    rng = np.random.default_rng(0)
    H = np.diag([1.0, 2.0, 3.0])
    W = 9 * rng.standard_normal((5, 3))
    scale, zero, index = rng.uniform(0.5, 2, (5, 2)), np.zeros((5, 2)), np.array([1, 0, 1])
    found = reference.descend(W, H, np.zeros((5, 3), int), scale, zero, np.inf, group_index=index)
    expected = np.rint(W / scale[:, index])  # H is diagonal: every column is by itself
    assert (found.codes == expected).all() and found.codes.min() < 0


@pytest.mark.parametrize("n", (8, 12))
def test_it_leaves_the_bad_answer_of_clamped_rounding(n):
    W, H = clamped_counterexample(n)
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    bad = reference.ldlq(W, H, one, zero, 3.0)
    found = reference.descend(W, H, bad.codes, one, zero, 3.0)
    nearest = reference.nearest(W, one, zero, 3.0)
    ordinary = reference.row_losses(reference.dequantise(nearest, one, zero), W, H)
    assert bad.loss[0] > 3 * ordinary[0] and found.losses[0, -1] < 0.5 * bad.loss[0]
