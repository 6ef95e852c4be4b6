"""What the benchmarks of a device decide, without one: timing, verdicts, floors, answers."""

from __future__ import annotations

import json
import sys
import types

import pytest
from host_machine import HostMachine

import quiplinalg as ql
from bench import __main__ as command
from bench import device_answers, device_clip, device_floor, device_machine, device_profile
from bench.common import CannotRunError, Report, Settings, hessian, weights
from bench.device_table import COLUMNS, Line, add
from bench.device_timing import Call, Sample, interleave, middle


@pytest.fixture
def report(tmp_path):
    return Report("device", "The CUDA backend", COLUMNS, Settings(output=tmp_path))


# ----------------------------------------------------------------------------------- the command


def test_without_a_device_the_command_says_so_and_fails(monkeypatch, capsys):
    def missing():
        raise CannotRunError("it needs a CUDA device; CuPy finds none")

    monkeypatch.setattr(device_machine, "_cupy", missing)
    monkeypatch.setattr(sys, "argv", ["bench", "device"])
    assert command.main() == 2
    assert "device: not run: it needs a CUDA device" in capsys.readouterr().err


@pytest.mark.parametrize(
    "count,message", [(0, "CuPy finds none"), (None, "CuPy finds none: no driver")]
)
def test_what_is_missing_is_told(monkeypatch, count, message):
    class CUDARuntimeError(RuntimeError):
        pass

    def devices():
        if count is None:
            raise CUDARuntimeError("no driver")
        return count

    runtime = types.SimpleNamespace(getDeviceCount=devices, CUDARuntimeError=CUDARuntimeError)
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    with pytest.raises(CannotRunError, match=message):
        device_machine.CudaMachine()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(CannotRunError, match=r"needs CuPy .*pip install 'quiplinalg\[cuda12\]'"):
        device_machine.CudaMachine()


def test_the_device_is_timed_on_request_only(monkeypatch):
    ran = []
    monkeypatch.setattr(sys, "argv", ["bench"])

    def topic(name):
        ran.append(name)
        raise CannotRunError("not in a test")

    monkeypatch.setattr(command, "import_module", topic)
    assert command.main() == 2
    assert "bench.device" not in ran and "bench.ldlq" in ran


# --------------------------------------------------------------------------- timing and verdicts


def test_rounds_alternate_and_the_first_do_not_count():
    ran = []
    calls = [
        Call(name, lambda name=name: ran.append(name), lambda name=name: ran.append(f"-{name}"))
        for name in "ab"
    ]
    calls[1].scale = 3.0
    clock = HostMachine({"a": 1.0, "b": 2.0}).clock
    samples = interleave(calls, clock, rounds=2, warm_up=1)
    assert ran == ["-b", "b", "-a", "a", "-a", "a", "-b", "b", "-b", "b", "-a", "a"]
    assert samples == {"a": [Sample(1.0, 2.0)] * 2, "b": [Sample(6.0, 12.0)] * 2}
    with pytest.raises(ValueError, match="names of their own"):
        interleave([calls[0], calls[0]], clock, 1)


def test_medians_are_of_each_clock():
    assert middle([Sample(1, 9), Sample(3, 7), Sample(2, 8)]) == Sample(2, 8)


@pytest.mark.parametrize(
    "kind,goal,ratio,verdict,missed",
    [
        ("over", 2.5, "2 ×", "≤ 2.5: yes", False),
        ("over", 1.5, "2 ×", "≤ 1.5: NO", True),
        ("over", None, "2 ×", "–", False),
        ("faster", 0.4, "0.5 × faster", "≥ 0.4: yes", False),
        ("faster", 20.0, "0.5 × faster", "≥ 20: NO", True),
        ("share", 0.5, "50%", "≥ 0.5: yes", False),
        ("share", 0.6, "50%", "≥ 0.6: NO", True),
    ],
)
def test_a_line_is_judged(report, kind, goal, ratio, verdict, missed):
    # by round 1, 2 and 3: the median of the ratios, not the ratio of the medians
    ours = [Sample(2.0, 2.5), Sample(4.0, 4.5), Sample(90.0, 91.0)]
    add(report, Line("part", "case", "call", ours, "that", [1.0, 2.0, 45.0], kind, goal))
    assert report.rows == [["part", "case", "call", "4000", "4500", "that", "2000", ratio, verdict]]
    assert bool(report.missed) == missed
    record = report.records[0]
    assert record["device_median"] == 4.0 and record["wall_median"] == 4.5
    assert record["samples"][0] == {"device": 2.0, "wall": 2.5}
    assert record["ratio"] == (2.0 if kind == "over" else 0.5)


