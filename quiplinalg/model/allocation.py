"""Bits shared out among layers: the allocation of least loss, on the convex hull of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from quiplinalg.errors import InvalidArgumentError

__all__ = ["Allocation", "allocate", "convex_hull", "hull_curve"]

Points = Sequence[tuple[float, float]]  # (size, loss) of each option of a layer


@dataclass(frozen=True)
class Allocation:
    """One option for each layer.

    Attributes
    ----------
    chosen : tuple of int
        The option of each layer.
    size, loss : float
        Of all layers.
    bound : float
        No choice of the same size or less has a loss below it.
    """

    chosen: tuple[int, ...]
    size: float
    loss: float
    bound: float


class _Step(NamedTuple):
    """From an option of a layer to the next on its hull."""

    slope: float  # loss that each bit takes away
    layer: int
    option: int


def allocate(layers: Sequence[Points], budget: float) -> Allocation:
    """Choose an option for each layer, with the least sum of losses within a sum of sizes.

    Parameters
    ----------
    layers : sequence of sequences of (size, loss)
        What each option of each layer takes and costs, in any order.
    budget : float
        The sum of sizes may be as much.

    Returns
    -------
    Allocation
        From the smallest options up along the hulls, steepest step first.  That is optimal where
        the budget is used up after a step.  Elsewhere the room that the next step does not fit
        into is filled greedily with whatever fits, and the loss is above the optimum by less than
        the gain of that step.

    Raises
    ------
    InvalidArgumentError
        The budget is below the least that the layers take; or a layer has no option, or one whose
        size or loss is not finite.

    Notes
    -----
    O(k log k) for k options of all layers, and O(k) for each filling.

    Examples
    --------
    >>> small, large = [(2, 9.0), (3, 3.0), (4, 1.0)], [(20, 8.0), (30, 2.0), (40, 0.5)]
    >>> allocate([small, large], 34)
    Allocation(chosen=(2, 1), size=34.0, loss=3.0, bound=3.0)
    >>> allocate([small, large], 32)  # no room for the step of the large layer
    Allocation(chosen=(2, 0), size=24.0, loss=9.0, bound=4.2)
    """
    sizes, losses = _tables(layers)
    every = np.arange(len(layers))
    hulls = [convex_hull(points) for points in layers]
    chosen = np.array([hull[0] for hull in hulls], np.intp)
    room = budget - sizes[every, chosen].sum()
    if room < 0:
        raise InvalidArgumentError(
            f"budget must be at least {sizes[every, chosen].sum():g}, which the smallest options "
            f"take; got budget={budget:g}. Raise it."
        )
    slack = 0.0
    for step in _steps(layers, hulls):
        cost = sizes[step.layer, step.option] - sizes[step.layer, chosen[step.layer]]
        if cost > room:
            slack = step.slope * room
            break
        chosen[step.layer] = step.option
        room -= cost
    bound = losses[every, chosen].sum() - slack
    _fill(sizes, losses, chosen, room)
    loss = losses[every, chosen].sum()
    return Allocation(
        tuple(map(int, chosen)), float(sizes[every, chosen].sum()), float(loss),
        float(min(bound, loss)),
    )  # fmt: skip


def _tables(layers: Sequence[Points]) -> tuple[np.ndarray, np.ndarray]:
    """Sizes and losses, (layers, most options); inf where a layer has fewer."""
    most = max((len(points) for points in layers), default=0)
    table = np.full((2, len(layers), most), np.inf)
    for k, points in enumerate(layers):
        given = np.asarray(points, np.float64)
        if not len(points) or not np.isfinite(given).all():
            raise InvalidArgumentError(
                f"layers must have options of finite size and loss; got {list(points)} for layer "
                f"{k}. Leave the others out."
            )
        table[:, k, : len(points)] = given.T
    return table[0], table[1]


def convex_hull(points: Points) -> list[int]:
    """Return the options on the lower convex hull, from the smallest to the one of least loss.

    Parameters
    ----------
    points : sequence of (size, loss)

    Examples
    --------
    >>> convex_hull([(2, 9.0), (3, 8.0), (4, 1.0), (5, 2.0)])
    [0, 2]
    """
    hull: list[int] = []
    for k in sorted(range(len(points)), key=lambda k: points[k]):
        if hull and points[k][1] >= points[hull[-1]][1]:
            continue
        while len(hull) > 1 and _slope(points, *hull[-2:]) <= _slope(points, hull[-1], k):
            hull.pop()
        hull.append(k)
    return hull


def _slope(points: Points, a: int, b: int) -> float:
    return (points[a][1] - points[b][1]) / (points[b][0] - points[a][0])


def _steps(layers: Sequence[Points], hulls: Sequence[list[int]]) -> list[_Step]:
    """Every step along the hulls, the steepest first; those of a layer stay in their order."""
    steps = [
        _Step(_slope(points, a, b), layer, b)
        for layer, (points, hull) in enumerate(zip(layers, hulls, strict=True))
        for a, b in pairwise(hull)
    ]
    return sorted(steps, key=lambda step: -step.slope)


def _fill(sizes: np.ndarray, losses: np.ndarray, chosen: np.ndarray, room: float) -> None:
    """Take what still fits and lowers the loss, the most for each bit first, on a hull or not."""
    every = np.arange(len(chosen))
    while chosen.size:
        cost = sizes - sizes[every, chosen][:, None]
        gain = losses[every, chosen][:, None] - losses
        rate = np.full_like(cost, -np.inf)
        fits = (cost <= room) & (gain > 0)
        rate[fits] = gain[fits] / np.maximum(cost[fits], np.finfo(np.float64).tiny)
        layer, option = np.unravel_index(np.argmax(rate), rate.shape)
        if not fits[layer, option]:
            return
        room -= cost[layer, option]
        chosen[layer] = option


def hull_curve(layers: Sequence[Points]) -> list[tuple[float, float]]:
    """Return the (size, loss) after each step of `allocate`: the best there is for these sizes.

    Parameters
    ----------
    layers : sequence of sequences of (size, loss)

    Examples
    --------
    >>> hull_curve([[(2, 9.0), (3, 3.0)], [(20, 8.0), (30, 2.0)]])
    [(22.0, 17.0), (23.0, 11.0), (33.0, 5.0)]
    """
    sizes, losses = _tables(layers)
    hulls = [convex_hull(points) for points in layers]
    chosen = [hull[0] for hull in hulls]
    size = float(sum(sizes[k, option] for k, option in enumerate(chosen)))
    loss = float(sum(losses[k, option] for k, option in enumerate(chosen)))
    curve = [(size, loss)]
    for _, layer, option in _steps(layers, hulls):
        before, chosen[layer] = chosen[layer], option
        size += float(sizes[layer, option] - sizes[layer, before])
        loss -= float(losses[layer, before] - losses[layer, option])
        curve.append((size, loss))
    return curve
