"""The search for clipped ranges on a device against the flops of its 80 sums."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import Report, check, weights
from bench.device_floor import copy_call, gemm_call, gemm_flops
from bench.device_machine import Machine
from bench.device_table import Line, add
from bench.device_timing import Call, device_times, interleave

__all__ = ["run"]

SHAPE, QUICK = (4096, 4096), (64, 128)
RANGES = 80
FLOPS = 18.0  # of one weight in one range: scaled, rounded, subtracted, a polynomial, a sum
_OTHER_ROWS = 0.05  # most of the rows whose range may be another of an equal sum
_EQUAL = 1e-4


def run(report: Report, machine: Machine) -> None:
    """Time `mse_grid` and `minmax_grid`."""
    quick = report.settings.quick
    m, n = QUICK if quick else SHAPE
    W = weights(m, n)
    X = machine.to_device(W)
    size = 128 if quick else 8192
    sgemm, copy = gemm_call(machine, size, np.float32), copy_call(machine, X)
    for bits in (2, 4):
        other = _check(machine, W, X, bits)
        calls = [
            Call("mse_grid", partial(ql.mse_grid, X, bits)),
            Call("minmax_grid", partial(ql.minmax_grid, X, bits)),
        ]
        samples = interleave([sgemm, copy, *calls], machine.clock, report.settings.rounds)
        work = RANGES * m * n * FLOPS / gemm_flops(size)
        flops = [work * t for t in device_times(samples["sgemm"])]
        reads = [t / 2 for t in device_times(samples["copy"])]
        record = {"shape": [m, n], "bits": bits, "rows_with_other_grids": other}
        case = f"({m}, {n}), {bits} bits"
        for name, against, floor in (
            ("mse_grid", f"{RANGES} x {FLOPS:.0f} m n flops at sgemm's rate", flops),
            ("minmax_grid", "reading W", reads),
        ):
            add(report, Line("clip", case, name, samples[name], against, floor, record=record))
    report.notes.append(
        f"Clip: {FLOPS:.0f} flops for each weight and each of {RANGES} ranges; a search that gives "
        "ranges up early does fewer."
    )


def _check(machine: Machine, W: np.ndarray, X: Any, bits: int) -> float:
    """The ranges are the CPU's, or others of the same sum |error|^2.4; return how many are not."""
    ours, cpu = ql.mse_grid(X, bits), ql.mse_grid(W, bits)
    scale, zero = machine.to_host(ours.scale), machine.to_host(ours.zero)
    rows = np.flatnonzero(((scale != cpu.scale) | (zero != cpu.zero)).any(axis=1))
    other = rows.size / W.shape[0]
    check(other <= _OTHER_ROWS, f"mse_grid, {bits} bits: {other:.1%} of the rows are not the CPU's")
    few = rows[:256]

    def cost(s: np.ndarray, o: np.ndarray) -> np.ndarray:
        s, o = s[few].astype(np.float64), o[few].astype(np.float64)
        w = W[few].astype(np.float64)
        codes = np.clip(np.rint(w / s) + o, 0, 2**bits - 1)
        return (np.abs(s * (codes - o) - w) ** 2.4).sum(axis=1)

    close = np.abs(cost(scale, zero) - cost(cpu.scale, cpu.zero))
    check(
        bool((close <= _EQUAL * cost(cpu.scale, cpu.zero)).all()),
        f"mse_grid, {bits} bits: a range is not the best",
    )
    return other
