"""The loss by method, clip and order: what the defaults are chosen by."""

from __future__ import annotations

import numpy as np

import quiplinalg as ql
from bench.common import Report, Settings
from bench.layers import demo, synthetic

COLUMNS = ["data", "bits", "method", "clip", "order", "dB", "dB in groups of 32"]
METHODS = (
    ("nearest", "minmax", None),
    ("nearest", "mse", None),
    ("ldlq", "minmax", "natural"),
    ("ldlq", "minmax", "act"),
    ("ldlq", "mse", "natural"),
    ("ldlq", "mse", "act"),
    ("ldlq", "best", "act"),
)


def run(settings: Settings) -> Report:
    """Print 10 log10(loss / tr(W H W^T)), the mean over layers (in dB)."""
    report = Report("quality", "Loss by method, clip and order", COLUMNS, settings)
    report.notes.append(
        "Synthetic: heavy-tailed W (256, 512), power-law H, three seeds; outlier: with log-normal "
        "channel scales and 1 % of the channels times 8. Demo: the three layers of the digits "
        "network. dB is the mean over the layers of 10 log10(loss / tr(W H W^T)), lower is better."
    )
    sets = {
        "synthetic, outlier H": list(synthetic(True)),
        "synthetic, incoherent H": list(synthetic(False)),
        "demo": list(demo()),
    }
    for data, layers in sets.items():
        for bits in (2, 3, 4):
            for method, clip, order in METHODS:
                cells, figures = [], {}
                for group_size in (None, 32):
                    values = [_decibels(W, H, method, bits, clip, order, group_size)
                              for W, H in layers]  # fmt: skip
                    cells.append(f"{np.mean(values):.2f}")
                    figures[str(group_size)] = values
                report.add(
                    [data, bits, method, clip, order or "–", *cells],
                    {"data": data, "bits": bits, "method": method, "clip": clip, "order": order,
                     "dB": figures},
                )  # fmt: skip
    return report


def _decibels(
    W: np.ndarray,
    H: np.ndarray,
    method: str,
    bits: int,
    clip: str,
    order: str | None,
    group_size: int | None,
) -> float:
    keywords = {"clip": clip, "group_size": group_size} | ({"order": order} if order else {})
    loss = getattr(ql, method)(W, H, bits=bits, **keywords).loss
    return float(10 * np.log10(loss / ql.proxy_loss(0 * W, W, H)))
