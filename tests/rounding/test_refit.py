"""Scales and zeros by least squares: against the twin, never worse, and as stored."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_problem, problems

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import DTypeError, InvalidArgumentError

BACKENDS = ("cpu", "generic")


def wide(q):
    return q.__array__(np.float64)


def stored_in(q, dtype):
    """The same result, with a grid stored in another dtype."""
    grid = dataclasses.replace(
        q.grid, scale=q.grid.scale.astype(dtype), zero=q.grid.zero.astype(dtype)
    )
    q = dataclasses.replace(q, grid=grid)
    return dataclasses.replace(q, loss=np.nan)


@given(
    p=problems(max_n=14, max_m=4, bits=(1, 2, 3, 4, 8), max_dead=2),
    fit=st.sampled_from(("scale", "both")),
    group_size=st.sampled_from((None, 3)),
)
def test_no_row_is_worse_and_none_is_above_the_twins(p, fit, group_size):
    """The twin's scales, if they are positive: in float64 as good, but for its 1e-12 of a ridge."""
    q = stored_in(ql.ldlq(p.W, p.H, p.bits, group_size=group_size), np.float64)
    found = ql.refit(p.W, p.H, q, fit=fit)
    assert (found.codes == q.codes).all() and found.refit == fit
    before, after = (reference.row_losses(wide(r), p.W, p.H) for r in (q, found))
    size = reference.row_losses(0 * p.W, p.W, p.H)
    assert (after <= before + 1e-12 * size).all()
    assert abs(found.loss - after.sum()) <= 1e-10 * size.sum()
    index = q.grid.columns(p.n)
    scale, zero = reference.refit(
        p.W, p.H, q.codes, q.grid.scale, q.grid.zero, zeros=fit == "both", group_index=index
    )
    positive = (scale > 0).all(axis=1) & np.isfinite(zero).all(axis=1)
    best = reference.row_losses(scale[:, index] * (q.codes - zero[:, index]), p.W, p.H)
    assert (after <= best + 1e-7 * size)[positive].all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
@pytest.mark.parametrize("fit", ("scale", "both"))
def test_scales_are_least_squares_as_they_are_stored(backend, dtype, fit):
    p = make_problem(70, 33, 3, 2, "outlier", "heavy", dead=1)
    q = stored_in(ql.ldlq(p.W, p.H, 2, group_size=8), dtype)
    before = reference.row_losses(wide(q), p.W, p.H)
    found = ql.refit(p.W, p.H, q, fit=fit, backend=backend)
    assert found.grid.dtype == dtype and found.grid.kind == ("asym" if fit == "scale" else "custom")
    after = reference.row_losses(wide(found), p.W, p.H)
    assert (after <= before).all() and found.loss < 0.95 * before.sum()
    assert found.loss == pytest.approx(after.sum(), rel=1e-12)
    assert ql.verify(p.W, p.H, dataclasses.replace(found, loss=after.sum())).ok
    if fit == "scale":
        assert (found.grid.zero == q.grid.zero).all()
    again = ql.refit(p.W, p.H, found, fit=fit, backend=backend)
    assert found.loss * (1 - 1e-2) <= again.loss <= found.loss


def test_both_backends_and_any_number_of_threads_give_the_same_bits():
    p = make_problem(150, 40, 4, 3, "outlier", "heavy")
    q = ql.ldlq(p.W.astype(np.float32), p.H, 3, group_size=16)
    found = ql.refit(p.W.astype(np.float32), p.H, q, fit="both")
    with ql.num_threads(1):
        one = ql.refit(p.W.astype(np.float32), p.H, q, fit="both")
    other = ql.refit(p.W.astype(np.float32), p.H, q, fit="both", backend="generic")
    for each in (one, other):
        assert (each.grid.scale == found.grid.scale).all()
        assert (each.grid.zero == found.grid.zero).all() and each.loss == found.loss


@pytest.mark.parametrize("method", ("nearest", "descended", "obq", "quip", "quip both", "pruned"))
def test_layers_of_every_method_are_fitted_where_they_were_rounded(method):
    p = make_problem(24, 32, 5, 2, "outlier", "heavy", dead=1 if method == "quip" else 0)
    W, H = p.W, p.H
    q = {
        "nearest": lambda: ql.nearest(W, H, bits=2),
        "descended": lambda: ql.descend(W, H, ql.ldlq(W, H, 2)),
        "obq": lambda: ql.obq(W, H, 2),
        "quip": lambda: ql.quip(W, H, 2),
        "quip both": lambda: ql.quip(W, H, 2, rotation="kronecker", sides="both", per_tensor=True),
        "pruned": lambda: ql.prune_quantize(W, H, bits=2, pattern="2:4"),
    }[method]()
    for fit in ("scale", "both"):
        found = ql.refit(W, H, q, fit=fit)
        assert found.loss < q.loss and found.grid.rows == q.grid.rows
        assert found.loss == pytest.approx(ql.proxy_loss(wide(found), W, H), rel=1e-9)
        assert ql.verify(W, H, found).ok and "refitted" in repr(found)
        if method == "pruned":
            assert (wide(found)[q.mask] == 0).all()


