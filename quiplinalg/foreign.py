"""Arrays of other libraries: what they are, where they live, and what is none.

No framework is imported here: an array of a framework brings its module along, so whatever is
needed is already in ``sys.modules``.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import BackendUnavailableError, DTypeError

__all__ = [
    "NARROW_FLOATS",
    "ON_DEVICE",
    "check_dtype",
    "float_or_none",
    "host_copy",
    "kind_of",
    "library_of",
    "named_dtype",
    "place_of",
    "refuse_containers",
    "refuse_devices",
    "refuse_kinds",
    "short",
    "text_of",
    "type_name",
    "unwrap",
]

# DLPack device types whose memory the host can read: CPU, CUDA pinned, ROCm pinned.
_HOST_DEVICES = frozenset({1, 3, 11})
_DEVICE_NAMES = {2: "CUDA", 4: "OpenCL", 7: "Vulkan", 8: "Metal", 10: "ROCm", 13: "CUDA"}
# Some of the functions that take arrays on a CUDA device, for a message.
ON_DEVICE = "ldlq, gptq, nearest, prepare, descend, obq, lnq, pack and others"
_STACKS = {
    "cupy": "cupy.stack",
    "jax": "jax.numpy.stack",
    "jaxlib": "jax.numpy.stack",
    "tensorflow": "tensorflow.stack",
    "torch": "torch.stack",
}
# Floats narrower than float16 that np.asarray may refuse; the names are those of ml_dtypes.
NARROW_FLOATS = ("bfloat16", "float8", "float6", "float4")


def library_of(x: Any) -> str:
    """Return the top-level package that defines the type of `x` ("torch", "mlx", ...)."""
    names = [cls.__module__.partition(".")[0] for cls in type(x).__mro__]
    return next((n for n in ("torch", "tensorflow", "mlx") if n in names), names[0])


def unwrap(x: Any) -> Any:
    """Return the backend's tensor inside a Keras variable; anything else as it is."""
    if type(x).__module__.partition(".")[0] == "keras":
        value = getattr(x, "value", None)
        return x if value is None or callable(value) else value
    return x


def refuse_kinds(x: Any, name: str) -> None:
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
    negative = getattr(x, "is_neg", None)
    if "torch" in (cls.__module__ for cls in kind.__mro__) and callable(negative) and negative():
        raise DTypeError(
            f"{name} must hold its own values; got a {kind.__module__}.{kind.__name__} with the "
            f"negative bit set, whose memory has the opposite sign. Pass {name}.resolve_neg()."
        )


def refuse_containers(x: Any, name: str) -> None:
    """Raise for what holds an array, or arrays that NumPy should not join.

    Those are a prepared H, and nested lists that hold one, arrays of a device, or what
    `refuse_kinds` refuses.  Of lists of lists the first is looked at: numbers are many.
    """
    if isinstance(x, list | tuple):
        _refuse_elements(x, name)
    elif _is_factored(x):
        fix = f"Pass {name}.hessian, the array" if hasattr(x, "hessian") else "Pass the array"
        raise DTypeError(
            f"{name} must be an array; got a {type(x).__name__}, which only ldlq, gptq and lnq "
            f"take. {fix} that it was made of."
        )


def _refuse_elements(x: list | tuple, name: str) -> None:
    row = x
    while row and isinstance(row[0], list | tuple):
        row = row[0]
    if not row or isinstance(row[0], int | float | complex | str | np.generic):
        return
    for each in map(unwrap, row):
        if isinstance(each, np.ndarray) and type(each) is np.ndarray:
            continue
        if _is_factored(each):
            raise DTypeError(
                f"{name} must be one array; got a list of {type(each).__name__}. Pass a stack of "
                f"the arrays that they were made of, [each.hessian for each in {name}]."
            )
        refuse_kinds(each, f"an element of {name}")
        place = place_of(each)
        if place is not None:
            stack = _STACKS.get(library_of(each), "your library's stack")
            raise DTypeError(
                f"{name} must be one array; got a {type(x).__name__} of {type_name(each)} on "
                f"{text_of(place)}. Nothing is moved between devices silently: stack them on the "
                f"device first, {stack}({name}), or copy each to the host yourself, with "
                f"{host_copy(each, 'each')}."
            )


def _is_factored(x: Any) -> bool:
    return any(cls.__name__ == "FactoredHessian" for cls in type(x).__mro__)


