"""The record of the CUDA backend: its slots, and errors where there is no kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from quiplinalg.device_arrays import common_device, device_of, import_cupy, to_device
from quiplinalg.errors import BackendUnavailableError, InsufficientMemoryError
from quiplinalg.kernels.cuda import (
    codebook,
    descent,
    grid,
    hessian,
    libraries,
    obs,
    packing,
    rotation,
    rounding,
)
from quiplinalg.kernels.record import DeviceKernels, Kernels
from quiplinalg.parallel import num_threads

__all__ = ["cuda"]

_SLOTS = {
    hessian: ("asymmetry", "finite", "mirror", "pack_feedback", "reverse_rows", "unit_rows"),
    rounding: ("compensate", "load", "round_block", "store", "update"),
    grid: ("dequantize", "fit", "fit_groups", "gather_levels", "nearest"),
    packing: ("pack", "unpack"),
    descent: ("descend", "errors", "residual"),
    codebook: ("descend_levels", "level_sums", "lloyd", "round_levels"),
    obs: ("eliminate_rows", "eliminate_space", "inverse_in_place"),
    rotation: ("rotate",),
    libraries: ("cholesky",),
}


def cuda() -> DeviceKernels:
    """Return the record of the CUDA backend.

    Raises
    ------
    BackendUnavailableError
        There is no CuPy, with the line that installs it, or no device.
    """
    cupy = import_cupy()
    slots: dict[str, Any] = {
        field.name: _missing(field.name) for field in fields(Kernels) if "Callable" in field.type
    }
    for module, names in _SLOTS.items():
        slots.update((name, getattr(module, name)) for name in names)
    slots.update(
        name="cuda",
        lanes=rounding.lanes,
        vector=lambda dtype: 1,
        tile=rounding.BLOCK,
        rows=rounding.BLOCK,
        block=rounding.BLOCK,
        tiles_from="cuSOLVER",
        xp=cupy,
        read=to_device,
        running=_running,
        back=_back,
        free_bytes=_free_bytes,
    )
    return DeviceKernels(**slots)


def _missing(name: str) -> Callable:
    def kernel(*_: Any) -> None:
        raise BackendUnavailableError(
            f"{name} has no CUDA kernel; got arrays on a device. Copy them to the host, and pass "
            "backend='cpu'."
        )

    return kernel


@contextmanager
def _running(*arrays: Any) -> Iterator[None]:
    """Work on the device of the arrays, in one thread: streams belong to threads."""
    import cupy

    number = common_device(**{str(i): a for i, a in enumerate(arrays)})
    device = cupy.cuda.Device() if number is None else cupy.cuda.Device(number)
    with device, num_threads(1):
        try:
            yield
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise InsufficientMemoryError(
                f"The device has not the memory that this takes: {error}. Free what its pool holds "
                "(cupy.get_default_memory_pool().free_all_blocks()), or pass fewer rows at a time."
            ) from error


def _back(argument: Any, array: Any) -> Any:
    return array.get() if device_of(argument) is None else array


def _free_bytes() -> int:
    """Bytes that CuPy's pool could give on the current device, its limit respected."""
    import cupy

    pool = cupy.get_default_memory_pool()
    free = int(cupy.cuda.runtime.memGetInfo()[0] + pool.free_bytes())
    limit = int(pool.get_limit())
    return min(free, max(limit - int(pool.used_bytes()), 0)) if limit else free
