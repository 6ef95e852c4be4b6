"""The table of a report: a row a layer, a column a figure, sortable by the values in ``data-v``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from quiplinalg.cli.pages.text import breakable, count, number, safe, signed

__all__ = ["COLUMNS", "Column", "shown_columns", "table"]

Figures = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A column: the figure, how it is shown, and what it means."""

    key: str
    title: str
    about: str
    show: Callable[[Any], str]


def _percent(value: float | None) -> str:
    return number(None if value is None else 100 * value)


def _seconds(value: float | None) -> str:
    return number(value, 3 if value is not None and value < 10 else 1)


def _short(value: float | None) -> str:
    return number(None) if value is None else f"{value:.3g}"


COLUMNS = (
    Column("bits", "bits", "of a code", lambda v: "any" if v is None else str(v)),
    Column(
        "bits_per_weight", "bits / weight",
        "all that is stored: codes, scales, zeros, rotations, corrections",
        lambda v: number(v, 3),
    ),
    Column("loss_db", "loss dB", "tr(E H Eᵀ) over tr(W H Wᵀ), E = Ŵ − W; lower is better", number),
    Column("nearest_db", "nearest dB", "the same of rounding to nearest on the same grid", number),
    Column("gain_db", "gain dB", "nearest minus loss; below 0 nearest is better", signed),
    Column("loss_share", "loss %", "share of the sum of the losses of all layers", _percent),
    Column(
        "dual_gap_db", "gap dB",
        "certificate: no method is better by more on the rows that were sampled",
        number,
    ),
    Column(
        "model_gap_db", "model gap dB",
        "certificate: to the mean of the best over weights with uniform fractional parts",
        number,
    ),
    Column("seconds", "seconds", "for rounding the layer", _seconds),
    Column("damp", "damp", "added to the diagonal of H, in H's units", _short),
    Column(
        "damp_share", "damp %",
        "damping over the mean pivot of the damped H; 100: H had nothing to say",
        _percent,
    ),
    Column(
        "near_tie_rows", "near ties",
        "rows with a weight so near a tie that another precision may round it apart",
        count,
    ),
    Column("clipped", "clipped %", "weights with a target beyond the ends of the grid", _percent),
    Column("dead_columns", "dead", "inputs that were always zero", count),
    Column("sparsity", "pruned %", "weights that are exactly zero", _percent),
    Column(
        "n_samples", "samples",
        "tokens that H was made of; below the number of live inputs H is singular, and from twice "
        "that on it is sound",
        count,
    ),
)  # fmt: skip


def shown_columns(layers: Sequence[Figures]) -> list[Column]:
    """The columns in which some layer has a figure."""
    return [c for c in COLUMNS if any(_known(each[c.key]) for each in layers)]


def table(layers: Sequence[Figures]) -> str:
    """Return the table, sorted by name."""
    columns = shown_columns(layers)
    heads = _head("layer", "ascending", "its name") + _head("shape", "none", "rows x columns")
    heads += "".join(_head(c.title, "none", c.about) for c in columns)
    heads += _head("made by", "none", "method, order, rotation and what came after")
    rows = "".join(_row(each, columns) for each in layers)
    return (
        f"<div class='wide' tabindex='0' role='region' aria-label='layers'><table id='layers'>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _head(title: str, order: str, about: str) -> str:
    return (
        f"<th scope='col' aria-sort='{order}' title='{safe(about)}'>"
        f"<button type='button'>{safe(title)}</button></th>"
    )


def _row(each: Figures, columns: Sequence[Column]) -> str:
    m, n = each["shape"]
    notes = "".join(f"<i>{safe(note)}</i>" for note in each["notes"])
    cells = "".join(
        f"<td data-k='{c.key}' data-v='{_value(each[c.key])}'>{c.show(each[c.key])}</td>"
        for c in columns
    )
    noted = " class='noted'" if notes else ""
    name = f"<span>{breakable(each['layer'])}</span>{notes}"
    return (
        f"<tr id='l{each['index']}'{noted}><th scope='row' data-v='{each['index']}'>{name}</th>"
        f"<td data-v='{m * n}'>{m}\u202f×\u202f{n}</td>{cells}"
        f"<td class='made' data-v='{safe(each['made'])}'>{safe(each['made'])}</td></tr>"
    )


def _known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def _value(value: Any) -> str:
    """The figure with all its digits; empty where there is none."""
    return repr(value) if _known(value) else ""
