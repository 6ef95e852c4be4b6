"""The twins of what is fitted to codes, against brute force and their own optimality."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from quiplinalg import reference


def problem(seed, m=3, n=7):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n + 3, n))
    return rng, rng.standard_normal((m, n)), X.T @ X / (n + 3)


@pytest.mark.parametrize("zeros", (False, True))
@pytest.mark.parametrize("groups", (1, 2))
def test_no_scale_or_zero_near_the_fitted_ones_is_better(zeros, groups):
    rng, W, H = problem(0, n=16)
    index = np.arange(16) % groups
    codes = np.clip(np.rint(1.4 * W + 1.5), 0, 3)
    scale, zero = np.ones((3, groups)), np.full((3, groups), 1.5)
    found = reference.refit(W, H, codes, scale, zero, zeros=zeros, group_index=index)

    def loss(s, o):
        return reference.row_losses(s[:, index] * (codes - o[:, index]), W, H)

    best = loss(*found)
    assert (found[0] > 0).all()
    assert (best <= loss(scale, zero)).all()
    for _ in range(50):
        moved = [a + 1e-3 * rng.standard_normal(a.shape) for a in found]
        moved[1] = moved[1] if zeros else found[1]
        assert (loss(*moved) > best).all()
    assert zeros or (found[1] == zero).all()


def test_no_other_correction_of_the_rank_is_better():
    rng, E, H = problem(1, m=5)
    for rank in range(6):
        LR, least = reference.low_rank(E, H, rank)
        assert np.linalg.matrix_rank(LR, 1e-9) == rank
        assert reference.proxy_loss(LR, E, H) == pytest.approx(least, abs=1e-12)
        for _ in range(20):
            L, R = rng.standard_normal((5, rank)), rng.standard_normal((rank, 7))
            best = np.linalg.lstsq(L, E, rcond=None)[0] if rank else R  # R for this L, any H
            assert reference.proxy_loss(L @ best, E, H) >= least - 1e-12
    assert reference.low_rank(E, H, 5)[1] == pytest.approx(0, abs=1e-12)


def test_levels_are_the_stationary_point_and_unused_ones_stay():
    rng, W, H = problem(2)
    codes = rng.integers(0, 3, W.shape)
    levels = reference.fit_levels(W, H, codes, np.full((3, 4), 9.0))
    assert (levels[:, 3] == 9).all()
    G = (np.take_along_axis(levels, codes, 1) - W) @ H
    for c in range(3):
        np.testing.assert_allclose((G * (codes == c)).sum(axis=1), 0, atol=1e-10)


def test_a_pass_of_descent_makes_each_code_the_best_for_the_others():
    rng, W, H = problem(3, n=4)
    levels = np.sort(rng.standard_normal((3, 3)), axis=1)
    codes, margin = reference.descend_levels(W, H, rng.integers(0, 3, W.shape), levels)
    while True:
        again, _ = reference.descend_levels(W, H, codes, levels)
        if (again == codes).all():
            break
        codes = again
    assert margin > 0
    own = reference.row_losses(np.take_along_axis(levels, codes, 1), W, H)
    for k, c in itertools.product(range(4), range(3)):
        other = codes.copy()
        other[:, k] = c
        assert (reference.row_losses(np.take_along_axis(levels, other, 1), W, H) >= own).all()


def test_turns_never_raise_a_loss_and_reach_the_best_of_all_on_a_separable_row():
    rng, W, H = problem(4)
    start = np.sort(rng.standard_normal((3, 4)), axis=1)
    codes, levels, losses = reference.lnq(W, H, rng.integers(0, 4, W.shape), start, 6)
    assert (np.diff(losses, axis=0) <= 1e-12).all() and losses.shape == (14, 3)
    final = reference.row_losses(np.take_along_axis(levels, codes, 1), W, H)
    np.testing.assert_allclose(losses[-1], final, rtol=1e-12)
    w = np.array([[0.0, 0.1, 5.0, 5.2]])
    _, levels, losses = reference.lnq(w, np.eye(4), np.zeros((1, 4), int), np.array([[0, 4.0]]), 3)
    np.testing.assert_allclose(levels, [[0.05, 5.1]])


def test_feedback_on_evenly_spaced_levels_is_that_of_ldlq():
    _, W, H = problem(5, n=9)
    order = np.array([3, 0, 8, 1, 7, 2, 6, 4, 5])
    scale, zero = np.full((3, 1), 0.7), np.full((3, 1), 1.5)
    levels = scale * (np.arange(4) - zero)
    uniform = reference.ldlq(W, H, scale, zero, 3, order=order)
    assert (reference.levels_ldlq(W, H, levels, order) == uniform.codes).all()
