"""What rounding and pruning with feedback share: a factored layer, laid out in tiles of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.kernels.record import PANEL, Kernels
from quiplinalg.parallel import run_all

__all__ = ["Plan", "check_shapes", "layout", "pack", "tiled", "undamped"]

_PANELS_AT_ONCE = 16
# most of damping * ||E||^2 over the loss: 1e-6 of either, in float32, are 6e-5 of the difference
_CANCELLED = {np.dtype(np.float32): 64, np.dtype(np.float64): 2.0**26}


@dataclass(frozen=True)
class Plan:
    """One layer, factored and laid out for rounding; columns are in rounding order, padded to 4."""

    W: np.ndarray  # (m, n), work dtype
    columns: np.ndarray  # (N,) caller's column of each work column, -1 for padding
    U: np.ndarray  # packed feedback
    D: np.ndarray  # (N,) float64
    damping: np.ndarray  # (N,) float64
    spans: list[tuple[int, int]]  # blocks of work columns
    group: np.ndarray  # (N,) int32 group of each work column

    @property
    def groups(self) -> int:
        """The number of groups of columns."""
        return int(self.group.max(initial=0)) + 1


def check_shapes(weight: np.ndarray, hessian: np.ndarray) -> None:
    """Raise unless W is (m, n) for an H of (n, n)."""
    if hessian.shape[0] != weight.shape[1]:
        raise InvalidArgumentError(
            f"H must be (n, n) for W (m, n) = (out, in); got W {weight.shape} and H "
            f"{hessian.shape}. Pass W.T for Keras or Flax kernels."
        )


def layout(n: int, size: int, block: int = 1) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Return the place in the order of each work column (-1: padding), and the blocks.

    Parameters
    ----------
    n : int
        Columns.
    size : int
        Columns of a piece; each piece is padded to whole panels.
    block : int
        Work columns of a block: as many whole pieces as fit, at least one.
    """
    padded = -(-size // PANEL) * PANEL
    together = max(1, block // padded)
    places, spans, start, at = [], [], 0, 0
    for piece, first in enumerate(range(0, n, size)):
        width = min(size, n - first)
        place = np.full(-(-width // PANEL) * PANEL, -1, np.int64)
        place[:width] = np.arange(first, first + width)
        places.append(place)
        at += place.shape[0]
        if (piece + 1) % together == 0 or first + width == n:
            spans.append((start, at))
            start = at
    return np.concatenate(places) if places else np.empty(0, np.int64), spans


def pack(factor: np.ndarray, place: np.ndarray, dtype: np.dtype, kernels: Kernels) -> np.ndarray:
    """Return the packed feedback U of a factor (see `factor_reversed`), in ``dtype``."""
    panels = place.shape[0] // PANEL
    U = np.empty(8 * panels * (panels + 1), dtype)
    step = _PANELS_AT_ONCE
    # from the last: long panels first, so that the threads end together
    run_all(
        kernels.pack_feedback,
        [(factor, place, U, p, min(p + step, panels)) for p in range(0, panels, step)][::-1],
    )
    return U


def tiled(rows: np.ndarray, tiles: int, lanes: int, fill: float) -> np.ndarray:
    """Return (rows, groups) as (tiles, groups, lanes), filled up below the last row."""
    padded = np.full((tiles * lanes, rows.shape[1]), fill, rows.dtype)
    padded[: rows.shape[0]] = rows
    return np.ascontiguousarray(padded.reshape(tiles, lanes, -1).transpose(0, 2, 1))


def undamped(row_loss: np.ndarray, dtype: np.dtype) -> float | None:
    """Return the loss under H from (m, 2) losses with damping, and what damping adds to them.

    None where damping is so large that the difference has no digits.
    """
    whole, added = row_loss.sum(axis=0)  # in the order of rows, whoever did them
    loss = max(float(whole - added), 0.0)
    return loss if added <= _CANCELLED[dtype] * loss else None
