"""Coordinate descent after `ldlq`: the time of its passes over that of `ldlq`, and the gain."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import (
    Contestant,
    Report,
    Settings,
    check,
    hessian,
    interleave,
    our_threads,
    ratio,
    weights,
)

# (m, n), has a limit; shapes with the same n follow each other and share H
SHAPES = (((4096, 4096), True), ((11008, 4096), False))
QUICK = (((256, 256), True), ((600, 384), False))
LIMIT = 1.0
PASSES = 3
BITS = 2
COLUMNS = [
    "(m, n)", "clip", "threads", "ldlq s", "pass 1 s", "pass 1 ratio", "pass 2", "pass 3",
    "mean of 3", "limit", "to a fixed point", "passes", "% of codes changed by pass 1, 2, 3",
    "gain dB",
]  # fmt: skip


def run(settings: Settings) -> Report:
    """Time `descend` after `ldlq` with 2 bits and act order, passes = 1, 2, 3 and all."""
    report = Report("descent", "Coordinate descent after ldlq", COLUMNS, settings)
    for (m, n), limited in QUICK if settings.quick else SHAPES:
        W, H = weights(m, n), hessian(n)
        for clip in ("minmax", "mse"):
            _layer(report, W, H, clip, limited and clip == "minmax")
    report.notes.append(
        "2 bits, act order. Ratios: seconds of `descend(passes=1)`, what each more adds, the mean "
        "of three, and of `descend()`, over those of `ldlq` with a min-max grid, whatever the grid "
        "that the codes are on.  One thread: process CPU time; "
        "more: wall. Gain: 10 log10 of the loss before over the loss at the fixed point."
    )
    return report


def _layer(report: Report, W: np.ndarray, H: np.ndarray, clip: str, limited: bool) -> None:
    m, n = W.shape
    start = ql.ldlq(W, H, bits=BITS, clip=clip)
    some = [ql.descend(W, H, start, passes=k) for k in range(1, PASSES + 1)]
    end = ql.descend(W, H, start)
    answer = _checked(W, H, [start, *some, end])
    shares = [q.changed / max(m * n, 1) for q in some]
    calls = {
        "ldlq": lambda: ql.ldlq(W, H, bits=BITS, clip="minmax"),
        "all": lambda: ql.descend(W, H, start),
        **{str(k): _call(W, H, start, k) for k in range(1, PASSES + 1)},
    }
    ours = [Contestant(name, call, our_threads) for name, call in calls.items()]
    for threads in report.settings.threads:
        rounds = report.settings.rounds if limited else min(report.settings.rounds, 3)
        times = interleave(ours, threads, rounds)
        below = times["ldlq"]
        first = ratio(times["1"], below)
        more = [
            median(
                (b - a) / c for a, b, c in zip(times[str(k)], times[str(k + 1)], below, strict=True)
            )
            for k in range(1, PASSES)
        ]
        what = f"a pass of descend ({m}, {n}) {clip}, {threads} thread(s)"
        mean = (first + sum(more)) / PASSES
        verdict = report.verdict(mean, LIMIT if limited else None, what)
        report.add(
            [
                f"({m}, {n})", clip, threads, median(below), median(times["1"]), f"{first:.3f}",
                *(f"{value:.3f}" for value in more), f"{mean:.3f}", verdict,
                f"{ratio(times['all'], below):.3f}", end.passes,
                ", ".join(f"{100 * share:.2f}" for share in shares),
                f"{answer['gain_dB']:.3f}",
            ],
            {
                "shape": [m, n], "clip": clip, "bits": BITS, "threads": threads, "samples": times,
                "first": first, "more": more, "ratio": mean, "limit": LIMIT if limited else None,
                "passes": end.passes, "shares": shares, "answer": answer,
            },
        )  # fmt: skip


def _call(W: np.ndarray, H: np.ndarray, start: Any, passes: int) -> Any:
    return lambda: ql.descend(W, H, start, passes=passes)


def _checked(W: np.ndarray, H: np.ndarray, results: list[Any]) -> dict[str, Any]:
    """Check results of ever more passes: each loss is the defined one, and below the last."""
    losses = [q.loss for q in results]
    check(all(a >= b for a, b in pairwise(losses)), f"it rises: {losses}")
    check(results[-1].changed == 0, f"no fixed point: {results[-1]!r}")
    loss = ql.proxy_loss(results[-1], W, H)
    error = abs(losses[-1] - loss) / loss
    check(error < 1e-3, f"loss {losses[-1]} is carried, {loss} is so: {results[-1]!r}")
    few = replace(
        results[-1],
        codes=results[-1].codes[:64],
        grid=replace(
            results[-1].grid, scale=results[-1].grid.scale[:64], zero=results[-1].grid.zero[:64]
        ),
    )
    few = replace(few, loss=ql.proxy_loss(few, W[:64], H))
    found = ql.verify(W[:64], H, few)
    check(found.ok, found.reason)
    return {
        "losses": losses,
        "loss_error": error,
        "gain_dB": float(10 * np.log10(losses[0] / losses[-1])),
    }
