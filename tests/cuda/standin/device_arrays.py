"""cupy.ndarray in host memory: what CuPy allows, and no more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from .devices import Device, Memory, memory_of

__all__ = ["allocate", "check_kind", "ndarray", "unwrap", "wrap"]


def allocate(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
    """Return an array of garbage: NaN, or 0xA5 in every byte of what is no float."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int | np.integer) else tuple(int(n) for n in shape)
    if dtype.kind not in "biufc" or not dtype.isnative:
        raise ValueError(f"Unsupported dtype {dtype}")
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    memory = Memory(size, Device().id)
    a = np.ndarray(shape, dtype, memory.owner, memory.start, order=order)
    memory.owner[memory.start : memory.start + size] = 0xFF if dtype.kind in "fc" else 0xA5
    if dtype.kind == "b":
        a[...] = True
    return ndarray(a, memory)


def wrap(a: Any) -> Any:
    """Return NumPy's result as a device array: a view where it is one, else a copy."""
    if isinstance(a, tuple | list):
        return type(a)(wrap(x) for x in a) if type(a) in (tuple, list) else tuple(map(wrap, a))
    if not isinstance(a, np.ndarray | np.generic):
        return a
    memory = memory_of(a)
    if memory is not None:
        return ndarray(a, memory)
    a = np.asarray(a)
    fortran = a.flags.f_contiguous and not a.flags.c_contiguous
    out = allocate(a.shape, a.dtype, "F" if fortran else "C")
    out._a[...] = a
    return out


def unwrap(x: Any, check: bool = True) -> Any:
    """Return what NumPy computes with; arrays of the host are refused."""
    if isinstance(x, ndarray):
        if check:
            x.check_device()
        return x._a
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    if type(x) in (tuple, list):
        return type(x)(unwrap(v, check) for v in x)
    return x


def check_kind(kwargs: dict[str, Any]) -> None:
    """Raise for what CuPy does not sort by."""
    if kwargs.get("kind") not in (None, "stable"):
        raise ValueError("kind can only be None or 'stable'")


def _index(key: Any) -> Any:
    """CuPy takes index arrays of the host as well, and copies them."""
    if isinstance(key, tuple):
        return tuple(map(_index, key))
    return key if isinstance(key, np.ndarray | list) else unwrap(key, check=False)


