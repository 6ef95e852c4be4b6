"""cupy.RawModule by g++, with the checks that CUDA and CuPy leave out."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np

from .host_compiler import KernelError, compiled, load

__all__ = ["KernelError", "RawModule", "order"]

_IGNORED = ("--std=", "-std=", "--fmad=", "-fmad=", "--use_fast_math=false")
MOST_SHARED = 227 << 10  # of an H200, per block
OWN_SHARED = 1 << 10  # that every kernel is taken to have in arrays of its own: what has none loses
_STRIDED = ("fit", "piece_ends", "piece_sums")  # that get the stride of their first argument
_LOCK = threading.RLock()  # a module has one set of fibers, and of shared memory
_SCALARS = {
    "float": np.float32,
    "double": np.float64,
    "bool": np.bool_,
    "char": np.int8,
    "signed char": np.int8,
    "unsigned char": np.uint8,
    "short": np.int16,
    "unsigned short": np.uint16,
    "int": np.int32,
    "unsigned": np.uint32,
    "unsigned int": np.uint32,
    "long": np.int64,
    "unsigned long": np.uint64,
    "long long": np.int64,
    "unsigned long long": np.uint64,
}


class order:
    """Run the threads, warps and blocks of every launch in this order while in the context.

    Parameters
    ----------
    way : str or int
        "forward", "reverse", or the seed of a shuffle (from 2).
    """

    def __init__(self, way: str | int) -> None:
        self.way = str(way)

    def __enter__(self) -> None:
        self.before = os.environ.get("QUIPLINALG_STANDIN_ORDER", "forward")
        os.environ["QUIPLINALG_STANDIN_ORDER"] = self.way

    def __exit__(self, *_: object) -> None:
        os.environ["QUIPLINALG_STANDIN_ORDER"] = self.before


def _order() -> int:
    way = os.environ.get("QUIPLINALG_STANDIN_ORDER", "forward")
    return {"forward": 0, "reverse": 1}[way] if not way.isdigit() else int(way)


class RawModule:
    """Kernels of a text, by name; compiled at the first use of one, as CuPy's are."""

    def __init__(self, *, code: str, options: tuple[str, ...] = ()) -> None:
        if not isinstance(options, tuple):
            raise TypeError("options must be a tuple of str")
        unknown = [o for o in options if not o.startswith(("-D", *_IGNORED))]
        if unknown:
            raise KernelError(f"the stand-in knows no option {unknown[0]!r}")
        self.code = code
        self.options = options
        self.macros = tuple(o for o in options if o.startswith("-D"))

    def compile(self) -> None:
        compiled(self.code, self.macros)

    def get_function(self, name: str) -> RawKernel:
        library, kernels = compiled(self.code, self.macros)
        if name not in kernels:
            raise KernelError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel(name, kernels[name][1:], library)


class RawKernel:
    """A kernel that runs on the host, with the checks that CUDA and CuPy leave out."""

    def __init__(self, name: str, kinds: list[str], library: Path) -> None:
        self.name = name
        self.kinds = kinds
        self.library = library
        self._function = getattr(load(library), f"standin_{name}")
        self._shared = (48 << 10) - OWN_SHARED

    @property
    def shared_size_bytes(self) -> int:
        return OWN_SHARED

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        return self._shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        if not 0 <= size <= MOST_SHARED - OWN_SHARED:
            raise KernelError(f"CUDA_ERROR_INVALID_VALUE: {size} bytes of shared memory")
        self._shared = size

    def __call__(
        self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple, *, shared_mem: int = 0
    ) -> None:
        shape = self._shape(grid, block)
        if not 0 <= shared_mem <= self._shared:
            raise KernelError(
                f"CUDA_ERROR_INVALID_VALUE: {self.name} may have {self._shared} bytes of dynamic "
                f"shared memory (max_dynamic_shared_size_bytes); got {shared_mem}"
            )
        if len(args) != len(self.kinds):
            raise TypeError(f"{self.name} takes {len(self.kinds)} arguments; got {len(args)}")
        cells = [
            self._argument(i, k, a) for i, (k, a) in enumerate(zip(self.kinds, args, strict=True))
        ]
        pointers = (ctypes.c_void_p * max(1, len(cells)))(*(c.ctypes.data for c in cells))
        message = ctypes.create_string_buffer(1000)
        with _LOCK:
            failed = self._function(
                (ctypes.c_uint * 6)(*shape),
                ctypes.c_size_t(shared_mem),
                pointers,
                ctypes.c_uint(_order()),
                message,
                ctypes.c_size_t(len(message)),
            )
            place = self._place() if failed else ""
        if failed:
            raise KernelError(f"{self.name}: {message.value.decode()}{place}")
        for i, a in enumerate(args):
            if not isinstance(a, np.generic) and (outside := a.written_outside()):
                raise KernelError(f"{self.name}: argument {i} was written out of bounds: {outside}")

    def _shape(self, grid: tuple[int, ...], block: tuple[int, ...]) -> list[int]:
        if not isinstance(grid, tuple) or not isinstance(block, tuple):
            raise TypeError("grid and block must be tuples")
        shape = [int(v) for v in (*(*grid, 1, 1)[:3], *(*block, 1, 1)[:3])]
        limits = (2**31 - 1, 65535, 65535, 1024, 1024, 64)
        good = all(0 < v <= most for v, most in zip(shape, limits, strict=True))
        if len(grid) > 3 or len(block) > 3 or not good or np.prod(shape[3:]) > 1024:
            raise KernelError(f"CUDA_ERROR_INVALID_VALUE: {self.name}: {grid=}, {block=}")
        return shape

    def _argument(self, i: int, kind: str, a: object) -> np.ndarray:
        """Return memory that holds the value that the kernel gets."""
        where = f"argument {i} of {self.name} is {kind}"
        if not kind.endswith("*"):
            if kind not in _SCALARS:
                raise TypeError(f"{where}, which the stand-in cannot pass")
            if type(a) is not _SCALARS[kind]:
                raise TypeError(f"{where}: pass numpy.{_SCALARS[kind].__name__}, not {type(a)}")
            return np.array(a)
        if not hasattr(a, "written_outside"):
            raise TypeError(f"{where}: pass a device array, not {type(a)}")
        a.check_device()
        wanted = _SCALARS.get(kind[:-1])
        if wanted is not None:
            want = np.dtype(wanted)
            if a.dtype.itemsize != want.itemsize or (a.dtype.kind == "f") != (want.kind == "f"):
                raise TypeError(f"{where}: pass an array of {want}, not of {a.dtype}")
        if not a.flags.c_contiguous and not (i == 0 and self.name in _STRIDED):
            raise TypeError(f"{where}: pass an array in C order, not of strides {a.strides}")
        return np.array(a.data.ptr, dtype=np.uint64)

    def _place(self) -> str:
        """Return ", at file:line" of the last trap if there was one."""
        address = load(self.library).standin_where
        address.restype = ctypes.c_size_t
        offset, tool = address(), shutil.which("addr2line")
        if not offset or tool is None:
            return ""
        done = subprocess.run(
            [tool, "-e", str(self.library), hex(offset)], capture_output=True, text=True
        )
        return f", at {done.stdout.strip().rpartition('/')[2]}"
