"""Weights to codes and back on a uniform grid, each weight by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.codebook import CodebookGrid, Grid
from quiplinalg.grids.uniform import UniformGrid, on_current_device
from quiplinalg.kernels.record import DeviceKernels, Kernels, select
from quiplinalg.parallel import run_all

__all__ = [
    "check_range",
    "check_reached",
    "clip_to_range",
    "code_ends",
    "dequantize",
    "round_to_grid",
    "rounded_to_nearest",
    "tie_tolerance",
]

_ROWS = 64
_LARGEST_CODE = 2.0**30  # of a weight
_LAST_CODE = 2.0**31 - 2.0**7  # of a target, which feedback may move any distance; float32 has it


def tie_tolerance(n: int, dtype: np.dtype) -> float:
    """Grid units within which a target counts as tied: twice the drift of n rounded sums."""
    return max(2 * float(np.finfo(dtype).eps) * np.sqrt(max(n, 1)), 1e-12)


def check_range(W: np.ndarray, grid: UniformGrid | None) -> None:
    """Raise where codes of an unbounded grid would not fit in int32."""
    if grid is None or grid.bits is not None or not W.size:
        return
    peaks = np.maximum(W.max(axis=1), -W.min(axis=1)).astype(np.float64)
    with np.errstate(over="ignore"):
        largest = float((peaks / grid.scale.min(axis=1)).max()) + float(np.abs(grid.zero).max())
    if not largest <= _LARGEST_CODE:
        raise InvalidArgumentError(
            f"grid must have steps so large that codes fit in int32; got codes of {largest:.3g} "
            f"for the largest weight, {peaks.max():.3g}. Raise its scale."
        )


def code_ends(bits: int | None) -> tuple[float, float]:
    """Return the first and the last code: of an unbounded grid those that int32 can hold."""
    return (-_LAST_CODE, _LAST_CODE) if bits is None else (0.0, 2.0**bits - 1)


def check_reached(bits: int | None, clipped: float) -> None:
    """Raise where feedback led targets of an unbounded grid beyond its `code_ends`."""
    if bits is None and clipped:
        raise InvalidArgumentError(
            "grid must have steps so large that codes fit in int32; got one that feedback leads "
            f"beyond them in {int(clipped)} places. Raise its scale, damp H more, or try another "
            "order."
        )


def clip_to_range(W: np.ndarray, grid: UniformGrid) -> np.ndarray:
    """Return W cut to the first and the last level of its grid, which has one group."""
    low, high = (grid.scale * (code - grid.zero) for code in (0, grid.maxq))
    return np.clip(W, low.astype(W.dtype), high.astype(W.dtype))


def round_to_grid(
    W: Any, grid: Grid, kernels: Kernels, key: int | None = None
) -> tuple[Any, int, int]:
    """Return (codes, rows near a tie, clipped weights) of rounding W without feedback.

    Parameters
    ----------
    W : ndarray, (m, n), float32 or float64
    grid : UniformGrid or CodebookGrid
        With levels, which are rounded to nearest, nothing is counted.
    kernels : Kernels
    key : int, optional
        Philox key for stochastic rounding; None: nearest, ties to even.
    """
    if isinstance(grid, CodebookGrid):
        return grid.nearest(W), 0, 0
    m, n = W.shape
    kind = W.dtype
    check_range(W, grid)
    if isinstance(kernels, DeviceKernels):
        return _nearest_on_device(W, grid, kernels, key)
    codes = np.empty((m, n), grid.code_dtype)
    columns = grid.columns(n)
    tolerance = tie_tolerance(n, kind)
    low = 0 if grid.bits is not None else -np.inf

    def round_rows(i: int) -> tuple[int, int]:
        rows = slice(i, min(i + _ROWS, m))
        s, o = (a[:, columns] for a in _rows_of(grid, rows, kind))
        whole = np.floor(o)
        y = W[rows] / s + (o - whole)
        near = 0
        if key is None:
            k = np.rint(y)
            tied = np.abs(0.5 - np.abs(y - k)) < tolerance
            y += whole
            near = int((tied & (y >= low) & (y < grid.maxq)).any(axis=1).sum())
        else:
            noise = np.empty((1, n, y.shape[0]), np.float32)
            kernels.philox(key, i, np.arange(n), noise)
            k = np.floor(y + noise[0].T)
        k += whole
        clipped = int(((k < low) | (k > grid.maxq)).sum())
        codes[rows] = np.clip(k, low, grid.maxq)
        return near, clipped

    counts = run_all(round_rows, [(i,) for i in range(0, m, _ROWS)])
    return codes, sum(near for near, _ in counts), sum(clipped for _, clipped in counts)


def _nearest_on_device(
    W: Any, grid: UniformGrid, kernels: DeviceKernels, key: int | None
) -> tuple[Any, int, int]:
    xp, (m, n) = kernels.xp, W.shape
    W = xp.ascontiguousarray(W)
    scale, zero = _contiguous(grid, W.dtype, xp, "W is")
    codes = xp.empty((m, n), grid.code_dtype)
    near, clipped = xp.zeros(m, np.int32), xp.zeros(1, np.int64)
    low, high = (-np.inf, np.inf) if grid.bits is None else (0.0, grid.maxq)
    group = xp.asarray(grid.columns(n))
    tolerance = tie_tolerance(n, W.dtype)
    kernels.nearest(W, scale, zero, group, (low, high, tolerance, key), codes, (near, clipped))
    return codes, int((near > 0).sum()), int(clipped[0])


def rounded_to_nearest(W: np.ndarray, grid: Grid) -> np.ndarray:
    """Return every weight of W rounded by itself, in the dtype of W, on the CPU."""
    wide = np.result_type(W.dtype, grid.dtype) == np.float64
    weight = W.astype(np.float64 if wide else W.dtype, copy=False)
    codes = round_to_grid(weight, grid, select())[0]
    return dequantize(codes, grid, weight.dtype).astype(W.dtype, copy=False)


def dequantize(codes: Any, grid: Grid, dtype: np.dtype) -> Any:
    """Return W_hat = scale * (codes - zero), or levels[codes], (m, n), computed in dtype.

    Where the codes are.
    """
    if isinstance(grid, CodebookGrid):
        return grid.values(codes, dtype)
    if not isinstance(codes, np.ndarray):
        return _values_on_device(codes, grid, np.dtype(dtype))
    m, n = codes.shape
    columns = grid.columns(n)
    out = np.empty((m, n), dtype)
    for i in range(0, m, _ROWS):
        rows = slice(i, min(i + _ROWS, m))
        s, o = _rows_of(grid, rows, dtype)
        if s.shape[1] > 1:
            s, o = s[:, columns], o[:, columns]
        np.subtract(codes[rows], o, out=out[rows])
        out[rows] *= s
    return out


def _values_on_device(codes: Any, grid: UniformGrid, dtype: np.dtype) -> Any:
    kernels = select("cuda", codes=codes)
    assert isinstance(kernels, DeviceKernels)
    xp = kernels.xp
    with kernels.running(codes):
        out = xp.empty(codes.shape, dtype)
        scale, zero = _contiguous(grid, dtype, xp, "codes are")
        group = xp.asarray(grid.columns(codes.shape[1]))
        kernels.dequantize(xp.ascontiguousarray(codes), scale, zero, group, out)
        return out


def _contiguous(grid: UniformGrid, dtype: np.dtype, xp: Any, other: str) -> tuple[Any, Any]:
    """Return scale and zero as kernels take them: a view may be of one row for all."""
    scale = on_current_device(grid.scale, "scale", xp, other)
    zero = on_current_device(grid.zero, "zero", xp, other)
    return xp.ascontiguousarray(scale, dtype), xp.ascontiguousarray(zero, dtype)


def _rows_of(grid: UniformGrid, rows: slice, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    grid.check_on_host()
    own = slice(None) if grid.scale.shape[0] == 1 else rows
    return grid.scale[own].astype(dtype), grid.zero[own].astype(dtype)
