"""Reading the certificates that ``verify --certificate`` wrote."""

from __future__ import annotations

import json
from typing import Any

__all__ = ["read_certificates"]

_NEEDED = ("shape", "loss", "rows", "dual_gap_db", "model_gap_db")
_MOST = 256 << 20  # bytes


def read_certificates(path: str) -> dict[str, dict[str, Any]]:
    """Return the figures of each layer.

    Raises
    ------
    FormatError
        Another kind of file.
    OSError
    """
    from quiplinalg.errors import FormatError

    with open(path, "rb") as file:
        data = file.read(_MOST)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"expected JSON; got {error}. {_REMEDY}", path) from None
    layers = content.get("layers") if isinstance(content, dict) else None
    if not isinstance(layers, dict) or not all(map(_is_certificate, layers.values())):
        raise FormatError(f"expected certificates by layer; got something else. {_REMEDY}", path)
    return layers


_REMEDY = "Name the file that quiplinalg verify --certificate wrote"


def _is_certificate(value: Any) -> bool:
    if not isinstance(value, dict) or not all(key in value for key in _NEEDED):
        return False
    gaps = [value["dual_gap_db"], value["model_gap_db"]]
    return (
        _is_number(value["loss"], 1e300)
        and isinstance(value["shape"], list)
        and isinstance(value["rows"], list)
        and all(gap is None or _is_number(gap, 1e4) for gap in gaps)
    )


def _is_number(value: Any, most: float) -> bool:
    return isinstance(value, (int, float)) and -most < value < most
