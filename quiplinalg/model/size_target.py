"""How much a model may take: bits a weight on average, or bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from numbers import Integral, Real
from typing import Any

__all__ = ["SizeTarget", "byte_count"]

_PREFIXES = "KMGT"
_DIGITS = 1e-12  # an average that was computed from a size gives that size
_MOST_BITS = 64  # more is a number of bytes whose unit was forgotten


@dataclass(frozen=True)
class SizeTarget:
    """The codes, scales and whatever else a result needs may take this much; one of the two.

    Attributes
    ----------
    average : float or None
        Bits a weight.
    total : int or None
        Bytes.
    """

    average: float | None = None
    total: int | None = None

    @classmethod
    def of(cls, given: Any) -> SizeTarget:
        """Return what a number of bits, or a text as "2.5", "2.5 bits" or "3 GB", says.

        Raises
        ------
        ValueError, TypeError
            It is neither.

        Examples
        --------
        >>> SizeTarget.of(2.5), SizeTarget.of("1.5 kB")
        (SizeTarget(average=2.5, total=None), SizeTarget(average=None, total=1500))
        """
        if isinstance(given, SizeTarget):
            return given
        if isinstance(given, str):
            found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+) *(?:bits?)?", given.strip(), re.I | re.A)
            if not found:
                return cls(total=byte_count(given))
            given = float(found[1])
        if isinstance(given, bool) or not isinstance(given, Real):
            raise TypeError
        average = float(given)
        if not 0 < average <= _MOST_BITS:
            raise ValueError
        return cls(average=average)

    def bits(self, weights: int) -> float:
        """Return how many bits so many weights may take."""
        if self.average is None:
            assert self.total is not None
            return 8 * self.total
        return self.average * weights * (1 + _DIGITS)

    def __str__(self) -> str:
        return f"{self.total} bytes" if self.average is None else f"{self.average:g} bits a weight"


def byte_count(given: Any) -> int:
    """Return bytes: of a whole number, or of a text as "8 GB" (10^9), "8 GiB" or "8G" (2^30).

    Raises
    ------
    ValueError, TypeError
        It is neither.

    Examples
    --------
    >>> byte_count("8 GB"), byte_count("8k")
    (8000000000, 8192)
    """
    if not isinstance(given, str):
        if isinstance(given, bool) or not isinstance(given, Integral):
            raise TypeError
        return int(given)
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *(?:([KMGT])(B|iB)?|B)?", given.strip(), re.I | re.A)
    if not found:
        raise ValueError
    number, prefix, unit = found.groups()
    step = 1000 if (unit or "").upper() == "B" else 1024
    return int(Fraction(number) * step ** (_PREFIXES.index(prefix.upper()) + 1 if prefix else 0))