@pytest.mark.parametrize("most,verdict", [(25e-3, "wall ms ≤ 25: yes"), (0.02, "wall ms ≤ 20: NO")])
def test_goals_in_milliseconds_are_by_the_wall_clock(report, most, verdict):
    add(report, Line("part", "case", "call", [Sample(10e-3, 24e-3)], wall_goal=most))
    assert report.rows[0][3:] == ["10", "24", "–", "–", "–", verdict]
    assert report.missed == ([] if most > 0.024 else ["part, case, call, wall ms: 24, limit 20"])


def test_both_goals_of_a_line_are_told(report):
    ours = [Sample(10e-3, 11e-3)]
    add(report, Line("p", "c", "call", ours, "that", [1e-2], goal=2.0, wall_goal=1.0))
    assert report.rows[0][-1] == "≤ 2: yes, wall ms ≤ 1000: yes"


def test_a_quick_run_judges_nothing(tmp_path):
    quick = Report("device", "t", COLUMNS, Settings(quick=True, output=tmp_path))
    add(quick, Line("p", "c", "call", [Sample(9, 9)], "that", [1.0], goal=2.0, wall_goal=1.0))
    assert quick.rows[0][-1] == "–" and not quick.missed


def test_the_device_is_named_in_both_files(report, tmp_path):
    report.where["device"] = HostMachine().describe()
    add(report, Line("p", "c", "call", [Sample(1, 1)]))
    report.save()
    text = (tmp_path / "device.md").read_text()
    assert "Device: host, compute capability 0.0, CUDA driver 1.2, runtime 3.4; cupy 0." in text
    data = json.loads((tmp_path / "device.json").read_text())
    assert data["environment"]["device"]["name"] == "host"
    assert {"commit", "date", "versions"} <= set(data["environment"])
    assert data["results"][0]["samples"] == [{"device": 1, "wall": 1}]


# ------------------------------------------------------------------------------------- the floor


def test_the_floor_is_the_fastest_factor_and_the_fastest_panels():
    times = {
        "dpotrf lower": 3.0, "dpotrf upper": 2.0, "sgemm right 64": 5.0, "sgemm left 64": 4.0,
        "sgemm right 96": 6.0, "sgemm left 96": 7.0,
    }  # fmt: skip
    machine = HostMachine(times)
    floor = device_floor.Floor(machine, 32, 192, hessian(192), quick=True)
    names = [one.name for one in floor.calls]
    assert names[:2] == ["dpotrf lower", "dpotrf upper"] and len(names) == 4
    # right and left at one width leave the same blocks out
    scales = {one.name: one.scale for one in floor.panels}
    assert all(s > 1 for s in scales.values())
    samples = interleave(floor.calls, machine.clock, 3)
    rounds, rates = floor.times(samples)
    best = min(scales, key=lambda name: times[name] * scales[name])
    assert rates["dpotrf"] == "dpotrf upper" and rates["panels"] == best
    assert rounds == pytest.approx([2.0 + times[best] * scales[best]] * 3)
    assert rates["sgemm_gflops"] * 1e9 == pytest.approx(32 * 192**2 / rates["panels_median"])


# ----------------------------------------------------------------------------------- the profile


