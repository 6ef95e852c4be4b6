"""A module that stands in for cupy: arrays in host memory, kernels by g++, two devices."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from . import libraries
from .device_arrays import allocate, check_kind, ndarray, unwrap, wrap
from .devices import Device, pool
from .fake_cuda import Stream, build_cuda, module
from .raw_module import RawModule

__all__ = ["build", "installed"]

# Functions that NumPy and CuPy have with the same meaning.
FUNCTIONS = """
abs add allclose all amax amin any argmax argmin argsort array_equal atleast_2d bincount
bitwise_and bitwise_or bitwise_xor broadcast_arrays broadcast_to cbrt ceil clip concatenate
copysign copyto cos count_nonzero cumsum cumprod diag diagonal divide dot einsum equal exp exp2
expand_dims fill_diagonal flatnonzero flip floor floor_divide fmax fmin greater greater_equal
hypot interp invert isclose isfinite isinf isnan ldexp left_shift less less_equal log log2
log10 logical_and logical_not logical_or matmul max maximum mean median min minimum moveaxis
multiply nan_to_num negative nextafter nonzero not_equal outer pad partition percentile power prod
ptp put_along_axis quantile ravel reciprocal remainder repeat reshape result_type right_shift rint
roll round searchsorted sign signbit sin sort split sqrt square squeeze stack std subtract sum
swapaxes take take_along_axis tensordot tile trace transpose tril triu true_divide trunc unique
vstack hstack where var
""".split()
TYPES = """
bool_ int8 int16 int32 int64 uint8 uint16 uint32 uint64 intp uintp float16 float32 float64
complex64 complex128 dtype newaxis pi inf nan e finfo iinfo can_cast promote_types integer
floating number generic signedinteger unsignedinteger
""".split()


def _function(f: Any) -> Any:
    def call(*args: Any, **kwargs: Any) -> Any:
        out = kwargs.get("out")
        if f in (np.argsort, np.sort):
            check_kind(kwargs)
        with np.errstate(all="ignore"):
            found = f(*(unwrap(a) for a in args), **{k: unwrap(v) for k, v in kwargs.items()})
        if isinstance(found, bool | int | float):  # where NumPy gives a number, CuPy does not
            found = np.asarray(found)
        return out if isinstance(out, ndarray) else wrap(found)

    call.__name__ = f.__name__
    return call


# -- creation -------------------------------------------------------------------------------------


def _array(
    obj: Any, dtype: Any = None, copy: bool | None = True, order: str = "K", ndmin: int = 0
) -> ndarray:
    if isinstance(obj, ndarray):
        same = dtype is None or obj.dtype == np.dtype(dtype)
        kept = order in ("K", "A", None) or obj.flags[f"{order}_CONTIGUOUS"]
        here = obj.device == Device()  # what is elsewhere is copied, and nothing said
        if not copy and same and kept and here and obj.ndim >= ndmin:
            return obj
        return wrap(np.array(unwrap(obj, False), dtype=dtype, order=order, ndmin=ndmin))
    if isinstance(obj, list | tuple) and any(isinstance(v, ndarray) for v in obj):
        obj = [unwrap(v) for v in obj]
    a = np.array(obj, dtype=dtype, order=order, ndmin=ndmin)
    return wrap(a.astype(a.dtype.newbyteorder("="), copy=False))


def _asarray(
    a: Any, dtype: Any = None, order: str | None = None, *, blocking: bool = False, copy: Any = None
) -> ndarray:
    return _array(a, dtype, bool(copy), order or "K")


def _contiguous(order: str) -> Any:
    def contiguous(a: ndarray, dtype: Any = None) -> ndarray:
        if not isinstance(a, ndarray):
            raise TypeError(f"Argument 'a' has incorrect type (expected ndarray, got {type(a)})")
        same = dtype is None or a.dtype == np.dtype(dtype)
        if same and a.ndim and a.flags[f"{order}_CONTIGUOUS"]:
            return a
        a.check_device()
        return _array(a, dtype, False, order, 1)

    return contiguous


def _empty_like(a: ndarray, dtype: Any = None, order: str = "K", *, shape: Any = None) -> ndarray:
    fortran = a.flags.f_contiguous and not a.flags.c_contiguous
    kept = "F" if fortran else "C"
    shape = a.shape if shape is None else shape
    return allocate(shape, dtype or a.dtype, kept if order in ("K", "A") else order)


def _filled(value: Any) -> tuple[Any, Any]:
    def new(shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        a = allocate(shape, dtype, order)
        a.fill(value)
        return a

    def like(a: ndarray, dtype: Any = None, order: str = "K", *, shape: Any = None) -> ndarray:
        a = _empty_like(a, dtype, order, shape=shape)
        a.fill(value)
        return a

    return new, like


def _full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> ndarray:
    value = unwrap(fill_value)
    a = allocate(shape, np.array(value).dtype if dtype is None else dtype, order)
    a[...] = fill_value
    return a


def _from_dlpack(x: Any, *, device: Any = None, copy: Any = None) -> ndarray:
    kind, _ = x.__dlpack_device__()
    if kind != 2:
        raise BufferError("from_dlpack takes arrays of CUDA devices only")
    found = x.__dlpack__()
    if not isinstance(found, ndarray):
        raise TypeError("the stand-in reads the arrays of the stand-in only")
    return wrap(found._a.copy() if copy else found._a.view())


def _asnumpy(a: Any, stream: Any = None, order: str = "C", out: Any = None, **_: Any) -> Any:
    return a.get(order=order, out=out) if isinstance(a, ndarray) else np.asarray(a, order=order)


def _may_share_memory(a: Any, b: Any, max_work: Any = None) -> bool:
    return np.may_share_memory(unwrap(a, False), unwrap(b, False))


# -- the modules ----------------------------------------------------------------------------------


class _Generator:
    """cupy.random.default_rng, by NumPy's (other numbers than CuPy's)."""

    def __init__(self, seed: Any = None) -> None:
        self._rng = np.random.default_rng(seed)

    def random(self, size: Any = None, dtype: Any = np.float64) -> ndarray:
        return wrap(np.asarray(self._rng.random(size, dtype)))

    def standard_normal(self, size: Any = None, dtype: Any = np.float64) -> ndarray:
        return wrap(np.asarray(self._rng.standard_normal(size, dtype)))

    def integers(self, low: Any, high: Any = None, size: Any = None, dtype: Any = np.int64) -> Any:
        return wrap(np.asarray(self._rng.integers(low, high, size, dtype)))


def build() -> dict[str, ModuleType]:
    """Return the modules, by the names that product code imports."""
    modules = build_cuda()
    linalg = module(
        "cupy.linalg", **{f: _function(getattr(np.linalg, f)) for f in ("norm", "solve")}
    )
    random = module("cupy.random", default_rng=_Generator)
    zeros, zeros_like = _filled(0)
    ones, ones_like = _filled(1)
    creation = {
        "arange": lambda *a, **k: wrap(np.arange(*a, **k)),
        "array": _array,
        "asarray": _asarray,
        "ascontiguousarray": _contiguous("C"),
        "asfortranarray": _contiguous("F"),
        "asnumpy": _asnumpy,
        "copy": lambda a, order="K": _array(a, order=order),
        "empty": allocate,
        "empty_like": _empty_like,
        "eye": lambda *a, **k: wrap(np.eye(*a, **k)),
        "from_dlpack": _from_dlpack,
        "full": _full,
        "get_array_module": lambda *a: modules["cupy"] if _any(a) else np,
        "get_default_memory_pool": lambda: pool,
        "get_default_pinned_memory_pool": lambda: SimpleNamespace(free_all_blocks=lambda: None),
        "identity": lambda n, dtype=float: wrap(np.identity(n, dtype)),
        "linspace": lambda *a, **k: wrap(np.linspace(*a, **k)),
        "may_share_memory": _may_share_memory,
        "ones": ones,
        "ones_like": ones_like,
        "shares_memory": _may_share_memory,
        "zeros": zeros,
        "zeros_like": zeros_like,
    }
    cupy = module(
        "cupy",
        __path__=[],
        __version__="14.2.0",
        __all__=[],
        ndarray=ndarray,
        RawModule=RawModule,
        cuda=modules["cupy.cuda"],
        linalg=linalg,
        random=random,
        **{name: getattr(np, name) for name in TYPES},
        **{name: _function(getattr(np, name)) for name in FUNCTIONS},
        **creation,
    )
    libs = module(
        "cupy_backends.cuda.libs",
        __path__=[],
        cublas=libraries.cublas,
        cusolver=libraries.cusolver,
    )
    backends_cuda = module("cupy_backends.cuda", __path__=[], libs=libs)
    backends = module("cupy_backends", __path__=[], cuda=backends_cuda)
    cupyx = module("cupyx", __path__=[], empty_pinned=np.empty, zeros_pinned=np.zeros)
    all_of_them = (
        cupy, linalg, random, backends, backends_cuda, libs, libraries.cublas, libraries.cusolver,
        cupyx,
    )  # fmt: skip
    return modules | {m.__name__: m for m in all_of_them}


def _any(args: tuple[Any, ...]) -> bool:
    return any(isinstance(a, ndarray) for a in args)


@contextmanager
def installed() -> Any:
    """Let `import cupy` give the stand-in; the modules that were there come back after."""
    roots = ("cupy", "cupy_backends", "cupyx")
    kept = {name: m for name, m in sys.modules.items() if name.split(".")[0] in roots}
    modules = build()
    for name in kept:
        del sys.modules[name]
    sys.modules.update(modules)
    try:
        yield modules["cupy"]
    finally:
        Device(0).use()
        Stream.null.use()
        pool.set_limit(0)
        for name in [n for n in sys.modules if n.split(".")[0] in roots]:
            del sys.modules[name]
        sys.modules.update(kept)
