"""What ``quantize`` says when it is done: what was done, what was not, and how to go on."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    OutputError,
    decibels,
    emit,
    format_bytes,
    format_db,
    format_seconds,
    note,
    print_table,
)

if TYPE_CHECKING:
    from quiplinalg.model.quantize import ModelRun
    from quiplinalg.model.rates import BitPlan

__all__ = ["bit_figures", "bit_sentence", "in_decibels", "report", "report_failures"]

_TABLE = 40  # layers of which every one gets a row
_WORST = 15  # rows of a longer run: those with the largest losses


def in_decibels(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of a layer with its losses relative to tr(W H W^T)."""
    energy = facts["weight_energy"]
    return facts | {
        "loss_db": decibels(facts["loss"], energy),
        "nearest_db": decibels(facts["nearest_loss"], energy),
    }


def report(run: ModelRun, as_json: bool) -> None:
    """Print the table, or the JSON summary, of the layers done, failed and skipped."""
    try:
        _print(run, as_json)
        sys.stdout.flush()
    except OutputError:
        if run.output is not None:
            note(f"quiplinalg: {run.output} is complete, with all {len(run.done)} layers done")
        raise
    finally:
        report_failures(run)


def _print(run: ModelRun, as_json: bool) -> None:
    done = [in_decibels(facts) for facts in run.done]
    energy = sum(facts["weight_energy"] for facts in done)
    loss_db = decibels(sum(facts["loss"] for facts in done), energy)
    nearest_db = decibels(sum(facts["nearest_loss"] for facts in done), energy)
    sizes = [facts["shape"][0] * facts["shape"][1] for facts in done]
    stored = sum(facts["bits_per_weight"] * k for facts, k in zip(done, sizes, strict=True))
    bits = stored / max(sum(sizes), 1)
    size = os.path.getsize(run.output) if run.output else 0
    if as_json:
        emit(
            "summary",
            layers=len(done),
            failed=list(run.failed),
            skipped=run.skipped,
            resumed=run.resumed,
            loss_db=loss_db,
            nearest_db=nearest_db,
            bits_per_weight=bits,
            near_tie_rows=sum(facts["near_tie_rows"] for facts in done),
            seconds=run.seconds,
            output=run.output,
            bytes=size,
            run_directory=run.run_directory,
            **({} if run.bits is None else bit_figures(run.bits)),
        )
    elif done:
        _table(done, bits, loss_db, nearest_db, run.seconds)
        also = f", {len(run.skipped)} skipped" if run.skipped else ""
        before = f" ({run.resumed} of them before)" if run.resumed else ""
        print(f"\n{run.output}: {format_bytes(size)}, {len(done)} layers{before}{also}")
        if run.bits is not None:
            print(bit_sentence(run.bits))


def bit_figures(bits: BitPlan) -> dict[str, Any]:
    """Return for JSON what the choice of the bits came to; nothing without a budget."""
    if bits.allocation is None or bits.target is None:
        return {}
    return {
        "budget": vars(bits.target),
        "bits": {layer.name: layer.bits[k] for layer, k in bits.chosen()},
        "stored_bits": bits.allocation.size,
        "weighted_loss": bits.allocation.loss,
        "weighted_loss_db": decibels(bits.allocation.loss, bits.energy),
        "bound_db": decibels(bits.allocation.bound, bits.energy),
        "optimal": bits.allocation.optimal,
    }


def bit_sentence(bits: BitPlan) -> str:
    """Say how well a budget is used."""
    found = bits.allocation
    assert found is not None
    gap = format_db(decibels(found.loss, found.bound)) if found.bound > 0 else "any"
    quality = (
        "no other choice of these widths has less loss"
        if found.optimal
        else f"other choices have {gap} dB less loss at most"
    )
    return f"budget {bits.target}: {bits.size(found.size)} used, {quality}"


def _table(
    done: list[dict[str, Any]], bits: float, loss_db: float, nearest_db: float, seconds: float
) -> None:
    shown = done
    if len(done) > _TABLE:
        shown = sorted(done, key=lambda facts: (-facts["loss"], facts["layer"]))[:_WORST]
        print(f"the {_WORST} of {len(done)} layers with the largest losses:")
    rows = [_row(facts["layer"], *(facts[key] for key in _COLUMNS)) for facts in shown]
    rows.append(_row(f"all {len(done)}", bits, loss_db, nearest_db, seconds))
    headers: tuple[str, ...] = ("layer", "bits/weight", "loss dB", "nearest dB", "seconds")
    if any(facts["rotation"] or facts["candidates"] for facts in done):
        chosen = [*map(_rotation, shown), ("", "")]
        rows = [row + own for row, own in zip(rows, chosen, strict=True)]
        headers += ("rotation", "gain dB")
    print_table(headers, rows)
    print("loss relative to tr(W H W^T), lower is better; nearest on the same grid")
    sampled = {f["compared_rows"] for f in done if f["compared_rows"] < f["shape"][0]}
    if sampled:
        print(
            f"both dB from {max(sampled)} rows of each larger layer (--compare-rows all: of all "
            "rows); the losses themselves are of all rows"
        )
    if "gain dB" in headers:
        print("gain: what the rotation brings before refinement, where none was tried as well")


def report_failures(run: ModelRun) -> None:
    """Say which layers failed, and how to go on."""
    if not run.failed:
        return
    mend = "Mend them as the errors above say (--damp auto where H is not positive definite)"
    if run.done:
        note(
            f"quiplinalg: {len(run.failed)} of {len(run.failed) + len(run.done)} layers FAILED and "
            f"are NOT in {run.output}: {', '.join(run.failed)}. {mend}, then run the same command "
            f"with --retry-failed; the others are kept for it in {run.run_directory}"
        )
    else:
        note(
            f"quiplinalg: all {len(run.failed)} layers failed; the result was not written. {mend}, "
            "then run the command again"
        )


_COLUMNS = ("bits_per_weight", "loss_db", "nearest_db", "seconds")


def _row(name: str, bits: float, loss: float, nearest: float, seconds: float) -> tuple[str, ...]:
    return (name, f"{bits:.3f}", format_db(loss), format_db(nearest), format_seconds(seconds))


def _rotation(facts: dict[str, Any]) -> tuple[str, str]:
    """The rotation of a layer, and its gain over none."""
    name = facts["rotation"] or "none"
    losses = facts["candidates"] or {}
    if name == "none" or "none" not in losses:
        return name, "-"
    return name, format_db(-decibels(losses[name], losses["none"]))
