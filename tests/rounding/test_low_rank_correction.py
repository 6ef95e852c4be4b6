"""Low-rank corrections: the best there are, counted in bits, part of W_hat; and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_problem, problems

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import ConvergenceError, InvalidArgumentError
from quiplinalg.rounding import low_rank


def wide(q):
    return q.__array__(np.float64)


@given(p=problems(max_n=12, max_m=8, bits=(2, 4), max_dead=2), rank=st.integers(0, 12))
def test_the_loss_is_the_least_of_the_rank_but_for_float16(p, rank):
    q = ql.ldlq(p.W, p.H, p.bits)
    rank = min(rank, *p.W.shape)
    found = ql.low_rank_correction(p.W, p.H, q, rank)
    E = p.W - wide(q)
    _, least = reference.low_rank(E, p.H, rank)
    energy = reference.proxy_loss(E, 0 * E, p.H) + 1e-6 * np.trace(p.H) * np.square(E).sum()
    assert least - 1e-9 * energy <= found.loss <= least + 1e-4 * energy
    assert found.loss == pytest.approx(
        reference.proxy_loss(wide(found), p.W, p.H), abs=1e-9 * energy
    )
    assert (found.codes == q.codes).all() and found.grid is q.grid
    more = found.bits_per_weight - q.bits_per_weight
    assert more == pytest.approx(16 * rank * (p.m + p.n) / p.W.size)


@pytest.mark.parametrize("method", ("nearest", "lnq", "quip", "refitted"))
def test_it_corrects_layers_of_every_method_in_the_original_basis(method):
    p = make_problem(24, 32, 1, 2, "outlier", "heavy", dead=1)
    W, H = p.W.astype(np.float32), p.H
    q = {
        "nearest": lambda: ql.nearest(W, H, bits=2),
        "lnq": lambda: ql.lnq(W, H, 2),
        "quip": lambda: ql.quip(W, H, 2),
        "refitted": lambda: ql.refit(W, H, ql.gptq(W, H, 2, group_size=8)),
    }[method]()
    found = ql.low_rank_correction(W, H, q, 3)
    left, right = (a.astype(float) for a in (found.correction.left, found.correction.right))
    np.testing.assert_allclose(wide(found), wide(q) + left @ right, rtol=1e-12, atol=1e-14)
    assert np.asarray(found.dequantize()).dtype == np.float32
    np.testing.assert_allclose(found.dequantize(), wide(found), rtol=1e-3, atol=1e-5)
    assert found.loss < 0.95 * q.loss and ql.verify(W, H, found).ok
    assert "corrected by rank 3" in repr(found) and found.correction.shape == (24, 32)
    some = found.of_rows(slice(2, 5)) if method != "quip" else None
    assert some is None or (wide(some) == wide(found)[2:5]).all()


def test_many_rows_are_done_by_an_iteration_with_the_same_result(monkeypatch):
    p = make_problem(60, 24, 2, 2, "outlier", "heavy")
    q = ql.ldlq(p.W, p.H, 2)
    whole = ql.low_rank_correction(p.W, p.H, q, 4)
    monkeypatch.setattr(low_rank, "_DENSE", 8)
    found = ql.low_rank_correction(p.W, p.H, q, 4)
    assert found.loss == pytest.approx(whole.loss, rel=1e-5)
    again = ql.low_rank_correction(p.W, p.H, q, 4)
    assert (again.correction.left == found.correction.left).all()
    with ql.num_threads(1):
        one = ql.low_rank_correction(p.W, p.H, q, 4)
    assert (one.correction.right == found.correction.right).all()
    exact = dataclasses.replace(q, grid=dataclasses.replace(q.grid, scale=q.grid.scale))
    nothing = ql.low_rank_correction(wide(exact), p.H, exact, 4)
    assert nothing.loss == 0 and not nothing.correction.right.any()

    def fails(gram, rank, v0):
        from scipy.sparse.linalg import ArpackNoConvergence

        raise ArpackNoConvergence("no more", np.zeros(1), np.zeros((1, 1)))

    monkeypatch.setattr("scipy.sparse.linalg.eigsh", fails)
    with pytest.raises(ConvergenceError, match="with rank=4"):
        ql.low_rank_correction(p.W, p.H, q, 4)


@pytest.mark.parametrize("factor", (1e-6, 1.0, 1e3))
def test_both_factors_are_of_a_size_that_float16_has(factor):
    p = make_problem(20, 24, 3, 2, "outlier", "heavy")
    W = p.W * factor
    found = ql.low_rank_correction(W, p.H, ql.ldlq(W, p.H, 2), 4)
    left, right = (np.abs(a).max() for a in (found.correction.left, found.correction.right))
    assert 1 / 16 < left / right < 16
    _, least = reference.low_rank(W - wide(ql.ldlq(W, p.H, 2)), p.H, 4)
    assert found.loss < 1.001 * least


def test_wrong_input():
    W, H = np.random.default_rng(0).standard_normal((4, 6)), np.eye(6)
    q = ql.ldlq(W, H, 2)
    assert ql.low_rank_correction(W, H, q, 0) is q
    done = ql.low_rank_correction(W, H, q, 1)
    pruned = ql.prune_quantize(W, H, bits=2, pattern="1:2")
    large = W * 1e12
    for match, call in (
        (
            "from 0 to 4, the smaller side of W; got rank=5",
            lambda: ql.low_rank_correction(W, H, q, 5),
        ),
        ("got rank=-1", lambda: ql.low_rank_correction(W, H, q, -1)),
        ("got rank=True", lambda: ql.low_rank_correction(W, H, q, True)),
        ("must have no low-rank correction yet", lambda: ql.low_rank_correction(W, H, done, 1)),
        ("must not be pruned", lambda: ql.low_rank_correction(W, H, pruned, 1)),
        ("Descend first", lambda: ql.descend(W, H, done)),
        ("Certify the layer without it", lambda: ql.certify(W, H, done)),
        (
            "float16 can hold the factors",
            lambda: ql.low_rank_correction(large, H, ql.ldlq(large, H, 2), 1),
        ),
        (r"\(m, r\) and \(r, n\)", lambda: ql.LowRankCorrection(np.ones((2, 1)), np.ones((1, 2)))),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            call()
