"""What rounding and pruning with feedback share: a factored layer, laid out in tiles of rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.kernels.record import PANEL, DeviceKernels, Kernels
from quiplinalg.parallel import run_all

__all__ = [
    "Footprint",
    "Plan",
    "check_shapes",
    "layout",
    "pack",
    "pack_columns",
    "pack_members",
    "panels",
    "tiled",
    "undamped",
]

_PANELS_AT_ONCE = 16
# most of damping * ||E||^2 over the loss: 1e-6 of either, in float32, are 6e-5 of the difference
_CANCELLED = {np.dtype(np.float32): 64, np.dtype(np.float64): 2.0**26}


@dataclass(frozen=True)
class Plan:
    """One layer, factored and laid out for rounding; columns are in rounding order, padded to 4."""

    W: np.ndarray  # (m, n), work dtype
    columns: np.ndarray  # (N,) caller's column of each work column, -1 for padding
    U: Any  # packed feedback, or what reads its panels from a file
    D: np.ndarray  # (N,) float64
    damping: np.ndarray  # (N,) float64
    spans: list[tuple[int, int]]  # blocks of work columns
    group: np.ndarray  # (N,) int32 group of each work column
    first: int = 0  # row of the layer that W starts with

    @property
    def groups(self) -> int:
        """The number of groups of columns."""
        return int(self.group.max(initial=0)) + 1


@dataclass(frozen=True)
class Footprint:
    """How much memory the rounding of a layer takes beside the factor."""

    rows: int
    columns: int  # with padding
    width: int  # of the widest block
    groups: int
    itemsize: int  # of the work dtype
    code_bytes: int

    @property
    def result(self) -> int:
        """Bytes of the codes and the grid."""
        return self.rows * (self.columns * self.code_bytes + 8 * self.groups)

    @property
    def row(self) -> int:
        """Bytes of a row while it is rounded: W, its errors, codes of two grids, and a block."""
        each = 2 * self.itemsize + 4 * self.code_bytes
        block = 2 * self.width + 6 * self.groups
        return self.columns * each + block * self.itemsize + 256


def check_shapes(weight: np.ndarray, hessian: Any) -> None:
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


def pack(factor: Any, place: np.ndarray, dtype: np.dtype, kernels: Kernels) -> Any:
    """Return the packed feedback U of a factor (see `factor_reversed`), in ``dtype``.

    On a device it is a whole matrix, (N, N).
    """
    if isinstance(kernels, DeviceKernels):
        return pack_members(factor[None], place, dtype, kernels)[0]
    return pack_columns(factor, place, (0, place.shape[0]), dtype, kernels)


def pack_members(A: Any, place: np.ndarray, dtype: np.dtype, kernels: DeviceKernels) -> Any:
    """Return the feedback U of factors on a device, (b, N, N): strictly upper, zero elsewhere."""
    N = place.shape[0]
    U = kernels.xp.empty((A.shape[0], N, N), dtype)
    kernels.pack_feedback(A, kernels.xp.asarray(place), U)
    return U


def pack_columns(
    factor: np.ndarray,
    place: np.ndarray,
    span: tuple[int, int],
    dtype: np.dtype,
    kernels: Kernels,
) -> np.ndarray:
    """Return the packed feedback of the work columns of a span, multiples of 4.

    ``factor`` is the reversed one, or a last part of its columns and a first part of its rows: of
    the columns in the rounding order up to the last of the span, and of those in the span.
    """
    first, last = (end // PANEL for end in span)
    U = np.empty(_offset(last) - _offset(first), dtype)
    step = _PANELS_AT_ONCE
    edges = [(p, min(p + step, last)) for p in range(first, last, step)]
    tasks = [
        (factor, place, U[_offset(p) - _offset(first) : _offset(q) - _offset(first)], p, q)
        for p, q in edges
    ]
    run_all(kernels.pack_feedback, tasks[::-1])  # long panels first: the threads end together
    return U


def panels(U: np.ndarray, c0: int, c1: int) -> np.ndarray:
    """Return the part of a packed feedback that is work columns c0 to c1, multiples of 4."""
    return U[_offset(c0 // PANEL) : _offset(c1 // PANEL)]


def _offset(panel: int) -> int:
    """Where a panel starts: panel p is (4p + 4, 4)."""
    return 8 * panel * (panel + 1)


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
