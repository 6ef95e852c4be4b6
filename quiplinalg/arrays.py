"""Any framework's host array in as NumPy, and the checks every argument gets.

No framework is imported here: an array of a framework brings its module along, so whatever is
needed is already in ``sys.modules``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from quiplinalg.errors import (
    BackendUnavailableError,
    DTypeError,
    InvalidArgumentError,
    NonFiniteError,
)
from quiplinalg.foreign import (
    NARROW_FLOATS,
    check_dtype,
    library_of,
    named_dtype,
    refuse_containers,
    refuse_devices,
    refuse_kinds,
    short,
    unwrap,
)

__all__ = ["as_matrix", "check_finite", "read_only", "to_numpy", "work_dtype"]

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
        array, an ``np.matrix``, a jit tracer, a list of arrays on a device, or something that is
        no array.
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
        x = unwrap(x)
        refuse_containers(x, name)
        refuse_kinds(x, name)
        refuse_devices(x, name)
        x = _read(x, name)
    check_dtype(x.dtype, name, integers)
    return x


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
        f"{name} must be an array of floats; got {name}={short(x)} of type "
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
        return library_of(x) == "mlx"  # MLX exports no buffer for bfloat16: the bits are read
    return True


def _read_bits(x: Any) -> np.ndarray | None:
    """Read a bfloat16 or float8 array through an unsigned view of its bits; None if it is none."""
    dtype = named_dtype(getattr(x, "dtype", None))
    if dtype is None or not dtype.name.startswith(NARROW_FLOATS):
        return None
    module: Any = sys.modules.get("mlx.core" if library_of(x) == "mlx" else library_of(x))
    unsigned: Any = getattr(module, f"uint{8 * dtype.itemsize}", None)
    if unsigned is None:
        return None
    return np.asarray(x.view(unsigned)).view(dtype)


def as_matrix(
    x: Any, name: str, *, square: bool = False, read: Callable[..., Any] = to_numpy
) -> Any:
    """Return an array of any framework as a 2-D array of floats: of NumPy, or as ``read`` does.

    Parameters
    ----------
    x : array_like, (m, n)
        See `to_numpy`.
    name : str
        Name of the argument, for the messages.
    square : bool
        Ask for m = n.
    read : callable, (x, name) -> array
        Of the backend that works on it.

    Returns
    -------
    array, (m, n)
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
    a = read(x, name)
    if square and (a.ndim != 2 or a.shape[0] != a.shape[1]):
        fix = "Pass the second moments of the inputs, X.T @ X / len(X), not the inputs X."
        if a.ndim == 3 and a.shape[1] == a.shape[2]:
            fix = (
                f"This function takes one {name}: pass its members, {name}[i], one at a time. ldlq "
                "and gptq take stacks of H, (b, n, n), as they are."
            )
        raise InvalidArgumentError(
            f"{name} must be a square matrix (n, n), a row and a column for each input of the "
            f"layer; got {name}.shape={a.shape}. {fix}"
        )
    if a.ndim != 2:
        flatten = f"latten the trailing axes first: {name}.reshape(len({name}), -1)."
        fix = f"Pass {name}.reshape(1, -1) for a single row."
        if a.ndim == 3 and name.lower().startswith("w"):
            fix = (
                "ldlq and gptq take stacks (b, m, n); here pass one member at a time, "
                f"{name}[i], or for convolutions f{flatten}"
            )
        elif a.ndim > 2:
            fix = f"F{flatten}"
        raise InvalidArgumentError(
            f"{name} must be a matrix (rows, columns), for weights (out, in); got "
            f"{name}.shape={a.shape}. {fix}"
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


def read_only(a: np.ndarray) -> np.ndarray:
    """Return a view that cannot be written: kernels are compiled for one kind of array only."""
    view = a.view()
    view.flags.writeable = False
    return view


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
    if not isinstance(a, np.ndarray):  # on a device, where NumPy's functions are its library's
        bad = ~np.isfinite(a)
        if bool(bad.any()):
            index = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), a.shape))
            raise NonFiniteError(name, index, int(bad.sum()))
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
