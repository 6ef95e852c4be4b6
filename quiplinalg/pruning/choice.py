"""Which steps of which rows are taken: the traces of all rows merged, as in OBC.

A row can only take its steps in order, and their costs may fall along it.  The rule is the greedy
one: of all rows, the one whose next step costs least takes it.  Once a row has taken a step, those
after it that cost no more follow at once; so the steps come in ascending order of the largest cost
of their row so far, and of equals the first row's first.
"""

from __future__ import annotations

import numpy as np

__all__ = ["choose_steps", "steps_within", "taken_mask"]


def choose_steps(costs: np.ndarray, count: int) -> np.ndarray:
    """Return how many steps each row takes, (rows,) int64, when all take ``count`` together.

    Parameters
    ----------
    costs : ndarray, (rows, steps), float64
    count : int
        At most the number of steps there are.
    """
    rows = costs.shape[0]
    if count <= 0 or costs.size == 0:
        return np.zeros(rows, np.int64)
    largest = np.maximum.accumulate(costs, axis=1)
    last = np.partition(largest, count - 1, axis=None)[count - 1]
    below = np.count_nonzero(largest < last, axis=1)
    tied = np.count_nonzero(largest == last, axis=1)
    before = np.cumsum(tied) - tied
    spare = np.clip(count - below.sum() - before, 0, tied)
    return (below + spare).astype(np.int64)


def steps_within(costs: np.ndarray, budget: float, most: int) -> int:
    """Return how many steps, at most ``most``, cost no more than ``budget`` together."""
    largest = np.maximum.accumulate(costs, axis=1).reshape(-1)
    order = np.argsort(largest, kind="stable")[:most]
    spent = np.cumsum(costs.reshape(-1)[order])
    return int(np.searchsorted(spent, budget, side="right"))


def taken_mask(order: np.ndarray, counts: np.ndarray, n: int, size: int) -> np.ndarray:
    """Return the (rows, n) mask of the first ``counts`` steps, each of ``size`` columns."""
    rows, steps = order.shape
    mask = np.zeros((rows, n), np.bool_)
    i, k = np.nonzero(np.arange(steps) < counts[:, None])
    for c in range(size):
        mask[i, order[i, k] + c] = True
    return mask
