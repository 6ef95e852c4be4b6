"""The CUDA backend, on a machine that has a device: every part of it in one table."""

from __future__ import annotations

from importlib import import_module

from bench.common import Report, Settings
from bench.device_machine import CudaMachine, Machine
from bench.device_table import COLUMNS

__all__ = ["PARTS", "run"]

PARTS = ("ldlq", "stack", "rotation", "descent", "obq", "packing", "clip", "memory")


def run(
    settings: Settings, machine: Machine | None = None, parts: tuple[str, ...] = PARTS
) -> Report:
    """Time the parts in turn; what is done is on the disk after each.

    Raises `bench.common.CannotRunError` where there is no device.
    """
    machine = CudaMachine() if machine is None else machine
    report = Report("device", "The CUDA backend", COLUMNS, settings)
    report.where["device"] = machine.describe()
    for part in parts:
        import_module(f"bench.device_{part}").run(report, machine)
        machine.release()
        report.save()
    report.notes.append(
        "Times are medians of interleaved rounds of warm calls: between CUDA events around the "
        "call, and by the wall clock until the device has finished. Ratios are medians of the "
        "ratios of the rounds, by events. Inputs are on the device, and results stay there."
    )
    return report
