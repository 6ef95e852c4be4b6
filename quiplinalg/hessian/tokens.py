"""Batches of activations: checked whole before anything is added, then cut into fixed chunks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arrays import check_finite, to_numpy
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.parallel import run_all

__all__ = [
    "CHUNK",
    "LARGEST_INPUT",
    "LARGEST_WEIGHT",
    "LEAST_WEIGHT",
    "Chunk",
    "TokenBuffer",
    "read_tokens",
]

#: Tokens of a product.  In float32 the length of its sums bounds the error; in float64 long sums
#: save passes over the matrix.
CHUNK = {np.dtype(np.float32): 512, np.dtype(np.float64): 2048}
LARGEST_INPUT = (
    2.0**450
)  # weighted squares, and sums of 2**60 of them, are below the end of float64
LARGEST_WEIGHT = 2.0**60
LEAST_WEIGHT = 2.0**-500  # squares of weights are summed too
_PIECE = 1 << 18  # elements converted and checked at a time: they stay in a core's cache


def read_tokens(
    batches: tuple[Any, ...], names: tuple[str, ...], n: int, weights: Any
) -> tuple[tuple[np.ndarray, ...], np.ndarray | None]:
    """Return each batch as (tokens, n) rows of one token each, and the weight of each row.

    Tokens of weight 0 are left out, unread; a weight for every token that is left, or None.

    Raises
    ------
    InvalidArgumentError
        Another width than n; batches or weights of different leading shapes; a negative weight;
        numbers whose squares overflow float64.
    NonFiniteError
        NaN or infinity in a token of weight above 0, or in a weight.
    DTypeError
        Not real floating-point numbers.
    """
    arrays = [to_numpy(batch, name) for batch, name in zip(batches, names, strict=True)]
    for array, name in zip(arrays, names, strict=True):
        if array.ndim == 0 or array.shape[-1] != n:
            transposed = array.ndim == 2 and array.shape[0] == n
            fix = (
                f"Pass {name}.T: each row is a token."
                if transposed
                else f"The last axis of {name} is the inputs of the layer; was the right layer "
                "hooked?"
            )
            raise InvalidArgumentError(
                f"{name} must be (..., {n}), one row of n={n} inputs for each token; got "
                f"{name}.shape={array.shape}. {fix}"
            )
    shape = arrays[0].shape[:-1]
    for array, name in zip(arrays[1:], names[1:], strict=True):
        if array.shape[:-1] != shape:
            raise InvalidArgumentError(
                f"{name} must hold the same tokens as {names[0]}, in the same order; got "
                f"{name}.shape={array.shape} and {names[0]}.shape={arrays[0].shape}. "
                "Run both networks on the same batch."
            )
    given = None if weights is None else _read_weights(weights, shape)
    rows = [array.reshape(math.prod(shape), n) for array in arrays]
    if given is not None and not given.all():
        live = np.flatnonzero(given)
        rows, given = [row[live] for row in rows], given[live]
    else:
        live = None
    for row, array, name in zip(rows, arrays, names, strict=True):
        _check_rows(row, name, array, live)
    return tuple(rows), given


def _read_weights(weights: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = to_numpy(weights, "weights", integers=True)
    if array.shape != shape:
        raise InvalidArgumentError(
            f"weights must have one number for each token, shape {shape}; got "
            f"weights.shape={array.shape}. An attention mask of 0 and 1 will do."
        )
    flat = array.reshape(-1).astype(np.float64)
    check_finite(flat, "weights")
    bad = flat[(flat != 0) & ~((flat >= LEAST_WEIGHT) & (flat <= LARGEST_WEIGHT))]
    if bad.size:
        raise InvalidArgumentError(
            f"weights must be 0, or from 2**-500 to 2**60; got a weight of {bad[0]:g}. Weights are "
            "relative: scale them to a mean of 1, and leave tokens out with 0."
        )
    return flat


def _check_rows(rows: np.ndarray, name: str, batch: np.ndarray, live: np.ndarray | None) -> None:
    """Raise for NaN, infinity (by its place in the batch), and what overflows when squared."""
    step = max(1, _PIECE // max(rows.shape[1], 1))
    pieces = [(rows[i : i + step],) for i in range(0, rows.shape[0], step)] if rows.size else []
    largest = float(np.max(run_all(_largest, pieces), initial=0.0))
    if not np.isfinite(largest):
        if live is not None:
            batch = np.zeros(batch.shape, rows.dtype)
            batch.reshape(-1, rows.shape[1])[live] = rows  # never of width 0: it has a bad number
        check_finite(batch if _is_wide(batch.dtype) else batch.astype(np.float32), name)
    if not largest <= LARGEST_INPUT:
        raise InvalidArgumentError(
            f"{name} must be at most 2**450 in size, so that sums of its squares are float64; got "
            f"{largest:.3g}. Scale {name} down."
        )


def _largest(piece: np.ndarray) -> float:
    """max |x|, NaN where there is one."""
    if not _is_wide(piece.dtype) and piece.dtype != np.float32:
        piece = piece.astype(np.float32)
    return float(max(piece.max(), -piece.min()))


def _is_wide(dtype: np.dtype) -> bool:
    return dtype.kind == "f" and dtype.itemsize >= 8


@dataclass(frozen=True)
class Chunk:
    """Consecutive tokens of one precision: arrays (k, n), and weights (k,) unless all are 1."""

    arrays: tuple[np.ndarray, ...]
    weights: np.ndarray | None

    @property
    def size(self) -> int:
        return self.arrays[0].shape[0]


class TokenBuffer:
    """Collect tokens into chunks of a fixed number, however they are cut into batches.

    A chunk ends when it is full, and where tokens of the other precision follow; so the chunks
    depend on the tokens alone.  ``count`` arrays of ``CHUNK`` x n elements are held.
    """

    def __init__(self, n: int, count: int, precision: str):
        self._n, self._count, self._precision = n, count, precision
        self._blocks: tuple[np.ndarray, ...] = ()
        self._weights = np.ones(0)
        self._filled = 0

    def feed(self, rows: tuple[np.ndarray, ...], weights: np.ndarray | None) -> Iterator[Chunk]:
        """Yield each chunk that becomes full; it is only valid until the next is asked for."""
        wide = self._precision == "float64" or any(_is_wide(row.dtype) for row in rows)
        dtype = np.dtype(np.float64 if wide else np.float32)
        if self._filled and self._blocks[0].dtype != dtype:
            yield self.take()
        total, done = rows[0].shape[0], 0
        while done < total:
            self._open(dtype)
            size = min(total - done, CHUNK[dtype] - self._filled)
            here, there = slice(self._filled, self._filled + size), slice(done, done + size)
            for block, row in zip(self._blocks, rows, strict=True):
                block[here] = row[there]
            self._weights[here] = 1.0 if weights is None else weights[there]
            self._filled += size
            done += size
            if self._filled == CHUNK[dtype]:
                yield self.take()

    def pending(self) -> Chunk | None:
        """The tokens of the chunk that is not full yet, or None."""
        if not self._filled:
            return None
        weights = self._weights[: self._filled]
        unit = bool((weights == 1.0).all())
        return Chunk(tuple(b[: self._filled] for b in self._blocks), None if unit else weights)

    def take(self) -> Chunk:
        """End the chunk."""
        chunk = self.pending()
        assert chunk is not None
        self._filled = 0
        return chunk

    def _open(self, dtype: np.dtype) -> None:
        if not self._blocks or self._blocks[0].dtype != dtype:
            self._blocks = ()  # free the old ones first
            shape = (CHUNK[dtype], self._n)
            self._blocks = tuple(np.empty(shape, dtype) for _ in range(self._count))
            self._weights = np.empty(CHUNK[dtype])
