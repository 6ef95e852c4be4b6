"""What decides the bytes of a result, and in words how two runs differ in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import quiplinalg

if TYPE_CHECKING:
    from quiplinalg.model.plan import Plan

__all__ = ["differences", "identity"]

_NAMED = 3  # layers that a line names


def identity(plan: Plan, rows: int | None = None) -> dict[str, Any]:
    """Return, ready for JSON, all that the bytes of the result depend on beside the arrays.

    Not the jobs, the threads or the paths: they change nothing.  ``rows`` are those that each
    layer is compared on, None for all.
    """
    return {
        "version": quiplinalg.__version__,
        "rows": rows,
        "layers": {
            key: {
                "shape": list(layer.shape),
                "dtype": str(layer.dtype),
                "options": layer.options.to_json(),
            }
            for key, layer in plan.layers.items()
        },
    }


def differences(
    old: dict[str, Any], new: dict[str, Any], ignore: Collection[str] = ()
) -> list[str]:
    """Return in words what two identities differ in, layers of the same difference in one line.

    Parameters
    ----------
    old, new : dict
        From `identity`, also by way of JSON: of the run and of now.
    ignore : collection of str
        Layers that may differ, as those that failed may when they are tried again.

    Examples
    --------
    >>> layers = {name: {"options": {"bits": 2}} for name in "abcde"}
    >>> now = {name: {"options": {"bits": 3}} for name in "abcde"}
    >>> differences({"version": "1", "layers": layers}, {"version": "1", "layers": now})
    ['layers a, b, c and 2 more: bits 2 in the run, 3 now']
    """
    found = []
    if old["version"] != new["version"]:
        found.append(f"quiplinalg {old['version']} in the run, {new['version']} now")
    compared = [_rows(each) for each in (old, new)]
    if compared[0] != compared[1]:
        found.append(f"compared on {compared[0]} rows in the run, on {compared[1]} now")
    changes: dict[str, list[str]] = {}
    for name in sorted({*old["layers"], *new["layers"]} - set(ignore)):
        for change in _changes(old["layers"].get(name), new["layers"].get(name)):
            changes.setdefault(change, []).append(name)
    return found + [f"{_named(names)}: {change}" for change, names in changes.items()]


def _rows(record: dict[str, Any]) -> str:
    rows = record.get("rows")
    return "all" if rows is None else str(rows)


def _changes(old: dict[str, Any] | None, new: dict[str, Any] | None) -> Iterator[str]:
    """Yield what differs between the records of one layer; None where there is none."""
    if old is None or new is None:
        yield "not in the run, but now" if old is None else "in the run, but not now"
        return
    before, now = _flat(old), _flat(new)
    for key in (*before, *(key for key in now if key not in before)):
        values = [_shown(record.get(key)) for record in (before, now)]
        if values[0] != values[1]:
            yield f"{key.replace('_', ' ')} {values[0]} in the run, {values[1]} now"


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """The items of nested dictionaries, by their own keys."""
    found: dict[str, Any] = {}
    for key, value in record.items():
        found |= _flat(value) if isinstance(value, dict) else {key: value}
    return found


def _shown(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " x ".join(map(str, value))
    return "none" if value is None else str(value)


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMED])
    if len(names) > _NAMED:
        return f"layers {shown} and {len(names) - _NAMED} more"
    return f"layer{'s' if len(names) > 1 else ''} {shown}"
