"""Codebooks as grids: values and codes, refusals, rows, and what they take on disk."""

from __future__ import annotations

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.apply import dequantize, round_to_grid, rounded_to_nearest
from quiplinalg.grids.codebook import uniform_grid
from quiplinalg.kernels.record import select

LEVELS = np.array([[-2.0, -0.5, 0.25, 1.0], [0.0, 0.0, 1.0, 8.0]], np.float32)


def test_values_are_the_levels_of_the_codes():
    codes = np.array([[0, 3, 1], [2, 3, 0]], np.uint8)
    grid = ql.CodebookGrid(LEVELS)
    expected = np.array([[-2.0, 1.0, -0.5], [1.0, 8.0, 0.0]])
    for dtype in (np.float32, np.float64):
        found = dequantize(codes, grid, np.dtype(dtype))
        assert found.dtype == dtype and (found == expected).all()
    assert (grid.bits, grid.maxq, grid.rows, grid.groups) == (2, 3.0, 2, 1)
    assert (grid.storage_bits(2, 3), grid.dtype, grid.code_dtype) == (256, np.float32, np.uint8)


def test_many_rows_are_taken_apart_and_put_together():
    rng = np.random.default_rng(0)
    grid = ql.CodebookGrid(np.sort(rng.standard_normal((150, 8)), axis=1))
    codes = rng.integers(0, 8, (150, 11)).astype(np.uint8)
    expected = [[grid.levels[i, c] for c in row] for i, row in enumerate(codes)]
    assert (grid.values(codes, np.float64) == expected).all()
    some = np.array([3, 149, 70])
    assert (grid.of_rows(some).values(codes[some], np.float64) == np.array(expected)[some]).all()


def test_the_nearest_level_wins_and_the_lower_of_two_at_a_tie():
    rng = np.random.default_rng(1)
    W = np.vstack([rng.uniform(-3, 3, 50), rng.uniform(-1, 9, 50)])
    W[0, :3], W[1, :3] = (-1.25, -3, 5), (0.0, 0.5, 4.5)
    grid = ql.CodebookGrid(LEVELS)
    codes, near, clipped = round_to_grid(W, grid, select())
    expected = [reference.level_codes(w, levels) for w, levels in zip(W, LEVELS, strict=True)]
    expected = np.take_along_axis(LEVELS, np.array(expected), axis=1)  # of equal levels either code
    assert (grid.values(codes, np.float32) == expected).all() and (near, clipped) == (0, 0)
    rounded = rounded_to_nearest(W, grid)
    assert (rounded == grid.values(codes, np.float64)).all()
    assert rounded_to_nearest(W.astype(np.float32), grid).dtype == np.float32


@pytest.mark.parametrize(
    "levels, match",
    [
        (np.zeros((2, 3)), r"got float64 of shape \(2, 3\)"),
        (np.zeros(4), "levels must be a floating array"),
        (np.zeros((2, 4), int), "got int64"),
        (np.zeros((2, 1)), "levels must be"),
        (np.array([[0.0, np.inf]]), "levels must be finite"),
        (np.array([[0.0, np.nan]]), "levels must be finite"),
        (np.array([[1.0, 0.0]]), "ascend along each row"),
    ],
)
def test_what_is_no_codebook_is_refused(levels, match):
    with pytest.raises(InvalidArgumentError, match=match):
        ql.CodebookGrid(levels)


def test_what_needs_steps_says_so():
    uniform = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), 2)
    assert uniform_grid(uniform) is uniform and (uniform.rows, uniform.groups) == (1, 1)
    with pytest.raises(InvalidArgumentError, match=r"zeros for descent; got Codebook.*Do"):
        uniform_grid(ql.CodebookGrid(LEVELS), "descent", "Do without.")
