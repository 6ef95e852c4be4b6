"""A NumPy result back in the caller's kind of array."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.foreign import float_or_none, library_of, named_dtype, unwrap

__all__ = ["like"]


def like(x: Any) -> Callable[[np.ndarray], Any]:
    """Return a function that turns a NumPy float array into the kind, dtype and device of `x`.

    Parameters
    ----------
    x : array_like
        What the caller passed.  Only its namespace, dtype and device are kept, not its data.

    Returns
    -------
    callable
        ``restore(a)`` gives an array of `x`'s library; NumPy arrays, lists, frames and objects
        that only export their memory give NumPy.  Variables and parameters give plain tensors.
        Integer `x` leaves the dtype of ``a`` alone.  The result may share memory with ``a``, and
        is never read-only where ``a`` is not.

    Examples
    --------
    >>> like(np.zeros(2, np.float16))(np.ones(2)).dtype
    dtype('float16')
    """
    x = unwrap(x)
    if isinstance(x, np.ndarray | np.generic):
        return partial(_restore_numpy, float_or_none(x.dtype))
    library = library_of(x)
    dtype = named_dtype(getattr(x, "dtype", None))
    if library in ("tensorflow", "mlx"):
        return partial(_RESTORE[library], dtype, getattr(x, "device", None))
    if library == "torch" or hasattr(x, "__array_namespace__"):
        import array_api_compat

        namespace = array_api_compat.array_namespace(x)
        device = array_api_compat.device(x)
        return partial(_restore_namespace, namespace.__name__, dtype, device)
    if dtype is None:  # lists, frames: NumPy knows what they become
        dtype = float_or_none(to_numpy(x, "x", integers=True).dtype)
    return partial(_restore_numpy, dtype)


def _native(a: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Return `a` as what every framework takes: `dtype`, native order, C-contiguous, writable."""
    dtype = (a.dtype if dtype is None else dtype).newbyteorder("=")
    a = a.astype(dtype, order="C", copy=False)
    return a if a.flags.writeable else a.copy()


def _restore_numpy(dtype: np.dtype | None, a: np.ndarray) -> np.ndarray:
    return a if dtype is None else a.astype(dtype, copy=False)


def _restore_namespace(namespace: str, dtype: np.dtype | None, device: Any, a: np.ndarray) -> Any:
    xp = importlib.import_module(namespace)  # already imported, but for a pickled result
    a = _native(a, dtype)
    if a.dtype.type.__module__ == "ml_dtypes" and namespace.endswith("torch"):
        bits = xp.asarray(a.view(f"u{a.dtype.itemsize}"), device=device)
        return bits.view(getattr(xp, a.dtype.name))
    return xp.asarray(a, device=device)


def _restore_tensorflow(dtype: np.dtype | None, device: Any, a: np.ndarray) -> Any:
    tf = importlib.import_module("tensorflow")
    with tf.device(device):
        return tf.convert_to_tensor(_native(a, dtype))


def _restore_mlx(dtype: np.dtype | None, device: Any, a: np.ndarray) -> Any:
    mx = importlib.import_module("mlx.core")
    a = _native(a, dtype)
    if a.dtype.name == "bfloat16":
        return mx.array(a.view(np.uint16)).view(mx.bfloat16)
    return mx.array(a)


_RESTORE = {"tensorflow": _restore_tensorflow, "mlx": _restore_mlx}
