"""A result back in the caller's kind of array."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.device_arrays import device_of, import_cupy, to_host
from quiplinalg.foreign import float_or_none, library_of, named_dtype, unwrap

__all__ = ["like", "restore_on_device"]


def like(x: Any) -> Callable[[Any], Any]:
    """Return a function that turns a float array into the kind, dtype and device of `x`.

    Parameters
    ----------
    x : array_like
        What the caller passed.  Only its namespace, dtype and device are kept, not its data.

    Returns
    -------
    callable
        ``restore(a)`` of a NumPy or CuPy array gives an array of `x`'s library; NumPy arrays,
        lists, frames and objects that only export their memory give NumPy, or CuPy if that
        memory is a CUDA device's.  Variables and parameters give plain tensors.  Integer `x`
        leaves the dtype of ``a`` alone.  The result may share memory with ``a``, and is never
        read-only where ``a`` is not.

    Examples
    --------
    >>> like(np.zeros(2, np.float16))(np.ones(2)).dtype
    dtype('float16')
    """
    x = unwrap(x)
    if isinstance(x, np.ndarray | np.generic):
        return partial(_restore_numpy, float_or_none(x.dtype))
    if device_of(x) is not None:
        return restore_on_device(x)
    library = library_of(x)
    dtype = named_dtype(getattr(x, "dtype", None))
    if library in ("tensorflow", "mlx"):
        return partial(_RESTORE[library], dtype, getattr(x, "device", None))
    if library == "torch" or hasattr(x, "__array_namespace__"):
        import array_api_compat

        namespace = array_api_compat.array_namespace(x)
        device = _kept(array_api_compat.device(x))
        return partial(_restore_namespace, namespace.__name__, dtype, device)
    if dtype is None:  # lists, frames: NumPy knows what they become
        dtype = float_or_none(to_numpy(x, "x", integers=True).dtype)
    return partial(_restore_numpy, dtype)


@dataclass(frozen=True)
class _JaxDevice:
    """What a device of JAX, which does not pickle, is found by in another process."""

    platform: str
    id: int

    def found(self) -> Any:
        """Return the device; the first of its platform where there is none of this number."""
        devices = importlib.import_module("jax").devices(self.platform)
        return next((each for each in devices if each.id == self.id), devices[0])


def _kept(device: Any) -> Any:
    """Return a device as something that pickles."""
    if library_of(device) in ("jax", "jaxlib") and hasattr(device, "platform"):
        return _JaxDevice(device.platform, device.id)
    return device


def restore_on_device(x: Any) -> Callable[[Any], Any]:
    """Return `like` of an array on a CUDA device.

    torch and JAX get an array that shares memory with ``a`` where the dtypes agree; their streams
    wait for CuPy's, see `quiplinalg.device_arrays`.  A NumPy ``a`` is uploaded to `x`'s device.
    """
    x = unwrap(x)
    restore = _RESTORE_ON_DEVICE.get(library_of(x), _restore_cupy)
    return partial(restore, named_dtype(getattr(x, "dtype", None)), device_of(x))


def _restore_cupy(dtype: np.dtype | None, device: int | None, a: Any) -> Any:
    cupy = import_cupy()
    with cupy.cuda.Device(device):
        a = cupy.asarray(a)
        return a if dtype is None else a.astype(dtype, copy=False)


def _restore_torch(dtype: np.dtype | None, device: int | None, a: Any) -> Any:
    torch = importlib.import_module("torch")
    tensor = torch.from_dlpack(_contiguous(device, a))
    return tensor if dtype is None else tensor.to(getattr(torch, dtype.name))


def _restore_jax(dtype: np.dtype | None, device: int | None, a: Any) -> Any:
    jnp = importlib.import_module("jax.numpy")
    array = jnp.from_dlpack(_contiguous(device, a))
    return array if dtype is None or array.dtype == dtype else array.astype(dtype)


def _contiguous(device: int | None, a: Any) -> Any:
    cupy = import_cupy()
    with cupy.cuda.Device(device):
        return cupy.ascontiguousarray(cupy.asarray(a))


def _native(a: Any, dtype: np.dtype | None) -> np.ndarray:
    """Return `a` as what every framework takes: `dtype`, native order, C-contiguous, writable."""
    a = to_host(a)
    dtype = (a.dtype if dtype is None else dtype).newbyteorder("=")
    a = a.astype(dtype, order="C", copy=False)
    return a if a.flags.writeable else a.copy()


def _restore_numpy(dtype: np.dtype | None, a: Any) -> np.ndarray:
    a = to_host(a)
    return a if dtype is None else a.astype(dtype, copy=False)


def _restore_namespace(namespace: str, dtype: np.dtype | None, device: Any, a: Any) -> Any:
    xp = importlib.import_module(namespace)  # already imported, but for a pickled result
    a = _native(a, dtype)
    if isinstance(device, _JaxDevice):
        device = device.found()
    if a.dtype.type.__module__ == "ml_dtypes" and namespace.endswith("torch"):
        bits = xp.asarray(a.view(f"u{a.dtype.itemsize}"), device=device)
        return bits.view(getattr(xp, a.dtype.name))
    return xp.asarray(a, device=device)


def _restore_tensorflow(dtype: np.dtype | None, device: Any, a: Any) -> Any:
    tf = importlib.import_module("tensorflow")
    with tf.device(device):
        return tf.convert_to_tensor(_native(a, dtype))


def _restore_mlx(dtype: np.dtype | None, device: Any, a: Any) -> Any:
    mx = importlib.import_module("mlx.core")
    a = _native(a, dtype)
    if a.dtype.name == "bfloat16":
        return mx.array(a.view(np.uint16)).view(mx.bfloat16)
    return mx.array(a)


_RESTORE = {"tensorflow": _restore_tensorflow, "mlx": _restore_mlx}
_RESTORE_ON_DEVICE = {"torch": _restore_torch, "jax": _restore_jax, "jaxlib": _restore_jax}
