"""Plots with one place on the x axis for each layer, one below the other.

The marks are SVG stretched to the width of the page, whose lines keep their width; the labels are
text beside them, which keeps its size: so the plots can be read on any screen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from quiplinalg.cli.pages.text import number, safe, signed

__all__ = ["panels"]

Figures = dict[str, Any]
_LABELS = 12  # sections that have room for one
_GAPS = 150  # bars that have room for them
_FLOOR = 3.0  # dB below the lowest known figure, where losses of 0 are drawn


def panels(layers: Sequence[Figures]) -> str:
    """Return the plots; layers of one kind stand side by side."""
    kinds = list(dict.fromkeys(each["kind"] for each in layers))
    if len(kinds) > _LABELS or len(kinds) == len(layers):
        order, sections = list(layers), []
    else:
        order = sorted(layers, key=lambda each: kinds.index(each["kind"]))
        sections = [(kind, len(list(own))) for kind, own in groupby(each["kind"] for each in order)]
    axis = _Axis(order, sections)
    parts = [
        _db_panel(axis),
        _gap_panel(axis),
        axis.bars("bits_per_weight", "Bits per weight, all that is stored", 2),
        axis.bars("loss_share", "Share of the loss, %", 1, 100),
        axis.bars("seconds", "Seconds", 2),
    ]
    return f"<div class='panels{' few' if len(order) <= 40 else ''}'>{''.join(parts)}</div>"


class _Axis:
    """The layers from left to right, at 0.5, 1.5, ... of ``len(layers)``."""

    def __init__(self, layers: list[Figures], sections: list[tuple[str, int]]):
        self.layers, self.sections = layers, sections

    def panel(
        self,
        title: str,
        marks: Sequence[str],
        hints: Sequence[str],
        low: float,
        high: float,
        tall: bool = False,
    ) -> str:
        """One plot: ``marks`` of each layer on a scale from 0 (top) to 100, and what they say."""
        ticks = _ticks(low, high)
        lines = "".join(
            f"<path class='grid' d='M0 {_y(t, low, high)}H{len(marks)}'/>" for t in ticks
        )
        labels = "".join(
            f"<span style='top:{_y(t, low, high)}%'>{number(t, _digits(ticks))}</span>"
            for t in ticks
        )
        edge, ends = 0, ""
        for _, width in self.sections[:-1]:
            edge += width
            ends += f"<path class='end' d='M{edge} 0V100'/>"
        links = "".join(
            f"<a href='#l{each['index']}' tabindex='-1'>"
            f"<title>{safe(each['layer'])}: {hint}</title>"
            f"<path class='hit' d='M{k} 0h1v100h-1z'/>{mark}</a>"
            for k, (each, mark, hint) in enumerate(zip(self.layers, marks, hints, strict=True))
        )
        return (
            f"<figure{' class=tall' if tall else ''}><figcaption>{title}</figcaption>"
            f"<div class='plot'><div class='ys'>{labels}</div>"
            f"<svg viewBox='0 0 {len(marks)} 100' preserveAspectRatio='none'>{lines}{ends}"
            f"{links}</svg></div>{self._names()}</figure>"
        )

    def bars(self, key: str, title: str, digits: int, factor: float = 1) -> str:
        """A plot of bars from 0; nothing where no layer has the figure."""
        values = [each[key] for each in self.layers]
        if not any(value is not None for value in values):
            return ""
        known = [factor * v if v is not None and math.isfinite(v) else 0 for v in values]
        high = max(*known, 0) or 1.0
        # no huge bars for a few layers, and no gaps where they would be below a pixel
        width = min(0.8, len(known) / 15) if len(known) <= _GAPS else 1
        marks = [
            f"<path class='bar' d='M{k + 0.5 - width / 2:.2f} 100V{_y(value, 0, high)}"
            f"h{width:.2g}V100z'/>"
            for k, value in enumerate(known)
        ]
        hints = [number(None if v is None else factor * v, digits) for v in values]
        return self.panel(title, marks, hints, 0, high)

    def _names(self) -> str:
        shown = self.sections or (
            [(each["layer"], 1) for each in self.layers] if len(self.layers) <= _LABELS else []
        )
        if not shown:
            text = f"{len(self.layers)} layers in the order of their names"
            return f"<div class='xs'><span style='width:100%'>{text}</span></div>"
        share = 100 / len(self.layers)
        return "<div class='xs'>{}</div>".format(
            "".join(
                f"<span style='width:{share * width:.3f}%' title='{safe(name)}'>"
                f"{safe(_last(name))}</span>"
                for name, width in shown
            )
        )


def _db_panel(axis: _Axis) -> str:
    """The loss of each layer against that of nearest."""
    ours = [each["loss_db"] for each in axis.layers]
    nearest = [each["nearest_db"] for each in axis.layers]
    low, high = _range([*ours, *nearest])
    if math.isnan(low):
        return ""
    marks, hints = [], []
    for k, (a, b) in enumerate(zip(ours, nearest, strict=True)):
        stem = ""
        if not math.isnan(a + b):
            stem = f"<path class='stem' d='M{k + 0.5} {_y(b, low, high)}V{_y(a, low, high)}'/>"
        marks.append(stem + _dot("other", k, b, low, high) + _dot("own", k, a, low, high))
        hints.append(f"{number(a)} dB, nearest {number(b)}, gain {signed(b - a)}")
    title = (
        "Loss, dB of tr(W H W<sup>T</sup>), lower is better: <b class='own'>● this result</b> "
        "<b class='other'>● nearest, on the same grid</b>"
    )
    return axis.panel(title, marks, hints, low, high, tall=True)


def _gap_panel(axis: _Axis) -> str:
    """How much better the best could be, where there are certificates."""
    keys = ("dual_gap_db", "model_gap_db")
    found = [[_nan(each[key]) for key in keys] for each in axis.layers]
    low, high = _range([0.0, *(value for pair in found for value in pair)])
    if all(math.isnan(value) for pair in found for value in pair):
        return ""
    marks = [
        _dot("other", k, model, low, high) + _dot("own", k, dual, low, high)
        for k, (dual, model) in enumerate(found)
    ]
    hints = [f"at most {number(d)} dB to the best, model {number(m)} dB" for d, m in found]
    title = (
        "Certificate gap, dB: <b class='own'>● at most so far from the best codes</b> "
        "<b class='other'>● from a model's bound</b>"
    )
    return axis.panel(title, marks, hints, low, high)


def _dot(kind: str, k: int, value: float, low: float, high: float) -> str:
    """A point; none where there is no figure."""
    if math.isnan(value):
        return ""
    return f"<path class='dot {kind}' d='M{k + 0.5} {_y(value, low, high)}h.001'/>"


def _nan(value: float | None) -> float:
    return math.nan if value is None else value


def _last(name: str) -> str:
    """The end of a name, where it says most."""
    parts = [part for part in name.replace("/", ".").split(".") if part not in ("", "*", "weight")]
    return parts[-1] if parts else name


def _range(values: Iterable[float]) -> tuple[float, float]:
    """What an axis must span, with a little more at its ends; NaN where there is nothing."""
    values = list(values)
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return math.nan, math.nan
    low, high = min(known), max(known)
    if -math.inf in values:
        low -= _FLOOR
    space = 0.06 * (high - low) or 1.0
    return low - space, high + space


def _y(value: float, low: float, high: float) -> str:
    """The place of a value, 0 at the top; those beyond the ends are drawn at the end."""
    share = (min(max(value, low), high) - low) / (high - low)
    return f"{100 - 100 * share:.2f}"


def _ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers within a range."""
    step = 10.0 ** math.floor(math.log10((high - low) / 2))
    for factor in (5, 2, 1, 0.5):
        first, last = math.ceil(low / (step * factor)), math.floor(high / (step * factor))
        if last - first >= 2:
            return [k * step * factor for k in range(first, last + 1)]
    return [low, high]


def _digits(ticks: Sequence[float]) -> int:
    step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
    return max(0, -math.floor(math.log10(step) + 1e-9))
