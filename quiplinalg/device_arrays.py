"""Arrays on CUDA devices: where they are, and how they get into CuPy and back.

Streams.  Kernels run on CuPy's current stream of the array's device.  `cupy.from_dlpack` passes
that stream to the producer (1 for the legacy default stream), which makes it wait for the
producer's own: torch records an event on its current stream, JAX waits for the buffer.  The way
back is the same with the roles exchanged: `torch.from_dlpack` and `jax.numpy.from_dlpack` pass
their stream, and CuPy makes it wait for its current one.  So nobody has to synchronise, and the
host waits for nothing.  An argument may be overwritten or freed as soon as something that was
computed from it has been given back in this way, or was read on the host.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.errors import BackendMismatchError, BackendUnavailableError, DTypeError
from quiplinalg.foreign import (
    check_dtype,
    host_copy,
    kind_of,
    library_of,
    named_dtype,
    place_of,
    refuse_containers,
    refuse_devices,
    refuse_kinds,
    text_of,
    type_name,
    unwrap,
)

__all__ = [
    "common_device",
    "device_of",
    "import_cupy",
    "on_device_of",
    "to_device",
    "to_host",
]

_INSTALL = 'pip install "quiplinalg[cuda12]", or "quiplinalg[cuda13]" for a driver of CUDA 13'
_JAX = ("jax", "jaxlib")
_NOWHERE = (type(None), bool, int, float, complex, str, np.generic)
# What DLPack carries to CuPy as it is; the names are those of every framework.
_CARRIED = frozenset(
    (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)


def import_cupy() -> Any:
    """Return the module cupy, with at least one device to run on.

    Raises
    ------
    BackendUnavailableError
        CuPy is not installed, or finds no driver or no device.
    """
    try:
        import cupy
    except ImportError as error:
        raise BackendUnavailableError(
            f"The CUDA backend needs CuPy, which cannot be imported ({_one_line(error)}). Install "
            f"it with {_INSTALL}, or pass host arrays and backend='cpu'."
        ) from error
    try:
        count, said = cupy.cuda.runtime.getDeviceCount(), "no device"
    except cupy.cuda.runtime.CUDARuntimeError as error:
        count, said = 0, _one_line(error)
    if count == 0:
        raise BackendUnavailableError(
            f"The CUDA backend needs a CUDA device; CuPy {cupy.__version__} found none ({said}). "
            f"See what nvidia-smi lists, install the CuPy that its driver can run ({_INSTALL}), "
            "or pass host arrays and backend='cpu'."
        )
    return cupy


def _one_line(error: Exception) -> str:
    lines = [line.strip(" =") for line in str(error).splitlines()]
    return next((line for line in lines if line), type(error).__name__)


def device_of(x: Any) -> int | None:
    """Return the number of the CUDA device that holds an array of any framework, or None.

    Nothing is imported, but for an array whose only interface is ``__cuda_array_interface__``:
    it does not say where it is, and CuPy, which will be needed to read it, is asked.
    """
    place = _place(x)
    return place[1] if place is not None and place[0] == "CUDA" else None


def on_device_of(x: Any) -> AbstractContextManager:
    """Return a context that makes the device of a CuPy array the current one; none for others."""
    number = device_of(x)
    return nullcontext() if number is None else import_cupy().cuda.Device(number)


def _place(x: Any) -> tuple[str, int | None] | None:
    """Return what `place_of` does, with the number of every CUDA device."""
    if isinstance(x, np.ndarray):
        return None
    x = unwrap(x)
    place = place_of(x)
    return ("CUDA", _number_of(x)) if place == ("CUDA", None) else place


def _number_of(x: Any) -> int:
    try:
        cupy = import_cupy()
    except BackendUnavailableError:  # said again where the array is read
        return 0
    pointer = int(x.__cuda_array_interface__["data"][0])
    if pointer == 0:  # an empty array is everywhere
        return int(cupy.cuda.runtime.getDevice())
    return int(cupy.cuda.runtime.pointerGetAttributes(pointer).device)


def common_device(**arrays: Any) -> int | None:
    """Return the number of the CUDA device that holds all arrays, or None for the host.

    Parameters
    ----------
    **arrays : array or None
        The arguments of a call by name.  None and plain numbers are nowhere.

    Raises
    ------
    BackendMismatchError
        Some are on a CUDA device and others on the host, or on another device.
    BackendUnavailableError
        An array is on an accelerator, and none on a CUDA device.
    DTypeError
        A list of arrays on a device, or a prepared H.

    Examples
    --------
    >>> common_device(W=np.ones((2, 2)), H=None) is None
    True
    """
    found = {name: x for name, x in arrays.items() if not isinstance(x, _NOWHERE)}
    for name, x in found.items():
        refuse_containers(x, name)
    places = {name: _place(x) for name, x in found.items()}
    if all(place is None for place in places.values()):
        return None
    first = next((n for n, place in places.items() if place and place[0] == "CUDA"), None)
    if first is None:
        name = next(name for name, place in places.items() if place)
        refuse_devices(unwrap(found[name]), name)
    assert first is not None
    stray = next((name for name, place in places.items() if place != places[first]), None)
    if stray is None:
        return device_of(found[first])
    where = ", ".join(f"{n} ({type_name(x)}) on {text_of(places[n])}" for n, x in found.items())
    raise BackendMismatchError(
        f"{' and '.join(found)} must be in one place; got {where}. Nothing is moved between "
        f"devices silently: move one yourself, as in {_move(found, stray, first)}, or pass host "
        f"arrays only, as in {host_copy(unwrap(found[first]), first)}."
    )


def _move(arrays: dict[str, Any], name: str, to: str) -> str:
    """Return the code that moves an array to where another one is."""
    x, target = unwrap(arrays[name]), unwrap(arrays[to])
    number, library, wanted = device_of(target), library_of(x), library_of(target)
    if library == "torch":
        return f"{name}.to({to}.device)" if wanted == "torch" else f"{name}.to('cuda:{number}')"
    if wanted == "torch":
        return f"torch.as_tensor({name}, device={to}.device)"
    if wanted in _JAX:
        return f"jax.device_put({name}, {to}.device)"
    copied = f"{name}.copy()" if library == "cupy" else f"cupy.asarray({name})"
    if number == 0 and library != "cupy":
        return copied
    return f"with cupy.cuda.Device({number}): {name} = {copied}"


def to_device(x: Any, name: str, *, integers: bool = False) -> Any:
    """Return an array of any framework as a CuPy array.

    Parameters
    ----------
    x : array_like
        On a CUDA device it is taken where it is, without a copy, but for bfloat16 and float8,
        which are widened to float32 there.  A host array (see `quiplinalg.arrays.to_numpy`) is
        uploaded to the current device: call this only where the caller asked for the backend.
    name : str
        Name of the argument, for the messages.
    integers : bool
        Take integers and booleans as well.

    Returns
    -------
    cupy.ndarray
        float16, float32, float64 or an integer type, in any strides; not to be written into.

    Raises
    ------
    DTypeError
        As in `to_numpy`, and what no protocol carries: packed 4-bit floats, quantized tensors.
    BackendUnavailableError
        No CuPy, no device, or `x` is on an accelerator that is not CUDA.

    Notes
    -----
    torch refuses to export a tensor of another device than its current one, so that one is set.
    Not every CuPy 14 reads bfloat16 by DLPack, and none float8: their bits pass as integers.
    """
    cupy = import_cupy()
    x = unwrap(x)
    refuse_containers(x, name)
    refuse_kinds(x, name)
    place = _place(x)
    if place is None:
        return _upload(cupy, to_numpy(x, name, integers=integers))
    if place[0] != "CUDA":
        refuse_devices(x, name)
    if getattr(x, "requires_grad", False) is True:
        x = x.detach()
    narrow = _check_element(x, name, integers)
    with cupy.cuda.Device(place[1]):
        try:
            if narrow is not None:
                return _widen(cupy, _import(cupy, _bits(x, narrow), place[1]), narrow)
            a = _import(cupy, x, place[1])
        except (TypeError, ValueError, BufferError, NotImplementedError) as error:
            raise DTypeError(
                f"{name} must be an array of floats; got a {type_name(x)} that CuPy cannot read "
                f"({_one_line(error)}). Pass {name} as a float32 array."
            ) from error
    check_dtype(a.dtype, name, integers)
    return a


def _check_element(x: Any, name: str, integers: bool) -> np.dtype | None:
    """Raise for an element type that CuPy does not take; return bfloat16 or float8."""
    dtype = getattr(x, "dtype", None)
    if dtype is None:  # only DLPack tells
        return None
    text = str(getattr(dtype, "name", None) or str(dtype).rpartition(".")[2])
    if text in _CARRIED:
        check_dtype(np.dtype(text), name, integers)
        return None
    if text == "bfloat16" or text.startswith("float8"):
        narrow = named_dtype(dtype)
        if narrow is not None and library_of(x) in ("cupy", "torch", *_JAX):
            return narrow
    raise DTypeError(
        f"{name} must hold floating-point numbers that CuPy can read; got {name}.dtype={text} in "
        f"a {type_name(x)}. Convert {name} to float32 on its device first."
    )


def _bits(x: Any, dtype: np.dtype) -> Any:
    """Return a view of bfloat16 or float8 as integers, in the library of `x`."""
    if library_of(x) == "torch":
        torch: Any = sys.modules["torch"]
        return x.view(torch.uint8 if dtype.itemsize == 1 else torch.int16)
    return x.view(np.dtype(f"u{dtype.itemsize}"))


def _import(cupy: Any, x: Any, device: int | None) -> Any:
    library = library_of(x)
    if library == "cupy":
        return x
    if not hasattr(x, "__dlpack__"):
        return cupy.asarray(x)  # by __cuda_array_interface__
    cuda = getattr(sys.modules.get("torch"), "cuda", None) if library == "torch" else None
    with nullcontext() if cuda is None else cuda.device(device):
        return cupy.from_dlpack(x)


def _widen(cupy: Any, bits: Any, dtype: np.dtype) -> Any:
    """Return the float32 values of the bits of bfloat16 or float8, exactly."""
    if dtype.name == "bfloat16":
        wide = bits.view(np.uint16).astype(np.uint32)
        wide <<= np.uint32(16)
        return wide.view(np.float32)
    values = np.arange(256, dtype=np.uint8).view(dtype).astype(np.float32)
    return cupy.asarray(values)[bits]


def _upload(cupy: Any, a: np.ndarray) -> Any:
    if a.dtype.type.__module__ == "ml_dtypes":
        if kind_of(a.dtype) == "integer":
            return cupy.asarray(a.astype(np.int8 if "u" not in a.dtype.name else np.uint8))
        if a.dtype.name == "bfloat16" or a.dtype.name.startswith("float8"):
            bits = np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")
            return _widen(cupy, cupy.asarray(bits), a.dtype)
        a = a.astype(np.float32)
    if a.dtype.kind == "f" and a.dtype.itemsize > 8:
        a = a.astype(np.float64)
    return cupy.asarray(a.astype(a.dtype.newbyteorder("="), copy=False))


def to_host(a: Any) -> Any:
    """Return a CuPy array as a NumPy array; anything else as it is."""
    return a.get() if library_of(a) == "cupy" else a
