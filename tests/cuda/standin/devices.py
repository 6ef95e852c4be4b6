"""Two devices and their memory, which is the host's."""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

__all__ = ["DEVICES", "Device", "Memory", "OutOfMemoryError", "memory_at", "memory_of", "pool"]

DEVICES = 2
_PAD, _ALIGNED = 256, 512  # bytes
_current = threading.local()


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""


class Device:
    """cupy.cuda.Device."""

    def __init__(self, device: int | Device | None = None) -> None:
        self.id = int(getattr(_current, "id", 0) if device is None else device)
        if not 0 <= self.id < DEVICES:
            raise RuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self._before: list[int] = []

    def __int__(self) -> int:
        return self.id

    def __enter__(self) -> Device:
        self._before.append(Device().id)
        self.use()
        return self

    def __exit__(self, *_: object) -> None:
        _current.id = self._before.pop()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and self.id == other.id

    def __hash__(self) -> int:
        return hash(("device", self.id))

    def __repr__(self) -> str:
        return f"<CUDA Device {self.id}>"

    def use(self) -> None:
        _current.id = self.id

    def synchronize(self) -> None:
        pass

    @property
    def compute_capability(self) -> str:
        return "90"

    @property
    def mem_info(self) -> tuple[int, int]:
        return pool.total - pool.used_bytes(), pool.total

    @property
    def attributes(self) -> dict[str, int]:
        return {
            "ComputeCapabilityMajor": 9,
            "ComputeCapabilityMinor": 0,
            "MaxBlockDimX": 1024,
            "MaxSharedMemoryPerBlock": 48 << 10,
            "MaxSharedMemoryPerBlockOptin": 227 << 10,
            "MaxSharedMemoryPerMultiprocessor": 228 << 10,
            "MaxThreadsPerBlock": 1024,
            "MultiProcessorCount": 132,
            "WarpSize": 32,
        }


class _Pool:
    """The default memory pool: it counts, and can refuse."""

    total = 140 << 30

    def __init__(self) -> None:
        self._lock = threading.RLock()  # garbage may be collected while it is held
        self._used = 0
        self._limit = 0

    def change(self, size: int) -> None:
        with self._lock:
            if size > 0 and self._used + size > (self._limit or self.total):
                raise OutOfMemoryError(
                    f"Out of memory allocating {size:,} bytes (allocated so far: "
                    f"{self._used:,} bytes, limit set to: {self._limit:,} bytes)."
                )
            self._used += size

    def used_bytes(self) -> int:
        return self._used

    def total_bytes(self) -> int:
        return self._used

    def free_bytes(self) -> int:
        return 0

    def free_all_blocks(self, stream: Any = None) -> None:
        pass

    def get_limit(self) -> int:
        return self._limit

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self._limit = int(self.total * fraction) if fraction is not None else int(size or 0)


pool = _Pool()


class Memory:
    """Bytes of a device between two guards."""

    def __init__(self, size: int, device: int) -> None:
        pool.change(size)
        weakref.finalize(self, pool.change, -size)
        self.size = size
        self.device = device
        self.owner = np.full(size + 2 * _PAD + _ALIGNED, 0xFF, np.uint8)
        self.start = _PAD + (-(self.owner.ctypes.data + _PAD)) % _ALIGNED
        _memories[id(self.owner)] = self

    def written_outside(self) -> str:
        for where, first in (("before", self.start - _PAD), ("after", self.start + self.size)):
            guard = self.owner[first : first + _PAD]
            bad = np.flatnonzero(guard != 0xFF)
            if bad.size:
                at = int(bad[0]) - (_PAD if where == "before" else 0)
                return f"byte {at} {where} its memory"
        return ""


_memories: weakref.WeakValueDictionary[int, Memory] = weakref.WeakValueDictionary()


def memory_of(a: np.ndarray) -> Memory | None:
    """Return the memory that an array of NumPy is a view of, or None."""
    owner = a
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    memory = _memories.get(id(owner))
    return memory if memory is not None and memory.owner is owner else None


def memory_at(pointer: int) -> Memory | None:
    """Return the memory that an address lies in, or None."""
    for memory in list(_memories.values()):
        first = memory.owner.ctypes.data + memory.start
        if first <= pointer < first + max(1, memory.size):
            return memory
    return None
