"""End to end: float32 W and H in memory to codes and their loss, against the floor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from bench.profiling import slot_times

# (m, n), has a limit; shapes with the same n follow each other and share H
SHAPES = (
    ((4096, 4096), True),
    ((1024, 4096), True),
    ((11008, 4096), False),
    ((2048, 8192), True),
    ((4096, 11008), False),
)
QUICK = (((256, 256), True), ((128, 384), False))
LIMITS = {1: 1.25, 2: 1.35}
COLUMNS = [
    "(m, n)", "bits", "order", "threads", "ldlq s", "floor s", "ratio", "limit", "panels",
    "sgemm GF/s", "dpotrf GF/s",
]  # fmt: skip


def run(settings: Settings) -> Report:
    """Time `ldlq` with a min-max grid at every shape, 2 and 4 bits."""
    report = Report("ldlq", "ldlq end to end against dpotrf + sgemm", COLUMNS, settings)
    for (m, n), limited in QUICK if settings.quick else SHAPES:
        W, H = weights(m, n), hessian(n)
        orders = ("act", "natural") if limited else ("act",)
        calls = {(bits, order): _call(W, H, bits, order) for bits in (2, 4) for order in orders}
        answers = {key: _checked(W, H, call()) for key, call in calls.items()}
        for threads in settings.threads:
            _time(report, (m, n), H, calls, threads, limited, answers)
        profile = slot_times(calls[2, "act"])
        whole = sum(profile.values())
        shares = ", ".join(f"{k} {v / whole:.1%}" for k, v in profile.items() if v > 0.002 * whole)
        report.notes.append(
            f"Where the time goes at ({m}, {n}), 2 bits, act order, one thread, "
            f"{whole:.3g} s with timers: {shares}."
        )
        report.records.append({"shape": [m, n], "profile": profile})
    report.notes.append(
        "One thread: process CPU time; more: wall. Ratio: median of the ratios of the rounds. "
        "GF/s of sgemm: m n² flops over the time of the panels, scaled up by the blocks on the "
        "diagonal that they leave out."
    )
    return report


def _call(W: np.ndarray, H: np.ndarray, bits: int, order: str) -> Callable[[], Any]:
    return lambda: ql.ldlq(W, H, bits=bits, clip="minmax", order=order)


def _checked(W: np.ndarray, H: np.ndarray, q: Any) -> dict[str, float]:
    """Check a result: the loss it carries is the defined one, and is below nearest's."""
    loss = ql.proxy_loss(q, W, H)
    nearest = q.nearest_loss(W, H)
    error = abs(q.loss - loss) / loss
    check(error < 1e-3, f"loss {q.loss} is carried, {loss} is so: {q!r}")
    check(loss < nearest, f"loss {loss}, nearest {nearest}: {q!r}")
    return {
        "loss": loss,
        "loss_error": error,
        "loss_over_nearest": loss / nearest,
        "near_tie_rows": q.near_tie_rows,
        "clipped": q.clipped,
    }


def _time(
    report: Report,
    shape: tuple[int, int],
    H: np.ndarray,
    calls: dict[tuple[int, str], Callable],
    threads: int,
    limited: bool,
    answers: dict[tuple[int, str], dict[str, float]],
) -> None:
    m, n = shape
    settings = report.settings
    if not limited:
        settings = replace(settings, rounds=min(settings.rounds, 3))
    floor = Floor(m, n, H, threads, settings.quick)
    ours = [
        Contestant(f"ldlq {bits} {order}", call, our_threads)
        for (bits, order), call in calls.items()
    ]
    samples = interleave(floor.contestants + ours, threads, settings.rounds)
    below = floor.times(samples)
    for bits, order in calls:
        times = samples[f"ldlq {bits} {order}"]
        value = ratio(times, below["rounds"])
        limit = LIMITS.get(threads) if limited and order == "act" else None
        verdict = report.verdict(
            value, limit, f"ldlq ({m}, {n}) {bits} bits, {order} order, {threads} thread(s)"
        )
        report.add(
            [
                f"({m}, {n})", bits, order, threads, median(times), below["median"],
                f"{value:.3f}", verdict, below["panels"], below["sgemm_gflops"],
                below["dpotrf_gflops"],
            ],
            {
                "shape": [m, n], "bits": bits, "order": order, "threads": threads,
                "median": median(times), "samples": times, "ratio": value, "limit": limit,
                "ratio_to_potrf_plus_unscaled_panels": ratio(
                    times,
                    [a + b for a, b in zip(
                        samples["dpotrf"], samples[below["panels"]], strict=True
                    )],
                ),
                "floor": below,
                "floor_samples": {one.name: samples[one.name] for one in floor.contestants},
                "answer": answers[bits, order],
            },
        )  # fmt: skip
