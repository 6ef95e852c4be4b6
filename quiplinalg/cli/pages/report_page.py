"""The report as a page: one file, with its figures, plots, style and script in it."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from quiplinalg.cli.pages.figures import Report, totals
from quiplinalg.cli.pages.page import is_page, page
from quiplinalg.cli.pages.panels import panels
from quiplinalg.cli.pages.table import shown_columns, table
from quiplinalg.cli.pages.text import breakable, count, number, safe, signed, size

__all__ = ["is_report", "report_page"]

_MARK = "<meta name='generator' content='quiplinalg report'>"
_MOST = 10  # rows of a list that is not all there is
_FEW = 4  # names in a line


def is_report(path: str) -> bool:
    """Whether a file is a page of `report_page`."""
    return is_page(path, _MARK)


def report_page(report: Report) -> str:
    """Return the page.

    The policy in its head lets a browser load nothing and run nothing but the script that is here.
    """
    script = _asset("report.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = (
        f'{_MARK}<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{safe(report.summary['result'])} – quiplinalg report</title>"
    )
    layers = report.layers
    body = (
        f"<header><h1>{safe(report.summary['result'])}</h1>{_tiles(report)}</header><main>"
        f"{_attention(report)}"
        f"<section><h2>Layer by layer</h2>{panels(layers)}</section>"
        f"<section><h2>Where the loss is</h2>{_where(layers)}</section>"
        f"<section><h2>All layers</h2>{_controls(report)}{table(layers)}{_glossary(layers)}"
        f"</section></main><footer>{_footer()}</footer><script>{script}</script>"
    )
    return page(head, _asset("report.css"), body)


def _asset(name: str) -> str:
    return (files("quiplinalg.cli.pages") / name).read_text(encoding="utf-8")


def _tiles(report: Report) -> str:
    """The figures of the whole."""
    s = report.summary
    parts = [("layers", count(s["layers"]), f"{count(s['weights'])} weights")]
    if s["bits_per_weight"] is not None:
        widths = [f"{bits} bits {100 * share:.0f} %" for bits, share in s["widths"].items()]
        more = "".join(f", {each}" for each in widths) if len(widths) > 1 else ""
        parts.append(
            ("bits per weight", number(s["bits_per_weight"], 3), size(s["stored_bytes"]) + more)
        )
    if s["loss_db"] == s["loss_db"]:
        parts.append(("loss", f"{number(s['loss_db'])} dB", "of tr(W H Wᵀ), lower is better"))
    if s["gain_db"] == s["gain_db"]:
        of = s["compared_layers"]
        where = "" if of == s["layers"] else f", {of} of {s['layers']} layers"
        parts.append(
            ("gain on nearest", f"{signed(s['gain_db'])} dB",
             f"nearest: {number(s['nearest_db'])} dB{where}")
        )  # fmt: skip
    if s["seconds"] is not None:
        each = sum(layer["seconds"] or 0 for layer in report.layers)
        parts.append(("seconds", number(s["seconds"], 1), f"{number(each, 1)} in the layers"))
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd><dd class='soft'>{more}</dd></div>"
        for name, value, more in parts
    )
    return f"<dl class='tiles'>{tiles}</dl>"


def _attention(report: Report) -> str:
    """What somebody should look at first; nothing where there is nothing."""
    lines = [f"<b>{safe(name)}</b> failed: {safe(why)}" for name, why in report.failed.items()]
    lines += [
        f"{safe(remark)}: {_some([_link(each) for each in layers])}"
        for remark, layers in report.remarks().items()
    ]
    if report.skipped:
        names = _some([safe(name) for name in report.skipped])
        lines.append(f"{_layers(len(report.skipped))} skipped, as asked for: {names}")
    if not lines:
        return ""
    rest = lines[_MOST:]
    more = f"<details><summary>{len(rest)} more</summary><ul>{_items(rest)}</ul></details>"
    return (
        f"<section class='attention'><h2>To look at</h2><ul>{_items(lines[:_MOST])}</ul>"
        f"{more if rest else ''}</section>"
    )


def _link(each: dict[str, Any]) -> str:
    return f"<a href='#l{each['index']}'>{breakable(each['layer'])}</a>"


def _items(lines: Iterable[str]) -> str:
    return "".join(f"<li>{line}</li>" for line in lines)


def _some(names: Sequence[str]) -> str:
    """The first names; the others where one looks for them."""
    first, rest = ", ".join(names[:_FEW]), names[_FEW:]
    if not rest:
        return first
    more = f"<details><summary>{len(rest)} more</summary>{', '.join(rest)}</details>"
    return f"{first} {more}"


def _layers(number: int) -> str:
    return f"{number} layer{'' if number == 1 else 's'}"


def _where(layers: Sequence[dict[str, Any]]) -> str:
    """The layers and the kinds of layers with the largest losses."""
    by_loss = sorted(layers, key=lambda each: (-each["loss_share"], each["index"]))
    half, so_far = 0, 0.0
    while half < len(by_loss) and so_far < 0.5:
        so_far += by_loss[half]["loss_share"]
        half += 1
    text = ""
    if half and so_far >= 0.5:
        verb = "has" if half == 1 else "have"
        text = f"<p>{half} of {_layers(len(layers))} {verb} half of the loss.</p>"
    rows = [(_link(each), each["weights"], each) for each in by_loss[:_MOST]]
    tables = [_shares("layer", rows, layers)]
    kinds = dict.fromkeys(each["kind"] for each in layers)
    if 1 < len(kinds) < len(layers):
        own = {k: totals(each for each in layers if each["kind"] == k) for k in kinds}
        whole = sum(each["loss"] for each in layers) or 1.0
        for figures in own.values():
            figures["loss_share"] = figures["loss"] / whole
        largest = sorted(own, key=lambda k: -own[k]["loss_share"])[:_MOST]
        tables.insert(
            0, _shares("kind", [(breakable(k), own[k]["weights"], own[k]) for k in largest], layers)
        )
    note = "bars: share of the loss, and below it of the weights"
    return f"{text}<div class='shares'>{''.join(tables)}</div><p class='soft'>{note}</p>"


def _shares(
    title: str, rows: Sequence[tuple[str, int, dict[str, Any]]], layers: Sequence[dict[str, Any]]
) -> str:
    """A table with bars."""
    weights = sum(each["weights"] for each in layers) or 1
    longest = max((max(e["loss_share"], own / weights) for _, own, e in rows), default=1) or 1
    body = "".join(
        f"<tr><th scope='row'><span>{name}</span><svg class='share' viewBox='0 0 100 8' "
        f"preserveAspectRatio='none' aria-hidden='true'><path class='bar' "
        f"d='M0 0H{100 * each['loss_share'] / longest:.2f}V5H0z'/><path class='under' "
        f"d='M0 6H{100 * own / weights / longest:.2f}V8H0z'/></svg></th>"
        f"<td>{number(100 * each['loss_share'], 1)}</td><td>{number(100 * own / weights, 1)}</td>"
        f"<td>{number(each['bits_per_weight'])}</td><td>{number(each['loss_db'])}</td></tr>"
        for name, own, each in rows
    )
    return (
        f"<table><thead><tr><th scope='col'>{title}</th><th scope='col'>loss %</th>"
        "<th scope='col'>weights %</th><th scope='col'>bits / weight</th>"
        f"<th scope='col'>loss dB</th></tr></thead><tbody>{body}</tbody></table>"
    )


def _controls(report: Report) -> str:
    """The filter; the script shows it."""
    noted = report.summary["noted"]
    only = (
        f"<label><input type='checkbox' id='noted'> only the {noted} with a remark</label>"
        if noted
        else ""
    )
    return (
        "<form class='controls' hidden><input type='search' id='filter' aria-label='filter' "
        f"placeholder='part of a name, or of how it was made'>{only}"
        f"<output id='count'>{_layers(len(report.layers))}</output></form>"
    )


def _glossary(layers: Sequence[dict[str, Any]]) -> str:
    terms = "".join(
        f"<dt>{safe(c.title)}</dt><dd>{safe(c.about)}</dd>" for c in shown_columns(layers)
    )
    rows = {each["compared_rows"] for each in layers if _sampled(each)}
    sampled = (
        f"<p>Both dB of larger layers are from {max(rows)} of their rows, evenly spaced; the "
        "losses themselves are of all rows.</p>"
        if rows
        else ""
    )
    absent = "".join(
        f"<li>{text}</li>"
        for key, text in _SOURCES.items()
        if all(each[key] is None for each in layers)
    )
    missing = f"<p>Not in this report:</p><ul>{absent}</ul>" if absent else ""
    return (
        f"<details class='glossary'><summary>What the columns mean</summary><dl>{terms}</dl>"
        f"{sampled}{missing}</details>"
    )


_SOURCES = {
    "dual_gap_db": "certificate gaps: run <code>quiplinalg verify --certificate</code> first",
    "seconds": "seconds, which are not in result files: <code>quiplinalg quantize --report</code>",
    "n_samples": "samples: <code>--problem</code>, a file that has them",
}


def _sampled(each: dict[str, Any]) -> bool:
    rows = each["compared_rows"]
    return rows is not None and rows < each["shape"][0]


def _footer() -> str:
    from quiplinalg import __version__

    return f"quiplinalg {__version__}. This page needs no network and sends nothing."
