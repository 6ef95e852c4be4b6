"""Any framework's host array in as NumPy, the same kind out, and the checks every argument gets.

No framework is imported here: an array of a framework brings its module along, so whatever is
needed is already in ``sys.modules``.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from quiplinalg.errors import (
    BackendUnavailableError,
    DTypeError,
    InvalidArgumentError,
    NonFiniteError,
)

__all__ = ["as_matrix", "check_finite", "like", "to_numpy", "work_dtype"]

# DLPack device types whose memory the host can read: CPU, CUDA pinned, ROCm pinned.
_HOST_DEVICES = frozenset({1, 3, 11})
_DEVICE_NAMES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 13: "CUDA managed"}
# Floats narrower than float16 that np.asarray may refuse; the names are those of ml_dtypes.
_NARROW_FLOATS = ("bfloat16", "float8", "float6", "float4")
_CHUNK = 1 << 18


def to_numpy(x: Any, name: str, *, integers: bool = False) -> np.ndarray:
    """Return a host array of any framework as a NumPy array, without a copy where possible.

    Parameters
    ----------
    x : array_like
        NumPy, PyTorch (``requires_grad`` too), JAX, MLX, TensorFlow, Keras variables,
        array-api-strict, pandas frames of floats, anything with ``__array__``, the buffer
        protocol or ``__dlpack__``, and nested lists of floats.
    name : str
        Name of the argument, for the messages.
    integers : bool
        Take integers and booleans as well.

    Returns
    -------
    ndarray
        In the dtype, byte order and strides of `x`; bfloat16 and float8 come back as `ml_dtypes`
        arrays.  It may be a read-only or a writable alias of the caller's memory: never write
        into it.

    Raises
    ------
    DTypeError
        Complex, object, text, or (without `integers`) integer data; a masked array, a sparse
        array, an ``np.matrix``, a jit tracer, or something that is no array.
    InvalidArgumentError
        Nested lists whose rows differ in length.
    BackendUnavailableError
        `x` lives on an accelerator: nothing is moved to the host silently.

    Examples
    --------
    >>> to_numpy([[1.0, 2.0]], "W")
    array([[1., 2.]])
    """
    if type(x) is not np.ndarray:
        x = _unwrap(x)
        _refuse_kinds(x, name)
        _refuse_devices(x, name)
        x = _read(x, name)
    _check_dtype(x.dtype, name, integers)
    return x


def as_matrix(x: Any, name: str, *, square: bool = False) -> np.ndarray:
    """Return a host array of any framework as a 2-D NumPy array of floats.

    Parameters
    ----------
    x : array_like, (m, n)
        See `to_numpy`.
    name : str
        Name of the argument, for the messages.
    square : bool
        Ask for m = n.

    Returns
    -------
    ndarray, (m, n)
        May share memory with `x`.

    Raises
    ------
    InvalidArgumentError
        `x` is not 2-D, or not square where that was asked for.
    DTypeError, BackendUnavailableError
        As in `to_numpy`.

    Examples
    --------
    >>> as_matrix([[2.0, 1.0], [1.0, 2.0]], "H", square=True).shape
    (2, 2)
    """
    a = to_numpy(x, name)
    if square and (a.ndim != 2 or a.shape[0] != a.shape[1]):
        raise InvalidArgumentError(
            f"{name} must be a square matrix (n, n), a row and a column for each input of the "
            f"layer; got {name}.shape={a.shape}. Pass the second moments of the inputs, "
            "X.T @ X / len(X), not the inputs X."
        )
    if a.ndim != 2:
        raise InvalidArgumentError(
            f"{name} must be a matrix (rows, columns), for weights (out, in); got "
            f"{name}.shape={a.shape}. "
            + (
                f"Flatten the trailing axes first: {name}.reshape(len({name}), -1)."
                if a.ndim > 2
                else f"Pass {name}.reshape(1, -1) for a single row."
            )
        )
    return a


def work_dtype(*arrays: np.ndarray) -> np.dtype:
    """Return the float dtype to work in: float64 if the first array is at least that, else float32.

    Parameters
    ----------
    *arrays : ndarray
        The first one decides (the weights); the others are ignored.

    Returns
    -------
    dtype
        float64 for float64 and longdouble in any byte order; float32 for everything else.

    Examples
    --------
    >>> work_dtype(np.zeros(2, np.float16), np.zeros(2))
    dtype('float32')
    """
    dtype = arrays[0].dtype
    return np.dtype(np.float64 if dtype.kind == "f" and dtype.itemsize >= 8 else np.float32)


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
    x = _unwrap(x)
    if isinstance(x, np.ndarray | np.generic):
        return partial(_restore_numpy, _float_or_none(x.dtype))
    library = _library(x)
    dtype = _named_dtype(getattr(x, "dtype", None))
    if library in ("tensorflow", "mlx"):
        return partial(_RESTORE[library], dtype, getattr(x, "device", None))
    if library == "torch" or hasattr(x, "__array_namespace__"):
        import array_api_compat

        namespace = array_api_compat.array_namespace(x)
        device = array_api_compat.device(x)
        return partial(_restore_namespace, namespace.__name__, dtype, device)
    if dtype is None:  # lists, frames: NumPy knows what they become
        dtype = _float_or_none(to_numpy(x, "x", integers=True).dtype)
    return partial(_restore_numpy, dtype)


def check_finite(a: np.ndarray, name: str) -> None:
    """Raise if an array holds NaN or infinity.

    Parameters
    ----------
    a : ndarray
        Any shape, strides and dtype; integers pass at once.
    name : str
        Name of the argument, for the message.

    Raises
    ------
    NonFiniteError
        With the first bad index in row-major order and the number of bad elements.

    Notes
    -----
    Reads `a` once, in pieces that fit a core's cache; no temporary has the size of `a`.

    Examples
    --------
    >>> check_finite(np.eye(3), "H")
    """
    if a.dtype.kind in "iub":
        return
    # The order of the pieces is that of memory here, and that of the indices once one is bad.
    memory = a.T if a.flags.f_contiguous else a
    if all(np.isfinite(piece).all() for _, piece in _pieces(memory)):
        return
    count, first = 0, -1
    for start, piece in _pieces(a):
        bad = np.flatnonzero(~np.isfinite(piece))
        if bad.size and first < 0:
            first = start + int(bad[0])
        count += bad.size
    index = tuple(int(i) for i in np.unravel_index(first, a.shape))
    raise NonFiniteError(name, index, count)


def _pieces(a: np.ndarray, start: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (row-major flat offset, view) over all of `a`, in views of few elements."""
    if a.flags.c_contiguous:
        flat = a.reshape(-1)
        for k in range(0, a.size, _CHUNK):
            yield start + k, flat[k : k + _CHUNK]
    elif a.size <= _CHUNK:
        yield start, a
    else:
        row = a.size // a.shape[0]
        step = max(1, _CHUNK // row)
        for i in range(0, a.shape[0], step):
            if row > _CHUNK and a.ndim > 1:
                yield from _pieces(a[i], start + i * row)
            else:
                yield start + i * row, a[i : i + step]


def _library(x: Any) -> str:
    """Return the top-level package that defines the type of `x` ("torch", "mlx", ...)."""
    names = [cls.__module__.partition(".")[0] for cls in type(x).__mro__]
    return next((n for n in ("torch", "tensorflow", "mlx") if n in names), names[0])


def _unwrap(x: Any) -> Any:
    """Return the backend's tensor inside a Keras variable; anything else as it is."""
    if type(x).__module__.partition(".")[0] == "keras":
        value = getattr(x, "value", None)
        return x if value is None or callable(value) else value
    return x


def _refuse_kinds(x: Any, name: str) -> None:
    """Raise for what looks like an array and is none: tracers, masks, sparse storage."""
    if isinstance(x, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} must be a plain array; got a masked array, and a mask has no meaning for a "
            f"weight or a Hessian. Fill it ({name}.filled(0)) or drop the masked samples first."
        )
    if isinstance(x, np.matrix):
        raise DTypeError(
            f"{name} must be a plain array; got an np.matrix, whose * is a matrix product. "
            f"Pass np.asarray({name})."
        )
    if isinstance(x, np.ndarray):
        return
    kind = type(x)
    names = [cls.__name__ for cls in kind.__mro__]
    if any(n.endswith("Tracer") for n in names):
        raise DTypeError(
            f"{name} must hold numbers; got a {kind.__name__}, which stands for an array while a "
            "function is being traced. Call this function outside jit, vmap and grad, or wrap it "
            "in jax.pure_callback."
        )
    if (
        any(n in ("FakeTensor", "KerasTensor", "SymbolicTensor") for n in names)
        or getattr(getattr(x, "device", None), "type", None) == "meta"
    ):
        raise DTypeError(
            f"{name} must hold numbers; got a {kind.__name__} without data (a symbolic or meta "
            "tensor). Load the weights first, and call this function outside tracing."
        )
    layout = str(getattr(x, "layout", ""))
    if (
        "sparse" in layout
        or "SparseTensor" in names
        or (not hasattr(x, "__array__") and (hasattr(x, "todense") or hasattr(x, "tocsr")))
    ):
        fix = (
            "to_dense" if "sparse" in layout else "toarray" if hasattr(x, "toarray") else "todense"
        )
        raise DTypeError(
            f"{name} must be a dense array; got a sparse {kind.__module__}.{kind.__name__}. "
            f"Pass {name}.{fix}()."
        )