def test_a_row_whose_scale_would_turn_round_keeps_its_own():
    W, H = np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([[1.0, 0.2], [0.2, 1.0]])
    q = ql.ldlq(W, H, grid=ql.UniformGrid(np.full((2, 1), 1.5), np.ones((2, 1)), 2))
    codes = np.array([[0, 0], [2, 2]], np.uint8)  # of the other sign, and of its own
    found = ql.refit(W, H, dataclasses.replace(q, codes=codes))
    np.testing.assert_allclose(found.grid.scale, [[1.5], [2.0]])
    assert found.loss == pytest.approx(reference.proxy_loss(np.array([[-1.5, -1.5], [2, 2]]), W, H))
    assert ql.verify(W, H, found).ok


def test_a_row_never_loses_what_it_has_by_the_rounding_of_scales():
    """Start from the best of the float16 scales around the optimum, of two groups that go together.

    Both scales rounded by themselves are often worse.
    """
    rng = np.random.default_rng(0)
    H = np.ones((4, 4)) + 1e-7 * np.eye(4)
    index = np.array([0, 0, 1, 1], np.int32)
    worse = 0
    for _ in range(20):
        codes = rng.integers(1, 4, (1, 4)).astype(np.uint8)
        W = rng.uniform(0.5, 2, 2)[index] * codes + 1e-4 * rng.standard_normal((1, 4))
        best, _ = reference.refit(W, H, codes, np.ones((1, 2)), np.zeros((1, 2)), group_index=index)
        middle = best.astype(np.float16)
        near = [(np.nextafter(a, np.float16(0)), a, np.nextafter(a, np.float16(9)))
                for a in middle[0]]  # fmt: skip
        tried = [np.array([[a, b]]) for a in near[0] for b in near[1]]
        losses = [reference.proxy_loss(s.astype(float)[:, index] * codes, W, H) for s in tried]
        worse += min(losses) < losses[4]
        grid = ql.UniformGrid(tried[np.argmin(losses)], np.zeros((1, 2), np.float16), 2, index)
        q = dataclasses.replace(ql.nearest(W, grid=grid), codes=codes)
        assert ql.refit(W, H, q).loss <= min(losses) * (1 + 1e-9)
    assert worse > 5


def test_a_descent_afterwards_is_of_codes_again():
    p = make_problem(20, 24, 6, 2, "outlier", "heavy")
    fitted = ql.refit(p.W, p.H, ql.ldlq(p.W, p.H, 2))
    again = ql.descend(p.W, p.H, fitted)
    assert again.refit is None and again.loss <= fitted.loss and again.grid is fitted.grid
    assert ql.verify(p.W, p.H, again).codes_checked


def test_empty_layers_and_wrong_input():
    empty = ql.ldlq(np.zeros((0, 3)), np.eye(3), 2)
    assert ql.refit(np.zeros((0, 3)), np.eye(3), empty).loss == 0
    W, H = np.ones((2, 3)), np.eye(3)
    q = ql.ldlq(W, H, 2)
    for match, call in (
        (r"fit must be one of scale, both; got fit='zero'", lambda: ql.refit(W, H, q, fit="zero")),
        (r"W must be \(2, 3\)", lambda: ql.refit(W[:1], H, q)),
        ("no low-rank correction yet", lambda: ql.refit(W, H, ql.low_rank_correction(W, H, q, 1))),
        ("grid of 1 to 8 bits", lambda: ql.refit(W, H, ql.ldlq(W, H, grid=ql.UniformGrid(
            np.ones((1, 1)), np.zeros((1, 1)), None)))),
        ("on its grid; got 7", lambda: ql.refit(W, H, dataclasses.replace(
            q, codes=np.full((2, 3), 7, np.uint8)))),
    ):  # fmt: skip
        with pytest.raises(InvalidArgumentError, match=match):
            call()
    with pytest.raises(DTypeError, match="quantized must be a Quantized; got ndarray"):
        ql.refit(W, H, W)