def test_launches_are_timed_where_they_are_and_gaps_belong_to_the_factor(monkeypatch):
    launched = []
    module = pytest.importorskip("quiplinalg.kernels.cuda.launch")

    def original(source, kernel, *arguments, **macros):
        launched.append((source, kernel, arguments, macros))

    slots = types.ModuleType("quiplinalg.kernels.cuda.some_slots")
    slots.launch = original
    monkeypatch.setattr(module, "launch", original)
    monkeypatch.setitem(sys.modules, slots.__name__, slots)

    def call():
        slots.launch("hessian", "asymmetry", (1,), REAL="float")
        slots.launch("hessian", "reverse_rows", (1,))
        slots.launch("hessian", "pack_feedback", (1,))
        slots.launch("search", "fit", (1,))
        slots.launch("rounding", "load", (1,))
        slots.launch("rounding", "round_nearest", (1,))
        slots.launch("update", "update", (1,))
        slots.launch("packing", "pack", (1,))

    machine = HostMachine()
    found = device_profile.launches(machine, call)
    assert slots.launch is original and module.launch is original
    assert launched[0] == ("hessian", "asymmetry", ((1,),), {"REAL": "float"})
    # every mark is a second after the one before it: kernels and gaps take one each
    spent = device_profile.parts(found)
    assert spent == {
        "check": 1.0, "factor": 1.0 + 1.0, "pack": 1.0, "grid": 1.0, "rounding": 3.0,
        "between": 7.0 + 1.0 + 1.0,
    }  # fmt: skip
    assert sum(spent.values()) == found.whole
    assert device_profile.feedback_seconds(found) == 2.0
    whole = device_profile.profile(machine, call, repeats=3)
    assert whole["parts"] == spent and whole["feedback"] == [2.0] * 3
    assert whole["kernels"]["update.update"] == {"launches": 1, "seconds": 1.0}


def test_launch_is_put_back_after_an_error(monkeypatch):
    module = pytest.importorskip("quiplinalg.kernels.cuda.launch")
    before = module.launch

    def call():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        device_profile.launches(HostMachine(), call)
    assert module.launch is before


# ----------------------------------------------------------------------------------- the answers


def test_equal_answers_pass_and_wrong_ones_stop():
    W, H = weights(40, 96), hessian(96)
    cpu, other = ql.ldlq(W, H), ql.ldlq(W, H, backend="generic")
    machine = HostMachine()
    answer = device_answers.compare(machine, other, cpu, W, H)
    assert answer["loss_ratio"] == pytest.approx(1, abs=1e-3)
    nearest = ql.nearest(W, H, grid=cpu.grid)
    wrong = ql.ldlq(W, H)
    wrong.codes[5] = nearest.codes[5]
    with pytest.raises(SystemExit, match="differ away from ties"):
        device_answers.compare(machine, wrong, cpu, W, H)
    with pytest.raises(SystemExit, match="other grids"):
        device_answers.compare(machine, ql.ldlq(W, H, clip="minmax"), cpu, W, H)
    with pytest.raises(SystemExit, match="another order"):
        device_answers.compare(machine, ql.ldlq(W, H, order="natural"), cpu, W, H)


def test_the_check_of_ranges_stops_where_they_are_not_the_best(monkeypatch):
    W = weights(64, 128)
    machine = HostMachine()
    assert device_clip._check(machine, W, W, 2) == 0
    grids = [ql.minmax_grid(W, 2), ql.mse_grid(W, 2)]
    monkeypatch.setattr(ql, "mse_grid", lambda X, bits: grids.pop(0))
    with pytest.raises(SystemExit, match="are not the CPU's"):
        device_clip._check(machine, W, W, 2)


def test_the_peak_counts_what_is_held_at_a_time():
    class MemoryHook:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    module = types.SimpleNamespace(MemoryHook=MemoryHook)
    hook = device_machine._hook(
        types.SimpleNamespace(cuda=types.SimpleNamespace(memory_hook=module))
    )
    with hook:
        hook.malloc_postprocess(device_id=0, size=500, mem_size=512, mem_ptr=1, pmem_id=1)
        hook.malloc_postprocess(device_id=0, size=500, mem_size=512, mem_ptr=0, pmem_id=0)  # failed
        hook.malloc_postprocess(device_id=0, size=900, mem_size=1024, mem_ptr=2, pmem_id=2)
        hook.free_postprocess(device_id=0, mem_size=512, mem_ptr=1, pmem_id=1)
        hook.malloc_postprocess(device_id=0, size=1, mem_size=512, mem_ptr=3, pmem_id=3)
        hook.free_postprocess(device_id=0, mem_size=1024, mem_ptr=2, pmem_id=2)
    assert (hook.now, hook.most) == (512, 1536)