def _refuse_devices(x: Any, name: str) -> None:
    """Raise if the memory of `x` is not the host's."""
    where = _device_of(x)
    if where:
        library = _library(x)
        copy = {
            "torch": f"{name}.detach().cpu()",
            "cupy": f"cupy.asnumpy({name})",
            "numba": f"{name}.copy_to_host()",
            "jax": f"jax.device_get({name})",
            "jaxlib": f"jax.device_get({name})",
            "tensorflow": f"{name}.numpy()",
        }.get(library, f"{name}.cpu() or your library's own call")
        raise BackendUnavailableError(
            f"{name} must be in host memory; got a {type(x).__module__}.{type(x).__name__} on "
            f"{where}. Nothing is moved between devices silently, and no backend for that device "
            f"is available yet (a CuPy one is to come as the extras cuda12 and cuda13): "
            f"copy it yourself, with {copy}."
        )


def _device_of(x: Any) -> str:
    """Return the name of the accelerator that holds `x`, or "" for the host."""
    if isinstance(x, np.ndarray):
        return ""
    if hasattr(x, "__dlpack_device__"):
        try:
            kind, number = (int(v) for v in x.__dlpack_device__())
        except Exception:  # sharded or exotic arrays: ask for the platforms below
            pass
        else:
            # MLX memory is unified: the host reads it in place although it says Metal.
            if kind in _HOST_DEVICES or _library(x) == "mlx":
                return _text_device(x)
            return f"{_DEVICE_NAMES.get(kind, f'DLPack type {kind}')} device {number}"
    elif hasattr(x, "__cuda_array_interface__"):
        return "CUDA"
    devices = getattr(x, "devices", None)
    if callable(devices):  # JAX: a set of devices, each with its platform
        try:
            platforms = {getattr(d, "platform", "cpu") for d in devices()}
        except Exception:
            platforms = set()
        return ", ".join(sorted(platforms - {"cpu"}))
    place = getattr(getattr(x, "device", None), "type", "cpu")
    return place if isinstance(place, str) and place not in ("cpu", "meta") else _text_device(x)


