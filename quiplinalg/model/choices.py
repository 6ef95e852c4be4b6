"""The options of a layer and of a run: their names, and what values they take.

Without NumPy, as ``quiplinalg quantize --help`` has no need of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from quiplinalg.model.size_target import SizeTarget, byte_count

__all__ = ["FILE", "METHODS", "OPTIONS", "RULE", "SETTINGS", "Option"]

METHODS = ("nearest", "gptq", "ldlq", "obq", "kbest", "lnq", "quip", "safe")


def _switch(given: Any) -> bool:
    if not isinstance(given, bool):
        raise TypeError
    return given


def _whole(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, Integral):
        raise TypeError
    return int(given)


def _number(given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, Real):
        raise TypeError
    try:
        return float(given)
    except OverflowError:
        return math.inf


def _word(given: Any) -> str:
    raise TypeError  # it is none of the option's words


def _pattern(given: Any) -> re.Pattern[str]:
    return re.compile(given)


def _globs(given: Any) -> list[str]:
    globs = [given] if isinstance(given, str) else list(given)
    if not all(isinstance(glob, str) for glob in globs):
        raise TypeError
    return globs


def _tables(given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise TypeError
    return given


def _widths(given: Any) -> int | tuple[int, ...]:
    """One width, or a list of several to choose from."""
    if not isinstance(given, (list, tuple)):
        return _whole(given)
    several = tuple(sorted({_whole(each) for each in given}))
    if not several:
        raise ValueError
    return several if len(several) > 1 else several[0]


_EXPECTED: dict[Callable[[Any], Any], str] = {
    _switch: "true or false",
    _whole: "a whole number",
    _number: "a number",
    _pattern: "a regular expression, as '.*q_proj'",
    _tables: "tables, as [[rules]]",
    _globs: 'a list of globs, as ["model.*"]',
    byte_count: 'a number of bytes, or a text as "8 GB"',
    _widths: "a whole number, or several to choose from, as 2,3,4 ([2, 3, 4] in a file)",
    SizeTarget.of: 'bits a weight, 64 at most, as 2.5, or bytes, as "3 GB"',
}
_FROM_TEXT: dict[Callable[[Any], Any], Callable[[str], Any]] = {
    _whole: int,
    _number: float,
    _widths: lambda text: [int(part) for part in text.split(",")],
}


@dataclass(frozen=True)
class Option:
    """What values an option takes.

    Attributes
    ----------
    convert : callable
        Makes a value of what was given; TypeError or ValueError where it is none.
    words : tuple of str
        Values beside those, or all there are.
    nothing : str or None
        The one of ``words`` that stands for None.
    """

    convert: Callable[[Any], Any]
    words: tuple[str, ...] = ()
    nothing: str | None = None

    @property
    def is_switch(self) -> bool:
        """Whether it is true or false."""
        return self.convert is _switch

    @property
    def is_list(self) -> bool:
        """Whether it is a list, of globs."""
        return self.convert is _globs

    @property
    def choices(self) -> tuple[str, ...] | None:
        """All the values there are, where they are words."""
        return self.words if self.convert is _word else None

    @property
    def expected(self) -> str:
        """What a value is, for a message."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        return " or ".join((_EXPECTED[self.convert], *(f'"{word}"' for word in self.words)))

    def value(self, given: Any) -> Any:
        """Return a value as the functions of the library take it; TypeError or ValueError."""
        if given is None and self.nothing is not None:
            return None
        if isinstance(given, str) and given in self.words:
            return None if given == self.nothing else given
        return self.convert(given)

    def parse(self, text: str) -> Any:
        """Return what a text of the command line says, words as they are; ValueError."""
        if text in self.words:
            return text
        return self.convert(_FROM_TEXT.get(self.convert, str)(text))


#: What a layer is rounded by: the keywords of the functions, some with words for None.
OPTIONS = {
    "method": Option(_word, METHODS),
    "bits": Option(_widths),
    "group_size": Option(_whole, ("row",), "row"),
    "static_groups": Option(_switch),
    "sym": Option(_switch),
    "clip": Option(_word, ("mse", "minmax", "best")),
    "rotation": Option(_word, ("auto", "hadamard", "kronecker", "none"), "none"),
    "sides": Option(_word, ("input", "both")),
    "rescale": Option(_word, ("mean", "trace", "volume", "none"), "none"),
    "per_tensor": Option(_switch),
    "rho": Option(_number, ("search", "table"), "table"),
    "k": Option(_whole),
    "outliers_first": Option(_switch),
    "rounds": Option(_whole, ("all",), "all"),
    "level_dtype": Option(_word, ("float16", "float32", "float64")),
    "c": Option(_number),
    "refine": Option(_whole, ("all",), "all"),
    "refit": Option(_word, ("scale", "both", "none"), "none"),
    "rank": Option(_whole),
    "order": Option(_word, ("natural", "act", "min-pivot", "greedy")),
    "damp": Option(_number, ("auto",)),
    "rounding": Option(_word, ("nearest", "stochastic")),
    "seed": Option(_whole),
    "backend": Option(_word, ("auto", "cpu", "cuda")),
}

#: What a rule has beside options.
RULE = {"match": Option(_pattern), "skip": Option(_switch)}

#: What a run does, and with what; of these only the budget has a part in the result.
SETTINGS = {
    "budget": Option(SizeTarget.of),
    "include": Option(_globs),
    "exclude": Option(_globs),
    "jobs": Option(_whole),
    "threads": Option(_whole),
    "max_memory": Option(byte_count),
    "overwrite": Option(_switch),
}

#: What a file of options may have at its top.
FILE = {**OPTIONS, **SETTINGS, "rules": Option(_tables)}
