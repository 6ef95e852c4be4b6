"""The slots of codebooks, on the device (codebook.cu).  Levels are float64 and ascend."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.kernels.cuda.descent import resident_bytes
from quiplinalg.kernels.cuda.launch import launch, real

__all__ = ["descend_levels", "level_sums", "lloyd", "round_levels"]

_THREADS = 256
_WARPS = _THREADS // 32
_LLOYD = 128  # threads of a row of k-means
_AT_ONCE = 2048  # rows of k-means: more than a device of 132 multiprocessors holds
_COLUMNS = 128  # of T at a time
_PART = 32 << 10  # bytes of T, of some levels, of a warp
_SHARED = 64 << 10  # bytes of shared memory of a block of `level_sums`


def lloyd(X: Any, levels: Any, passes: int) -> None:
    """k-means of rows X, (rows, n) ascending: levels, (rows, K) float64 ascending, in place."""
    import cupy

    rows, n = X.shape
    blocks = min(rows, _AT_ONCE)
    ends = cupy.empty((blocks, n + 1), np.float64)
    needed = n * X.dtype.itemsize
    resident = needed <= resident_bytes()
    numbers = (rows, n, levels.shape[1], passes, resident)
    launch(
        "codebook", "lloyd", (blocks,), (_LLOYD,),
        (X, levels, ends, *(np.int32(x) for x in numbers)),
        shared=needed if resident else 0, REAL=real(X),
    )  # fmt: skip


def round_levels(W: Any, F: Any, U: Any, levels: Any, codes: Any, E: Any) -> None:
    """Round the columns of a block in turn, as `cpu_codebook.round_levels`; F is overwritten."""
    rows, width = W.shape
    count = levels.shape[1]
    sizes = (np.int32(x) for x in (rows, width, count))
    launch(
        "codebook", "round_levels", (-(-rows // _WARPS),), (_THREADS,),
        (W, F, U, levels, codes, E, *sizes), shared=_WARPS * 2 * count * 8, REAL=real(W),
    )  # fmt: skip


def level_sums(H: Any, codes: Any, T: Any) -> None:
    """T[i, l] = sum of the rows k of H with codes[i, k] == l, (rows, K, n), in ascending k."""
    rows, count, n = T.shape
    row = _COLUMNS * H.dtype.itemsize
    part = min(count, _PART // row)
    warps = min(_WARPS, _SHARED // (part * row))
    sizes = (np.int32(x) for x in (rows, count, part, n))
    launch(
        "codebook", "level_sums", (-(-rows // warps), -(-n // _COLUMNS), count // part),
        (32 * warps,), (H, codes, T, *sizes), shared=warps * part * row, REAL=real(H),
    )  # fmt: skip


def descend_levels(
    G: Any, codes: Any, T: Any, H: Any, levels: Any, rows: Any, least: float, found: tuple
) -> None:
    """One pass of descent on the codes of some rows, as `cpu_codebook.descend_levels`.

    rows (count,) int32; found is (gain, changed): (m,) float64 and int64.
    """
    n = H.shape[0]
    needed = n * G.dtype.itemsize
    resident = needed <= resident_bytes()
    launch(
        "codebook", "descend_levels", rows.shape, (_THREADS,),
        (
            G, codes, T, H, levels, rows, *found, np.int32(n), np.int32(levels.shape[1]),
            np.float64(least), np.int32(resident),
        ),
        shared=needed if resident else 0, REAL=real(G),
    )  # fmt: skip