def _text_device(x: Any) -> str:
    """Return a TensorFlow device string that names an accelerator, or ""."""
    device = getattr(x, "device", "")
    return device if isinstance(device, str) and ("GPU" in device or "TPU" in device) else ""


def _read(x: Any, name: str) -> np.ndarray:
    """Read host memory: detach, np.asarray, the bits of narrow floats, or DLPack."""
    if getattr(x, "requires_grad", False) is True:
        x = x.detach()
    try:
        if _numpy_reads(x):
            return np.asarray(x)
        if hasattr(x, "__dlpack__"):
            return np.from_dlpack(x)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        bits = _read_bits(x)
        if bits is not None:
            return bits
        if isinstance(x, list | tuple) and "inhomogeneous" in str(error):
            raise InvalidArgumentError(
                f"{name} must be rectangular; got nested lists whose rows differ in length. "
                "Give every row the same number of values."
            ) from None
        if "device" in str(error):
            raise BackendUnavailableError(
                f"{name} must be in host memory; {type(x).__module__}.{type(x).__name__} says: "
                f"{error} Nothing is moved between devices silently: copy it to the CPU yourself."
            ) from error
        raise DTypeError(
            f"{name} must be an array of floats; got a {type(x).__module__}.{type(x).__name__} "
            f"that NumPy cannot read ({error}). Pass {name} as a float32 array."
        ) from error
    raise DTypeError(
        f"{name} must be an array of floats; got {name}={_short(x)} of type "
        f"{type(x).__name__}. Pass an array with __array__, __dlpack__ or the buffer protocol, "
        "or nested lists of floats."
    )


