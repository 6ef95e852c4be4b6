"""Every way to choose one option a layer, tried."""

from __future__ import annotations

from itertools import product

__all__ = ["exhaustive_allocation"]


def exhaustive_allocation(
    layers: list[list[tuple[float, float]]], budget: float
) -> tuple[tuple[int, ...], float, float] | None:
    """Return the options, the size and the loss of least loss within a budget; None for none.

    Of equal losses the smallest, and of those the first.  Costs the product of the numbers of
    options.

    Examples
    --------
    >>> exhaustive_allocation([[(2, 9.0), (3, 3.0)], [(20, 8.0), (30, 2.0)]], 32.5)
    ((1, 0), 23, 11.0)
    """
    best = None
    for chosen in product(*(range(len(options)) for options in layers)):
        picked = [options[k] for options, k in zip(layers, chosen, strict=True)]
        size, loss = sum(size for size, _ in picked), sum(loss for _, loss in picked)
        if size <= budget and (best is None or (loss, size) < (best[2], best[1])):
            best = (chosen, size, loss)
    return best
