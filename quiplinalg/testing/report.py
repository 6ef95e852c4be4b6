"""What a test of a quantiser reports: guarantees, which of them are broken, and a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GUARANTEES", "Broken", "QuantizerReport"]

#: The guarantees that are checked, and what each means; the last by `check_group_quantizer`.
GUARANTEES = {
    "runs": "it returns an (m, n) array for every valid problem",
    "inputs": "the caller's arrays are not changed",
    "grid": "every result is a point of the grid, codes 0 .. maxq",
    "targets": "each code is the rounding of its target, |eta| <= 1/2 or clipped, as in LDLQ",
    "feedback": "on a grid that does not clip, the mean loss is tr D / 12, not nearest's tr H / 12",
    "diagonal": "for a diagonal H it is nearest",
    "ties": "halves are rounded to even",
    "near ties": "a target 1e-9 steps from a tie is rounded to the right side",
    "units": "codes do not depend on the unit of H (a power of 4)",
    "rows": "a row alone gets the codes that it gets among others",
    "repeat": "the same call gives the same codes",
    "idempotent": "weights on grid points keep their codes",
    "refusal": "an H that is not positive definite is refused, not rounded to nearest in silence",
    "dead columns": "zero columns of H are refused, or the others are rounded as if without them",
    "group scales": "scales fit the weights of their group as they are when it is reached",
}


@dataclass(frozen=True)
class Broken:
    """A guarantee that does not hold.

    Attributes
    ----------
    guarantee : str
        A key of `GUARANTEES`.
    problem : str
        The first problem that shows it.
    message : str
        What was found there.
    count : int
        Problems that show it.
    """

    guarantee: str
    problem: str
    message: str
    count: int


@dataclass(frozen=True)
class QuantizerReport:
    """What `check_quantizer` found.

    Attributes
    ----------
    ok : bool
        Nothing is broken.
    broken : tuple of Broken
        In the order of `GUARANTEES`.
    diagnosis : str
        What the quantiser seems to do instead; empty where nothing is broken.
    checked : tuple of str
        The guarantees that were checked.
    problems : int
        Calls of the quantiser.
    """

    ok: bool
    broken: tuple[Broken, ...]
    diagnosis: str
    checked: tuple[str, ...]
    problems: int

    def raise_if_broken(self) -> None:
        """Raise AssertionError with the report where a guarantee is broken."""
        if not self.ok:
            raise AssertionError(str(self))

    def __str__(self) -> str:
        if self.ok:
            return f"{len(self.checked)} guarantees hold on {self.problems} calls"
        lines = [f"Diagnosis: {self.diagnosis}"]
        for b in self.broken:
            lines.append(f"* {b.guarantee} ({GUARANTEES[b.guarantee]}) is broken {b.count} times;")
            lines.append(f"  first on {b.problem}: {b.message}")
        return "\n".join(lines)
