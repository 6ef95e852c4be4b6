"""LNQ: half steps against the twin, never uphill, not above ldlq, the same on any machine."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_problem, problems

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.kernels.record import select
from quiplinalg.rounding import levels as module
from quiplinalg.rounding.levels import (
    dense_feedback,
    fit_levels,
    kmeans_levels,
    round_to_levels,
)

BACKENDS = ("cpu", "generic")


def wide(q):
    return q.__array__(np.float64)


def start(p, seed=0):
    rng = np.random.default_rng(seed)
    levels = np.sort(rng.standard_normal((p.m, 1 << p.bits)) * np.std(p.W), axis=1)
    codes = rng.integers(0, 1 << p.bits, p.W.shape).astype(np.uint8)
    return ql.CodebookGrid(levels), codes


@pytest.mark.parametrize("backend", BACKENDS)
@given(p=problems(max_n=12, max_m=4, bits=(1, 2, 3), max_dead=1), rounds=st.sampled_from((0, 1, 3)))
def test_half_steps_are_those_of_the_twin(backend, p, rounds):
    """From any codes, in float64: every loss the twin has, until a row is settled here."""
    grid, codes = start(p)
    W = np.ascontiguousarray(p.W, float)
    found = fit_levels(W, p.H, [(grid, codes)], rounds, select(backend))
    _, _, losses = reference.lnq(W, p.H, codes.astype(int), grid.levels, rounds)
    energy = reference.row_losses(0 * W, W, p.H) + losses[0]
    assert (found.history >= 0).all()
    falls = found.history.transpose(2, 0, 1).reshape(p.m, -1)  # levels, codes, levels, ...
    mine = found.loss[:, None] - np.cumsum(falls, axis=1)
    np.testing.assert_allclose(found.loss, losses[0], atol=1e-10 * energy.max())
    assert (np.abs(mine[:, 0] - losses[1]) <= 1e-7 * energy).all()
    final = reference.row_losses(found.grid.values(found.codes, float), W, p.H)
    assert (np.abs(final - (found.loss - falls.sum(axis=1))) <= 1e-9 * energy).all()
    assert (final <= losses[1] + 1e-7 * energy).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_levels_and_a_pass_of_codes_are_the_twins_to_the_bit_of_a_code(backend):
    p = make_problem(70, 30, 1, 3, "outlier", "heavy", dead=1)
    grid, codes = start(p)
    found = fit_levels(p.W, p.H, [(grid, codes)], 0, select(backend))
    levels = reference.fit_levels(p.W, p.H, codes, grid.levels)
    np.testing.assert_allclose(found.grid.levels, np.sort(levels, axis=1), rtol=1e-6, atol=1e-8)
    one = fit_levels(p.W, p.H, [(found.grid, found.codes)], 1, select(backend))
    expected, margin = reference.descend_levels(
        p.W, p.H, found.codes.astype(int), found.grid.levels
    )
    assert margin > 1e-9 and one.rounds == 1
    fitted = reference.fit_levels(p.W, p.H, expected, found.grid.levels)
    rank = np.argsort(fitted, axis=1, kind="stable")
    assert (np.take_along_axis(rank, one.codes.astype(int), 1) == expected).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ("natural", "act", "min-pivot"))
@pytest.mark.parametrize("n", (1, 6, 33, 300))
def test_feedback_is_that_of_the_twin(backend, order, n):
    p = make_problem(5, n, n, 2, "outlier", "heavy")
    grid, _ = start(p)
    ready = ql.prepare(p.H, order=order, backend=backend)
    kernels = select(backend)
    U = dense_feedback(ready, np.dtype(float), kernels)
    codes = round_to_levels(p.W, U, ready.permutation, grid, kernels)
    damped = p.H + ready.damping * np.eye(n)
    if n <= 40:
        expected = reference.levels_ldlq(p.W, damped, grid.levels, ready.permutation)
        assert (codes == expected).all()
    E = (p.W - grid.values(codes, float))[:, ready.permutation]
    targets = p.W[:, ready.permutation] + E @ U
    off = np.abs(targets - p.W[:, ready.permutation] + E)
    best = np.abs(grid.levels[:, None, :] - targets[:, :, None]).min(axis=2)
    np.testing.assert_allclose(off, best, atol=1e-9)


def test_k_means_is_the_twins_from_the_quantiles():
    p = make_problem(80, 50, 2, 3, "outlier", "heavy")
    found = kmeans_levels(p.W, 3, select("cpu"))
    for row, levels in zip(p.W, found, strict=True):
        first = np.sort(row)[((np.arange(8) + 0.5) / 8 * 50).astype(int)]
        np.testing.assert_allclose(levels, reference.kmeans(row, first, 100), atol=1e-12)


@pytest.mark.parametrize("bits", (1, 2, 3, 4, 5))
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_it_is_below_ldlq_in_every_row_and_verifies(bits, dtype):
    p = make_problem(70, 48, bits, 2, "outlier", "heavy", dead=1)
    W = p.W.astype(dtype)
    plain, q = ql.ldlq(W, p.H, bits), ql.lnq(W, p.H, bits, level_dtype="float32")
    before, after = (reference.row_losses(wide(r), W, p.H) for r in (plain, q))
    assert (after <= before * (1 + 1e-5)).all() and q.loss < 0.85 * plain.loss
    assert q.loss == pytest.approx(after.sum(), rel=1e-9)
    found = ql.verify(W, p.H, q)
    assert found.ok and not found.codes_checked and "levels" in found.reason
    assert (q.method, q.refit, q.precision, q.grid.bits) == (
        "lnq",
        "levels",
        dtype().dtype.name,
        bits,
    )
    assert q.bits_per_weight == pytest.approx(bits + 32 * 2**bits / 48)
    half = ql.lnq(W, p.H, bits)
    assert half.grid.dtype == np.float16 and half.loss < 1.02 * q.loss
    assert "lnq" in repr(half) and "fixed point" not in repr(half)


def test_the_second_time_gains_or_keeps_and_more_rounds_do_no_harm():
    p = make_problem(40, 64, 3, 3, "outlier", "heavy")
    losses = [ql.lnq(p.W, p.H, 3, rounds=r).loss for r in (0, 1, 3, None)]
    assert max(losses[1:]) < losses[0] and max(losses[2:]) < 1.02 * losses[1]


def test_codes_depend_on_neither_threads_nor_pieces_nor_a_prepared_h(monkeypatch):
    p = make_problem(150, 70, 4, 2, "outlier", "heavy")
    W = p.W.astype(np.float32)
    whole = ql.lnq(W, p.H, 2)
    with ql.num_threads(1):
        one = ql.lnq(W, p.H, 2)
    prepared = ql.lnq(W, ql.prepare(p.H), 2)
    for other in (one, prepared):
        assert (other.codes == whole.codes).all() and other.loss == whole.loss
        assert (other.grid.levels == whole.grid.levels).all()
    monkeypatch.setattr(module, "_SUMS", 1)  # a row at a time
    few = ql.lnq(W[:9], p.H, 2)
    assert few.loss == pytest.approx(ql.proxy_loss(whole.of_rows(slice(9)), W[:9], p.H), rel=1e-3)


@pytest.mark.parametrize("scale", (2.0**-70, 1.0, 2.0**70))
def test_the_scale_of_h_does_not_matter(scale):
    p = make_problem(20, 24, 5, 2, "outlier", "heavy")
    W = p.W.astype(np.float32)
    found, plain = ql.lnq(W, p.H * scale, 2), ql.lnq(W, p.H, 2)
    assert (found.codes == plain.codes).all()
    assert found.loss == pytest.approx(scale * plain.loss)


def test_levels_that_float16_cannot_hold_are_refused():
    p = make_problem(6, 12, 6, 2, "outlier", "heavy")
    for factor in (1e-9, 1e9):
        W = p.W * factor
        with pytest.raises(InvalidArgumentError, match="Pass level_dtype='float32'"):
            ql.lnq(W, p.H, 2)
        q = ql.lnq(W, p.H, 2, level_dtype="float32")
        assert ql.verify(W, p.H, q).ok and q.loss < ql.ldlq(W, p.H, 2).loss


def test_refit_of_a_codebook_fits_its_levels():
    p = make_problem(20, 24, 7, 2, "outlier", "heavy")
    q = ql.lnq(p.W, p.H, 2, level_dtype="float64")
    levels = np.sort(q.grid.levels * 1.05, axis=1)
    worse = dataclasses.replace(q, grid=ql.CodebookGrid(levels))
    found = ql.refit(p.W, p.H, worse)
    np.testing.assert_allclose(found.grid.levels, q.grid.levels, rtol=1e-9, atol=1e-12)
    assert found.refit == "levels" and found.loss == pytest.approx(q.loss)


def test_zeros_empty_layers_and_wrong_input():
    for shape in ((0, 4), (3, 0)):
        q = ql.lnq(np.zeros(shape), np.eye(shape[1]), 2)
        assert q.shape == shape and q.loss == 0
    flat = ql.lnq(np.zeros((3, 5)), np.eye(5), 2)
    assert flat.loss == 0 and not wide(flat).any()
    W, H = np.ones((2, 4)), np.eye(4)
    for match, call in (
        ("level_dtype must be float16", lambda: ql.lnq(W, H, level_dtype="int8")),
        ("level_dtype must be float16", lambda: ql.lnq(W, H, level_dtype=None)),
        ("rounds must be", lambda: ql.lnq(W, H, rounds=-1)),
        ("bits must be", lambda: ql.lnq(W, H, 9)),
        ("zeros for descent", lambda: ql.descend(W, H, ql.lnq(W, H))),
        ("zeros for bounds", lambda: ql.certify(W, H, ql.lnq(W, H))),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            call()
    with pytest.raises(TypeError, match="level_dtype"):
        ql.lnq(W, H, level_type="float32")
