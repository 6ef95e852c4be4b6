"""How columns lie in the blocks of MatMulNBits, of which each has one scale a row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiplinalg.export.codes import IntegerCodes
from quiplinalg.grids.packing import pack

__all__ = ["BLOCKS", "Blocks", "lay_out"]

BLOCKS = (128, 64, 32, 16)  # of 256, onnxruntime has no fast kernel for 2 bits
_WIDTHS = {1: 2, 2: 2, 3: 4, 4: 4, 5: 8, 6: 8, 7: 8, 8: 8}  # bits of a code: bits it takes


@dataclass(frozen=True, eq=False)
class Blocks:
    """The inputs of one MatMulNBits node.

    Attributes
    ----------
    bits, size : int
        Of a code, and codes in a block.
    columns : ndarray, (K,), int64, or None
        The input of each place, n for a zero; None: the inputs as they are.
    codes : ndarray, (m, blocks, size * bits / 8), uint8
    scale : ndarray, (m, blocks), float32
    zero : ndarray, (m, ceil(blocks * bits / 8)), uint8, or None
        None: 2**(bits - 1) everywhere.
    rest : ndarray, (m, blocks), float32, or None
        scale times what is left of the zeros.
    """

    bits: int
    size: int
    columns: np.ndarray | None
    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray | None
    rest: np.ndarray | None


def lay_out(codes: IntegerCodes) -> Blocks:
    """Return the blocks of a layer, of the size that takes the fewest bits.

    A group takes whole blocks, filled up with zeros, but for the end of the last; where there is a
    ``rest`` the last block is filled up too.
    """
    bits = _WIDTHS[codes.bits]
    m, n = codes.codes.shape
    counts = np.bincount(codes.group)
    size = min(BLOCKS, key=lambda size: int((-(-counts // size)).sum()) * (size * bits + 32 + bits))
    blocks = -(-counts // size)
    group = np.repeat(np.arange(len(counts)), blocks)  # of each block
    places = _places(codes.group, counts, blocks * size)
    laid = np.zeros((m, len(group) * size), np.uint8)
    laid[:, places] = codes.codes[:, _by_group(codes.group)]
    columns = np.full(laid.shape[1], n)
    columns[places] = _by_group(codes.group)
    if codes.rest is None:
        columns = columns[: places[-1] + 1]
    scale = codes.scale[:, group]
    zero = codes.zero[:, group]
    return Blocks(
        bits=bits,
        size=size,
        columns=None if np.array_equal(columns, np.arange(n)) else columns,
        codes=pack(laid, bits).reshape(m, len(group), -1),
        scale=scale.astype(np.float32),
        zero=None if (zero == 1 << (bits - 1)).all() else pack(zero, bits),
        rest=None if codes.rest is None else (scale * codes.rest[:, group]).astype(np.float32),
    )


def _by_group(group: np.ndarray) -> np.ndarray:
    """The columns, those of a group one after the other, in their order."""
    return np.argsort(group, kind="stable")


def _places(group: np.ndarray, counts: np.ndarray, room: np.ndarray) -> np.ndarray:
    """The place of each of these columns, where a group has room for so many."""
    first, begin = (np.cumsum(sizes) - sizes for sizes in (room, counts))
    own = group[_by_group(group)]
    return first[own] + np.arange(len(group)) - begin[own]
