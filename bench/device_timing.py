"""Timing on a device: warm calls in turn, round after round, by events and by the wall clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["WARM_UP", "Call", "Clock", "Sample", "device_times", "interleave", "middle", "summed"]

WARM_UP = 2  # rounds that are not counted


@dataclass(frozen=True)
class Sample:
    """One timed call, in seconds."""

    device: float  # between an event before it and one after it
    wall: float  # until the device has finished

    def scaled(self, factor: float) -> Sample:
        """The same with both times multiplied."""
        return Sample(self.device * factor, self.wall * factor)


@dataclass
class Call:
    """One thing to time: ``prepare()`` is not timed, ``run()`` is."""

    name: str
    run: Callable[[], Any]
    prepare: Callable[[], Any] = lambda: None
    scale: float = 1.0  # of the time, where less than all the work is done


Clock = Callable[[Call], Sample]


def interleave(
    calls: list[Call], clock: Clock, rounds: int, warm_up: int = WARM_UP
) -> dict[str, list[Sample]]:
    """Time all calls in turn, ``rounds`` times over, every second round in reverse.

    The times are scaled up to all the work where a call does less.
    """
    samples: dict[str, list[Sample]] = {one.name: [] for one in calls}
    if len(samples) != len(calls):
        raise ValueError(f"the calls need names of their own; got {[one.name for one in calls]}")
    for r in range(-warm_up, rounds):
        for one in calls if r % 2 == 0 else reversed(calls):
            one.prepare()
            sample = clock(one)
            if r >= 0:
                samples[one.name].append(sample.scaled(one.scale))
    return samples


def device_times(samples: list[Sample]) -> list[float]:
    """Return the seconds by events, round by round."""
    return [one.device for one in samples]


def middle(samples: list[Sample]) -> Sample:
    """Return the medians of both clocks."""
    return Sample(median(s.device for s in samples), median(s.wall for s in samples))


def summed(*parts: list[float]) -> list[float]:
    """Return the sums of each round."""
    return [sum(each) for each in zip(*parts, strict=True)]
