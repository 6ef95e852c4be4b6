"""What a seeded fault is: one small change of one source file, and the tests that should see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "quiplinalg"


@dataclass(frozen=True)
class Fault:
    """A known bug, planted by replacing ``old``, which occurs exactly once in ``file``, by ``new``.

    ``tests`` are tried first, because they are likely to see it; then all of the usual run.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]

    def planted(self, text: str) -> str:
        """The text of the file with the fault; ValueError where ``old`` is not there once."""
        if text.count(self.old) != 1:
            raise ValueError(
                f"{self.name}: its text occurs {text.count(self.old)} times in {self.file}; the "
                "source has changed, so that the fault must be written anew"
            )
        return text.replace(self.old, self.new)
