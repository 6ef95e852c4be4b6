"""Compile a .cu file once for each device and set of macros, and launch its kernels."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

__all__ = ["OPTIONS", "SOURCES", "VARIANTS", "code", "launch", "real", "source_text"]

# Products and sums are fused where FMA says so only.  CuPy puts -ftz=true behind them, and the last
# one counts: numbers below 2**-126 are zeros in float32, not in float64.
OPTIONS = ("--std=c++17", "--fmad=false")

_REAL = [{"REAL": "float"}, {"REAL": "double"}]
_CODES = [{**r, "CODE": c} for r in _REAL for c in ("unsigned char", "int")]
# the macros that each file is compiled with
VARIANTS: dict[str, list[dict[str, str]]] = {
    "codebook": _REAL,
    "descent": _CODES,
    "grid": _CODES,
    "hessian": _REAL,
    "obs": [{}],
    "packing": [{"BITS": str(bits)} for bits in range(1, 9)],
    "rotation": _REAL,
    "rounding": _CODES,
    "search": _REAL,
    "update": _REAL,
}
SOURCES = tuple(VARIANTS)


def source_text(name: str) -> str:
    """Return the text of a kernel file, after what they all begin with."""
    folder = files(__package__)
    common, own = (folder.joinpath(f).read_text() for f in ("common.cuh", f"{name}.cu"))
    return f'{common}\n#line 1 "{name}.cu"\n{own}'


def real(a: Any) -> str:
    """Return the C type of a float32 or float64 array or dtype."""
    return {4: "float", 8: "double"}[np.dtype(getattr(a, "dtype", a)).itemsize]


def code(a: Any) -> str:
    """Return the C type of an array or dtype of codes, uint8 or int32."""
    return {1: "unsigned char", 4: "int"}[np.dtype(getattr(a, "dtype", a)).itemsize]


def launch(
    source: str,
    kernel: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    args: tuple[Any, ...],
    shared: int = 0,
    **macros: str,
) -> None:
    """Run a kernel on the current device and stream; it is not waited for.

    Parameters
    ----------
    source : str
        A file of this package, without .cu.
    kernel : str
        A function in it.
    grid, block : tuple of int
        Nothing is run where either has a zero.
    args : tuple
        Device arrays, and NumPy scalars of exactly the types that the kernel takes.
    shared : int
        Bytes of dynamic shared memory.
    macros : str
        One of the sets in ``VARIANTS[source]``.
    """
    if 0 in grid or 0 in block:
        return
    import cupy

    function = _function(source, kernel, tuple(macros.items()), cupy.cuda.Device().id)
    function(grid, block, args, shared_mem=shared)


@cache
def _function(source: str, kernel: str, macros: tuple[tuple[str, str], ...], device: int) -> Any:
    """Return a kernel that may be launched with all the shared memory that a block can have.

    Without that a launch fails where it asks for more than 48 KB less the kernel's own arrays.
    """
    import cupy

    function = _module(source, macros, device).get_function(kernel)
    most = int(cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"])
    function.max_dynamic_shared_size_bytes = most - function.shared_size_bytes
    return function


@cache
def _module(source: str, macros: tuple[tuple[str, str], ...], device: int) -> Any:
    import cupy

    defined = tuple(f"-D{name}={value}" for name, value in macros)
    return cupy.RawModule(code=source_text(source), options=(*OPTIONS, *defined))
