"""Diagonal rescaling: what each name minimises, floors, stored precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from strategies import problems

import quiplinalg as ql
from quiplinalg.incoherence.rescale import RESCALES, check_rescale, input_scales

HALF = 2.0**-11  # relative rounding error of a float16 scale


def trace_objective(W, H, s):
    return float((np.diag(H) / s**2).sum() * np.square(W * s).sum())


def volume_objective(W, H, s):
    """log of det(H')^(1/n) ||W'||^2, up to the constant log det(H) / n."""
    return float(-2 * np.log(s).mean() + np.log(np.square(W * s).sum()))


ORDINARY = {"min_m": 3, "min_n": 2, "max_n": 12, "weight_kinds": ("normal", "uniform")}


@given(problem=problems(**ORDINARY, hessian_kinds=("well", "outlier", "diagonal")))
def test_trace_reaches_its_closed_form_and_nothing_is_below_it(problem):
    """min tr(H') ||W'||_F^2 = (sum_i sqrt(H_ii) ||W_:i||)^2, by Cauchy and Schwarz."""
    W, H = problem.W, problem.H
    s = input_scales(W, H, "trace")
    least = (np.sqrt(np.diag(H)) * np.linalg.norm(W, axis=0)).sum() ** 2
    reached = trace_objective(W, H, s)
    # the objective is stationary: an error of u in the scales costs its square
    assert least * (1 - 1e-12) <= reached <= least * (1 + 16 * HALF**2 + 1e-12)
    rng = np.random.default_rng(problem.seed)
    for _ in range(5):
        other = s * np.exp(0.3 * rng.standard_normal(problem.n))
        assert trace_objective(W, H, other) >= reached * (1 - 32 * HALF**2)


@given(problem=problems(**ORDINARY, hessian_kinds=("well",)))
def test_volume_makes_all_columns_one_length(problem):
    W, H = problem.W, problem.H
    s = input_scales(W, H, "volume")
    norms = np.linalg.norm(W * s, axis=0)
    assert norms.max() <= norms.min() * (1 + 4 * HALF)
    rng = np.random.default_rng(problem.seed)
    for _ in range(5):
        other = s * np.exp(0.3 * rng.standard_normal(problem.n))
        assert volume_objective(W, H, other) >= volume_objective(W, H, s) - 32 * HALF**2


@given(problem=problems(**ORDINARY, hessian_kinds=("well", "outlier")))
def test_mean_is_the_geometric_mean_of_the_two(problem):
    W, H = problem.W, problem.H
    both = np.sqrt(input_scales(W, H, "trace") * input_scales(W, H, "volume"))
    assert np.abs(np.log(input_scales(W, H, "mean") / both)).max() <= 4 * HALF


@pytest.mark.parametrize("name", RESCALES)
def test_scales_are_stored_exactly_and_have_geometric_mean_one(name):
    rng = np.random.default_rng(0)
    W, H = rng.standard_normal((9, 33)), np.diag(np.exp(rng.standard_normal(33)))
    s = input_scales(W, H, name)
    assert s.dtype == np.float64 and (s == s.astype(np.float16)).all()
    assert abs(np.log(s).mean()) <= HALF
    for factor in (2.0**-60, 2.0**60):  # units do not matter
        assert (input_scales(W * factor, H, name) == s).all()
        assert (input_scales(W, H * factor, name) == s).all()


@pytest.mark.parametrize("name", RESCALES)
def test_floors_keep_dead_inputs_and_zero_columns_finite(name):
    W, H = np.ones((3, 5)), np.diag([1.0, 0.0, 2.0, 1.0, 1.0])
    W[:, 2] = 0
    for weight, hessian in ((W, H), (np.zeros((3, 5)), H), (W, np.zeros((5, 5)))):
        s = input_scales(weight, hessian, name)
        assert np.isfinite(s).all() and (s > 0).all()
    assert input_scales(np.zeros((0, 5)), H, name).shape == (5,)
    assert input_scales(np.zeros((3, 0)), np.zeros((0, 0)), name).shape == (0,)
    W[:, 0] = 1e30
    s = input_scales(W, H, name)
    assert s.min() >= 2.0**-14 and s.max() <= 2.0**15


def test_names():
    assert check_rescale(True) == "mean" and check_rescale("trace") == "trace"
    assert check_rescale(False) is None and check_rescale(None) is None
    for bad in ("quip", 1, 0.5, "", []):
        with pytest.raises(ql.InvalidArgumentError, match=r"rescale must be .*got rescale="):
            check_rescale(bad)
