"""Certificates: time of the dual bound, how tight the bounds are, and the gap of each method."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import Report, Settings, check, our_threads
from bench.layers import Layer, demo, synthetic

COLUMNS = ["what", "bits", "method", "loss dB", "dual gap dB", "model gap dB", "cubes", "order",
           "rest", "R-D gap dB"]  # fmt: skip
SECONDS = {64: 0.1, 256: 1.9}  # a row, one thread
ROWS = 2  # of the larger layers

METHODS: dict[str, Callable[[np.ndarray, np.ndarray, int], Any]] = {
    "nearest, MSE clip": lambda W, H, bits: ql.nearest(W, H, bits),
    "gptq, MSE clip, act": lambda W, H, bits: ql.gptq(W, H, bits),
    "ldlq, best clip, act": lambda W, H, bits: ql.ldlq(W, H, bits, clip="best"),
    "kbest 8, best clip, act": lambda W, H, bits: ql.kbest(W, H, bits, clip="best"),
    "quip, 3 passes": lambda W, H, bits: ql.quip(W, H, bits, refine=3),
    "quip, Hadamard, 3 passes": lambda W, H, bits: ql.quip(
        W, H, bits, rotation="hadamard", refine=3
    ),
}


def run(settings: Settings) -> Report:
    """Print the gaps of every method, and as notes the seconds and the ratios to the optimum."""
    report = Report("certificates", "Certificates: gaps to the best codes", COLUMNS, settings)
    _time(report)
    _ratios(report)
    sets: dict[str, list[Layer]] = {
        f"demo, layer {i + 1}": [layer] for i, layer in enumerate(demo())
    }
    if not settings.quick:
        sets["synthetic, outlier H"] = [next(synthetic(True))]
        sets["synthetic, incoherent H"] = [next(synthetic(False))]
    for name, layers in sets.items():
        for bits in (2,) if settings.quick else (2, 3):
            for method, call in METHODS.items():
                for W, H in layers:
                    _gap(report, name, W, H, bits, method, call)
    report.notes.append(
        "dual gap: 10 log10 of the loss of the sampled rows (8 of the demo, "
        f"{ROWS} of the synthetic layers) over their unconditional lower bound: no method is "
        "better by more on that grid. inf where the bound is 0: H is all but singular. model gap: "
        "over the mean of the best for uniform fractional parts, = 1.53 + order + rest. R-D gap: "
        "over Gaussian weights; not a bound for others."
    )
    return report


def _gap(
    report: Report,
    name: str,
    W: np.ndarray,
    H: np.ndarray,
    bits: int,
    method: str,
    call: Callable[[np.ndarray, np.ndarray, int], Any],
) -> None:
    quick = report.settings.quick
    rows = ROWS if quick or W.shape[1] > 128 else 8
    found = ql.certify(W, H, call(W, H, bits), rows=rows)
    for low, loss in zip(found.row_bounds, found.row_losses, strict=True):
        check(low <= loss, f"{name}, {method}: a bound of {low} above the loss {loss}")
    figures = (found.loss_db, found.dual_gap_db, found.model_gap_db, found.cubes_db,
               found.order_db, found.rest_db, found.rate_distortion_gap_db)  # fmt: skip
    report.add(
        [name, bits, method, *(f"{v:.2f}" for v in figures)],
        {"data": name, "method": method, **vars(found)},
    )


def _time(report: Report) -> None:
    """Seconds a row of the dual bound, one thread: the least of two runs."""
    sizes = (16, 32) if report.settings.quick else (64, 256, 512)
    W0, H0 = next(synthetic(True))
    for n in sizes:
        W, H = W0[:ROWS, :n], H0[:n, :n]
        unbounded = ql.UniformGrid(np.full((1, 1), 0.8), np.zeros((1, 1)), None)
        for label, grid in (("2 bits", ql.gptq(W, H, 2).grid), ("unbounded grid", unbounded)):
            seconds = []
            for _ in range(1 if n > 256 else 2):
                with our_threads(1):
                    start = time.process_time()
                    ql.theory.dual_bound(W, H, grid)
                    seconds.append((time.process_time() - start) / ROWS)
            value = min(seconds)
            verdict = report.verdict(value, SECONDS.get(n), f"dual bound, n = {n}, {label}")
            report.notes.append(
                f"Dual bound, n = {n}, {label}: {value:.3f} s a row, one thread ({verdict})."
            )
            report.records.append({"n": n, "grid": label, "seconds_a_row": seconds})


def _ratios(report: Report) -> None:
    """The bounds over the mean of the exact optimum: uniform weights, an unbounded grid."""
    n, m = (12, 20) if report.settings.quick else (32, 100)
    rng = np.random.default_rng(0)
    W = rng.uniform(0, 1, (m, n))
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    for power in (0.5, 1.2):
        H = (Q * np.arange(1, n + 1) ** -power) @ Q.T
        H = (H + H.T) / 2
        best = ql.exact(W, H, grid=grid, damp=ql.AbsoluteDamp(0.0))
        check(bool(best.proven.all()), f"n = {n}, power {power}: rows without a proven optimum")
        dual = ql.theory.dual_bound(W, H, grid)
        check(
            bool((dual <= best.row_loss * (1 + 1e-9)).all()),
            f"n = {n}: a dual bound is above the optimum",
        )
        mean = float(best.row_loss.mean())
        orders = ("natural", "act", "min-pivot")
        values = {
            "LDLQ's average": ql.theory.ldlq_average(H, order="min-pivot") / mean,
            "model bound": max(ql.theory.model_bound(H, order=o) for o in orders) / mean,
            "dual bound": float(dual.mean()) / mean,
        }
        text = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
        report.notes.append(
            f"Over the mean optimum of {m} rows, n = {n}, eigenvalues k^-{power}, uniform weights, "
            f"unbounded grid: {text} (standard error of the mean "
            f"{best.row_loss.std() / mean / m**0.5:.3f})."
        )
        report.records.append({"n": n, "power": power, "ratios": values, "rows": m})
