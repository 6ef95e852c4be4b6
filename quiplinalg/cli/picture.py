"""The demo's picture: one HTML file without scripts, with two figures in SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from quiplinalg.cli.pages.page import is_page, page, write_page

__all__ = ["Magnitudes", "is_picture", "write_picture"]

_TITLE = "<title>quiplinalg demo</title>"
_COLORS = {
    "nearest": "#8a8f98",
    "gptq": "#d08a2c",
    "ldlq": "#2f7fc1",
    "quip": "#b3365b",
    "before": "#8a8f98",
    "after": "#b3365b",
}
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p { color: var(--soft); max-width: 70ch; } figure { margin: 0; }
svg { width: 100%; height: auto; } text { fill: var(--ink); font: 12px system-ui, sans-serif; }
.soft { fill: var(--soft); } .axis { stroke: var(--line); } .end { text-anchor: end; }
.mid { text-anchor: middle; }
"""


@dataclass(frozen=True)
class Magnitudes:
    """The weights of one layer before and after processing, and mu of weights and Hessian."""

    name: str
    before: np.ndarray
    after: np.ndarray
    mu_weight: tuple[float, float]
    mu_hessian: tuple[float, float]


def is_picture(path: str) -> bool:
    """Whether a file is a page of `write_picture`."""
    return is_page(path, _TITLE)


def write_picture(
    path: str, layers: Sequence[Magnitudes], losses: Sequence[tuple[str, int, float]]
) -> None:
    """Write the page, in one step, to ``path``; ``losses`` are (method, bits, dB)."""
    body = (
        "<h1>quiplinalg demo: a digits network at 4, 3 and 2 bits</h1>"
        "<h2>Weights before and after incoherence processing</h2>"
        "<p>How large the largest weights are, in units of the RMS of their layer: the share of "
        "weights beyond each magnitude. A heavy tail wastes the few levels of a grid; after "
        "rescaling and rotation the weights are nearly Gaussian (dotted), whatever they were. mu "
        "measures how far the largest entry stands out, of the weights and of the eigenvectors "
        "of H; the smaller mu of H is, the more feedback can gain.</p>"
        f"<figure>{_tails(layers)}</figure>"
        "<h2>Loss by method and bits</h2>"
        "<p>Proxy loss tr(E H E<sup>T</sup>) over tr(W H W<sup>T</sup>), summed over the layers, "
        "in dB: further left is better, and 6 dB are about one bit.</p>"
        f"<figure>{_losses(losses)}</figure>"
    )
    write_page(path, page(_TITLE, _STYLE, body))


def _tails(layers: Sequence[Magnitudes]) -> str:
    """One panel a layer: magnitude over RMS (y) against the share of weights beyond it (log x)."""
    width, height, left, bottom, gap = 270, 244, 34, 40, 30
    top = max(max(layer.mu_weight) for layer in layers) * 1.05
    least = -math.log10(max(m.before.size for m in layers))  # of the exponent
    parts = []
    for k, layer in enumerate(layers):
        x0 = k * (width + gap) + left
        inner_w, inner_h = width - left, height - bottom - 44

        def x(share: float, x0: float = x0, w: float = inner_w) -> float:
            return x0 + w * math.log10(share) / least

        def y(value: float, h: float = inner_h) -> float:
            return 44 + h * (1 - value / top)

        parts.append(
            f"<text x='{x0}' y='14'>{escape(layer.name)}</text>"
            f"<text x='{x0 + inner_w}' y='14' class='end' style='fill:{_COLORS['before']}'>"
            f"before <tspan style='fill:{_COLORS['after']}'>after</tspan></text>"
            f"<text x='{x0}' y='30' class='soft'>mu(W) {_change(layer.mu_weight)}, "
            f"mu(H) {_change(layer.mu_hessian)}</text>"
        )
        for value in range(0, int(top) + 1, 2 if top < 12 else 5):
            parts.append(
                f"<line class='axis' x1='{x0}' x2='{x0 + inner_w}' y1='{y(value):.1f}' "
                f"y2='{y(value):.1f}'/><text x='{x0 - 6}' y='{y(value) + 4:.1f}' "
                f"class='soft end'>{value}</text>"
            )
        for exponent in range(0, int(-least) + 1):
            label = "all" if exponent == 0 else f"1/{10**exponent}"
            parts.append(
                f"<text x='{x(10.0**-exponent):.1f}' y='{height - 20}' "
                f"class='soft mid'>{label}</text>"
            )
        parts.append(_gaussian(x, y, least, top))
        for what, values in (("before", layer.before), ("after", layer.after)):
            curve = _exceedance(values)
            points = " ".join(f"{x(share):.1f},{y(value):.1f}" for share, value in curve)
            parts.append(
                f"<polyline points='{points}' fill='none' stroke='{_COLORS[what]}' "
                "stroke-width='2'/>"
            )
    total = len(layers) * (width + gap)
    label = f"<text x='{left}' y='{height - 4}' class='soft'>share of weights beyond</text>"
    return _svg(total, height, "|w| / RMS of each layer", "".join(parts) + label)


