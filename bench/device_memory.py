"""Peak device memory of `ldlq` beyond its inputs, against what is stated for it."""

from __future__ import annotations

from functools import partial
from typing import Any

import quiplinalg as ql
from bench.common import Report, hessian, weights
from bench.device_machine import Machine

__all__ = ["run", "stated"]

SHAPES, QUICK = ((4096, 4096), (2048, 8192), (8192, 8192)), ((128, 192),)
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "minmax, natural": {"clip": "minmax", "order": "natural"},
}
BITS = 2
REST = 64e6  # bytes: the library's work space, what is of order m + n, the pool's rounding


def stated(m: int, n: int) -> float:
    """Return the most bytes that one layer in float32 takes, its codes and grid among them.

    8 n^2 for the factor, 4 n^2 for its feedback, and 13 bytes a weight: targets, errors and codes
    in tiles, codes in the caller's order, and a copy of W where one is needed.
    """
    return 12.0 * n * n + 13.0 * m * n + REST


def run(report: Report, machine: Machine) -> None:
    """Measure `ldlq`, warm, with inputs that are on the device."""
    for m, n in QUICK if report.settings.quick else SHAPES:
        W, H = machine.to_device(weights(m, n)), machine.to_device(hessian(n))
        for name, keywords in CASES.items():
            ql.ldlq(W, H, bits=BITS, **keywords)
            machine.release()
            result, peak = machine.peak(partial(ql.ldlq, W, H, bits=BITS, **keywords))
            del result
            limit = stated(m, n)
            what = f"memory, ({m}, {n}), {name}"
            value = peak.used / limit
            verdict = report.verdict(value, 1, f"{what}: bytes over what is stated")
            report.add(
                ["memory", f"({m}, {n}), {BITS} bits", name, "–", "–",
                 f"{limit / 1e6:.0f} MB stated", f"{peak.used / 1e6:.0f} MB",
                 f"{value:.2f} ×", verdict],
                {"part": "memory", "shape": [m, n], "call": name, "used": peak.used,
                 "taken": peak.taken, "stated": limit},
            )  # fmt: skip
        del W, H
        machine.release()
    report.notes.append(
        "Memory: the most that arrays in CuPy's pool hold at a time during a warm call beyond what "
        "they held before it; the codes and the grid are among it, W and H are not. "
        "MB is 10⁶ bytes. What the pool takes from the device, its gaps among it, is in the JSON."
    )
