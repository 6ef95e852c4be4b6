"""Pruning: the time of `sparsegpt` over that of `gptq`, of the exact methods, and the losses."""

from __future__ import annotations

from collections.abc import Callable
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
from bench.layers import synthetic

SHAPE, EXACT, COLUMNS_AT = (4096, 4096), (64, 768), (1024, 1024)
QUICK = ((256, 256), (8, 96), (64, 64))
LIMIT = 2.0
COLUMNS = ["what", "(m, n) or data", "pattern", "threads", "s", "over gptq", "limit", "dB"]


def run(settings: Settings) -> Report:
    """Time 2:4 and 50 % at (4096, 4096), the exact methods at their sizes; compare losses."""
    report = Report("prune", "Pruning: time and loss", COLUMNS, settings)
    fast, exact, columns = QUICK if settings.quick else (SHAPE, EXACT, COLUMNS_AT)
    _one_pass(report, fast)
    _exact(report, exact, {
        "2:4": lambda W, H: ql.obs_prune(W, H, pattern="2:4"),
        "50 %": lambda W, H: ql.obs_prune(W, H, 0.5),
        "block:4": lambda W, H: ql.obs_prune(W, H, 0.5, pattern="block:4"),
    }, "obs_prune")  # fmt: skip
    _exact(report, columns, {"columns": lambda W, H: ql.prune_columns(W, H, 0.5)}, "prune_columns")
    _quality(report)
    report.notes.append(
        "One thread: process CPU time; more: wall. Over gptq: the median of the ratios of the "
        'rounds to `gptq(W, H, 4, clip="minmax")` on the same matrix. dB: 10 log10(loss / '
        "tr(W H W^T)), lower is better. Data: synthetic layers (256, 512) of bench/layers.py, the "
        "mean over three seeds in dB; magnitude pruning drops the smallest |w| of the layer (of "
        "each group with 2:4) and compensates nothing; nearest rounds what it keeps."
    )
    return report


def _one_pass(report: Report, shape: tuple[int, int]) -> None:
    m, n = shape
    W, H = weights(m, n), hessian(n)
    calls: dict[str, Callable] = {
        "gptq": lambda: ql.gptq(W, H, 4, clip="minmax"),
        "2:4": lambda: ql.sparsegpt(W, H, pattern="2:4"),
        "50 %": lambda: ql.sparsegpt(W, H, 0.5),
        "2:4, 4 bits": lambda: ql.prune_quantize(W, H, 4, pattern="2:4", clip="minmax"),
    }
    answers = {name: _checked(W, H, call()) for name, call in calls.items() if name != "gptq"}
    ours = [Contestant(name, call, our_threads) for name, call in calls.items()]
    for threads in report.settings.threads:
        samples = interleave(ours, threads, report.settings.rounds)
        for name, dB in answers.items():
            value = ratio(samples[name], samples["gptq"])
            limit = LIMIT if name == "2:4" else None
            verdict = report.verdict(
                value, limit, f"sparsegpt {name} ({m}, {n}), {threads} thread(s)"
            )
            what = "prune_quantize" if "bits" in name else "sparsegpt"
            report.add(
                [what, f"({m}, {n})", name, threads, median(samples[name]), f"{value:.3f}",
                 verdict, f"{dB:.2f}"],
                {"what": what, "shape": [m, n], "pattern": name, "threads": threads,
                 "samples": samples[name], "gptq": samples["gptq"], "ratio": value,
                 "limit": limit, "dB": dB},
            )  # fmt: skip


def _exact(report: Report, shape: tuple[int, int], methods: dict[str, Callable], what: str) -> None:
    m, n = shape
    W, H = weights(m, n), hessian(n)
    for name, method in methods.items():
        dB = _checked(W, H, method(W, H))
        for threads in report.settings.threads:
            rounds = min(report.settings.rounds, 3)
            one = Contestant(name, lambda method=method: method(W, H), our_threads)
            times = interleave([one], threads, rounds)[name]
            report.add(
                [what, f"({m}, {n})", name, threads, median(times), "–", "–", f"{dB:.2f}"],
                {"what": what, "shape": [m, n], "pattern": name, "threads": threads,
                 "samples": times, "dB": dB},
            )  # fmt: skip


def _checked(W: np.ndarray, H: np.ndarray, result: Any) -> float:
    """Check a result: zeros on the mask, half of it pruned, its loss; return the loss in dB."""
    W_hat = np.asarray(result)
    check(not W_hat[result.mask].any(), f"pruned weights are not zero: {result!r}")
    share = result.mask.mean()
    check(abs(share - 0.5) < 1e-3, f"{share} is pruned: {result!r}")
    loss = ql.proxy_loss(W_hat, W, H)
    check(abs(result.loss - loss) < 1e-3 * loss, f"loss {loss}, carried {result.loss}: {result!r}")
    return _decibels(loss, W, H)


def _decibels(loss: float, W: np.ndarray, H: np.ndarray) -> float:
    return float(10 * np.log10(loss / ql.proxy_loss(0 * W, W, H)))


def magnitude(W: np.ndarray, pattern: str) -> np.ndarray:
    """Return W without its smaller half, by layer or in groups of four."""
    if pattern == "2:4":
        groups = np.abs(W).reshape(len(W), -1, 4)
        rank = np.argsort(np.argsort(groups, axis=2), axis=2).reshape(W.shape)
        return np.where(rank < 2, 0, W)
    return np.where(np.abs(W) < np.median(np.abs(W)), 0, W)


def _quality(report: Report) -> None:
    """Losses at half the weights, and with 4 bits for the other half."""

    def rounded(W: np.ndarray, pattern: str) -> np.ndarray:
        kept = magnitude(W, pattern)
        return np.where(kept == 0, 0, ql.nearest(kept, bits=4).dequantize())

    keywords = {"50 %": {"sparsity": 0.5}, "2:4": {"pattern": "2:4"}}
    methods: dict[str, Callable] = {
        "magnitude": lambda W, H, p: magnitude(W, p),
        "sparsegpt": lambda W, H, p: ql.sparsegpt(W, H, **keywords[p]),
        "sparsegpt, act order": lambda W, H, p: ql.sparsegpt(W, H, **keywords[p], order="act"),
        "obs_prune": lambda W, H, p: ql.obs_prune(W, H, **keywords[p]),
        "magnitude, nearest 4 bits": lambda W, H, p: rounded(W, p),
        "prune_quantize sparsegpt, 4 bits": lambda W, H, p: ql.prune_quantize(
            W, H, 4, **keywords[p]
        ),
        "prune_quantize obs, 4 bits": lambda W, H, p: ql.prune_quantize(
            W, H, 4, **keywords[p], method="obs"
        ),
    }
    for outlier in (True, False):
        layers = list(synthetic(outlier))
        if report.settings.quick:
            layers = [(W[:16, :96], H[:96, :96]) for W, H in layers[:1]]
        data = f"synthetic, {'outlier' if outlier else 'incoherent'} H"
        for pattern in keywords:
            for name, method in methods.items():
                if pattern == "2:4" and "act order" in name:
                    continue  # groups are of consecutive columns
                values = [
                    _decibels(ql.proxy_loss(method(W, H, pattern), W, H), W, H) for W, H in layers
                ]
                report.add(
                    [name, data, pattern, "–", "–", "–", "–", f"{np.mean(values):.2f}"],
                    {"what": name, "data": data, "pattern": pattern, "dB": values},
                )