def _change(mu: tuple[float, float]) -> str:
    return f"{mu[0]:.1f} → {mu[1]:.1f}"


def _exceedance(values: np.ndarray) -> list[tuple[float, float]]:
    """(share beyond, magnitude / RMS), from all weights to the largest one, at most 200 points."""
    sizes = np.sort(np.abs(values).ravel())[::-1]
    sizes = sizes / (np.sqrt(np.square(sizes, dtype=np.float64).mean()) or 1.0)
    ranks = np.unique(np.geomspace(1, sizes.size, 200).astype(int))[::-1]
    return [(rank / sizes.size, float(sizes[rank - 1])) for rank in ranks]


def _gaussian(x, y, least: float, top: float) -> str:
    grid = np.linspace(0, top, 120)
    points = [(math.erfc(g / math.sqrt(2)), g) for g in grid]
    inside = [(p, g) for p, g in points if p > 0 and math.log10(p) >= least]
    text = " ".join(f"{x(p):.1f},{y(g):.1f}" for p, g in inside)
    return (
        f"<polyline points='{text}' fill='none' stroke='currentColor' stroke-width='1.2' "
        "stroke-dasharray='1 4' stroke-linecap='round'/>"
    )


def _losses(losses: Sequence[tuple[str, int, float]]) -> str:
    """A band for every width, in it a line with a dot for every method."""
    width, left, right, line, space = 880, 70, 110, 20, 16.0
    widths = sorted({bits for _, bits, _ in losses}, reverse=True)
    low = math.floor(min(db for *_, db in losses) / 5) * 5
    high = math.ceil(max(db for *_, db in losses) / 5) * 5
    height = sum(line * sum(b == bits for _, b, _ in losses) + space for bits in widths) + 36

    def x(db: float) -> float:
        return left + (width - left - right) * (db - low) / (high - low)

    parts = []
    for tick in range(low, high + 1, 5):
        parts.append(
            f"<line class='axis' x1='{x(tick):.1f}' x2='{x(tick):.1f}' y1='4' y2='{height - 28}'/>"
            f"<text x='{x(tick):.1f}' y='{height - 12}' class='soft mid'>{tick}</text>"
        )
    y = 0.0
    for bits in widths:
        own = [(method, db) for method, b, db in losses if b == bits]
        middle = y + space / 2 + line * len(own) / 2 + 4
        parts.append(f"<text x='{left - 12}' y='{middle}' class='end'>{bits} bits</text>")
        y += space / 2
        for method, db in own:
            y += line
            color = _COLORS.get(method, "#777")
            parts.append(
                f"<circle cx='{x(db):.1f}' cy='{y - line / 2}' r='5.5' fill='{color}'/>"
                f"<text x='{x(db) + 10:.1f}' y='{y - line / 2 + 4}' style='fill:{color}'>"
                f"{escape(method)} {db:.1f}</text>"
            )
        y += space / 2
    parts.append(f"<text x='{x(high) + 18:.1f}' y='{height - 12}' class='soft'>dB</text>")
    return _svg(width, height, "loss in dB by method and bits", "".join(parts))


def _svg(width: float, height: float, title: str, content: str) -> str:
    return (
        f"<svg viewBox='0 0 {width:g} {height:g}' role='img' aria-label='{escape(title)}'>"
        f"<title>{escape(title)}</title>{content}</svg>"
    )
