"""The checks of what a rotation is made of, and of what it is applied with."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.device_arrays import device_of
from quiplinalg.errors import BackendMismatchError, DTypeError, InvalidArgumentError
from quiplinalg.foreign import host_copy, type_name
from quiplinalg.incoherence.windows import frozen

__all__ = ["as_kind", "as_orthogonal", "as_permutation", "as_scales", "as_signs"]

_ORTHOGONAL = 1e-9


def as_permutation(values: Any, n: int) -> np.ndarray:
    """Return a permutation of 0 .. n-1 as a read-only copy."""
    a = np.asarray(values)
    whole = a.dtype.kind in "iu" and a.shape == (n,)
    if not whole or not np.array_equal(np.sort(a), np.arange(n)):
        raise InvalidArgumentError(
            f"permutation must hold 0 .. {n - 1}, each once; got an array of {a.dtype}, "
            f"shape {a.shape}, that does not."
        )
    return frozen(a, np.int64)


def as_signs(name: str, values: Any, n: int) -> np.ndarray:
    """Return n signs +-1 as a read-only copy."""
    a = np.asarray(values)
    if a.dtype.kind == "b" or a.shape != (n,) or not np.isin(a, (-1, 1)).all():
        raise InvalidArgumentError(
            f"{name} must hold {n} numbers +1 or -1; got an array of {a.dtype}, shape {a.shape}, "
            "that does not."
        )
    return frozen(a, np.int8)


def as_orthogonal(index: int, F: np.ndarray) -> np.ndarray:
    """Return factor ``index`` as a read-only float64 copy."""
    kept = frozen(F, np.float64)
    error = float(np.abs(kept.T @ kept - np.eye(kept.shape[0])).max(initial=0))
    if not error <= _ORTHOGONAL:
        raise InvalidArgumentError(
            f"factor{index} must be orthogonal to {_ORTHOGONAL:g}; got |F^T F - I| = {error:.3g}. "
            "Keep factors in float64."
        )
    return kept


def as_scales(scales: Any, n: int) -> np.ndarray | None:
    """Return the n numbers that the coordinates are multiplied by, on the host, or None."""
    if scales is None:
        return None
    if device_of(scales) is not None:
        raise BackendMismatchError(
            "scales must be in host memory, wherever the matrix is: they become constants of the "
            f"rotation there; got a {type_name(scales)} on CUDA device {device_of(scales)}. Pass "
            f"{host_copy(scales, 'scales')}."
        )
    found = to_numpy(scales, "scales", integers=True)
    if found.shape != (n,):
        raise InvalidArgumentError(
            f"scales must be ({n},) for a rotation of n={n}; got shape {found.shape}. "
            "Pass one number for each coordinate."
        )
    return found.astype(np.float64, copy=False)


def as_kind(dtype: Any) -> np.dtype:
    """Return float32 or float64, which rotations are computed in."""
    try:
        kind = np.dtype(dtype)
    except TypeError:
        kind = None
    if kind not in (np.float32, np.float64):
        raise DTypeError(
            f"dtype must be float32 or float64, which a rotation is computed in; got {dtype=}. "
            "Leave it out to take that of the matrix, and convert the result with astype."
        )
    assert kind is not None
    return kind
