"""Unknown keywords get an answer: which keyword of this library the caller probably means."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import ParamSpec, TypeVar

from quiplinalg.errors import DTypeError

__all__ = ["ALIASES", "as_float", "explain_keyword", "suggest_keywords"]

P = ParamSpec("P")
R = TypeVar("R")

_DAMP = "damp=0.01 (a fraction of the mean live diagonal of H)"
_ORDER = 'order="act" (columns by decreasing diagonal of H)'
_PANEL = "block (columns rounded between two updates; changes the speed, not the result)"
_GROUP = "group_size (columns that share a scale; changes the result)"

#: Keywords of other libraries, and what they are called here: ``keyword[=example] [(meaning)]``,
#: several where the same name means different things in different libraries.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "percdamp": (_DAMP,),
    "perc_damp": (_DAMP,),
    "damp_percent": (_DAMP,),
    "dampening_frac": (_DAMP,),
    "hessian_damping": (_DAMP,),
    "sigma_reg": (_DAMP,),
    "desc_act": (_ORDER,),
    "actorder": (_ORDER,),
    "act_order": (_ORDER,),
    "activation_order": (_ORDER,),
    "wbits": ("bits",),
    "num_bits": ("bits",),
    "weight_bits": ("bits",),
    "symmetric": ("sym",),
    "groupsize": ("group_size",),
    "blocksize": (_PANEL, _GROUP),
    "block_size": (_PANEL, _GROUP),
}


def as_float(value: object) -> float:
    """Return a number as a float, infinite beyond float64; NaN for what is none, bools too."""
    if isinstance(value, (bool, str)):
        return math.nan
    try:
        return float(value)  # type: ignore[arg-type]
    except OverflowError:
        return math.inf
    except (TypeError, ValueError):
        return math.nan


def explain_keyword(
    name: str,
    valid_names: Iterable[str],
    aliases: Mapping[str, str | tuple[str, ...]] | None = None,
) -> str:
    """Say which of the valid keywords an unknown one probably means.

    Parameters
    ----------
    name : str
        The unknown keyword; ``-`` and leading dashes are read as a command line writes them.
    valid_names : iterable of str
        The keywords there are.
    aliases : mapping, optional
        More names, to ``"keyword"``, ``"keyword=example (meaning)"`` or a tuple of these; they
        come before `ALIASES`.

    Returns
    -------
    str
        ``"did you mean ...?"``, or ``"the keywords are ..."`` where nothing is close.

    Examples
    --------
    >>> explain_keyword("wbits", ["bits", "damp"])
    'did you mean bits?'
    """
    valid = list(valid_names)
    key = name.lstrip("-").replace("-", "_").lower()
    known = {**ALIASES, **(aliases or {})}
    hints = known.get(key, ())
    hints = (hints,) if isinstance(hints, str) else hints
    fitting = [hint for hint in hints if _keyword(hint) in valid]
    if not fitting:
        # Misspelt names of other libraries count as well ("per_damp"), through their translation.
        reachable: dict[str, tuple[str, ...]] = {v.lower(): (v,) for v in reversed(valid)}
        for alias, value in known.items():
            texts = (value,) if isinstance(value, str) else tuple(value)
            texts = tuple(t for t in texts if _keyword(t) in valid)
            if texts:
                reachable.setdefault(alias, texts)
        for close in difflib.get_close_matches(key, reachable, n=3, cutoff=0.7):
            fitting += [text for text in reachable[close] if text not in fitting]
        fitting = _one_per_keyword(fitting)
    if fitting:
        return f"did you mean {' or '.join(fitting)}?"
    if valid:
        return f"the keywords are {', '.join(valid)}."
    return "it takes no keywords."


def suggest_keywords(
    aliases: Mapping[str, str | tuple[str, ...]] | None = None,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a decorator that answers unknown keywords with the one that is probably meant.

    Parameters
    ----------
    aliases : mapping, optional
        Names special to this function, as in `explain_keyword`.

    Returns
    -------
    callable
        The decorator.  Name, docstring, annotations and ``inspect.signature`` stay those of the
        function; a call with right keywords costs one more Python call.

    Raises
    ------
    DTypeError
        (A TypeError.)  From the decorated function, for a keyword it does not have.

    Examples
    --------
    >>> @suggest_keywords()
    ... def ldlq(W, H, *, bits=2, damp=0.01): ...
    >>> ldlq(1, 2, wbits=4)
    Traceback (most recent call last):
        ...
    quiplinalg.errors.DTypeError: ldlq() has no keyword 'wbits'; did you mean bits?
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        parameters = inspect.signature(function).parameters.values()
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            raise TypeError(f"{function.__name__}() takes every keyword: nothing to suggest")
        names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        valid = frozenset(names)

        @wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            if not valid.issuperset(kwargs):
                first = next(k for k in kwargs if k not in valid)
                raise DTypeError(
                    f"{function.__name__}() has no keyword '{first}'; "
                    + explain_keyword(first, names, aliases)
                )
            return function(*args, **kwargs)

        return wrapper

    return decorate


def _keyword(hint: str) -> str:
    """Return the keyword that a hint starts with."""
    return hint.partition(" ")[0].partition("=")[0]


def _one_per_keyword(hints: list[str]) -> list[str]:
    """Keep the first hint of each keyword."""
    first: dict[str, str] = {}
    for hint in hints:
        first.setdefault(_keyword(hint), hint)
    return list(first.values())
