"""Uniform grids, value = scale * (code - zero), per tensor, row, or row and column group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quiplinalg.errors import BackendMismatchError, InvalidArgumentError
from quiplinalg.foreign import refuse_devices

__all__ = ["UniformGrid"]


@dataclass(frozen=True, eq=False)
class UniformGrid:
    """The grid ``W_hat = scale * (code - zero)`` with codes 0 .. 2**bits - 1.

    Parameters
    ----------
    scale : ndarray, (rows, groups), float16, float32 or float64
        Step of the grid, as it is stored; rows is m, or 1 for a grid shared by all rows.
        Positive and finite.  It and ``zero`` may be CuPy arrays.
    zero : ndarray, (rows, groups), the dtype of ``scale``
        The code of the value 0.  A whole number for min-max grids, ``maxq / 2`` (a half-integer)
        for RMS grids, which have no zero level.
    bits : int or None
        1 to 8, or None for the unbounded grid of the theorems (codes are then int32).
    group_index : ndarray, (n,), int32, or None
        Group of each column, in the caller's column order; None: one group.
    kind : str
        "asym", "sym", "rms" or "custom"; only a label.

    Notes
    -----
    A weight w gets the code ``clamp(rint(w / scale + frac(zero)) + floor(zero), 0, maxq)`` with
    ties to even, which for a whole zero is GPTQ's ``clamp(round(w / scale) + zero, 0, maxq)``.
    """

    scale: np.ndarray
    zero: np.ndarray
    bits: int | None
    group_index: np.ndarray | None = None
    kind: str = "custom"

    def __post_init__(self) -> None:
        scale, zero = _array(self.scale), _array(self.zero)
        if scale.ndim != 2 or scale.dtype.kind != "f":
            raise InvalidArgumentError(
                f"scale must be a floating (rows, groups) array; got {scale.dtype} of shape "
                f"{scale.shape}. Use scale[:, None] for one step per row."
            )
        if zero.shape != scale.shape:
            raise InvalidArgumentError(
                f"zero must have the shape of scale, {scale.shape}; got {zero.shape}."
            )
        if isinstance(zero, np.ndarray) != isinstance(scale, np.ndarray):
            raise BackendMismatchError(
                "scale and zero must be in one place; got one on the host and the other on a "
                "device. Move one: cupy.asarray(zero), or scale.get()."
            )
        if self.bits is not None and not 1 <= self.bits <= 8:
            raise InvalidArgumentError(
                f"bits must be 1 to 8, or None for an unbounded grid; got bits={self.bits}."
            )
        # one answer for all: of a device it is waited for
        if not bool((np.isfinite(scale) & (scale > 0) & np.isfinite(zero)).all()):
            raise InvalidArgumentError(
                "scale must be positive and finite, and zero finite, in the precision they are "
                f"stored in ({scale.dtype}). Where a step under- or overflows, bring the weights "
                "nearer to 1, or store scales in a wider scale_dtype."
            )
        groups = scale.shape[1]
        if self.group_index is None:
            if groups != 1:
                raise InvalidArgumentError(
                    f"group_index must give the group, of {groups}, of each column; got None. "
                    "For columns in order: np.arange(n) // group_size."
                )
        else:
            refuse_devices(self.group_index, "group_index")
            index = np.asarray(self.group_index)
            if index.ndim != 1 or (index.size and not 0 <= index.min() <= index.max() < groups):
                raise InvalidArgumentError(
                    f"group_index must be an (n,) array of values 0 to {groups - 1}; got shape "
                    f"{index.shape}."
                )

    @property
    def maxq(self) -> float:
        """The largest code, 2**bits - 1, or inf."""
        return np.inf if self.bits is None else float(2**self.bits - 1)

    @property
    def code_dtype(self) -> np.dtype:
        """uint8, or int32 on the unbounded grid."""
        return np.dtype(np.int32 if self.bits is None else np.uint8)

    @property
    def dtype(self) -> np.dtype:
        """What scales and zeros are stored in."""
        return np.dtype(self.scale.dtype)

    @property
    def rows(self) -> int:
        """The rows that have scales of their own: m, or 1 for all of them."""
        return self.scale.shape[0]

    @property
    def groups(self) -> int:
        """The groups of columns that have scales of their own."""
        return self.scale.shape[1]

    def of_rows(self, rows: slice | np.ndarray) -> UniformGrid:
        """The grid of some rows."""
        if self.rows == 1:
            return self
        return replace(self, scale=self.scale[rows], zero=self.zero[rows])

    def of_arrays(self, scale: Any, zero: Any) -> UniformGrid:
        """The grid with its scales and zeros in other arrays, on another device or in a file."""
        if scale is self.scale and zero is self.zero:
            return self
        return replace(self, scale=scale, zero=zero)

    def check_on_host(self) -> None:
        """Raise BackendMismatchError where its arrays are on a device."""
        if not isinstance(_array(self.scale), np.ndarray):
            raise BackendMismatchError(
                "grid must be on the host, as W is; got a grid on a device. Make it from this W, "
                "or pass q.to_host().grid of a result."
            )

    def columns(self, n: int) -> np.ndarray:
        """The (n,) int32 group of each column."""
        if self.group_index is None:
            return np.zeros(n, np.int32)
        return np.asarray(self.group_index, np.int32)

    def storage_bits(self, m: int, n: int) -> int:
        """Bits that scales and zeros take on disk (zeros as codes where they are whole numbers)."""
        whole = bool((self.zero == np.floor(self.zero)).all())
        if self.kind in ("sym", "rms"):
            zero_bits = 0  # one constant for the whole grid
        elif whole and self.bits is not None:
            zero_bits = self.bits
        else:
            zero_bits = 8 * self.zero.dtype.itemsize
        return self.scale.size * (8 * self.scale.dtype.itemsize + zero_bits)

    def __repr__(self) -> str:
        width = "unbounded" if self.bits is None else f"{self.bits} bits"
        rows, groups = self.scale.shape
        return (
            f"UniformGrid({self.kind}, {width}, rows={rows}, groups={groups}, {self.scale.dtype})"
        )


def _array(x: Any) -> Any:
    """Return x as an array where it is."""
    return x if hasattr(x, "__cuda_array_interface__") else np.asarray(x)