class ndarray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array whose memory the host must not see, although it could."""

    __module__ = "cupy"
    __array_priority__ = 100

    def __init__(self, a: np.ndarray, memory: Memory) -> None:
        self._a = a
        self._memory = memory

    # -- what the stand-in asks --

    def check_device(self) -> None:
        current = Device().id
        if self._memory.device != current:
            raise ValueError(
                f"Array device must be same as the current device: array device = "
                f"{self._memory.device} while current = {current}"
            )

    def written_outside(self) -> str:
        return self._memory.written_outside()

    # -- attributes --

    shape = property(lambda self: self._a.shape)
    strides = property(lambda self: self._a.strides)
    dtype = property(lambda self: self._a.dtype)
    ndim = property(lambda self: self._a.ndim)
    size = property(lambda self: self._a.size)
    nbytes = property(lambda self: self._a.nbytes)
    itemsize = property(lambda self: self._a.itemsize)
    T = property(lambda self: wrap(self._a.T))
    mT = property(lambda self: wrap(self._a.mT))
    flags = property(lambda self: self._a.flags)
    device = property(lambda self: Device(self._memory.device))

    @property
    def data(self) -> SimpleNamespace:
        ptr = self._a.ctypes.data if self._a.size else 0
        return SimpleNamespace(
            ptr=ptr, device_id=self._memory.device, device=self.device, mem=self._memory
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "strides": None if self._a.flags.c_contiguous else self.strides,
            "data": (self.data.ptr, False),
            "stream": 1,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self._memory.device

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: Any = None,
        dl_device: Any = None,
        copy: Any = None,
    ) -> ndarray:
        if dl_device is not None and tuple(dl_device) != self.__dlpack_device__():
            raise BufferError("the stand-in does not move arrays")
        return self  # in place of a capsule: only the stand-in's from_dlpack reads it

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        raise TypeError(f"numpy.{func.__name__} of device arrays: call cupy.{func.__name__}")

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        out = kwargs.pop("out", None)
        out = out[0] if isinstance(out, tuple) else out
        if isinstance(out, np.ndarray):
            raise TypeError("return arrays must be of ArrayType")
        values = [unwrap(x) for x in inputs]
        with np.errstate(all="ignore"):
            if out is None:
                return wrap(ufunc(*values, **{k: unwrap(v) for k, v in kwargs.items()}))
            ufunc(*values, out=unwrap(out), **{k: unwrap(v) for k, v in kwargs.items()})
        return out

    def __imatmul__(self, other: Any) -> Any:
        return NotImplemented  # CuPy has none: a new array is bound to the name

    # -- to the host --

    def get(self, stream: Any = None, order: str = "C", out: Any = None, blocking: bool = True):
        if out is None:
            return np.array(self._a, order=order)
        if not isinstance(out, np.ndarray):
            raise TypeError("Only numpy.ndarray can be obtained from cupy.ndarray")
        if out.shape != self.shape or out.dtype != self.dtype:
            raise ValueError("Shape or dtype mismatch")
        out[...] = self._a
        return out

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype or arr.shape != self.shape:
            raise ValueError("Shape or dtype mismatch")
        self._a[...] = arr

    def item(self, *args: Any) -> Any:
        return self._a.item(*args)

    def tolist(self) -> Any:
        return self._a.tolist()

    def _number(self) -> Any:
        if self.ndim:  # CuPy asks NumPy, which from 2.4 on says this
            raise TypeError("only 0-dimensional arrays can be converted to Python scalars")
        return self._a.item()

    def __float__(self) -> float:
        return float(self._number())

    def __int__(self) -> int:
        return int(self._number())

    def __bool__(self) -> bool:
        return bool(self._a)

    def __len__(self) -> int:
        return len(self._a)

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return repr(self._a)

    def __format__(self, form: str) -> str:
        return format(self._a, form)

    def __reduce__(self) -> Any:
        raise TypeError("the stand-in pickles no arrays")

    __hash__ = None  # type: ignore[assignment]

    # -- indexing --

    def __getitem__(self, key: Any) -> Any:
        key = _index(key)
        found = self._a[key]
        if isinstance(found, np.generic):  # a view without axes, no scalar
            found = self._a[(*(key if isinstance(key, tuple) else (key,)), Ellipsis)]
        return wrap(found)

    def __setitem__(self, key: Any, value: Any) -> None:
        self.check_device()
        if isinstance(value, np.ndarray) and value.ndim:
            raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
        with np.errstate(all="ignore"):
            self._a[_index(key)] = value if isinstance(value, np.ndarray) else unwrap(value)

    # -- methods --

    def copy(self, order: str = "C") -> ndarray:
        return wrap(np.array(self._a, order=order))  # on the current device, from any

    def view(self, dtype: Any = None) -> ndarray:
        return wrap(self._a.view() if dtype is None else self._a.view(dtype))

    def astype(self, dtype: Any, order: str = "K", copy: bool = True) -> ndarray:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        self.check_device()
        with np.errstate(all="ignore"):
            return wrap(self._a.astype(dtype, order=order))

    def __getattr__(self, name: str) -> Any:
        if name not in _METHODS:
            raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")
        method = getattr(self._a, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name not in _VIEWS:
                self.check_device()
            if name in ("argsort", "sort"):
                check_kind(kwargs)
            if isinstance(kwargs.get("out"), ndarray):
                method(*unwrap(args), **{k: unwrap(v) for k, v in kwargs.items()})
                return kwargs["out"]
            with np.errstate(all="ignore"):
                found = method(*unwrap(args), **{k: unwrap(v) for k, v in kwargs.items()})
            return wrap(found)

        return call


_VIEWS = frozenset("diagonal ravel reshape squeeze swapaxes transpose".split())
_METHODS = _VIEWS | frozenset(
    "all any argmax argmin argsort clip conj cumsum dot fill flatten max mean min nonzero "
    "prod repeat round sort std sum take trace var".split()
)
