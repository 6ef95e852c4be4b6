"""safetensors files: the tensors of all layers, and how they were quantised."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export import compressed_tensors, gptq
from quiplinalg.export.codes import naming
from quiplinalg.export.extras import require
from quiplinalg.export.target import new_file
from quiplinalg.results import Quantized

__all__ = ["LAYOUTS", "tensor_names", "write_dense", "write_quantized"]

LAYOUTS: dict[str, ModuleType] = {module.LAYOUT: module for module in (compressed_tensors, gptq)}


def tensor_names(names: Iterable[str]) -> dict[str, str]:
    """Return how modules are called there, with dots: "block0/q" is "block0.q".

    Raises
    ------
    InvalidArgumentError
        Two layers with one name.
    """
    found: dict[str, str] = {}
    for name in names:
        dotted = name.replace("/", ".")
        if dotted in found.values():
            raise InvalidArgumentError(
                f"layers must have different names with '.' for '/'; got {dotted!r} twice. "
                "Export them to two files: names=..., or --include."
            )
        found[name] = dotted
    return found


def write_quantized(
    target: Path,
    layers: Iterable[tuple[str, Quantized]],
    layout: str,
    dtype: np.dtype | None,
    overwrite: bool,
) -> None:
    """Write packed codes, scales and zeros; the header has the ``quantization_config``."""
    require("safetensors", "safetensors")
    module = LAYOUTS[layout]
    tensors: dict[str, np.ndarray] = {}
    schemes = {}
    for name, q in layers:
        with naming(name):
            own, schemes[name] = module.layer_tensors(q, dtype)
        tensors |= {f"{name}.{key}": array for key, array in own.items()}
    settings = json.dumps(module.config(schemes), sort_keys=True)
    _write(target, tensors, {"quantization_config": settings}, overwrite)


def write_dense(target: Path, layers: Iterable[tuple[str, np.ndarray]], overwrite: bool) -> None:
    """Write one tensor ``<name>.weight`` a layer."""
    require("safetensors", "safetensors")
    _write(target, {f"{name}.weight": weight for name, weight in layers}, {}, overwrite)


def _write(
    target: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str], overwrite: bool
) -> None:
    save = require("safetensors.numpy", "safetensors").save
    # strided arrays would be written in the order they lie in memory
    rows = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    image = save(rows, metadata={"format": "pt", **metadata})
    start = 8 + int.from_bytes(image[:8], "little")
    with new_file(target, overwrite) as file:
        file.write(_sorted_header(image[8:start]))
        file.write(memoryview(image)[start:])


def _sorted_header(raw: bytes) -> bytes:
    """The header and its length, with the metadata in order: they come in that of a random hash."""
    header = json.loads(raw)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
    return len(text).to_bytes(8, "little") + text
