"""The search for clipped ranges, against the floor of the matrix it belongs to."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import (
    Contestant,
    Floor,
    Report,
    Settings,
    check,
    hessian,
    interleave,
    our_threads,
    ratio,
    weights,
)

LIMIT = 0.35
COLUMNS = ["(m, n)", "bits", "threads", "mse_grid s", "minmax_grid s", "floor s", "ratio", "limit"]


def run(settings: Settings) -> Report:
    """Time `mse_grid` at 2 and 4 bits."""
    report = Report("clip", "mse_grid against dpotrf + sgemm", COLUMNS, settings)
    m = n = 256 if settings.quick else 4096
    W, H = weights(m, n), hessian(n)
    for bits in (2, 4):
        _check(W, bits)
    for threads in settings.threads:
        floor = Floor(m, n, H, threads, settings.quick)
        ours = [
            Contestant(f"{name} {bits}", _call(make, W, bits), our_threads)
            for bits in (2, 4)
            for name, make in (("mse", ql.mse_grid), ("minmax", ql.minmax_grid))
        ]
        samples = interleave(floor.contestants + ours, threads, settings.rounds)
        below = floor.times(samples)
        for bits in (2, 4):
            times, plain = samples[f"mse {bits}"], samples[f"minmax {bits}"]
            value = ratio(times, below["rounds"])
            what = f"mse_grid {bits} bits, {threads} thread(s)"
            report.add(
                [
                    f"({m}, {n})", bits, threads, median(times), median(plain), below["median"],
                    f"{value:.3f}", report.verdict(value, LIMIT, what),
                ],
                {
                    "shape": [m, n], "bits": bits, "threads": threads, "median": median(times),
                    "samples": times, "minmax_samples": plain, "ratio": value, "limit": LIMIT,
                    "floor": below,
                },
            )  # fmt: skip
    return report


def _call(make: Any, W: np.ndarray, bits: int) -> Any:
    return lambda: make(W, bits)


def _check(W: np.ndarray, bits: int) -> None:
    """Check some rows: the sum of |error|^2.4 is the least of the 80 ranges, to 1e-4."""
    rows = W[:8].astype(np.float64)
    grid = ql.mse_grid(W, bits)

    def cost(scale: np.ndarray, zero: np.ndarray) -> np.ndarray:
        codes = np.clip(np.rint(rows / scale) + zero, 0, 2**bits - 1)
        return (np.abs(scale * (codes - zero) - rows) ** 2.4).sum(axis=1)

    low, high = np.minimum(rows.min(1), 0), np.maximum(rows.max(1), 0)
    best = np.full(rows.shape[0], np.inf)
    for i in range(80):
        p = 1 - i / 100
        scale = (p * (high - low) / (2**bits - 1))[:, None]
        best = np.minimum(best, cost(scale, np.rint(-p * low[:, None] / scale)))
    found = cost(grid.scale[:8].astype(np.float64), grid.zero[:8].astype(np.float64))
    check(bool((found <= best * (1 + 1e-4)).all()), f"mse_grid {bits} bits: {found / best}")
