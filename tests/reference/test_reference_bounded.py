"""The twin of the bounded feedback: against a closed form, enumeration, and its own bound."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import HESSIANS, make_hessian

from quiplinalg import reference

BOUNDS = (0.0, 1e-3, 0.1, 1.0, 10.0)


def objective(R, H):
    return float(((R @ H) * R).sum())


@pytest.mark.parametrize("c", BOUNDS)
@pytest.mark.parametrize("seed", range(5))
def test_two_columns_in_closed_form(seed, c):
    """f = H_00 + 2 x H_01 + x^2 H_11 + H_11: x = -H_01 / H_11, cut at sqrt(c)."""
    H = make_hessian("power", 2, seed)
    x = np.clip(-H[0, 1] / H[1, 1], -np.sqrt(c), np.sqrt(c))
    R, value = reference.bounded(H, c)
    # gradients stop where f no longer changes in float64, so x is known to about its root
    assert abs(R[0, 1] - x) <= 1e-7 and R[1, 0] == 0
    assert abs(value - objective(np.array([[1, x], [0, 1]]), H)) <= 1e-13 * value


def enumerated(H, c):
    """The least objective for n = 3 over finer and finer grids around the best point: f is convex.

    The points are x01 and, in polar coordinates, (x02, x12).
    """
    a = np.linspace(-1, 1, 41)
    where, width = np.zeros(3), 1.0
    for _ in range(60):
        x01, r, turn = np.meshgrid(*(p + width * a for p in where), indexing="ij")
        x01, r = np.clip(x01, -1, 1) * np.sqrt(c), np.clip(r, -1, 1) * np.sqrt(c)
        x02, x12 = r * np.cos(np.pi * turn), r * np.sin(np.pi * turn)
        first = H[0, 0] + x01**2 * H[1, 1] + x02**2 * H[2, 2]
        first += 2 * (x01 * H[0, 1] + x02 * H[0, 2] + x01 * x02 * H[1, 2])
        f = first + H[1, 1] + 2 * x12 * H[1, 2] + x12**2 * H[2, 2] + H[2, 2]
        best = np.unravel_index(f.argmin(), f.shape)
        where = np.clip(where + width * a[list(best)], [-1, -1, -np.inf], [1, 1, np.inf])
        width *= 0.7
    return float(f.min())


@pytest.mark.parametrize("c", (1e-3, 0.1, 1.0))
@pytest.mark.parametrize("kind", ("well", "power", "outlier"))
def test_three_columns_by_enumeration(kind, c):
    H = make_hessian(kind, 3, 4)
    value = reference.bounded(H, c)[1]
    found = enumerated(H, c)
    # the last grid has steps of 0.7^60 / 20; what is left is the rounding of f
    assert abs(value - found) <= 1e-9 * found, (value, found)


@pytest.mark.parametrize("kind", HESSIANS)
def test_between_ldlq_and_no_feedback(kind):
    H = make_hessian(kind, 12, 1)
    T, D = reference.udu(H)
    values = []
    for c in BOUNDS:
        R, value = reference.bounded(H, c, 4000)
        assert (R == np.triu(R)).all() and (R.diagonal() == 1).all()
        lengths = (np.triu(R, 1) ** 2).sum(axis=0)
        assert (lengths <= c * (1 + 1e-13)).all()
        assert abs(value - objective(R, H)) <= 1e-13 * value
        assert D.sum() * (1 - 1e-13) <= value <= np.trace(H) * (1 + 1e-13)
        values.append(value)
    assert abs(values[0] - np.trace(H)) <= 1e-13 * values[0]
    assert (np.diff(values) <= 1e-9 * values[0]).all()  # the digits that the iterations reach
    free = (np.triu(np.linalg.inv(T), 1) ** 2).sum(axis=0).max()
    assert abs(reference.bounded(H, 1.01 * free, 4000)[1] / D.sum() - 1) <= 1e-6


def test_no_and_one_column():
    assert reference.bounded(np.zeros((0, 0)), 1.0)[0].shape == (0, 0)
    assert reference.bounded(np.full((1, 1), 3.0), 1.0) == (np.ones((1, 1)), 3.0)
