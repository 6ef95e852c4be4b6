"""The codes of a layer as other programs take them: whole zeros, a scale for every row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.codebook import uniform_grid
from quiplinalg.grids.packing import pack
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.results import Quantized

__all__ = ["IntegerCodes", "integer_codes", "naming", "plain_codes", "stored_scales", "words"]


@dataclass(frozen=True, eq=False)
class IntegerCodes:
    """W_hat before any processing is undone: scale * (codes - zero - rest), by column groups.

    Attributes
    ----------
    codes : ndarray, (m, n), uint8
        Pruned weights have the code of zero.
    bits : int
    scale : ndarray, (m, groups), float16, float32 or float64, as stored
    zero : ndarray, (m, groups), uint8
        At most 2**bits - 1.
    rest : ndarray, (m, groups), float64, or None
        What is left of zeros that are not such numbers; None: nothing.
    group : ndarray, (n,), int32
        Group of each column.
    """

    codes: np.ndarray
    bits: int
    scale: np.ndarray
    zero: np.ndarray
    rest: np.ndarray | None
    group: np.ndarray

    @property
    def symmetric(self) -> bool:
        """Whether every zero is the middle code, 2**(bits - 1)."""
        return bool((self.zero == 1 << (self.bits - 1)).all())

    @property
    def group_size(self) -> int | None:
        """Columns of a group, the last of which may be smaller; None if they are not in order."""
        size = int((self.group == 0).sum())
        columns, groups = len(self.group), self.scale.shape[1]
        regular = size and np.array_equal(self.group, np.arange(columns) // size)
        return size if regular and -(-columns // size) == groups else None


@contextlib.contextmanager
def naming(layer: str) -> Iterator[None]:
    """Put the name of a layer before what is wrong with it."""
    try:
        yield
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"layer {layer!r}: {error}") from error


def integer_codes(q: Quantized) -> IntegerCodes:
    """Return the codes of a layer with whole zeros, and what is left of them.

    Raises
    ------
    InvalidArgumentError
        An unbounded grid, no weights, or pruned weights on a grid without the level zero.
    """
    grid, (m, n) = q.grid, q.shape
    if not isinstance(grid, UniformGrid) or grid.bits is None:
        raise InvalidArgumentError(
            f"codes must be on a uniform grid of 1 to 8 bits; got {grid!r}. Use to='dense'."
        )
    if q.correction is not None:
        raise InvalidArgumentError(
            f"a layer must be its codes alone; got a low-rank correction of rank "
            f"{q.correction.rank}. Use to='dense', or quantise without a rank."
        )
    if not m or not n:
        raise InvalidArgumentError(
            f"a layer must have weights; got shape {q.shape}. Leave it out, or use to='dense'."
        )
    group = grid.columns(n)
    shape = (m, grid.scale.shape[1])
    scale = np.ascontiguousarray(np.broadcast_to(grid.scale, shape))
    real = np.broadcast_to(grid.zero, shape).astype(np.float64)
    whole = np.clip(np.floor(real), 0, grid.maxq)
    rest = real - whole
    zero = whole.astype(np.uint8)
    codes = np.ascontiguousarray(q.codes)
    if q.mask is not None:
        if rest[:, group][q.mask].any():
            raise InvalidArgumentError(
                "pruned weights must have a code of their own; got a grid without the level zero "
                f"(kind {grid.kind!r}). Use to='dense', or prune on a min-max grid."
            )
        codes = np.where(q.mask, zero[:, group], codes)
    return IntegerCodes(codes, grid.bits, scale, zero, rest if rest.any() else None, group)


def plain_codes(q: Quantized, layout: str) -> IntegerCodes:
    """Return the codes for a layout that has codes, scales and whole zeros, and nothing else.

    Raises
    ------
    InvalidArgumentError
        As `integer_codes`; and zeros that are not codes, or processed inputs or outputs.
    """
    if q.processing is not None:
        raise InvalidArgumentError(
            f"{layout} takes no rescaled or rotated layers; got {q.processing!r}. Use to='onnx', "
            "which has nodes for them, or to='dense'; ldlq and gptq do not rotate."
        )
    codes = integer_codes(q)
    if codes.rest is not None:
        odd = np.broadcast_to(uniform_grid(q.grid).zero, codes.rest.shape)[codes.rest != 0][0]
        raise InvalidArgumentError(
            f"{layout} has whole zeros from 0 to {q.grid.maxq:g}; got zero={odd:g} on a grid of "
            f"kind {q.grid.kind!r}. Use to='onnx' or to='dense', or quantise with clip='mse' or "
            "sym=True."
        )
    return codes


def stored_scales(scale: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Return the scales in ``dtype`` (None: as they are), still positive and finite.

    Raises
    ------
    InvalidArgumentError
        Scales that under- or overflow.
    """
    if dtype is None:
        return scale
    with np.errstate(over="ignore", under="ignore"):
        stored = scale.astype(dtype)
    back = stored.astype(np.float64)
    if not (np.isfinite(back).all() and (back > 0).all()):
        raise InvalidArgumentError(
            f"scales must be positive and finite in dtype={dtype.name}; got scales from "
            f"{scale.min():.3g} to {scale.max():.3g}. Use dtype='float32'."
        )
    return stored


def words(codes: np.ndarray, bits: int) -> np.ndarray:
    """Return each row of codes as one stream of bits in int32 words, the lowest bits first.

    Examples
    --------
    >>> words(np.array([[1, 2, 3]], np.uint8), 4).tolist() == [[0x321]]
    True
    """
    packed = pack(np.ascontiguousarray(codes), bits)
    padded = np.pad(packed, ((0, 0), (0, -packed.shape[1] % 4)))
    return padded.view("<i4").astype(np.int32, copy=False)
