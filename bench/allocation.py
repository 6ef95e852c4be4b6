"""Bits shared out among layers, against one width for all: loss and accuracy of the demo's net.

Once for its three layers, and once for blocks of 16 rows as layers of their own, each under the
Hessian of its layer: rows are independent, and then there is more to choose from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import Report, Settings, check
from quiplinalg.cli.common import decibels
from quiplinalg.cli.demo import accuracy
from quiplinalg.files import ProblemReader
from quiplinalg.model.allocation import allocate
from quiplinalg.results import Quantized

COLUMNS = ["method", "layers", "bits", "bits/weight", "loss dB", "accuracy", "chosen"]
DIGITS = Path(ql.__file__).parent / "data" / "digits.h5"
ROWS = 16
WIDTHS = (1, 2, 3, 4, 5, 6)
METHODS: dict[str, Callable[..., Quantized]] = {
    "nearest": lambda W, H, bits: ql.nearest(W, H.hessian, bits),
    "ldlq": lambda W, H, bits: ql.ldlq(W, H, bits),
}


@dataclass
class _Piece:
    """Some rows of a layer, at each width."""

    layer: str
    rounded: list[Quantized]

    @property
    def sizes(self) -> list[int]:
        return [round(q.bits_per_weight * q.codes.size) for q in self.rounded]

    @property
    def points(self) -> list[tuple[float, float]]:
        return [(size, q.loss) for size, q in zip(self.sizes, self.rounded, strict=True)]


def run(settings: Settings) -> Report:
    """Print both for one width, and for a choice at the same size and at 2.5 bits a weight."""
    report = Report(
        "allocation", "Bits where they matter: mixed widths against one", COLUMNS, settings
    )
    with ql.open_problem(DIGITS) as problem:
        layers = {name: (problem.weight(name), problem.hessian(name)) for name in problem.names}
        before = accuracy(problem, {name: W for name, (W, _) in layers.items()})
        energy = sum(ql.proxy_loss(0 * W, W, H) for W, H in layers.values())
        for method in METHODS:
            for kind, rows in (("whole", None), (f"{ROWS} rows", ROWS)):
                pieces = list(_pieces(layers, rows, METHODS[method]))
                _compare(report, problem, (method, kind), pieces, energy)
    report.notes.append(
        f"The net itself has {before:.1%} of 450 held-out digits right. Widths of {WIDTHS[0]} to "
        f"{WIDTHS[-1]} bits; nearest and ldlq with their defaults. Three layers, two of them of "
        "equal size, leave no choice at the very size of one width: there it is that width."
    )
    return report


def _pieces(layers: dict[str, Any], rows: int | None, method: Callable[..., Quantized]):
    for name, (W, H) in layers.items():
        prepared = ql.prepare(H)  # factored once for all widths and rows
        step = rows or len(W)
        for i in range(0, len(W), step):
            part = W[i : i + step]
            yield _Piece(name, [method(part, prepared, bits) for bits in WIDTHS])


def _compare(
    report: Report,
    problem: ProblemReader,
    names: tuple[str, str],
    pieces: list[_Piece],
    energy: float,
) -> None:
    weights = sum(piece.rounded[0].codes.size for piece in pieces)
    points = [piece.points for piece in pieces]

    def row(label: str, options: tuple[int, ...]) -> tuple[int, float]:
        picked = [piece.rounded[k] for piece, k in zip(pieces, options, strict=True)]
        size = sum(piece.sizes[k] for piece, k in zip(pieces, options, strict=True))
        loss = sum(q.loss for q in picked)
        by_layer: dict[str, list[int]] = {}
        for piece, k in zip(pieces, options, strict=True):
            by_layer.setdefault(piece.layer, []).append(k)
        right = accuracy(problem, _net(pieces, picked))
        db = decibels(loss, energy)
        bits = {name: [WIDTHS[k] for k in own] for name, own in by_layer.items()}
        text = "; ".join(",".join(map(str, own)) for own in bits.values())
        report.add(
            [*names, label, f"{size / weights:.3f}", f"{db:.2f}", f"{right:.1%}", text],
            {"method": names[0], "layers": names[1], "label": label, "stored_bits": size,
             "weights": weights, "loss": loss, "loss_db": db, "accuracy": right, "bits": bits},
        )  # fmt: skip
        return size, loss

    for bits in (2, 3):
        size, loss = row(str(bits), (WIDTHS.index(bits),) * len(pieces))
        for label, budget in (("the same size", size), ("1.02 of it", 1.02 * size)):
            mixed = row(f"mixed, {label}", allocate(points, budget).chosen)
            check(mixed[0] <= budget, f"{mixed[0]} bits for a budget of {budget}")
            check(mixed[1] <= loss * (1 + 1e-12), "a choice worse than one of its options")
    row("mixed, 2.5", allocate(points, 2.5 * weights).chosen)


def _net(pieces: list[_Piece], picked: list[Quantized]) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {}
    for piece, q in zip(pieces, picked, strict=True):
        parts.setdefault(piece.layer, []).append(q.dequantize())
    return {name: np.concatenate(rows) for name, rows in parts.items()}
