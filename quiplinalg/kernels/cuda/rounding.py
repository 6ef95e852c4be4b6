"""Rounding with feedback on a device: load, round_block, update, store, compensate.

Work arrays are (b, tiles, N, lanes) for b members, U is strictly upper, (b, N, N), or (1, N, N) for
all members; see the
slots of the same names in cpu_rounding.py and cpu_hessian.py, whose results these are to the bit.
Nothing is waited for.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.kernels.cuda.launch import code, launch, real

__all__ = ["BLOCK", "compensate", "lanes", "load", "round_block", "store", "update"]

BLOCK = 128  # columns of the widest span that round_block takes
_WARP = 32
_WIDTH = 128  # columns of F that a block of `update` does

Span = tuple[int, int]


def lanes(dtype: np.dtype) -> int:
    """Rows of a tile: 128 in float32, 64 in float64."""
    return 512 // np.dtype(dtype).itemsize


def load(W: Any, columns: Any, Z: Any, F: Any) -> None:
    """Z[b, t, c, r] = F[b, t, c, r] = W[b, t*lanes + r, columns[b, c]]; rows beyond m, padding: 0.

    W is (b, m, n), columns (b, N) int64 with -1 for padding.
    """
    members, tiles, N, height = Z.shape
    m, n = W.shape[1:]
    launch(
        "rounding",
        "load",
        grid=(-(-N // _WARP), tiles * height // _WARP, members),
        block=(_WARP, 8),
        args=(W, columns, np.int32(m), np.int32(n), np.int32(tiles), np.int32(N), Z, F),
        REAL=real(Z),
        CODE="unsigned char",
    )


def store(C: Any, columns: Any, codes: Any) -> None:
    """codes[b, t*lanes + r, columns[b, c]] = C[b, t, c, r], but for padding; codes is (b, m, n)."""
    members, tiles, N, height = C.shape
    m, n = codes.shape[1:]
    launch(
        "rounding",
        "store",
        grid=(-(-N // _WARP), tiles * height // _WARP, members),
        block=(_WARP, 8),
        args=(C, columns, np.int32(m), np.int32(n), np.int32(tiles), np.int32(N), codes),
        REAL="float" if height == lanes(np.dtype(np.float32)) else "double",
        CODE=code(C),
    )


def round_block(
    F: Any, Z: Any, C: Any, U: Any, grid: tuple, plan: tuple, span: Span, stats: Any
) -> None:
    """Round columns c0 .. c1 of Z, at most `BLOCK`, whose feedback from all before is in F.

    Z becomes E = W - W_hat in them, C their codes; F is left as it is.

    Parameters
    ----------
    F, Z, C, U : device arrays
    grid : tuple
        (scale, zero, group, low, high, key): scale and zero (b, tiles, groups, lanes), group
        (b, N) int32, the least and the largest code, and the key of Philox, or None to round to
        the nearest.
    plan : tuple
        (columns, D, damping, first): the first three (b, N), and the row of the layer that the
        tiles start with.
    span : tuple of int
        Multiples of 4.
    stats : device array, (b, tiles, 4, lanes), float64
        Gains D eta^2, damping e^2, the least distance to a tie (a minimum), clipped targets.
    """
    scale, zero, group, low, high, key = grid
    columns, D, damping, first = plan
    members, tiles, N, height = Z.shape
    numbers = (tiles, N, scale.shape[2], *span)
    launch(
        "rounding",
        "round_nearest" if key is None else "round_stochastic",
        grid=(tiles * height // _WARP if span[0] < span[1] else 0, members),
        block=(_WARP,),
        args=(
            *(
                F,
                Z,
                C,
                U,
                _apart(U),
                scale,
                zero,
                group,
                columns,
                D,
                damping,
                *map(np.int32, numbers),
            ),
            *(Z.dtype.type(low), Z.dtype.type(high), np.int64(first), np.uint32(key or 0), stats),
        ),
        REAL=real(Z),
        CODE=code(C),
    )


def update(F: Any, Z: Any, U: Any, span: Span) -> None:
    """F[:, :, c1:] += E[:, :, c0:c1] U[c0:c1, c1:], each element one chain in ascending k."""
    members, tiles, N, _ = Z.shape
    launch(
        "update",
        "update",
        grid=(-(-(N - span[1]) // _WIDTH) if span[0] < span[1] else 0, tiles, members),
        block=(128,),
        args=(
            F,
            Z,
            U,
            _apart(U),
            np.int32(tiles),
            np.int32(N),
            np.int32(span[0]),
            np.int32(span[1]),
        ),
        REAL=real(Z),
    )


def compensate(F: Any, Z: Any, U: Any, columns: Any, span: Span, X: Any) -> None:
    """X = W + (F - W) T[c0:c1, c0:c1]^-1, (b, m, columns but padding): the weights GPTQ would hold.

    Before `round_block`, while Z holds W in these columns; the span may have any width.
    """
    import cupy

    members, tiles, N, height = Z.shape
    c0, c1 = span
    numbers = (tiles, N, c0, c1, X.shape[1], X.shape[2])
    launch(
        "rounding",
        "compensate",
        grid=(tiles * height // _WARP, members),
        block=(_WARP,),
        args=(
            *(F, Z, U, _apart(U), columns, *map(np.int32, numbers)),
            *(cupy.empty((members, tiles, c1 - c0, height), Z.dtype), X),
        ),
        REAL=real(Z),
        CODE="unsigned char",
    )


def _apart(U: Any) -> np.int64:
    """Elements between the feedback of two members: none where they share it."""
    return np.int64(0 if U.shape[0] == 1 else U.shape[1] * U.shape[2])
