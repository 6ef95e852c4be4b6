"""Uniform grids, value = scale * (code - zero), per tensor, row, or row and column group."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.device_arrays import common_device, device_of, on_device_of, to_device
from quiplinalg.errors import BackendMismatchError, InvalidArgumentError

__all__ = ["FLOATS", "UniformGrid", "on_current_device", "stored"]

FLOATS = (np.float16, np.float32, np.float64)  # that scales, zeros and levels are stored in


@dataclass(frozen=True, eq=False)
class UniformGrid:
    """The grid ``W_hat = scale * (code - zero)`` with codes 0 .. 2**bits - 1.

    Parameters
    ----------
    scale : array, (rows, groups), float16, float32 or float64
        Step of the grid, as it is stored; rows is m, or 1 for a grid shared by all rows.
        Positive and finite.  It and ``zero`` become arrays of NumPy, or of CuPy where they are on
        a CUDA device.
    zero : array, (rows, groups), the dtype of ``scale``
        The code of the value 0.  A whole number for min-max grids, ``maxq / 2`` (a half-integer)
        for RMS grids, which have no zero level.
    bits : int or None
        1 to 8, or None for the unbounded grid of the theorems (codes are then int32).
    group_index : array, (n,), int32, or None
        Group of each column, in the caller's column order, on the host; None: one group.
    kind : str
        "asym", "sym", "rms" or "custom"; only a label.

    Raises
    ------
    InvalidArgumentError, DTypeError
        Shapes that do not fit, values out of range, or not real numbers.
    BackendMismatchError
        ``scale`` and ``zero`` in two places.

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
        """Check the parts, and keep them as arrays."""
        common_device(scale=self.scale, zero=self.zero)
        scale = stored(self.scale, "scale")
        if scale.ndim != 2 or scale.dtype not in FLOATS:
            shaped = scale.ndim == 2
            fix = "scale.astype(np.float64)" if shaped else "scale[:, None] for one step per row"
            raise InvalidArgumentError(
                "scale must be a (rows, groups) array of float16, float32 or float64; got "
                f"{scale.dtype} of shape {scale.shape}. Use {fix}."
            )
        zero = stored(self.zero, "zero", scale.dtype)
        if zero.shape != scale.shape or zero.dtype not in FLOATS:
            raise InvalidArgumentError(
                f"zero must have the shape of scale, {scale.shape}, and its dtype; got "
                f"{zero.dtype} of shape {zero.shape}. Use np.full_like(scale, zero) for one zero."
            )
        kept = {"scale": scale, "zero": zero, "bits": _bits(self.bits)}
        with on_device_of(scale):  # one answer for all: of a device it is waited for
            good = bool((np.isfinite(scale) & (scale > 0) & np.isfinite(zero)).all())
        if not good:
            raise InvalidArgumentError(
                "scale must be positive and finite, and zero finite, in the precision they are "
                f"stored in ({scale.dtype}). Where a step under- or overflows, bring the weights "
                "nearer to 1, or store scales in a wider scale_dtype."
            )
        groups = scale.shape[1]
        if self.group_index is not None:
            kept["group_index"] = _group_index(self.group_index, groups)
        elif groups != 1:
            raise InvalidArgumentError(
                f"group_index must give the group, of {groups}, of each column; got None. "
                "For columns in order: np.arange(n) // group_size."
            )
        for name, value in kept.items():
            object.__setattr__(self, name, value)

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
        with on_device_of(self.scale):
            return replace(self, scale=self.scale[rows], zero=self.zero[rows])

    def of_arrays(self, scale: Any, zero: Any) -> UniformGrid:
        """The grid with its scales and zeros in other arrays, on another device or in a file."""
        if scale is self.scale and zero is self.zero:
            return self
        return replace(self, scale=scale, zero=zero)

    def check_on_host(self) -> None:
        """Raise BackendMismatchError where its arrays are on a device."""
        if not isinstance(self.scale, np.ndarray):
            raise BackendMismatchError(
                "grid must be on the host, as W is; got a grid on a device. Make it from this W, "
                "or pass q.to_host().grid of a result."
            )

    def columns(self, n: int) -> np.ndarray:
        """The (n,) int32 group of each column."""
        if self.group_index is None:
            return np.zeros(n, np.int32)
        return self.group_index

    def storage_bits(self, m: int, n: int) -> int:
        """Bits that scales and zeros take on disk (zeros as codes where they are whole numbers)."""
        with on_device_of(self.zero):
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


def stored(x: Any, name: str, dtype: np.dtype | None = None) -> Any:
    """Return an array of any framework as one of NumPy or CuPy, where it is; integers as dtype."""
    if device_of(x) is not None:
        a = to_device(x, name, integers=True)
    else:
        a = to_numpy(x, name, integers=True)
        a = a.astype(a.dtype.newbyteorder("="), copy=False)
    if dtype is None or a.dtype.kind not in "iub":
        return a
    with on_device_of(a):
        return a.astype(dtype)


def on_current_device(a: Any, name: str, xp: Any, other: str) -> Any:
    """Return an array of a grid on the current device of CuPy, ``xp``, in any strides.

    What is on the host may go there; CuPy would fetch it from another device as well.

    Parameters
    ----------
    a : array
    name : str
        Of the grid's arrays.
    xp : module
    other : str
        What is on the current device, for the message: "W is".
    """
    place, here = device_of(a), int(xp.cuda.Device().id)
    if place is not None and place != here:
        raise BackendMismatchError(
            f"grid must be on the host or on CUDA device {here}, as {other}; got a grid on CUDA "
            f"device {place}. Nothing is moved between devices silently: make the grid anew, of "
            f"grid.{name}.copy() under 'with cupy.cuda.Device({here}):'."
        )
    return xp.asarray(a)


def _bits(bits: Any) -> int | None:
    if bits is None:
        return None
    whole = isinstance(bits, int | np.integer) and not isinstance(bits, bool)
    if not whole or not 1 <= bits <= 8:
        raise InvalidArgumentError(
            "bits must be a whole number from 1 to 8, or None for an unbounded grid; got "
            f"bits={bits!r}. Use the width the codes are to have."
        )
    return int(bits)


def _group_index(values: Any, groups: int) -> np.ndarray:
    index = to_numpy(values, "group_index", integers=True)
    whole = index.ndim == 1 and (index.dtype.kind in "iu" or not index.size)
    if not whole or (index.size and not 0 <= index.min() <= index.max() < groups):
        raise InvalidArgumentError(
            f"group_index must be an (n,) array of whole numbers from 0 to {groups - 1}; got "
            f"{index.dtype} of shape {index.shape}. For columns in order: "
            "np.arange(n) // group_size."
        )
    return index.astype(np.int32, copy=False)
