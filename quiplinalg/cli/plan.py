"""``quiplinalg plan``: the bits of each layer for a size, and what other sizes would cost."""

from __future__ import annotations

import os
import shlex
import tempfile
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    FAILED,
    OK,
    SOME_FAILED,
    Parser,
    UsageError,
    decibels,
    emit,
    format_db,
    print_table,
)
from quiplinalg.cli.layers import check_paths
from quiplinalg.cli.listener import add_run_options, check_run_options, listened_run
from quiplinalg.cli.settings import add_settings, layer_policy
from quiplinalg.cli.summary import bit_figures, bit_sentence, report_failures

if TYPE_CHECKING:
    from quiplinalg.model.rates import BitPlan

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {
    "description": "Round every layer at several widths, print what any size of the result would "
    "cost, and choose the bits of each layer for one.",
    "epilog": "What is done is kept in OUT.h5.run: quantize --resume with the same options, and "
    "any --budget, computes nothing again. Without OUT.h5 it is thrown away.",
}

_ROWS = 16  # of the curve
_COLUMNS = 40  # of the plot


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("input", metavar="IN.h5", help="a problem file, from ProblemWriter")
    add("output", metavar="OUT.h5", nargs="?", help="the result file that quantize will write")
    add_settings(parser)
    add_run_options(parser)
    add("--json", action="store_true", help="one JSON object a line on stdout")


def run(options: Any) -> int:
    """Run the command."""
    from quiplinalg.errors import InvalidArgumentError

    kept = options.output is not None
    with nullcontext() if kept else tempfile.TemporaryDirectory() as folder:
        output: str = options.output if folder is None else os.path.join(folder, "plan.h5")
        try:
            policy = layer_policy(options)
            check_run_options(options, policy)
            check_paths(options.input, output, overwrite=True)
            found = listened_run(options, policy, "plan", output, measure=True)
        except InvalidArgumentError as error:
            raise UsageError(str(error)) from None
    if found.bits is not None and found.bits.layers:
        (_emit if options.json else _print)(found.bits)
        if not options.json and kept:
            print(
                f"{len(found.done)} roundings are kept in {found.run_directory}: with "
                f"{shlex.quote(output)}, the same options and --resume, quantize computes nothing "
                "again"
            )
    report_failures(found)
    return OK if not found.failed else SOME_FAILED if found.done else FAILED


def _emit(bits: BitPlan) -> None:
    chosen = dict(zip(bits.layers, bits.allocation.chosen, strict=True)) if bits.allocation else {}
    for layer in bits.layers:
        emit(
            "rates",
            layer=layer.name,
            weights=layer.weights,
            sensitivity=layer.sensitivity,
            weight_energy=layer.energy,
            bits=layer.bits,
            stored_bits=layer.sizes,
            losses=layer.losses,
            loss_db=[decibels(loss, layer.energy) for loss in layer.losses],
            chosen=layer.bits[chosen[layer]] if layer in chosen else None,
        )
    emit("curve", points=[_point(bits, *point) for point in bits.curve()])
    emit(
        "uniform",
        points=[{"bits": k, **_point(bits, *point)} for k, point in bits.uniform().items()],
    )
    emit("summary", layers=len(bits.layers), weights=bits.weights, **bit_figures(bits))


def _point(bits: BitPlan, size: float, loss: float) -> dict[str, float]:
    return {
        "bits_per_weight": size / max(bits.weights, 1),
        "stored_bits": size,
        "weighted_loss": loss,
        "weighted_loss_db": decibels(loss, bits.energy),
    }


def _print(bits: BitPlan) -> None:
    widths = sorted({width for layer in bits.layers for width in layer.bits})
    chosen = bits.allocation.chosen if bits.allocation else None
    rows = []
    for k, layer in enumerate(bits.layers):
        losses = dict(zip(layer.bits, layer.losses, strict=True))
        shown = [
            format_db(decibels(losses[width], layer.energy)) if width in losses else "-"
            for width in widths
        ]
        choice = layer.bits[chosen[k]] if chosen else "-"
        rows.append((layer.name, layer.weights, f"{layer.sensitivity:g}", *shown, choice))
    headers = ("layer", "weights", "sensitivity", *(f"{k}-bit dB" for k in widths), "chosen")
    print_table(headers, rows)
    print("loss relative to tr(W H W^T), lower is better\n")
    _plot(bits)
    if bits.allocation:
        print(bit_sentence(bits))


def _plot(bits: BitPlan) -> None:
    """Print losses against sizes: the best there are, and those of one width everywhere."""
    curve = bits.curve()
    step = max(1, -(-len(curve) // _ROWS))
    shown = {*range(0, len(curve), step), len(curve) - 1}
    points: list[tuple[float, float, str, str]] = [
        (*at, "o", f"every layer {k} bits") for k, at in bits.uniform().items()
    ]
    if bits.allocation:
        points.append((bits.allocation.size, bits.allocation.loss, "#", "chosen"))
    marked = {size for size, *_ in points}
    points += [(*curve[k], "*", "") for k in shown if curve[k][0] not in marked]
    points.sort(key=lambda point: (point[0], -point[1]))
    heights = [decibels(loss, bits.energy) for _, loss, *_ in points]
    finite = [value for value in heights if abs(value) < float("inf")]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    rows = []
    for (size, _, mark, label), value in zip(points, heights, strict=True):
        place = _COLUMNS
        if value in finite:
            place = round(_COLUMNS * (high - value) / (high - low)) if high > low else 0
        rows.append(
            (f"{size / max(bits.weights, 1):.3f}", f"{size / 8e6:.4g}", format_db(value),
             " " * place + mark, label)
        )  # fmt: skip
    width = max(len(row[3]) for row in rows)
    print_table(
        ("bits/weight", "MB", "loss dB", "less loss ->".ljust(width), ""),
        [(*row[:3], row[3].ljust(width), row[4]) for row in rows],
        left=0,
    )
    print("* the least loss of this size  o one width for all  # chosen" if bits.allocation else
          "* the least loss of this size  o one width for all")  # fmt: skip
