"""Bits shared out among layers: the allocation of least loss, on the convex hull of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from quiplinalg.errors import InvalidArgumentError

__all__ = ["Allocation", "allocate", "convex_hull", "hull_curve"]

_MANY = 1 << 14  # parts of choices that are kept

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
        No choice within the budget has a loss below it.
    optimal : bool
        Whether it is known that none has a loss below this one's.
    """

    chosen: tuple[int, ...]
    size: float
    loss: float
    bound: float
    optimal: bool


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
        the budget is used up after a step.  Elsewhere the loss is above the optimum by less than
        the gain of the step that no longer fits; then all choices that may be better are tried,
        as long as they are few, and the loss is nearly always the least there is.

    Raises
    ------
    InvalidArgumentError
        The budget is below the least that the layers take; or a layer has no option, or one whose
        size or loss is not finite.

    Notes
    -----
    O(k log k) for k options of all layers, O(k) for each option that fills the room left, and at
    most O(k) times 2^14 for the choices that may be better.

    Let p be the excess of loss + slope * size of an option over the least of its layer, for the
    slope of the step that does not fit.  Any choice has the bound, its excesses and slope * (room
    left) as its loss: only those are tried of which the excesses are below the gap to the bound.

    Examples
    --------
    >>> small, large = [(2, 9.0), (3, 3.0), (4, 1.0)], [(20, 8.0), (30, 3.0), (40, 0.5)]
    >>> allocate([small, large], 34)
    Allocation(chosen=(2, 1), size=34.0, loss=4.0, bound=4.0, optimal=True)
    >>> allocate([small, large], 33)  # less than the steepest steps take
    Allocation(chosen=(1, 1), size=33.0, loss=6.0, bound=4.5, optimal=True)
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
    slope = 0.0  # of the first step that does not fit
    for step in _steps(layers, hulls):
        cost = sizes[step.layer, step.option] - sizes[step.layer, chosen[step.layer]]
        if cost > room:
            slope = step.slope
            break
        chosen[step.layer] = step.option
        room -= cost
    bound, optimal = losses[every, chosen].sum() - slope * room, True
    if slope > 0 and room > 0:
        _fill(sizes, losses, chosen, room)
        chosen, optimal = _improve(sizes, losses, budget, slope, bound, chosen)
    loss = losses[every, chosen].sum()
    return Allocation(
        tuple(map(int, chosen)), float(sizes[every, chosen].sum()), float(loss),
        float(min(bound, loss)), optimal,
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


def _improve(
    sizes: np.ndarray,
    losses: np.ndarray,
    budget: float,
    slope: float,
    bound: float,
    known: np.ndarray,
) -> tuple[np.ndarray, bool]:
    """Return the best choice of all, and True; or the best that was found, where they are many.

    Layer by layer, of the parts of a choice those are kept which another with no more size and no
    more loss does not make useless, and which can still be better than the known choice.
    """
    every = np.arange(len(sizes))
    score = losses + slope * sizes
    excess = score - score.min(axis=1, keepdims=True)
    gap = losses[every, known].sum() - bound
    best = excess.argmin(axis=1)
    open_layers = np.flatnonzero((excess < gap).sum(axis=1) > 1)
    closed = np.setdiff1d(every, open_layers)
    room = budget - sizes[closed, best[closed]].sum()
    least = sizes[open_layers].min(axis=1, initial=np.inf)
    ahead = least.sum() - np.cumsum(least)  # what the layers after each take at least
    size, loss, above = np.zeros((3, 1))
    chosen = np.empty((1, 0), np.intp)
    optimal = True
    for k, layer in enumerate(open_layers):
        options = np.flatnonzero(excess[layer] < gap)
        size, loss, above = (
            np.add.outer(part, table[layer, options]).ravel()
            for part, table in ((size, sizes), (loss, losses), (above, excess))
        )
        before = np.repeat(np.arange(len(chosen)), len(options))
        option = np.tile(options, len(chosen))
        order = np.lexsort((loss, size))
        order = order[(above[order] < gap) & (size[order] <= room - ahead[k])]
        least_before = np.minimum.accumulate(np.concatenate([[np.inf], loss[order]]))[:-1]
        order = order[loss[order] < least_before]
        if len(order) > _MANY:
            optimal = False
            order = np.sort(order[np.argpartition(above[order], _MANY)[:_MANY]])
        size, loss, above = size[order], loss[order], above[order]
        chosen = np.column_stack([chosen[before[order]], option[order]])
    if not len(chosen):
        return known, optimal
    found = best.copy()
    found[open_layers] = chosen[np.argmin(loss)]
    better = losses[every, found].sum() < losses[every, known].sum()
    return (found if better else known), optimal


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
