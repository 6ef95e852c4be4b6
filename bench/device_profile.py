"""Where the time of one call goes on a device: events around every launch of our kernels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from bench.device_machine import Machine

__all__ = ["PARTS", "Profile", "feedback_seconds", "launches", "parts", "profile"]

PARTS = ("check", "factor", "pack", "grid", "rounding", "between")
_SOURCES = {"grid": "grid", "search": "grid", "rounding": "rounding", "update": "rounding"}
_LAUNCH = "quiplinalg.kernels.cuda.launch"


@dataclass(frozen=True)
class Launch:
    """A launch, and what was between the one before it and it, in seconds."""

    source: str
    kernel: str
    seconds: float
    gap: float


@dataclass(frozen=True)
class Profile:
    """All launches of a call."""

    launches: list[Launch]
    tail: float  # after the last of them
    whole: float


@contextmanager
def _replaced(original: Any, other: Any) -> Iterator[None]:
    """Put another function in the place of one, in every module of the package that has it."""
    places = [
        module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "quiplinalg" and module.__dict__.get("launch") is original
    ]
    for module in places:
        module.__dict__["launch"] = other
    try:
        yield
    finally:
        for module in places:
            module.__dict__["launch"] = original


def launches(machine: Machine, call: Callable[[], Any]) -> Profile:
    """Run a call that is warm, with a mark before and after every launch.

    What the libraries do, and what waits for the host, is in the gaps.
    """
    original = import_module(_LAUNCH).__dict__["launch"]
    found: list[tuple[str, str, Any, Any]] = []

    def timed(source: str, kernel: str, *arguments: Any, **keywords: Any) -> None:
        before = machine.mark()
        original(source, kernel, *arguments, **keywords)
        found.append((source, kernel, before, machine.mark()))

    machine.wait()
    start = last = machine.mark()
    with _replaced(original, timed):
        call()
    end = machine.mark()
    machine.wait()
    done = []
    for source, kernel, before, after in found:
        gap = machine.seconds(last, before)
        done.append(Launch(source, kernel, machine.seconds(before, after), gap))
        last = after
    return Profile(done, machine.seconds(last, end), machine.seconds(start, end))


def _part(launch: Launch) -> str:
    """Return the part of `ldlq` that a kernel belongs to."""
    if launch.source != "hessian":
        return _SOURCES.get(launch.source, "between")
    if launch.kernel in ("asymmetry", "not_finite"):
        return "check"
    return "factor" if launch.kernel == "reverse_rows" else "pack"


def parts(found: Profile) -> dict[str, float]:
    """Return the seconds of each part of `ldlq`, and "between", which is the rest.

    After the reversed copy of H comes its factorisation by the library: the gap there is the
    factor's.
    """
    spent = dict.fromkeys(PARTS, 0.0)
    gap = "between"
    for launch in found.launches:
        spent[gap] += launch.gap
        part = _part(launch)
        spent[part] += launch.seconds
        gap = "factor" if part == "factor" else "between"
    spent[gap] += found.tail
    return spent


def feedback_seconds(found: Profile) -> float:
    """Return the seconds of the kernels that do the m n^2 flops of the feedback."""
    return sum(
        one.seconds
        for one in found.launches
        if one.source == "update" or one.kernel.startswith("round_")
    )


def profile(machine: Machine, call: Callable[[], Any], repeats: int = 5) -> dict[str, Any]:
    """Return the parts, kernels and whole of the call of median time, and the feedback of all."""
    call()
    found = [launches(machine, call) for _ in range(repeats)]
    typical = sorted(found, key=lambda one: one.whole)[repeats // 2]
    kernels: dict[str, list[float]] = {}
    for one in typical.launches:
        kernels.setdefault(f"{one.source}.{one.kernel}", []).append(one.seconds)
    return {
        "parts": parts(typical),
        "whole": typical.whole,
        "feedback": [feedback_seconds(one) for one in found],
        "kernels": {k: {"launches": len(v), "seconds": sum(v)} for k, v in kernels.items()},
    }
