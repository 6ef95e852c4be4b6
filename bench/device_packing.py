"""Packing of codes on a device against the bytes that it moves."""

from __future__ import annotations

from functools import partial

import numpy as np

import quiplinalg as ql
from bench.common import Report, check
from bench.device_floor import copy_call
from bench.device_machine import Machine
from bench.device_table import Line, add
from bench.device_timing import Call, device_times, interleave

__all__ = ["run"]

SHAPE, QUICK = (8192, 8192), (64, 100)
BITS = (2, 3, 4)


def run(report: Report, machine: Machine) -> None:
    """Time `pack` and `unpack`."""
    m, n = QUICK if report.settings.quick else SHAPE
    for bits in BITS:
        codes = np.random.default_rng(bits).integers(0, 1 << bits, (m, n), np.uint8)
        C = machine.to_device(codes)
        packed = ql.pack(C, bits)
        check(
            np.array_equal(machine.to_host(packed), ql.pack(codes, bits)),
            f"pack, {bits} bits: other bytes than on the CPU",
        )
        back = machine.to_host(ql.unpack(packed, bits, n))
        check(np.array_equal(back, codes), f"unpack, {bits} bits: other codes come back")
        copy = copy_call(machine, C)
        calls = [
            Call("pack", partial(ql.pack, C, bits)),
            Call("unpack", partial(ql.unpack, packed, bits, n)),
        ]
        samples = interleave([copy, *calls], machine.clock, 3 * report.settings.rounds)
        moved = codes.nbytes + machine.to_host(packed).nbytes
        floor = [moved / (2.0 * codes.nbytes) * t for t in device_times(samples["copy"])]
        for call in calls:
            record = {"shape": [m, n], "bits": bits, "bytes": moved}
            case = f"({m}, {n}), {bits} bits"
            ours = samples[call.name]
            add(report, Line("packing", case, call.name, ours, "bytes", floor, record=record))
    report.notes.append(
        "Packing: the bytes of the codes and of the packed ones, at the rate of copying the codes. "
        "pack looks at all codes first whether they fit."
    )
