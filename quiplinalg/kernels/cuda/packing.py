"""Dense packing of codes on a device: the launches of packing.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.kernels.cuda.launch import launch

__all__ = ["pack", "unpack"]

_THREADS = 256  # of a block
_CODES = 4096  # that a block packs


def pack(codes: Any, bits: int, packed: Any) -> Any:
    """Pack codes (m, n) of ``bits`` bits into ``packed``, (m, ceil(n * bits / 8)), both uint8.

    Returns
    -------
    cupy.ndarray, (1,), int32
        The largest code that does not fit, 0 where all do; reading it waits for the kernel.
    """
    import cupy

    worst = cupy.zeros(1, np.int32)
    grid, sizes = _shape(codes, bits, packed)
    launch("packing", "pack", grid, (_THREADS,), (codes, packed, worst, *sizes), BITS=str(bits))
    return worst


def unpack(packed: Any, bits: int, codes: Any) -> None:
    """Write the codes (m, n) that `pack` made ``packed`` from."""
    grid, sizes = _shape(codes, bits, packed)
    launch("packing", "unpack", grid, (_THREADS,), (packed, codes, *sizes), BITS=str(bits))


def _shape(codes: Any, bits: int, packed: Any) -> tuple[tuple[int], tuple[Any, ...]]:
    """Return the grid, and (n, width, chunks, wide) as the kernels take them."""
    (m, n), width = codes.shape, packed.shape[1]
    if n * bits % 8 == 0:  # the streams of the rows are one
        m, n, width = 1, m * n, m * width
    chunks = -(-n // _CODES)
    aligned = codes.data.ptr % 16 == 0 and packed.data.ptr % 4 == 0
    wide = aligned and (m == 1 or (n % 16 == 0 and width % 4 == 0))
    return (m * chunks,), (np.int64(n), np.int64(width), np.int32(chunks), np.int32(wide))
