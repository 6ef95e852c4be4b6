"""Bits shared out: against every choice there is, on the hull and between its steps."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.model import allocation
from quiplinalg.model.allocation import allocate, convex_hull, hull_curve
from quiplinalg.reference import exhaustive_allocation

# whole numbers: sums are exact, and ties are frequent
POINTS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12).map(float)), min_size=1, max_size=3
)
LAYERS = st.lists(POINTS, min_size=1, max_size=6)


def worst_step(layers, budget):
    """The gain of the first step of the curve that the budget has no room for."""
    curve = hull_curve(layers)
    beyond = [k for k, (size, _) in enumerate(curve) if size > budget]
    return curve[beyond[0] - 1][1] - curve[beyond[0]][1] if beyond else 0.0


@given(LAYERS)
def test_it_is_the_best_of_all_at_every_budget_of_the_hull(layers):
    for size, loss in hull_curve(layers):
        found = allocate(layers, size)
        _, _, least = exhaustive_allocation(layers, size)
        assert found.loss == pytest.approx(least, abs=1e-9) and found.optimal
        assert loss == pytest.approx(least, abs=1e-9)
        assert found.bound == pytest.approx(least, abs=1e-9)


@given(LAYERS, st.integers(0, 300))
def test_between_the_steps_it_is_the_best_too(layers, budget):
    best = exhaustive_allocation(layers, budget)
    if best is None:
        with pytest.raises(InvalidArgumentError, match="budget must be at least"):
            allocate(layers, budget)
        return
    found = allocate(layers, budget)
    assert found.size <= budget and found.bound <= best[2] + 1e-9
    assert found.loss == pytest.approx(best[2], abs=1e-9) and found.optimal
    picked = [points[k] for points, k in zip(layers, found.chosen, strict=True)]
    assert (found.size, found.loss) == tuple(map(sum, zip(*picked, strict=True)))


@given(LAYERS, st.integers(0, 300))
def test_where_not_all_can_be_tried_it_is_a_step_worse_at_most(layers, budget):
    best = exhaustive_allocation(layers, budget)
    if best is None:
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(allocation, "_MANY", 1)
        found = allocate(layers, budget)
    assert found.size <= budget and found.bound <= best[2] + 1e-9
    assert best[2] - 1e-9 <= found.loss <= best[2] + worst_step(layers, budget) + 1e-9
    if found.optimal:
        assert found.loss == pytest.approx(best[2], abs=1e-9)


@given(POINTS)
def test_the_hull_is_convex_and_below_every_option(points):
    hull = convex_hull(points)
    assert points[hull[0]][0] == min(size for size, _ in points)
    assert points[hull[-1]][1] == min(loss for _, loss in points)
    sizes, losses = np.transpose([points[k] for k in hull])
    slopes = np.diff(losses) / np.diff(sizes)
    assert (slopes < 0).all() and (np.diff(slopes) > 0).all()
    for size, loss in points:
        if size >= sizes[0]:
            assert loss >= np.interp(size, sizes, losses) - 1e-9


def test_many_layers_are_within_a_hair_of_the_bound():
    rng = np.random.default_rng(0)
    layers = []
    for _ in range(300):
        weights, loss = int(rng.choice([1 << 20, 1 << 24, 11 << 20])), rng.lognormal()
        layers.append([(weights * b, weights * loss * 4.0**-b) for b in (2, 3, 4)])
    total = sum(points[0][0] for points in layers) / 2
    for bits in (2.1, 2.5, 3.3):
        found = allocate(layers, bits * total)
        assert found.size <= bits * total and found.loss <= 1.001 * found.bound


@pytest.mark.parametrize("layers", [[[]], [[(1, np.nan)]], [[(np.inf, 1.0)]]])
def test_options_must_be_numbers(layers):
    with pytest.raises(InvalidArgumentError, match="finite size and loss"):
        allocate(layers, 3)


def test_no_layers():
    assert allocate([], 3).chosen == () and hull_curve([]) == [(0.0, 0.0)]
