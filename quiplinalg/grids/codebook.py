"""Codebooks, value = levels[row, code]: any levels, each row its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.device_arrays import on_device_of
from quiplinalg.errors import BackendMismatchError, InvalidArgumentError
from quiplinalg.grids.uniform import FLOATS, UniformGrid, on_current_device, stored
from quiplinalg.kernels.record import DeviceKernels, select

__all__ = ["CodebookGrid", "Grid", "uniform_grid"]

_ROWS = 64


@dataclass(frozen=True, eq=False)
class CodebookGrid:
    """The grid ``W_hat[i, j] = levels[i, codes[i, j]]`` with codes 0 .. 2**bits - 1.

    Parameters
    ----------
    levels : array, (m, 2**bits), float16, float32 or float64
        The values of a row, as they are stored: finite, in ascending order; equal ones may repeat.
        They become an array of NumPy, or of CuPy where they are on a CUDA device.

    Raises
    ------
    InvalidArgumentError, DTypeError
        Levels of another shape or dtype, out of order, or not finite; not real numbers.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> grid = ql.CodebookGrid(np.array([[-1.0, 0.0, 0.5, 2.0]]))
    >>> grid.bits, grid.values(np.array([[3, 0, 2]], np.uint8), np.float64)
    (2, array([[ 2. , -1. ,  0.5]]))
    """

    levels: np.ndarray

    kind = "codebook"

    def __post_init__(self) -> None:
        """Check the levels, and keep them as an array."""
        levels = stored(self.levels, "levels")
        known = levels.ndim == 2 and levels.shape[1] in [2**bits for bits in range(1, 9)]
        if not known or levels.dtype not in FLOATS:
            fix = "Repeat a level to fill a row" if not known else "Use levels.astype(np.float32)"
            raise InvalidArgumentError(
                "levels must be a floating array (m, 2**bits), bits 1 to 8, of float16, float32 or "
                f"float64; got {levels.dtype} of shape {levels.shape}. {fix}."
            )
        with on_device_of(levels):  # one answer for both: of a device it is waited for
            finite, ascending = np.isfinite(levels).all(), (levels[:, 1:] >= levels[:, :-1]).all()
            good = bool(finite & ascending)
        if not good:
            raise InvalidArgumentError(
                "levels must be finite, and ascend along each row; got others. Sort them with "
                "np.sort(levels, axis=1); where float16 overflows, store them in float32."
            )
        object.__setattr__(self, "levels", levels)

    @property
    def bits(self) -> int:
        """The width of a code, 1 to 8."""
        return int(self.levels.shape[1]).bit_length() - 1

    @property
    def maxq(self) -> float:
        """The largest code, 2**bits - 1."""
        return float(self.levels.shape[1] - 1)

    @property
    def dtype(self) -> np.dtype:
        """What the levels are stored in."""
        return self.levels.dtype

    @property
    def code_dtype(self) -> np.dtype:
        """uint8."""
        return np.dtype(np.uint8)

    @property
    def rows(self) -> int:
        """The rows that have levels, m."""
        return self.levels.shape[0]

    @property
    def groups(self) -> int:
        """1: the levels are those of a whole row."""
        return 1

    def of_rows(self, rows: slice | np.ndarray) -> CodebookGrid:
        """The grid of some rows."""
        with on_device_of(self.levels):
            return CodebookGrid(self.levels[rows])

    def storage_bits(self, m: int, n: int) -> int:
        """Bits that the levels take on disk."""
        return 8 * self.levels.nbytes

    def values(self, codes: np.ndarray, dtype: np.dtype | type) -> np.ndarray:
        """Return levels[i, codes[i, j]], (m, n), in a dtype, where the codes are."""
        if not isinstance(codes, np.ndarray):
            return _values_on_device(self.levels, codes, np.dtype(dtype))
        levels, out = self._host_levels(dtype), np.empty(codes.shape, dtype)
        for i in range(0, codes.shape[0], _ROWS):
            own = codes[i : i + _ROWS].astype(np.intp)
            out[i : i + _ROWS] = np.take_along_axis(levels[i : i + _ROWS], own, axis=1)
        return out

    def nearest(self, W: np.ndarray) -> np.ndarray:
        """Return the codes of the levels nearest to W, (m, n): the lower one where two tie.

        Where W is.
        """
        if not isinstance(W, np.ndarray):
            return _nearest_on_device(self.levels, W)
        levels = self._host_levels(np.float64)
        middles = (levels[:, 1:] + levels[:, :-1]) / 2
        codes = np.empty(W.shape, np.uint8)
        for i, row in enumerate(W):
            codes[i] = np.searchsorted(middles[i], row.astype(np.float64), side="left")
        return codes

    def _host_levels(self, dtype: np.dtype | type) -> np.ndarray:
        if not isinstance(self.levels, np.ndarray):
            raise BackendMismatchError(
                "levels must be in host memory, as what they are used on is; got levels of CuPy. "
                "Pass CodebookGrid(grid.levels.get()), or q.to_host() of a result."
            )
        return self.levels.astype(dtype)

    def __repr__(self) -> str:
        return f"CodebookGrid({self.bits} bits, rows={self.levels.shape[0]}, {self.dtype})"


def _values_on_device(levels: Any, codes: Any, dtype: np.dtype) -> Any:
    kernels = select("cuda", codes=codes)
    assert isinstance(kernels, DeviceKernels)
    xp = kernels.xp
    with kernels.running(codes):
        kind = np.result_type(dtype, np.float32)
        out = xp.empty(codes.shape, kind)
        own = on_current_device(levels, "levels", xp, "codes are").astype(dtype)
        own = xp.ascontiguousarray(own, kind)
        kernels.gather_levels(xp.ascontiguousarray(codes, np.uint8), own, out)
        return out.astype(dtype, copy=False)


def _nearest_on_device(levels: Any, W: Any) -> Any:
    """How many middles between levels are below each weight, by bisection: a gather a bit."""
    kernels = select("cuda", W=W)
    assert isinstance(kernels, DeviceKernels)
    xp, (m, n) = kernels.xp, W.shape
    with kernels.running(W):
        wide = on_current_device(levels, "levels", xp, "W is")
        wide = xp.ascontiguousarray(wide, np.float64)
        middles = (wide[:, 1:] + wide[:, :-1]) / 2
        codes = xp.zeros((m, n), np.uint8)
        step = max(1, kernels.free_bytes() // (64 * max(n, 1)))
        for rows in (slice(i, i + step) for i in range(0, m, step)):
            for bit in range(levels.shape[1].bit_length() - 2, -1, -1):
                middle = xp.empty(W[rows].shape)
                last = codes[rows] + np.uint8((1 << bit) - 1)  # of the middles to skip
                kernels.gather_levels(last, middles[rows], middle)
                codes[rows] += (middle < W[rows]).astype(np.uint8) << np.uint8(bit)
        return codes


Grid = UniformGrid | CodebookGrid


def uniform_grid(
    grid: Grid, what: str = "this", remedy: str = "lnq makes such layers, others do not."
) -> UniformGrid:
    """Return a grid that has scales and zeros; raise, for what needs them, where it has levels.

    Parameters
    ----------
    grid : UniformGrid or CodebookGrid
    what, remedy : str
        What needs them, and what to do instead, for the message.
    """
    if isinstance(grid, UniformGrid):
        return grid
    raise InvalidArgumentError(
        f"grid must have scales and zeros for {what}; got {grid!r}, levels of each row's own. "
        f"{remedy}"
    )
