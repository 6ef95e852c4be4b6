"""Where the time of one call goes: the kernel slots with timers, for one thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import quiplinalg as ql
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.rounding import driver

__all__ = ["slot_times"]

_NOT_TIMED = (
    "name", "lanes", "tile", "rows", "block", "tiles_from", "xp", "read", "running", "back",
)  # fmt: skip


def _timed(kernels: Kernels, spent: dict[str, float]) -> Kernels:
    """Return a copy of the record whose slots add their CPU time to ``spent``."""

    def timer(name: str, slot: Callable) -> Callable:
        def call(*arguments: Any) -> Any:
            start = time.process_time()
            try:
                return slot(*arguments)
            finally:
                spent[name] = spent.get(name, 0.0) + time.process_time() - start

        return call

    names = [f.name for f in fields(kernels) if f.name not in _NOT_TIMED]
    return replace(kernels, **{name: timer(name, getattr(kernels, name)) for name in names})


def slot_times(call: Callable[[], Any]) -> dict[str, float]:
    """Return the CPU seconds of each kernel slot during ``call()`` on one thread, and "other".

    The driver of `ldlq` looks its kernels up once a call; for the time of this call it finds a
    record with timers.  "other" is everything outside the slots: Python, NumPy, allocation.
    """
    spent: dict[str, float] = {}
    original = driver.select
    driver.select = lambda backend="auto", **_: _timed(select(backend), spent)
    try:
        with ql.num_threads(1):
            start = time.process_time()
            call()
            whole = time.process_time() - start
    finally:
        driver.select = original
    spent["other"] = whole - sum(spent.values())
    return dict(sorted(spent.items(), key=lambda item: -item[1]))
