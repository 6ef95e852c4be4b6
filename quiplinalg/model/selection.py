"""Which layers of a file a command works on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from quiplinalg.errors import InvalidArgumentError

__all__ = ["select_layers"]

_SHOWN = 5


def select_layers(
    names: Sequence[str], include: Iterable[str] = (), exclude: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """Return the names asked for, in their order, and a warning for each idle exclusion.

    Parameters
    ----------
    names : sequence of str
    include, exclude : iterables of str
        Globs; ``*`` matches ``/`` too, case matters.  Without ``include`` every layer is in.

    Raises
    ------
    InvalidArgumentError
        A glob of ``include`` that matches nothing, or no layer is left.
    """

    def matches(pattern: str) -> set[str]:
        return {name for name in names if fnmatchcase(name, pattern)}

    some = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    chosen: set[str] = set()
    warnings = []
    for pattern in include:
        if not matches(pattern):
            raise InvalidArgumentError(
                f"include must match a layer; got {pattern!r}, which fits none of {some}. "
                "'quiplinalg inspect' lists them all."
            )
        chosen |= matches(pattern)
    if not include:
        chosen = set(names)
    for pattern in exclude:
        if not matches(pattern):
            warnings.append(f"exclude {pattern!r} fits none of {some}")
        chosen -= matches(pattern)
    if not chosen:
        raise InvalidArgumentError(
            f"at least one of the {len(names)} layers must be left; got none. "
            "Check include and exclude."
        )
    return [name for name in names if name in chosen], warnings