def refuse_devices(x: Any, name: str) -> None:
    """Raise if the memory of `x` is not the host's."""
    place = place_of(x)
    if place is None:
        return
    there = (
        f"on a CUDA device run {ON_DEVICE}, but not this function"
        if place[0] == "CUDA"
        else "no function takes an array that is there, only those of one CUDA device"
    )
    raise BackendUnavailableError(
        f"{name} must be in host memory; got a {type_name(x)} on {text_of(place)}. "
        f"Nothing is moved between devices silently, and {there}: "
        f"copy it yourself, with {host_copy(x, name)}."
    )


def host_copy(x: Any, name: str) -> str:
    """Return the code that copies a device array of `x`'s library to the host."""
    return {
        "torch": f"{name}.detach().cpu()",
        "cupy": f"cupy.asnumpy({name})",
        "numba": f"{name}.copy_to_host()",
        "jax": f"jax.device_get({name})",
        "jaxlib": f"jax.device_get({name})",
        "tensorflow": f"{name}.numpy()",
    }.get(library_of(x), f"{name}.cpu() or your library's own call")


def type_name(x: Any) -> str:
    return f"{type(x).__module__}.{type(x).__name__}"


def text_of(place: tuple[str, int | None] | None) -> str:
    """Return "CUDA device 0", "tpu", "the host" for what `place_of` returned."""
    if place is None:
        return "the host"
    return place[0] if place[1] is None else f"{place[0]} device {place[1]}"


def place_of(x: Any) -> tuple[str, int | None] | None:
    """Return the kind and number of the accelerator that holds `x`; None for the host.

    The kind is "CUDA", managed memory included, another name of DLPack's, or a platform as the
    framework spells it.  The number is None where the array does not tell.
    """
    if isinstance(x, np.ndarray):
        return None
    if library_of(x) == "cupy" and hasattr(x, "device"):  # DLPack's answer takes a driver call
        return "CUDA", int(x.device.id)
    if hasattr(x, "__dlpack_device__"):
        try:
            kind, number = (int(v) for v in x.__dlpack_device__())
        except Exception:  # sharded or exotic arrays: ask for the platforms below
            pass
        else:
            # MLX memory is unified: the host reads it in place although it says Metal.
            if kind in _HOST_DEVICES or library_of(x) == "mlx":
                return _text_device(x)
            return _DEVICE_NAMES.get(kind, f"DLPack type {kind}"), number
    elif hasattr(x, "__cuda_array_interface__"):
        return "CUDA", None
    devices = getattr(x, "devices", None)
    if callable(devices):  # JAX: a set of devices, each with its platform
        try:
            found = [p for d in devices() if (p := getattr(d, "platform", "cpu")) != "cpu"]
        except Exception:
            found = []
        platforms = ", ".join(sorted(set(found)))
        if len(found) > 1:
            return f"{len(found)} {platforms} devices, in shards", None
        return (platforms, None) if found else None
    device = getattr(x, "device", None)
    platform, index = getattr(device, "type", "cpu"), getattr(device, "index", None)
    if isinstance(platform, str) and platform not in ("cpu", "meta"):
        return ("CUDA", index or 0) if platform == "cuda" else (platform, index)
    return _text_device(x)


def _text_device(x: Any) -> tuple[str, None] | None:
    """Return a TensorFlow device string that names an accelerator, or None."""
    device = getattr(x, "device", "")
    named = isinstance(device, str) and ("GPU" in device or "TPU" in device)
    return (device, None) if named else None


def named_dtype(dtype: Any) -> np.dtype | None:
    """Return the NumPy or ml_dtypes float dtype of a framework's dtype, by name; else None."""
    if dtype is None or isinstance(dtype, np.dtype):
        return None if dtype is None else float_or_none(dtype)
    text = str(getattr(dtype, "name", None) or str(dtype).rpartition(".")[2])
    if text.startswith(NARROW_FLOATS):
        import ml_dtypes

        kind = getattr(ml_dtypes, text, None)
        return None if kind is None else np.dtype(kind)
    return np.dtype(text) if text in ("float16", "float32", "float64") else None


def kind_of(dtype: np.dtype) -> str:
    """Return "float", "integer" or "" for the dtypes of NumPy and ml_dtypes."""
    if dtype.type.__module__ == "ml_dtypes":
        return "integer" if "int" in dtype.name else "float" if "complex" not in dtype.name else ""
    return {"f": "float", "i": "integer", "u": "integer", "b": "integer"}.get(dtype.kind, "")


def float_or_none(dtype: np.dtype) -> np.dtype | None:
    return dtype if kind_of(dtype) == "float" else None


def check_dtype(dtype: np.dtype, name: str, integers: bool) -> None:
    kind = kind_of(dtype)
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


def short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 40 else text[:37] + "..."
