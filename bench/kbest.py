"""K-best rounding and the exact search: their time, and what they gain over `ldlq`."""

from __future__ import annotations

import time
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
from bench.layers import Layer, demo, draw, synthetic

BITS = 2
PATHS = (2, 4, 8, 16)
TIMED = 8  # paths
LIMIT = 12.0  # of kbest with 8 paths over ldlq
EXACT_LIMIT = 20.0  # ms a row, n = 32
COLUMNS = ["data", "bits", "method", "nodes a row", "proven", "ms a row", "gain dB", "limit"]


def run(settings: Settings) -> Report:
    """Compare losses on the sets of layers, time `exact` at n = 32, and `kbest` on a large one."""
    report = Report("kbest", "K-best rounding and the exact search", COLUMNS, settings)
    sets = {
        "synthetic, outlier H": list(synthetic(True)),
        "synthetic, incoherent H": list(synthetic(False)),
        "demo": list(demo()),
    }
    for data, layers in sets.items():
        for bits in (2,) if settings.quick else (2, 3, 4):
            _gains(report, data, layers[:1] if settings.quick else layers, bits)
    for outlier in (False, True):
        for bits in (2, 3):
            _optimum(report, outlier, bits)
    report.notes.append(
        "Gain: the mean over the layers of 10 log10(loss of ldlq / loss), loss under H itself, "
        "act-order (exact: min-pivot), MSE-clipped grid. 'exact' is at n = 32 (the synthetic "
        "recipe at that size), 1 % damping, one thread, process CPU time; its rows are compared "
        "under the damped H, with ldlq and kbest of the same rows."
    )
    _time(report)
    return report


def _loss(q: Any, W: np.ndarray, H: np.ndarray) -> float:
    loss = ql.proxy_loss(q, W, H)
    check(abs(q.loss - loss) <= 1e-3 * loss, f"carries {q.loss}, is {loss}: {q!r}")
    return loss


def _gains(report: Report, data: str, layers: list[Layer], bits: int) -> None:
    base = [_loss(ql.ldlq(W, H, bits), W, H) for W, H in layers]
    for k in PATHS:
        losses = [_loss(ql.kbest(W, H, bits, k=k), W, H) for W, H in layers]
        gains = [float(10 * np.log10(a / b)) for a, b in zip(base, losses, strict=True)]
        report.add(
            [data, bits, f"kbest, k = {k}", "", "", "", f"{np.mean(gains):.3f}", ""],
            {"data": data, "bits": bits, "k": k, "gains_dB": gains},
        )


def _optimum(report: Report, outlier: bool, bits: int) -> None:
    """Exact search at n = 32: time, nodes, and how far ldlq and kbest are from the optimum."""
    m, n = (16, 24) if report.settings.quick else (64, 32)
    seconds, rows, nodes, proven = 0.0, 0, [], []
    gaps: dict[str, list[float]] = {"ldlq": [], f"kbest, k = {TIMED}": []}
    for seed in range(1 if report.settings.quick else 4):
        W, H = draw(np.random.default_rng([seed, n]), m, n, outlier)
        grid = ql.mse_grid(W, bits)
        ql.exact(W[:1], H, grid=ql.mse_grid(W[:1], bits))  # compiled, and warm
        with ql.num_threads(1):
            start = time.process_time()
            found = ql.exact(W, H, grid=grid)
            seconds += time.process_time() - start
        rows += m
        nodes += found.nodes.tolist()
        proven += found.proven.tolist()
        Hd = H + found.quantized.damp * np.eye(n)
        for name, q in zip(
            gaps,
            (
                ql.ldlq(W, H, grid=grid, order="min-pivot"),
                ql.kbest(W, H, k=TIMED, grid=grid, order="min-pivot"),
            ),
            strict=True,
        ):
            E = q.__array__(np.float64) - W
            theirs = ((E @ Hd) * E).sum(axis=1)
            check(bool((found.row_loss <= theirs * (1 + 1e-9)).all()), f"{name} below the optimum")
            gaps[name].append(float(theirs.sum() / found.row_loss.sum()))
    each = 1000 * seconds / rows
    data = f"synthetic, {'outlier' if outlier else 'incoherent'} H, n = {n}"
    verdict = report.verdict(each, EXACT_LIMIT, f"exact, {data}, {bits} bits, ms a row")
    report.add(
        [
            data, bits, "exact", f"{np.mean(nodes):.0f}, at most {max(nodes)}",
            f"{100 * np.mean(proven):.0f} %", f"{each:.2f}",
            f"{10 * np.log10(np.mean(gaps['ldlq'])):.3f}", verdict,
        ],
        {"data": data, "bits": bits, "nodes": nodes, "proven": proven, "ms": each,
         "losses_over_optimum": gaps, "limit": EXACT_LIMIT},
    )  # fmt: skip
    report.notes.append(
        f"{data}, {bits} bits: loss over the optimum, "
        + ", ".join(f"{name} {np.mean(values):.3f}" for name, values in gaps.items())
        + "."
    )


def _time(report: Report) -> None:
    """K-best with 8 paths over ldlq, float32, 2 bits, act-order, on the same MSE grid."""
    settings = report.settings
    m, n = (128, 384) if settings.quick else (1024, 4096)
    W, H = weights(m, n), hessian(n)
    grid = ql.mse_grid(W, BITS)
    base, best = ql.ldlq(W, H, grid=grid), ql.kbest(W, H, grid=grid, k=TIMED)
    gain = float(10 * np.log10(_loss(base, W, H) / _loss(best, W, H)))
    check(gain > 0, f"kbest is no better than ldlq: {gain} dB")
    calls = {
        "ldlq": lambda: ql.ldlq(W, H, grid=grid),
        "kbest": lambda: ql.kbest(W, H, grid=grid, k=TIMED),
    }
    ours = [Contestant(name, call, our_threads) for name, call in calls.items()]
    for threads in settings.threads:
        samples = interleave(ours, threads, min(settings.rounds, 3))
        value = ratio(samples["kbest"], samples["ldlq"])
        what = f"kbest, k = {TIMED}, over ldlq, ({m}, {n}), {threads} thread(s)"
        verdict = report.verdict(value, LIMIT, what)
        report.notes.append(
            f"Time at ({m}, {n}), {BITS} bits, {threads} thread(s): kbest with {TIMED} paths "
            f"{median(samples['kbest']):.3f} s, ldlq {median(samples['ldlq']):.3f} s, ratio "
            f"{value:.2f} ({verdict}); gain {gain:.3f} dB."
        )
        report.records.append(
            {"shape": [m, n], "k": TIMED, "threads": threads, "seconds": samples, "ratio": value,
             "limit": LIMIT, "gain_dB": gain}
        )  # fmt: skip
