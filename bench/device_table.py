"""The lines of the device's table: a call, what it is held against, and the goal."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from bench.common import Report, ratio
from bench.device_timing import Sample, device_times, middle

__all__ = ["COLUMNS", "Line", "add"]

COLUMNS = [
    "part", "case", "call", "device ms", "wall ms", "against", "its ms", "ratio", "goal",
]  # fmt: skip

# how a ratio is taken, and how it is shown
_SHOWN = {
    "over": "{:.3g} ×",  # of what it is held against: at most
    "faster": "{:.3g} × faster",  # than that: at least
    "share": "{:.0%}",  # of the rate of that: at least
}


@dataclass
class Line:
    """One line: ``ours`` against ``theirs``, seconds by events, round by round.

    ``kind`` is "over", ours / theirs with a goal of at most ``goal``; or "faster" or "share",
    theirs / ours with a goal of at least ``goal``.  ``wall_goal`` is the most seconds by the wall
    clock.
    """

    part: str
    case: str
    call: str
    ours: list[Sample]
    against: str = "–"
    theirs: list[float] = field(default_factory=list)
    kind: str = "over"
    goal: float | None = None
    wall_goal: float | None = None
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """The median of the ratios of the rounds; None where there is nothing to compare with."""
        if not self.theirs:
            return None
        ours = device_times(self.ours)
        return ratio(ours, self.theirs) if self.kind == "over" else ratio(self.theirs, ours)


def add(report: Report, line: Line) -> None:
    """Add a line to the table, and what was measured to the records."""
    mid, value = middle(line.ours), line.ratio
    what = f"{line.part}, {line.case}, {line.call}"
    goals = []
    if value is not None and line.goal is not None:
        judge = report.verdict if line.kind == "over" else report.at_least
        goals.append(judge(value, line.goal, f"{what} against {line.against}"))
    if line.wall_goal is not None:
        goals.append(report.verdict(mid.wall * 1e3, line.wall_goal * 1e3, f"{what}, wall ms"))
        goals[-1] = goals[-1].replace("≤", "wall ms ≤")
    theirs = middle([Sample(t, t) for t in line.theirs]).device if line.theirs else None
    report.add(
        [
            line.part, line.case, line.call, mid.device * 1e3, mid.wall * 1e3, line.against,
            "–" if theirs is None else theirs * 1e3,
            "–" if value is None else _SHOWN[line.kind].format(value),
            ", ".join(dict.fromkeys(goals)) or "–",
        ],
        {
            "part": line.part, "case": line.case, "call": line.call,
            "samples": [asdict(s) for s in line.ours], "device_median": mid.device,
            "wall_median": mid.wall, "against": line.against, "against_samples": line.theirs,
            "kind": line.kind, "ratio": value, "goal": line.goal, "wall_goal": line.wall_goal,
            **line.record,
        },
    )  # fmt: skip
