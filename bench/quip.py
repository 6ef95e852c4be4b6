"""QuIP: what each ingredient is worth in dB, and what the processing costs in time."""

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
from bench.layers import demo, synthetic

COLUMNS = ["data", "bits", "method", "dB", "bits/weight", "limit"]
OURS = {"rotation": "hadamard", "refine": 3}
Method = Callable[[np.ndarray, np.ndarray, int], Any]


def _quip(**keywords: Any) -> Method:
    return lambda W, H, bits: ql.quip(W, H, bits, **keywords)


METHODS: dict[str, Method] = {
    "nearest, min-max": lambda W, H, bits: ql.nearest(W, H, bits, clip="minmax"),
    "nearest, MSE clip": lambda W, H, bits: ql.nearest(W, H, bits),
    "gptq, min-max, natural": lambda W, H, bits: ql.gptq(
        W, H, bits, clip="minmax", order="natural"
    ),
    "gptq, MSE clip, act": lambda W, H, bits: ql.gptq(W, H, bits),
    "ldlq, best clip, act": lambda W, H, bits: ql.ldlq(W, H, bits, clip="best"),
    "LDLQ-RG: the same + descent": lambda W, H, bits: ql.descend(
        W, H, ql.ldlq(W, H, bits, clip="best")
    ),
    "quip as the authors' code": lambda W, H, bits: ql.quip_authors(W, H, bits),
    "quip": _quip(),
    "quip, 3 passes of descent": _quip(refine=3),
    "quip, Hadamard, act": _quip(rotation="hadamard", order="act"),
    "quip, Hadamard, 3 passes": _quip(**OURS),
    "quip, Kronecker, 3 passes": _quip(**OURS | {"rotation": "kronecker"}),
    "– without rotation": _quip(**OURS | {"rotation": None}),
    "– without rescaling": _quip(**OURS, rescale=False),
    "– with the paper's rescaling": _quip(**OURS, rescale="trace"),
    "– without the search of rho": _quip(**OURS, rho=None),
    "– with rho = 2.4": _quip(**OURS, rho=2.4),
    "– with one scale for all": _quip(**OURS, per_tensor=True),
    "– with both sides rotated": _quip(**OURS, sides="both"),
    "– with both, and one scale": _quip(**OURS, sides="both", per_tensor=True),
    "– in natural order": _quip(**OURS, order="natural"),
    "– in act-order": _quip(**OURS, order="act"),
    "– without descent": _quip(rotation="hadamard"),
    "– descent to a fixed point": _quip(**OURS | {"refine": None}),
}
# on the synthetic outlier layers
LIMITS = {
    ("quip, Hadamard, act", 2): -18.0,
    ("quip, Hadamard, act", 3): -23.5,
    ("quip, Hadamard, 3 passes", 2): -18.5,
    ("quip, Hadamard, 3 passes", 3): -24.0,
}
TIME_LIMIT = 0.4  # processing and undo over ldlq


def run(settings: Settings) -> Report:
    """Print the loss of every method on every set of layers, then the time of the processing."""
    report = Report("quip", "QuIP: each ingredient in dB, and its time", COLUMNS, settings)
    sets = {
        "synthetic, outlier H": list(synthetic(True)),
        "synthetic, incoherent H": list(synthetic(False)),
        "demo": list(demo()),
    }
    for data, layers in sets.items():
        for bits in (2,) if settings.quick else (2, 3, 4):
            for name, method in METHODS.items():
                limit = LIMITS.get((name, bits)) if data == "synthetic, outlier H" else None
                _compare(report, data, layers, bits, name, method, limit)
    report.notes.append(
        "dB: the mean over the layers of 10 log10(loss / tr(W H W^T)), lower is better; "
        "bits/weight counts scales and rotations, which is much for layers as small as these. A "
        "line with a dash changes one thing of 'quip, Hadamard, 3 passes' (min-pivot, rho searched "
        "for each row, 'mean' rescaling)."
    )
    _time(report)
    return report


def _compare(
    report: Report,
    data: str,
    layers: list[tuple[np.ndarray, np.ndarray]],
    bits: int,
    name: str,
    method: Method,
    limit: float | None,
) -> None:
    values, sizes = [], []
    for W, H in layers:
        q = method(W, H, bits)
        loss, energy = ql.proxy_loss(q, W, H), ql.proxy_loss(0 * W, W, H)
        check(abs(q.loss - loss) <= 1e-3 * loss, f"{name}: carries {q.loss}, is {loss}")
        values.append(float(10 * np.log10(loss / energy)))
        sizes.append(q.bits_per_weight)
    mean = float(np.mean(values))
    report.add(
        [data, bits, name, f"{mean:.2f}", f"{np.mean(sizes):.3f}",
         report.verdict(mean, limit, f"{name}, {bits} bits, dB")],
        {"data": data, "bits": bits, "method": name, "dB": values, "limit": limit,
         "bits_per_weight": sizes},
    )  # fmt: skip


def _time(report: Report) -> None:
    """Processing and undo against ldlq, float32 W and H."""
    settings = report.settings
    n = 256 if settings.quick else 4096
    W, H = weights(n, n), hessian(n)
    for threads in settings.threads:
        parts = {
            "ldlq": lambda: ql.ldlq(W, H, clip="minmax"),
            **{f"process + undo, {kind}": _round_trip(W, H, kind)
               for kind in ("hadamard", "kronecker")},
        }  # fmt: skip
        contestants = [Contestant(name, call, our_threads) for name, call in parts.items()]
        samples = interleave(contestants, threads, settings.rounds)
        for name in parts:
            if name == "ldlq":
                continue
            value = ratio(samples[name], samples["ldlq"])
            verdict = report.verdict(value, TIME_LIMIT, f"{name}, {threads} thread(s)")
            report.notes.append(
                f"Time at ({n}, {n}), {threads} thread(s): {name} {median(samples[name]):.3f} s, "
                f"ldlq {median(samples['ldlq']):.3f} s, ratio {value:.3f} ({verdict})."
            )
        report.records.append({"shape": [n, n], "threads": threads, "seconds": samples})


def _round_trip(W: np.ndarray, H: np.ndarray, kind: str) -> Callable[[], np.ndarray]:
    def call() -> np.ndarray:
        W2, _, processing = ql.incoherence_process(W, H, rotation=kind)
        return processing.undo(W2)

    return call
