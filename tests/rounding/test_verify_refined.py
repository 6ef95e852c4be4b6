"""Verification of what was fitted: damage to scales, levels, factors and codes is found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_problem, problems

import quiplinalg as ql

P = make_problem(30, 40, 1, 3, "outlier", "heavy", dead=1)


def layers():
    W, H = P.W, P.H
    shared = ql.UniformGrid(np.full((1, 1), 0.6), np.full((1, 1), 3.5), 3)
    return {
        "scale": ql.refit(W, H, ql.ldlq(W, H, 3)),
        "both": ql.refit(W, H, ql.gptq(W, H, 3, group_size=8), fit="both"),
        "one for all": ql.refit(W, H, ql.nearest(W, H, grid=shared)),
        "rotated": ql.refit(W, H, ql.quip(W, H, 3, rotation="hadamard")),
        "rows rotated": ql.refit(W, H, ql.quip(W, H, 3, rotation="kronecker", sides="both")),
        "authors": ql.refit(W, H, ql.quip_authors(W, H, 3)),
        "pruned": ql.refit(W, H, ql.prune_quantize(W, H, bits=3, pattern="2:4")),
        "levels": ql.lnq(W, H, 3),
    }


LAYERS = layers()
NAMES = pytest.mark.parametrize("name", LAYERS)


def with_loss(q):
    """The same with the loss that it has: only what made it is wrong."""
    return dataclasses.replace(q, loss=ql.proxy_loss(q.__array__(np.float64), P.W, P.H))


@NAMES
def test_sound_layers_pass_and_say_what_was_checked(name):
    q = LAYERS[name]
    found = ql.verify(P.W, P.H, q)
    assert found.ok and not found.codes_checked and found.codes_wrong == 0
    assert "lower the loss for the codes" in found.reason
    corrected = None if q.mask is not None else ql.low_rank_correction(P.W, P.H, q, 2)
    if corrected is not None:
        found = ql.verify(P.W, P.H, corrected)
        assert found.ok and found.reason.endswith("with a correction of rank 2")
        assert found.stored_loss == corrected.loss


@NAMES
def test_another_scale_or_level_in_one_row_is_found(name):
    q = LAYERS[name]
    row = 0 if q.grid.rows == 1 else 7
    if name == "levels":
        levels = q.grid.levels.astype(float)
        levels[row, 3] += 0.1 * (levels[row, 4] - levels[row, 3])
        grid = ql.CodebookGrid(levels.astype(q.grid.dtype))
    else:
        scale = q.grid.scale.copy()
        scale[row, 0] *= 1.02
        grid = dataclasses.replace(q.grid, scale=scale)
    found = ql.verify(P.W, P.H, with_loss(dataclasses.replace(q, grid=grid)))
    assert not found.ok and f"of least squares, the first in row {row}" in found.reason


def test_another_zero_is_found_where_zeros_were_fitted():
    q = LAYERS["both"]
    zero = q.grid.zero.copy()
    zero[4, 1] += 0.05
    grid = dataclasses.replace(q.grid, zero=zero)
    assert "row 4" in ql.verify(P.W, P.H, with_loss(dataclasses.replace(q, grid=grid))).reason


@NAMES
def test_another_code_is_found_by_the_fit_that_it_undoes(name):
    q = LAYERS[name]
    codes = q.codes.copy()
    column = 3 if q.mask is None else int(np.flatnonzero(~q.mask[5])[0])
    codes[5, column] ^= 7
    found = ql.verify(P.W, P.H, with_loss(dataclasses.replace(q, codes=codes)))
    assert not found.ok
    stale = ql.verify(P.W, P.H, dataclasses.replace(q, codes=codes))
    assert not stale.ok


def test_a_code_beyond_the_grid_comes_first():
    q = LAYERS["scale"]
    codes = q.codes.copy()
    codes[2, 4] = 8
    found = ql.verify(P.W, P.H, dataclasses.replace(q, codes=codes))
    assert found.first_wrong == (2, 4) and "not on the grid" in found.reason


@pytest.mark.parametrize("name", ("scale", "levels"))
def test_a_fit_that_does_not_go_with_the_grid(name):
    other = {"scale": "levels", "levels": "scale"}[name]
    for refit in (other, "zeros") + ((None,) if name == "levels" else ()):
        found = ql.verify(P.W, P.H, dataclasses.replace(LAYERS[name], refit=refit))
        assert not found.ok and f"it is {refit!r}" in found.reason
    plain = ql.verify(P.W, P.H, dataclasses.replace(LAYERS["scale"], refit=None))
    assert not plain.ok and "rounding of their targets" in plain.reason


def test_a_stored_loss_or_factor_that_is_another_is_found():
    q = ql.low_rank_correction(P.W, P.H, ql.ldlq(P.W, P.H, 3), 2)
    found = ql.verify(P.W, P.H, q)
    assert found.ok and found.codes_checked  # the codes are still roundings of targets
    assert "stored loss" in ql.verify(P.W, P.H, dataclasses.replace(q, loss=q.loss * 1.001)).reason
    right = q.correction.right.copy()
    right[1, 5] += np.float16(0.02)
    other = ql.LowRankCorrection(q.correction.left, right)
    found = ql.verify(P.W, P.H, with_loss(dataclasses.replace(q, correction=other)))
    assert not found.ok and "right factor" in found.reason
    codes = q.codes.copy()
    codes[0, 0] ^= 1
    assert not ql.verify(P.W, P.H, with_loss(dataclasses.replace(q, codes=codes))).ok


@given(
    p=problems(max_n=14, max_m=4, bits=(1, 2, 3, 4, 8), max_dead=2),
    what=st.sampled_from(("scale", "both", "levels")),
    dtype=st.sampled_from((np.float32, np.float64)),
    half=st.booleans(),
)
def test_whatever_is_fitted_verifies(p, what, dtype, half):
    W = p.W.astype(dtype)
    if what == "levels":
        q = ql.lnq(W, p.H, min(p.bits, 4), level_dtype="float16" if half else "float32")
    else:
        q = ql.ldlq(W, p.H, p.bits, group_size=3 if half else None)
        q = ql.refit(W, p.H, q, fit=what)
    found = ql.verify(W, p.H, q)
    assert found.ok, found.reason
    rank = min(2, *W.shape)
    found = ql.verify(W, p.H, ql.low_rank_correction(W, p.H, q, rank))
    assert found.ok, found.reason
