"""What became of the layers of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from quiplinalg.model.rates import BitPlan

__all__ = ["Facts", "ModelRun"]

Facts = dict[str, Any]


@dataclass(frozen=True)
class ModelRun:
    """What became of each layer.

    Attributes
    ----------
    output : str or None
        The result file; None where no layer could be done.
    done : list of dict
        Facts about each layer in it, in name order: "layer", "shape", "bits", "loss", ...
    failed : dict of str to str
        The error of each layer that is not in it.
    skipped : list of str
        Layers that the policy leaves as they are.
    resumed : int
        How many of ``done`` an earlier run had finished.
    seconds : float
        Of this run.
    run_directory : str or None
        What is kept to go on from, where layers failed or were only measured.
    bits : BitPlan or None
        The widths that there were to choose from, and those chosen.
    """

    output: str | None
    done: list[Facts] = field(repr=False)
    failed: dict[str, str]
    skipped: list[str]
    resumed: int
    seconds: float
    run_directory: str | None
    bits: BitPlan | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        parts = [f"{len(self.done)} layers done"]
        if self.resumed:
            parts.append(f"{self.resumed} of them before")
        if self.failed:
            parts.append(f"{len(self.failed)} FAILED: {', '.join(self.failed)}")
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        return f"ModelRun({self.output!r}, {', '.join(parts)}, {self.seconds:.1f} s)"
