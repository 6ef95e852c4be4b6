"""minmax_grid, mse_grid, rms_grid and UniformGrid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_weights

import quiplinalg as ql
from quiplinalg import reference

BITS = (1, 2, 3, 4, 8)


@given(
    m=st.integers(1, 5),
    n=st.integers(1, 40),
    bits=st.sampled_from(BITS),
    sym=st.booleans(),
    group=st.sampled_from((None, 1, 3, 16)),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(("normal", "heavy", "outlier", "uniform")),
)
def test_minmax_is_the_reference(m, n, bits, sym, group, seed, kind):
    W = make_weights(kind, m, n, seed)
    for dtype in (np.float32, np.float64):
        grid = ql.minmax_grid(W.astype(dtype), bits, sym=sym, group_size=group, scale_dtype=dtype)
        scale, zero = reference.minmax_grid(W.astype(dtype), bits, sym, group)
        assert np.allclose(grid.scale, scale, rtol=4 * np.finfo(dtype).eps, atol=0)
        assert (grid.zero == zero).all()
        expected = np.arange(n) // (group or n)
        assert (grid.columns(n) == expected).all()


def test_the_search_beats_minmax_and_uses_its_norm():
    W = make_weights("heavy", 16, 512, 0)
    for bits in (2, 3, 4):
        for norm in (2.0, 2.4):
            errors = []
            for grid in (ql.minmax_grid(W, bits), ql.mse_grid(W, bits, norm=norm)):
                q = ql.nearest(W, grid=grid)
                errors.append((np.abs(np.asarray(q) - W) ** norm).sum(axis=1))
            assert (errors[1] <= errors[0] * (1 + 1e-5)).all()
            assert errors[1].sum() < 0.85 * errors[0].sum()


def test_per_tensor_is_one_row():
    W = make_weights("normal", 6, 7, 1)
    for make in (ql.minmax_grid, ql.mse_grid):
        grid = make(W, 3, per_tensor=True)
        assert grid.scale.shape == (1, 1)
        flat = make(W.reshape(1, -1), 3)
        assert grid.scale[0, 0] == flat.scale[0, 0] and grid.zero[0, 0] == flat.zero[0, 0]
    with pytest.raises(ql.InvalidArgumentError, match="takes no groups"):
        ql.minmax_grid(W, 3, per_tensor=True, group_size=2)


def test_rms_levels_are_symmetric_without_a_zero():
    W = make_weights("normal", 3, 50, 1)
    grid = ql.rms_grid(W, 2, rho=1.6, scale_dtype=np.float64)
    levels = grid.scale * (np.arange(4) - grid.zero)
    s = 1.6 * np.sqrt((W**2).mean(axis=1, keepdims=True))
    assert np.allclose(levels, s * (2 * np.arange(4) / 3 - 1), rtol=1e-14)
    scale, zero = reference.rms_grid(W, 2, 1.6)
    assert np.allclose(grid.scale, scale, rtol=1e-14) and (grid.zero == zero).all()
    assert ql.rms_grid(W, 2, rho=1.6, per_tensor=True).scale.shape == (1, 1)
    grid = ql.rms_grid(W, 2, rho=1.6, group_size=20, scale_dtype=np.float64)
    assert grid.scale.shape == (3, 3) and (grid.columns(50) == np.arange(50) // 20).all()
    for g in range(3):
        alone = ql.rms_grid(W[:, 20 * g : 20 * g + 20], 2, rho=1.6, scale_dtype=np.float64)
        assert (alone.scale[:, 0] == grid.scale[:, g]).all()
    assert np.asarray(ql.nearest(W, grid=grid)).shape == W.shape
    # zeros have no level of their own: their step is nothing beside the others
    assert (ql.rms_grid(np.zeros((2, 3)), 2, rho=1.5).scale == np.finfo(np.float32).tiny).all()
    mixed = ql.rms_grid(np.array([[0.0, 0.0], [3.0, -3.0]]), 2, rho=1.0).scale
    assert mixed[1, 0] == 2 and mixed[0, 0] == 2.0**-19
    with pytest.raises(ql.InvalidArgumentError, match="takes no groups"):
        ql.rms_grid(W, 2, rho=1.6, per_tensor=True, group_size=5)


@pytest.mark.parametrize("scale_dtype", (np.float16, np.float32, np.float64))
@pytest.mark.parametrize("make", (ql.minmax_grid, ql.mse_grid))
def test_scales_are_rounded_as_stored_before_they_are_used(make, scale_dtype):
    """The zero must be that of the stored scale: every level is exactly representable."""
    W = make_weights("heavy", 20, 64, 2).astype(np.float32)
    grid = make(W, 4, scale_dtype=scale_dtype)
    assert grid.scale.dtype == grid.zero.dtype == scale_dtype
    if make is ql.minmax_grid:
        low = np.minimum(W.min(axis=1), 0)
        wide = grid.scale[:, 0].astype(np.float32)
        assert (grid.zero[:, 0] == np.rint(-low / wide)).all()
    again = ql.nearest(np.asarray(ql.nearest(W, grid=grid)), grid=grid)
    assert (again.codes == ql.nearest(W, grid=grid).codes).all()


def test_float16_rounding_of_scales_is_numpys():
    """The kernel rounds to float16 by itself, subnormals included."""
    W = np.geomspace(1e-6, 1e5, 300)[:, None].astype(np.float64)
    W = np.hstack([W, -W / 3])
    grid = ql.minmax_grid(W, 4, scale_dtype=np.float16)
    exact = ((W.max(axis=1) - W.min(axis=1)) / 15).astype(np.float16)
    assert (grid.scale[:, 0] == exact).all()
    zero = np.rint(-W.min(axis=1) / exact.astype(float))
    assert (grid.zero[:, 0] == zero.astype(np.float16)).all()


def test_a_scale_that_under_or_overflows_is_refused():
    for size in (1e-9, 1e9):
        with pytest.raises(ql.InvalidArgumentError, match="bring the weights"):
            ql.minmax_grid(np.array([[size, -size]]), 2, scale_dtype=np.float16)


@pytest.mark.parametrize("scale", (1e-7, 1e6, 1e-30, 1e30))
def test_row_ranges_far_from_one(scale):
    W = make_weights("normal", 4, 32, 3).astype(np.float32)
    for make in (ql.minmax_grid, ql.mse_grid):
        near, far = make(W, 3), make(W * np.float32(scale), 3)
        q = ql.nearest(W * np.float32(scale), grid=far)
        error = np.abs(np.asarray(q) / np.float32(scale) - W).max()
        assert error <= np.abs(np.asarray(ql.nearest(W, grid=near)) - W).max() * 1.001


def test_zero_and_constant_rows():
    W = np.array([[0.0, 0.0, 0.0], [2.0, 2.0, 2.0], [-3.0, -3.0, -3.0]])
    for make in (ql.minmax_grid, ql.mse_grid):
        for bits in (2, 4):
            grid = make(W, bits)
            assert (grid.scale > 0).all()
            assert np.abs(np.asarray(ql.nearest(W, grid=grid)) - W).max() <= 1e-6
    for norm in (1.0, 2.0, 2.4):  # every range holds zeros: the first is taken
        found = ql.mse_grid(np.zeros((1, 8)), 4, norm=norm).scale
        np.testing.assert_array_equal(found, ql.minmax_grid(np.zeros((1, 8)), 4).scale)


def test_empty_weights():
    for shape in ((0, 4), (3, 0), (0, 0)):
        for make in (ql.minmax_grid, ql.mse_grid):
            assert make(np.zeros(shape), 2).scale.shape == (shape[0], 1)


@pytest.mark.parametrize(
    "change,match",
    (
        (dict(bits=0), "bits must be"),
        (dict(bits=9), "bits must be"),
        (dict(bits=2.5), "bits must be"),
        (dict(group_size=0), "group_size must be"),
        (dict(group_size=1.5), "group_size must be"),
        (dict(scale_dtype=np.int8), "scale_dtype must be"),
        (dict(scale_dtype="half a float"), "scale_dtype must be"),
        (dict(backend="gpu"), "backend must be"),
    ),
)
def test_bad_arguments(change, match):
    with pytest.raises(ql.InvalidArgumentError, match=match):
        ql.minmax_grid(np.ones((2, 2)), **{"bits": 2, **change})


@pytest.mark.parametrize("norm", (0, -1, 9, "2"))
def test_bad_norm(norm):
    with pytest.raises(ql.InvalidArgumentError, match="norm must be"):
        ql.mse_grid(np.ones((2, 2)), 2, norm=norm)


@pytest.mark.parametrize("rho", (0, -1, np.inf, np.nan))
def test_bad_rho(rho):
    with pytest.raises(ql.InvalidArgumentError, match="rho must be"):
        ql.rms_grid(np.ones((2, 2)), 2, rho=rho)


@pytest.mark.parametrize(
    "fields,match",
    (
        (dict(scale=np.ones(3), zero=np.ones(3)), "scale must be"),
        (dict(scale=np.ones((3, 1)), zero=np.ones((3, 2))), "zero must have"),
        (dict(scale=np.zeros((3, 1)), zero=np.ones((3, 1))), "positive and finite"),
        (dict(scale=np.ones((3, 1)), zero=np.full((3, 1), np.nan)), "positive and finite"),
        (dict(scale=np.ones((3, 2)), zero=np.ones((3, 2))), "group_index must"),
        (
            dict(scale=np.ones((3, 2)), zero=np.ones((3, 2)), group_index=np.array([0, 2])),
            "group_index must",
        ),
        (dict(scale=np.ones((3, 1)), zero=np.ones((3, 1)), bits=0), "bits must be"),
    ),
)
def test_a_grid_checks_itself(fields, match):
    with pytest.raises(ql.InvalidArgumentError, match=match):
        ql.UniformGrid(**{"bits": 2, **fields})
