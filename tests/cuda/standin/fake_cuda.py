"""cupy.cuda: streams, events, and what is told about two devices."""

from __future__ import annotations

import threading
import time
from types import ModuleType, SimpleNamespace
from typing import Any

from . import libraries
from .devices import DEVICES, Device, OutOfMemoryError, memory_at, pool
from .raw_module import KernelError

__all__ = ["Stream", "build_cuda", "module"]

_current = threading.local()


class Stream:
    """cupy.cuda.Stream: nothing is asynchronous here."""

    null: Stream

    def __init__(self, null: bool = False, non_blocking: bool = False, **_: Any) -> None:
        self.ptr = 0 if null else id(self)
        self._before: list[Stream] = []

    def __enter__(self) -> Stream:
        self._before.append(current_stream())
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        _current.stream = self._before.pop()

    def use(self) -> Stream:
        _current.stream = self
        return self

    def synchronize(self) -> None:
        pass

    done = True

    def record(self, event: Event | None = None) -> Event:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        pass


Stream.null = Stream(null=True)


def current_stream(device_id: int = -1) -> Stream:
    return getattr(_current, "stream", Stream.null)


class ExternalStream(Stream):
    """cupy.cuda.ExternalStream."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__()
        self.ptr = ptr


class Event:
    """cupy.cuda.Event: it knows when it was recorded."""

    def __init__(self, block: bool = False, disable_timing: bool = False, **_: Any) -> None:
        self.time: float | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.time = time.perf_counter()

    def synchronize(self) -> None:
        pass

    done = True


def _elapsed(start: Event, stop: Event) -> float:
    if start.time is None or stop.time is None:
        raise RuntimeError("cudaErrorInvalidResourceHandle: an event was not recorded")
    return 1e3 * (stop.time - start.time)


class CUDARuntimeError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


def _properties(device: int) -> dict[str, Any]:
    if not 0 <= device < DEVICES:
        raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
    return {
        "name": b"stand-in for a GPU",
        "totalGlobalMem": pool.total,
        "multiProcessorCount": 132,
        "major": 9,
        "minor": 0,
        "sharedMemPerBlock": 48 << 10,
        "sharedMemPerBlockOptin": 227 << 10,
        "maxThreadsPerBlock": 1024,
        "warpSize": 32,
    }


def _pointer_attributes(pointer: int) -> SimpleNamespace:
    """Tell the device of a pointer, -2 where it is none's (CUDA's cudaInvalidDeviceId)."""
    memory = memory_at(pointer)
    device, kind = (-2, 0) if memory is None else (memory.device, 2)
    return SimpleNamespace(device=device, devicePointer=pointer, hostPointer=0, type=kind)


def module(name: str, **members: Any) -> ModuleType:
    """Return a new module."""
    module = ModuleType(name)
    module.__dict__.update(members)
    return module


def build_cuda() -> dict[str, ModuleType]:
    """Return cupy.cuda and the modules in it."""
    runtime = module(
        "cupy.cuda.runtime",
        CUDARuntimeError=CUDARuntimeError,
        getDeviceCount=lambda: DEVICES,
        getDevice=lambda: Device().id,
        getDeviceProperties=_properties,
        memGetInfo=lambda: Device().mem_info,
        deviceSynchronize=lambda: None,
        pointerGetAttributes=_pointer_attributes,
        runtimeGetVersion=lambda: 12090,
        driverGetVersion=lambda: 12090,
    )
    handles = {
        "get_cublas_handle": lambda: libraries.HANDLE,
        "get_cusolver_handle": lambda: libraries.HANDLE,
    }
    device = module("cupy.cuda.device", Device=Device, get_device_id=lambda: Device().id, **handles)
    memory = module("cupy.cuda.memory", OutOfMemoryError=OutOfMemoryError)
    stream = module(
        "cupy.cuda.stream",
        Stream=Stream,
        ExternalStream=ExternalStream,
        Event=Event,
        get_current_stream=current_stream,
        get_elapsed_time=_elapsed,
    )
    driver = module("cupy.cuda.driver", CUDADriverError=KernelError)
    cuda = module(
        "cupy.cuda",
        __path__=[],
        Device=Device,
        Event=Event,
        ExternalStream=ExternalStream,
        Stream=Stream,
        device=device,
        driver=driver,
        get_cublas_handle=handles["get_cublas_handle"],
        get_current_stream=stream.get_current_stream,
        get_device_id=device.get_device_id,
        get_elapsed_time=_elapsed,
        is_available=lambda: True,
        memory=memory,
        runtime=runtime,
        stream=stream,
    )
    return {m.__name__: m for m in (runtime, device, memory, stream, driver, cuda)}
