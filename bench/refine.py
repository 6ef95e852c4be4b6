"""What refinement after the codes gains: scales, zeros, levels, corrections; and its time."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

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
from bench.layers import Layer, demo, synthetic

BITS = (2, 3, 4)
RANKS = (1, 8)
SHAPE, QUICK = (1024, 2048), (256, 256)
COLUMNS = ["data or (m, n)", "bits", "start", "refinement", "gain dB", "bits/weight more",
           "dB a bit", "threads", "s", "over ldlq"]  # fmt: skip

Refinement = Callable[[np.ndarray, np.ndarray, ql.Quantized], ql.Quantized]


def run(settings: Settings) -> Report:
    """Refine layers that `ldlq`, `gptq` in groups, and `quip` rounded; time it on a large one."""
    report = Report("refine", "Refinement that W and H allow", COLUMNS, settings)
    sets = {
        "synthetic, outlier H": list(synthetic(True)),
        "synthetic, incoherent H": list(synthetic(False)),
        "demo": list(demo()),
    }
    for data, layers in sets.items():
        for bits in BITS[:1] if settings.quick else BITS:
            for start, rounded in _starts(bits).items():
                _gains(report, data, layers[:1] if settings.quick else layers, start, rounded)
    _times(report)
    report.notes.append(
        "Gain: the mean over the layers of 10 log10(loss of the start / loss), loss under H "
        "itself. ldlq: act order, MSE-clipped; groups: gptq in groups of 64, 32-bit scales; lnq "
        "is compared with ldlq, from which it starts, on levels in float16. 'dB a bit' is the gain "
        "over what it takes more on disk; a bit more a weight is worth about 6 dB. Times: medians; "
        "one thread: process CPU time; more: wall."
    )
    return report


def _starts(bits: int) -> dict[str, Callable[[np.ndarray, np.ndarray], ql.Quantized]]:
    return {
        f"ldlq {bits}": lambda W, H: ql.ldlq(W, H, bits),
        f"groups {bits}": lambda W, H: ql.gptq(W, H, bits, group_size=64),
        f"quip {bits}": lambda W, H: ql.quip(W, H, bits),
    }


def _refinements(start: str) -> dict[str, Refinement]:
    bits = int(start.split()[1])
    found: dict[str, Refinement] = {
        "scales": lambda W, H, q: ql.refit(W, H, q),
        "scales and zeros": lambda W, H, q: ql.refit(W, H, q, fit="both"),
    }
    for rank in RANKS:
        found[f"rank {rank}"] = lambda W, H, q, rank=rank: ql.low_rank_correction(W, H, q, rank)
    if start.startswith("ldlq"):
        found["lnq"] = lambda W, H, q: ql.lnq(W, H, bits)
        found["descent"] = lambda W, H, q: ql.descend(W, H, q)
    return found


def _gains(
    report: Report,
    data: str,
    layers: list[Layer],
    start: str,
    rounded: Callable[[np.ndarray, np.ndarray], ql.Quantized],
) -> None:
    before = [rounded(W, H) for W, H in layers]
    for name, refine in _refinements(start).items():
        gains, more = [], []
        for (W, H), q in zip(layers, before, strict=True):
            found = refine(W, H, q)
            loss = ql.proxy_loss(found.__array__(np.float64), W, H)
            check(abs(found.loss - loss) <= 1e-5 * loss, f"carries {found.loss}, is {loss}")
            check(loss <= q.loss * (1 + 1e-5), f"{name} raises the loss of {q!r} to {loss}")
            gains.append(float(10 * np.log10(q.loss / loss)))
            more.append(found.bits_per_weight - q.bits_per_weight)
        gain, bits = float(np.mean(gains)), float(np.mean(more))
        value = f"{gain / bits:.2f}" if bits > 1e-9 else "–"
        kind, width = start.split()
        report.add(
            [data, width, kind, name, f"{gain:+.2f}", f"{bits:.3f}", value, "–", "–", "–"],
            {"data": data, "bits": int(width), "start": kind, "refinement": name, "gain": gains,
             "bits_per_weight_more": more},
        )  # fmt: skip


def _times(report: Report) -> None:
    """Seconds of each refinement of a large layer at 3 bits, over those of `ldlq`."""
    m, n = QUICK if report.settings.quick else SHAPE
    W, H = weights(m, n), hessian(n)
    start = ql.ldlq(W, H, 3)
    calls: dict[str, Callable[[], object]] = {"ldlq": lambda: ql.ldlq(W, H, 3)}
    for name, refine in _refinements("ldlq 3").items():
        calls[name] = lambda refine=refine: refine(W, H, start)
    ours = [Contestant(name, call, our_threads) for name, call in calls.items()]
    for threads in report.settings.threads:
        times = interleave(ours, threads, min(report.settings.rounds, 3))
        for name in calls:
            over = ratio(times[name], times["ldlq"])
            report.add(
                [f"({m}, {n})", 3, "ldlq", name, "–", "–", "–", threads, median(times[name]),
                 f"{over:.2f}"],
                {"shape": [m, n], "refinement": name, "threads": threads, "seconds": times[name]},
            )  # fmt: skip
