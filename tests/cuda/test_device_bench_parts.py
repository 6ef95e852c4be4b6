"""Every part of the device's benchmarks at small sizes: on NumPy, and on the stand-in for CuPy."""

from __future__ import annotations

import importlib
import json
import sys

import pytest
from host_machine import HostMachine

from bench import device, device_machine, device_memory, device_profile
from bench.common import Settings
from bench.device_table import COLUMNS
from bench.device_timing import Call

SIZES = {
    "ldlq": {"QUICK": ((40, 48),)},
    "stack": {"QUICK_SHAPE": (20, 32), "QUICK_MEMBERS": 2},
    "rotation": {"QUICK": ((8, 24),)},
    "descent": {"QUICK": (24, 32)},
    "obq": {"QUICK": ((4, 16),)},
    "packing": {"QUICK": (9, 20)},
    "clip": {"QUICK": (40, 64)},
    "memory": {"QUICK": ((24, 32),)},
}


class StandInMachine(device_machine.CudaMachine):
    """The machine of a CUDA device on the stand-in for CuPy; torch is on the host."""

    def __init__(self):
        super().__init__()
        self.torch_device = "cpu" if "torch" in sys.modules else None

    def peak(self, call):
        return call(), device_machine.Peak(1000, 2000)

    def release(self):
        self.wait()
        self.xp.get_default_memory_pool().free_all_blocks()


def run_small(part, machine, folder, monkeypatch):
    module = importlib.import_module(f"bench.device_{part}")
    for name, value in SIZES[part].items():
        monkeypatch.setattr(module, name, value)
    report = device.run(Settings(quick=True, rounds=2, output=folder), machine, (part,))
    report.write()
    assert report.rows and all(len(row) == len(COLUMNS) for row in report.rows)
    data = json.loads((folder / "device.json").read_text())
    assert len(data["results"]) == len(report.rows)
    assert not data["missed"]
    return report


@pytest.mark.parametrize("part", device.PARTS)
def test_every_part_runs_on_the_host(part, tmp_path, monkeypatch):
    if part == "ldlq":
        pytest.importorskip("torch")
    machine = HostMachine(torch_device="cpu")
    run_small(part, machine, tmp_path, monkeypatch)
    assert machine.released


@pytest.mark.parametrize("part", device.PARTS)
def test_every_part_runs_on_the_stand_in_of_a_device(cuda, part, tmp_path, monkeypatch):
    report = run_small(part, StandInMachine(), tmp_path, monkeypatch)
    assert report.where["device"]["compute_capability"] == "9.0"
    if part == "ldlq":  # the profile finds the kernels where they are launched
        line = next(r for r in report.records if r["part"] == "feedback")
        kernels = line["profile"]["kernels"]
        assert {"hessian.reverse_rows", "rounding.round_nearest", "rounding.store"} <= set(kernels)
        spent = line["profile"]["parts"]
        assert all(spent[name] > 0 for name in device_profile.PARTS)
        assert sum(spent.values()) == pytest.approx(line["profile"]["whole"], rel=0.01)


def test_without_torch_the_rival_is_left_out_and_the_table_says_so(tmp_path, monkeypatch):
    from bench import device_ldlq

    monkeypatch.setattr(device_ldlq, "QUICK", ((64, 96),))
    settings = Settings(quick=True, rounds=1, output=tmp_path)
    report = device.run(settings, HostMachine(), ("ldlq",))
    assert not any("eager" in row[5] for row in report.rows)
    assert "left out: no torch here" in (tmp_path / "device.md").read_text() + "".join(report.notes)


def test_goals_of_ldlq_are_judged_at_their_shapes(tmp_path, monkeypatch):
    """Full settings at small shapes: 25 ms by the wall clock, 20 times the eager loop."""
    pytest.importorskip("torch")
    from bench import device_ldlq

    monkeypatch.setattr(device_ldlq, "SHAPES", ((48, 64),))
    monkeypatch.setattr(device_ldlq, "WALL", {(48, 64): 25e-3})
    monkeypatch.setattr(device_ldlq, "JUDGED", (48, 64))
    monkeypatch.setattr(
        device_ldlq, "gemm_call", lambda machine, size, dtype: Call("sgemm", lambda: None)
    )
    times = {"ldlq 2 defaults": 12e-3, "ldlq 2 minmax, natural": 13e-3, "eager act": 25.0}
    machine = HostMachine(times, torch_device="cpu")
    report = device.run(Settings(rounds=1, output=tmp_path), machine, ("ldlq",))
    goals = {(row[1], row[2]): row[-1] for row in report.rows}
    assert goals["(48, 64), 2 bits", "defaults"] == "wall ms ≤ 25: yes"
    assert goals["(48, 64), 2 bits", "minmax, natural"] == "wall ms ≤ 25: NO"
    assert goals["(48, 64), 4 bits", "defaults"] == "–"
    assert goals["(48, 64), 2 bits, given grid", "act order"] == "≥ 20: yes"
    assert goals["(48, 64), 2 bits, given grid", "natural order"] == "≥ 20: NO"
    assert len(report.missed) == 2


def test_stated_memory_counts_the_factor_its_feedback_and_the_weights():
    assert device_memory.stated(1000, 100) == 12 * 100**2 + 13 * 1000 * 100 + device_memory.REST
