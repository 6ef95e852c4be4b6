"""Every call to the system that writes may be the last one, or fail: nothing reported is lost."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from crash_zygote import Zygote

from quiplinalg import open_result
from quiplinalg.files import ProblemWriter

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fork, /proc")

NAMES = ("block/0/k", "block/0/q", "block/0/v", "block/1/up", "head")
EVERY = ("kill", "power", "EIO")
KINDS = {"write": (*EVERY, "torn", "short", "ENOSPC")}
KINDS |= dict.fromkeys(("open", "mkdir", "link", "replace"), (*EVERY, "ENOSPC"))
USUAL = 48
DEEP = os.environ.get("QUIPLINALG_PROFILE") == "deep"


def write_problem(path: Path) -> None:
    rng = np.random.default_rng(11)
    with ProblemWriter(path) as writer:
        for k, name in enumerate(NAMES):
            if k in (1, 2):
                hessian = {"shared_hessian_of": NAMES[0]}
            else:
                X = rng.standard_normal((40, 12))
                hessian = {"hessian": X.T @ X / 40}
            weight = rng.standard_normal((6 + k, 12)).astype(np.float32)
            writer.add(name, weight, **hessian)


class Crashes:
    """A folder, a zygote, and what an undisturbed run makes and calls."""

    def __init__(self, folder: Path):
        self.folder, self.source, self.target = folder, folder / "in.h5", folder / "out.h5"
        write_problem(self.source)
        self.argv = ["quantize", str(self.source), str(self.target), "--bits=2", "--json"]
        self.zygote = Zygote([*self.argv[:2], str(folder / "warm.h5"), *self.argv[3:]])
        undisturbed = self.run()
        assert undisturbed.status == 0, undisturbed
        assert sorted(undisturbed.reported) == sorted(undisturbed.rounded) == sorted(NAMES)
        self.reference = self.target.read_bytes()
        self.calls = undisturbed.calls
        self.points = [
            {"index": index, "kind": kind}
            for index, name in enumerate(self.calls)
            for kind in KINDS.get(name, EVERY)
        ]

    def run(self, *flags: str, fault: dict | None = None):
        return self.zygote.run([*self.argv, *flags], self.folder, fault)

    def clear(self) -> None:
        self.target.unlink(missing_ok=True)
        shutil.rmtree(self.folder / "out.h5.run", ignore_errors=True)

    def left(self) -> set[str]:
        return {name for name in os.listdir(self.folder) if not name.startswith("command.")}

    def whole(self) -> bool:
        return self.target.exists() and self.target.read_bytes() == self.reference


@pytest.fixture(scope="module")
def crashes(tmp_path_factory):
    made = Crashes(tmp_path_factory.mktemp("crashes"))
    yield made
    made.zygote.close()


def spread(points: list[dict], calls: list[str], count: int) -> list[dict]:
    """``count`` of the points, as many of each pair of call and kind as can be, seeded."""
    draw, drawn = random.Random(2), []
    strata: dict[tuple[str, str], list[dict]] = {}
    for point in points:
        strata.setdefault((calls[point["index"]], point["kind"]), []).append(point)
    for stratum in strata.values():
        draw.shuffle(stratum)
    while len(drawn) < count:
        for stratum in strata.values():
            drawn += [stratum.pop()] if stratum else []
    return drawn[:count]


def strike(crashes: Crashes, flags: list[str], fault: dict):
    """Run with a fault; whatever it does, no wrong file and no crash."""
    before = crashes.target.read_bytes() if crashes.target.exists() else None
    ran = crashes.run(*flags, fault=fault)
    struck = len(ran.calls) > fault["index"]
    if struck and fault["kind"] in ("kill", "torn", "power"):
        assert ran.status == -9, ran
    elif struck and fault["kind"] != "short":
        assert ran.status in (0, 1, 3), ran
    else:
        assert ran.status == 0, ran
    if ran.status == 3:
        with open_result(crashes.target) as result:
            assert set(ran.reported) <= set(result.names), ran
    elif ran.status == 0 or crashes.target.exists():
        same = before is not None and crashes.target.read_bytes() == before
        assert crashes.whole() or (same and ran.status != 0), ran
    return ran


def check(crashes: Crashes, *faults: dict) -> str:
    """Run with each fault in turn, then without, and compare; return how it ended."""
    crashes.clear()
    reported: set[str] = set()
    flags: list[str] = []
    for fault in (*faults, {"index": 10**9, "kind": "none"}):
        ran = strike(crashes, flags, fault)
        lost = reported & set(ran.rounded)
        assert not lost, f"{lost} was reported and lost; {faults}, {ran}"
        reported |= set(ran.reported)
        if crashes.whole() and not (crashes.folder / "out.h5.run" / "plan.json").exists():
            break
        if ran.status == 3 or not flags:
            flags = ["--retry-failed" if ran.status == 3 else "--resume"]
    assert crashes.whole(), f"{faults}, {ran}"
    if ran.status != 0:  # struck when all was done
        return "finished"
    last_call = {"index": len(crashes.calls) - 1, "kind": "EIO"}
    if last_call in faults:  # the directory, empty, could not be removed
        (crashes.folder / "out.h5.run").rmdir()
    assert crashes.left() == {"in.h5", "warm.h5", "out.h5"}, f"{faults}, {ran}"
    return "resumed" if flags else "undisturbed"


def test_faults_at_a_sample_of_calls(crashes):
    outcomes = Counter(
        check(crashes, point) for point in spread(crashes.points, crashes.calls, USUAL)
    )
    assert outcomes["resumed"] > USUAL // 2, outcomes


@pytest.mark.skipif(not DEEP, reason="QUIPLINALG_PROFILE=deep")
def test_faults_at_every_call_and_then_another(crashes):
    draw = random.Random(3)
    assert len(crashes.points) >= 500
    for point in crashes.points:
        check(crashes, point)
    for first in spread(crashes.points, crashes.calls, 250):
        second = draw.choice(crashes.points)
        check(crashes, first, {"index": second["index"] // 3, "kind": second["kind"]})


@pytest.mark.parametrize("bug, kind", [("no record", "kill"), ("no sync", "power")])
def test_a_program_that_reports_too_early_is_found(crashes, bug, kind):
    crashes.clear()
    calls = crashes.run(fault={"index": 10**9, "kind": "none", "bug": bug}).calls
    index = calls.index("link")  # OUT.h5 gets its name: every layer is reported
    with pytest.raises(AssertionError, match="reported and lost"):
        check(crashes, {"index": index, "kind": kind, "bug": bug})
