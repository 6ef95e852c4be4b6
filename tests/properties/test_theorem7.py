"""Section 5.2 of QuIP: grids that end.  Theorem 7 itself: tests/rounding/test_safe.py."""

from __future__ import annotations

import numpy as np
from strategies import clamped_counterexample

import quiplinalg as ql


def test_the_counterexample_is_one_of_the_clamp():
    """Section 5.2: clamped LDLQ loses to nearest by far; without the clamp it does not."""
    W, H = clamped_counterexample(64)
    clamped = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), 2)
    free = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)
    run = {"order": "natural", "damp": 0.0}
    bad, good = (ql.ldlq(W, H, grid=g, **run).loss for g in (clamped, free))
    nearest = ql.nearest(W, H, grid=clamped).loss
    assert bad > 50 * nearest and good < nearest
    assert ql.safe(W, H, 2, grid=clamped, damp=0.0).loss < 3 * nearest
