"""What a fit of levels has in common on the host and on a device: limits, a half step, the end.

Functions take arrays of either, and the module that they are of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.grids.codebook import CodebookGrid
from quiplinalg.rounding.fitting import best_step, change_of_loss

__all__ = ["LEAST", "PASSES", "SETTLED", "Fitted", "Start", "best_levels", "quantile_places"]

SETTLED = 1e-4  # a round that gains less of a row's loss is the last one of that row
LEAST = 16  # eps H_kk d^2 that a changed code must gain, as in coordinate descent
PASSES = 100  # of k-means

Start = tuple[CodebookGrid, Any]  # levels of m rows, and codes (m, n)


@dataclass(frozen=True, eq=False)
class Fitted:
    """Levels and codes after some rounds.

    Attributes
    ----------
    codes : array, (m, n), uint8
        Where W is, as are the levels of the grid.
    grid : CodebookGrid
    rounds : int
        Of the row that took most.
    changed : int
        Codes that the last round of each row changed.
    loss : ndarray, (m,)
        Of the start of each row.
    history : ndarray, (rounds + 1, 2, m)
        By how much it fell in each half step, levels and then codes.
    """

    codes: Any
    grid: CodebookGrid
    rounds: int
    changed: int
    loss: np.ndarray
    history: np.ndarray


def quantile_places(count: int, n: int) -> np.ndarray:
    """Return where, in a sorted row of n, the levels are that k-means begins with, (count,)."""
    return ((np.arange(count) + 0.5) / count * n).astype(np.intp)


def best_levels(old: Any, S: Any, r: Any, xp: Any = np) -> tuple[Any, Any, Any]:
    """Return the levels of least loss, where they lower it as stored, their step and its gain.

    Parameters
    ----------
    old : array, (rows, K)
        In the dtype they are stored in, as what is returned.
    S, r : array, (rows, K, K) and (rows, K), float64
        Of the normal equations, see `best_step`.
    xp : module
        Of the arrays.
    """
    with np.errstate(over="ignore"):
        new = (old + best_step(S, r, xp)).astype(old.dtype)
    new = xp.where(xp.isfinite(new), new, old)
    step = new.astype(np.float64) - old.astype(np.float64)
    fall = -change_of_loss(S, r, step, xp)
    better = fall > 0
    return (
        xp.where(better[:, None], new, old),
        xp.where(better[:, None], step, 0.0),
        xp.where(better, fall, 0.0),
    )