def _numpy_reads(x: Any) -> bool:
    """Tell whether np.asarray reads `x` by a protocol instead of wrapping it as an object."""
    if isinstance(x, list | tuple | int | float | complex | np.generic):
        return True
    if isinstance(x, str | bytes) or x is None:
        return False
    if any(hasattr(x, p) for p in ("__array__", "__array_interface__", "__array_struct__")):
        return True
    try:
        memoryview(x).release()
    except (TypeError, ValueError, BufferError):
        return _library(x) == "mlx"  # MLX exports no buffer for bfloat16: the bits are read
    return True


def _read_bits(x: Any) -> np.ndarray | None:
    """Read a bfloat16 or float8 array through an unsigned view of its bits; None if it is none."""
    dtype = _named_dtype(getattr(x, "dtype", None))
    if dtype is None or not dtype.name.startswith(_NARROW_FLOATS):
        return None
    module: Any = sys.modules.get("mlx.core" if _library(x) == "mlx" else _library(x))
    unsigned: Any = getattr(module, f"uint{8 * dtype.itemsize}", None)
    if unsigned is None:
        return None
    return np.asarray(x.view(unsigned)).view(dtype)


def _named_dtype(dtype: Any) -> np.dtype | None:
    """Return the NumPy or ml_dtypes float dtype of a framework's dtype, by name; else None."""
    if dtype is None or isinstance(dtype, np.dtype):
        return None if dtype is None else _float_or_none(dtype)
    text = str(getattr(dtype, "name", None) or str(dtype).rpartition(".")[2])
    if text.startswith(_NARROW_FLOATS):
        import ml_dtypes

        kind = getattr(ml_dtypes, text, None)
        return None if kind is None else np.dtype(kind)
    return np.dtype(text) if text in ("float16", "float32", "float64") else None


def _kind(dtype: np.dtype) -> str:
    """Return "float", "integer" or "" for the dtypes of NumPy and ml_dtypes."""
    if dtype.type.__module__ == "ml_dtypes":
        return "integer" if "int" in dtype.name else "float" if "complex" not in dtype.name else ""
    return {"f": "float", "i": "integer", "u": "integer", "b": "integer"}.get(dtype.kind, "")


def _float_or_none(dtype: np.dtype) -> np.dtype | None:
    return dtype if _kind(dtype) == "float" else None


def _check_dtype(dtype: np.dtype, name: str, integers: bool) -> None:
    kind = _kind(dtype)
    if kind == "float" or (kind == "integer" and integers):
        return
    fix = {
        "c": f"Pass {name}.real if the imaginary part is zero; complex layers are not supported.",
        "O": f"Some element is no number; build {name} with dtype=float.",
        "U": f"Convert the text yourself: {name}.astype(float).",
        "S": f"Convert the text yourself: {name}.astype(float).",
    }.get(dtype.kind, f"Pass {name} as float32 or float64.")
    if kind == "integer":
        fix = (
            f"Pass {name}.astype(numpy.float32) if these are the values, or dequantize first if "
            "they are codes."
        )
    wanted = "real numbers" if integers else "floating-point numbers"
    raise DTypeError(f"{name} must hold {wanted}; got {name}.dtype={dtype}. {fix}")


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 40 else text[:37] + "..."


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
