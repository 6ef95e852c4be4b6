"""Greedy OBQ on a device against its flops and its memory traffic."""

from __future__ import annotations

from functools import partial

import numpy as np

import quiplinalg as ql
from bench.common import Report, check, hessian, weights
from bench.device_floor import copy_call, gemm_call, gemm_flops
from bench.device_machine import Machine
from bench.device_table import Line, add
from bench.device_timing import Call, device_times, interleave

__all__ = ["run"]

SHAPES, QUICK = ((64, 768), (1024, 768)), ((16, 64),)
BITS, DAMP = 3, 0.01
BLOCK = 64  # steps between two updates of the inverse, for the floor of the traffic
_OTHER_ROWS = 1 / 16  # most of the rows that may part at equal costs
_LOSS = 0.01


def run(report: Report, machine: Machine) -> None:
    """Time `obq` with a grid that is given, 3 bits."""
    quick = report.settings.quick
    for m, n in QUICK if quick else SHAPES:
        W, H = weights(m, n), hessian(n)
        X, A = machine.to_device(W), machine.to_device(H)
        cpu = ql.obq(W, H, grid=ql.minmax_grid(W, BITS), damp=DAMP)
        grid = ql.minmax_grid(X, BITS)
        ours = ql.obq(X, A, grid=grid, damp=DAMP)
        differ = float((machine.to_host(ours.codes) != cpu.codes).any(axis=1).mean())
        check(differ <= _OTHER_ROWS, f"obq: {differ:.1%} of the rows are not the CPU's")
        loss_ratio = float(ours.loss) / cpu.loss
        check(abs(loss_ratio - 1) < _LOSS, f"obq: loss {ours.loss}, on the CPU {cpu.loss}")
        size, count = (64, 1 << 12) if quick else (4096, 1 << 27)
        dgemm = gemm_call(machine, size, np.float64)
        source = machine.to_device(np.ones(count))
        copy = copy_call(machine, source)
        call = Call("obq", partial(ql.obq, X, A, grid=grid, damp=DAMP))
        samples = interleave([dgemm, copy, call], machine.clock, report.settings.rounds)
        traffic = m * (8 * n**3 / (3 * BLOCK) + 8 * n * n)
        flops = [m * n**3 / 3 / gemm_flops(size) * t for t in device_times(samples["dgemm"])]
        moved = [traffic / (16.0 * count) * t for t in device_times(samples["copy"])]
        record = {
            "shape": [m, n], "bits": BITS, "rows_that_differ": differ, "loss_ratio": loss_ratio,
        }  # fmt: skip
        for against, floor in (("m n³ / 3 flops at dgemm's rate", flops), ("traffic", moved)):
            case = f"({m}, {n}), {BITS} bits"
            add(report, Line("obq", case, "obq", samples["obq"], against, floor, record=record))
        machine.release()
    report.notes.append(
        "obq: the flops are those of the lower triangle of what is left of each row's inverse; "
        f"traffic is that triangle read and written every {BLOCK} steps, 8 n³ / (3 · {BLOCK}) "
        "bytes a row, and 8 n² to fill it, at the copy's rate. What stays in the L2 cache is "
        "faster."
    )
