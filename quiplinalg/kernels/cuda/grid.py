"""Uniform grids and codebooks on a device: search of scales, weights to codes and back."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.kernels.cuda.launch import code, launch, real

__all__ = ["dequantize", "fit", "fit_groups", "gather_levels", "nearest"]

_THREADS = 256
_WARPS = _THREADS // 32
_ALONE = 512  # elements of a row that a warp takes, before more warps share it
_COLUMNS = 1024  # of a block of the passes from weights to codes and back
_LONG = 1 << 16  # a row that several blocks share where there are few
_FEW = 512  # rows
_PIECE = 1 << 13  # least columns of a piece of a long row
_PIECES = 512  # at most


def fit(
    X: Any,
    maxq: Any,
    symmetric: bool,
    clip: bool,
    norm: float,
    significant: int,
    scale: Any,
    zero: Any,
) -> None:
    """Fill scale and zero, each (rows,) contiguous, with the grid of every row of X.

    X is (rows, n) with contiguous rows any distance apart; see cpu_grid.fit.
    """
    _fit(X, max(X.shape[1], 1), 1, (maxq, symmetric, clip, norm, significant), scale, zero)


def fit_groups(
    X: Any,
    group_size: int,
    maxq: Any,
    symmetric: bool,
    clip: bool,
    norm: float,
    significant: int,
) -> tuple[Any, Any]:
    """Return (scale, zero), each (.., groups) in X's dtype, for consecutive groups of columns.

    X is (.., n), contiguous.  One launch, whatever the number of rows and groups.
    """
    import cupy

    n = X.shape[-1]
    groups = max(1, -(-n // group_size))
    scale, zero = (cupy.empty((*X.shape[:-1], groups), X.dtype) for _ in range(2))
    rows = scale.size // groups
    flat = X.reshape(rows, n)
    _fit(flat, group_size, groups, (maxq, symmetric, clip, norm, significant), scale, zero)
    return scale, zero


def _fit(X: Any, size: int, groups: int, options: tuple, scale: Any, zero: Any) -> None:
    rows, n = X.shape
    kind = X.dtype.type
    maxq, symmetric, clip, norm, significant = options
    stride = np.int64(X.strides[0] // X.dtype.itemsize)
    if groups == 1 and rows <= _FEW and n >= _LONG:
        _fit_long(X, stride, options, scale, zero)
        return
    warps = 1
    while warps < _WARPS and warps * _ALONE < min(size, n):
        warps *= 2
    args = (
        *(X, stride, np.int64(n), np.int64(size), np.int64(groups), np.int64(rows * groups)),
        *(np.int32(warps), kind(maxq), np.int32(symmetric), np.int32(clip), np.float64(norm)),
        *(np.int32(significant), scale, zero),
    )
    blocks = -(-rows * groups * warps // _WARPS)
    launch("search", "fit", (blocks,), (_THREADS,), args, REAL=real(X))


def _fit_long(X: Any, stride: Any, options: tuple, scale: Any, zero: Any) -> None:
    """As `_fit`, each row shared by many blocks."""
    import cupy

    rows, n = X.shape
    maxq, symmetric, clip, norm, significant = options
    length = max(_PIECE, -(-n // _PIECES))
    pieces = -(-n // length)
    size = np.int64(n)
    grid, block = (pieces, rows), (_THREADS,)
    rule = (X.dtype.type(maxq), np.int32(symmetric))
    power = (np.float64(norm), np.int32(significant))
    ends = cupy.empty((rows, pieces, 2), X.dtype)
    sums = cupy.empty((rows, pieces, 80) if clip else (1,), np.float64)
    part = (X, stride, size, np.int64(length))
    launch("search", "piece_ends", grid, block, (*part, ends), REAL=real(X))
    if clip:
        args = (*part, *rule, *power, ends, sums)
        launch("search", "piece_sums", grid, block, args, REAL=real(X))
    chosen = (*rule, np.int32(clip), *power, ends, sums, scale, zero)
    launch("search", "choose", (rows,), (32,), (size, np.int32(pieces), *chosen), REAL=real(X))


def _row_stride(scale: Any) -> Any:
    """Elements between the scales of two rows: 0 where all rows share one."""
    return np.int64(0 if scale.shape[0] == 1 else scale.shape[1])


def _launch(kernel: str, m: int, n: int, args: tuple, values: Any, codes: Any) -> None:
    """Run a pass from weights to codes, or back."""
    grid, block = (m, -(-n // _COLUMNS)), (_THREADS,)
    launch("grid", kernel, grid, block, args, REAL=real(values), CODE=code(codes))


def nearest(
    W: Any,
    scale: Any,
    zero: Any,
    group: Any,
    rule: tuple[float, float, float, int | None],
    codes: Any,
    counts: tuple[Any, Any],
) -> None:
    """Fill codes with those of W, (m, n), rounded without feedback, as `grids.apply` does.

    Parameters
    ----------
    W : (m, n), float32 or float64
    scale, zero : (m, groups) or (1, groups), the dtype of W
    group : (n,), int32
    rule : (low, high, tolerance, key)
        The first and last code, or -inf and inf; the grid units within which a target counts as
        tied; and the Philox key for stochastic rounding, of counter (row, column), or None.
    codes : (m, n), uint8 or int32
    counts : (tied, clipped)
        (m,) int32 that becomes 1 where a row has a target near a tie, and (1,) int64 to which the
        number of clipped weights is added.
    """
    m, n = W.shape
    kind = W.dtype.type
    low, high, tolerance, key = rule
    args = (
        *(W, np.int32(n), scale, zero, _row_stride(scale), group, kind(low), kind(high)),
        *(np.int32(key is not None), np.uint32(key or 0), kind(tolerance), codes, *counts),
    )
    _launch("nearest", m, n, args, W, codes)


def dequantize(codes: Any, scale: Any, zero: Any, group: Any, out: Any) -> None:
    """Set out = scale (codes - zero), (m, n); scale, zero (m or 1, groups) in the dtype of out."""
    m, n = codes.shape
    args = (codes, np.int32(n), scale, zero, _row_stride(scale), group, out)
    _launch("dequantize", m, n, args, out, codes)


def gather_levels(codes: Any, levels: Any, out: Any) -> None:
    """Set out[i, j] = levels[i, codes[i, j]], (m, n); levels (m, 2**bits) in the dtype of out."""
    m, n = codes.shape
    args = (codes, np.int32(n), levels, np.int32(levels.shape[1]), out)
    _launch("gather_levels", m, n, args, out, codes)
