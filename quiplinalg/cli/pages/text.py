"""Figures and names as a page shows them."""

from __future__ import annotations

import math
import re
from html import escape

from quiplinalg.cli.common import harmless

__all__ = ["breakable", "count", "number", "safe", "signed", "size"]

MINUS, DASH = "\u2212", "\u2013"


def safe(text: object) -> str:
    """Text from a file, as HTML: nothing in it is markup, none of it invisible.

    Examples
    --------
    >>> safe("<b>'\\u202e")
    '&lt;b&gt;&#x27;\\\\u202e'
    """
    return escape(harmless(str(text)), quote=True)


def breakable(name: str) -> str:
    """The same of a name, which may be broken behind its points, bars and slashes."""
    return re.sub(r"([./_])", r"\1<wbr>", safe(name))


def number(value: float | None, digits: int = 2) -> str:
    """A number with some digits after the point; a dash where there is none."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return (MINUS if value < 0 else "") + "\u221e"
    text = f"{value:.{digits}f}"
    return text.replace("-", MINUS) if float(text) else text.lstrip("-")


def signed(value: float | None, digits: int = 2) -> str:
    """The same with a plus."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def count(value: int | None) -> str:
    """A whole number in groups of three digits."""
    return DASH if value is None else f"{value:,}".replace(",", "\u202f")


def size(value: float) -> str:
    """Bytes."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.3g} {unit}"
