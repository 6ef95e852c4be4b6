"""The figures of a report, read from the files of a run: one record a layer, and one for all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import decibels, progress
from quiplinalg.cli.pages.layer_figures import layer_figures, remarks

if TYPE_CHECKING:
    from quiplinalg.model.run import ModelRun

__all__ = ["Report", "collect", "totals"]

Figures = dict[str, Any]


@dataclass(frozen=True)
class Report:
    """What a report shows.

    Attributes
    ----------
    layers : list of dict
        The figures of each layer, those that are not known being None or NaN; in the order of
        their names, with numbers in them as numbers.
    summary : dict
        Those of all of them.
    failed : dict of str to str
        The error of each layer that the run could not do.
    skipped : list of str
        Layers that the run left as they are.
    """

    layers: list[Figures]
    summary: Figures
    failed: Mapping[str, str] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    def remarks(self) -> dict[str, list[Figures]]:
        """What is to be looked at, with the layers that it is said of."""
        found: dict[str, list[Figures]] = {}
        for each in self.layers:
            for note in each["notes"]:
                found.setdefault(note, []).append(each)
        return found


def collect(
    result_path: str,
    problem_path: str | None = None,
    certificates: Mapping[str, Any] | None = None,
    run: ModelRun | None = None,
) -> Report:
    """Read the figures of every layer of a result file.

    Parameters
    ----------
    result_path : str
    problem_path : str or None
        Has the number of samples, and what nearest rounding is computed from where the result
        does not say.
    certificates : mapping or None
        Of `read_certificates`.
    run : ModelRun or None
        Has the seconds and the warnings of each layer, and what failed.

    Raises
    ------
    FormatError
        A file that is not what it should be, or does not belong to the others.
    """
    from quiplinalg.files import open_problem, open_result

    facts = {each["layer"]: each for each in run.done} if run else {}
    with open_result(result_path) as result, progress(len(result.names), "report") as bar:
        problem = None if problem_path is None else open_problem(problem_path)
        try:
            layers = []
            for name in sorted(result.names, key=_natural):
                known = (certificates or {}).get(name, {})
                layers.append(layer_figures(result, problem, name, known, facts.get(name, {})))
                bar.update()
        finally:
            if problem is not None:
                problem.close()
    whole = totals(layers)
    for index, each in enumerate(layers):
        each["index"] = index
        each["loss_share"] = each["loss"] / whole["loss"] if whole["loss"] > 0 else 0.0
        each["notes"] = list(remarks(each, facts.get(each["layer"], {})))
    summary = whole | {
        "result": os.path.basename(result_path),
        "problem": None if problem_path is None else os.path.basename(problem_path),
        "file_bytes": os.path.getsize(result_path),
        "seconds": run.seconds if run else None,
        "widths": _widths(layers),
        "noted": sum(bool(each["notes"]) for each in layers),
    }
    return Report(layers, summary, run.failed if run else {}, run.skipped if run else [])


def totals(layers: Iterable[Figures]) -> Figures:
    """The figures of some layers together; the losses in dB of those where they are known."""
    layers = list(layers)
    sized = [each for each in layers if each["bits_per_weight"] is not None]
    weights = sum(each["weights"] for each in sized)
    stored = sum(each["bits_per_weight"] * each["weights"] for each in sized)
    compared = [each for each in layers if each["weight_energy"] is not None]
    energy = sum(each["weight_energy"] for each in compared)
    loss_db = decibels(sum(each["loss"] for each in compared), energy)
    both = [each for each in compared if each["nearest_loss"] is not None]
    nearest_db = gain_db = float("nan")
    if both:
        nearest = sum(each["nearest_loss"] for each in both)
        nearest_db = decibels(nearest, sum(each["weight_energy"] for each in both))
        gain_db = -decibels(sum(each["loss"] for each in both), nearest)
    return {
        "layers": len(layers),
        "weights": sum(each["weights"] for each in layers),
        "bits_per_weight": stored / weights if weights else None,
        "stored_bytes": stored / 8 if weights else None,
        "loss": sum(each["loss"] for each in layers),
        "loss_db": loss_db,
        "nearest_db": nearest_db,
        "gain_db": gain_db,
        "compared_layers": len(both),
    }


def _widths(layers: Iterable[Figures]) -> dict[int, float]:
    """The share of the quantised weights that has each number of bits."""
    found: dict[int, int] = {}
    for each in layers:
        if each["bits"] is not None:
            found[each["bits"]] = found.get(each["bits"], 0) + each["weights"]
    return {bits: found[bits] / max(sum(found.values()), 1) for bits in sorted(found)}


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts the numbers in names by their size."""
    parts = re.split(r"([0-9]+)", name)
    parts[1::2] = [part.lstrip("0") for part in parts[1::2]]
    return [(len(part) if k % 2 else 0, part) for k, part in enumerate(parts)]
