"""What ``quantize`` says when it is done."""

from __future__ import annotations

import os
from typing import Any

from quiplinalg.cli.common import (
    decibels,
    emit,
    format_bytes,
    format_db,
    format_seconds,
    note,
    print_table,
)

__all__ = ["report"]


def report(
    output: str, as_json: bool, done: list[dict[str, Any]], failed: dict[str, str], seconds: float
) -> None:
    """Print the table, or the JSON summary, of the layers done and failed."""
    energy = sum(facts["weight_energy"] for facts in done)
    loss_db = decibels(sum(facts["loss"] for facts in done), energy)
    nearest_db = decibels(sum(facts["nearest_loss"] for facts in done), energy)
    sizes = [facts["shape"][0] * facts["shape"][1] for facts in done]
    stored = sum(facts["bits_per_weight"] * k for facts, k in zip(done, sizes, strict=True))
    bits = stored / max(sum(sizes), 1)
    path = os.path.abspath(output)
    size = os.path.getsize(path) if done else 0
    if as_json:
        emit(
            "summary",
            layers=len(done),
            failed=list(failed),
            loss_db=loss_db,
            nearest_db=nearest_db,
            bits_per_weight=bits,
            near_tie_rows=sum(facts["near_tie_rows"] for facts in done),
            seconds=seconds,
            output=path if done else None,
            bytes=size,
        )
    elif done:
        rows: list[tuple[str, ...]] = [
            _row(facts["layer"], *(facts[key] for key in _COLUMNS)) for facts in done
        ]
        rows.append(_row(f"all {len(done)}", bits, loss_db, nearest_db, seconds))
        headers: tuple[str, ...] = ("layer", "bits/weight", "loss dB", "nearest dB", "seconds")
        if any(facts["rotation"] or facts["candidates"] for facts in done):
            chosen = [*map(_rotation, done), ("", "")]
            rows = [row + own for row, own in zip(rows, chosen, strict=True)]
            headers += ("rotation", "gain dB")
        print_table(headers, rows)
        print("loss relative to tr(W H W^T), lower is better; nearest on the same grid")
        if "gain dB" in headers:
            print("gain: what the rotation brings before refinement, where none was tried as well")
        print(f"\n{path}: {format_bytes(size)}, {len(done)} layers")
    if failed and done:
        note(
            f"quiplinalg: {len(failed)} of {len(failed) + len(done)} layers FAILED and are NOT in "
            f"{output}: {', '.join(failed)}. Mend them as the errors above say (--damp auto where "
            "H is not positive definite), then run these alone with --include"
        )
    elif failed:
        note(
            f"quiplinalg: all {len(failed)} layers failed; {output} was not written. "
            "Mend them as the errors above say"
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
