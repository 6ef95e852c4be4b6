"""How a quantised or pruned layer lies in a result file; the one place that writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.errors import DTypeError, InvalidArgumentError
from quiplinalg.files.elements import (
    checksum,
    make_group,
    set_attributes,
    stored_attributes,
    write_array,
)
from quiplinalg.files.result_layout import (
    CANDIDATES,
    CHECKSUM,
    DATASETS,
    GRID_SCALARS,
    LAYER_SCALARS,
    PRUNED_SCALARS,
    RESERVED,
    layer_checksum,
    layer_objection,
    mask_objection,
    pruned_objection,
)
from quiplinalg.grids.packing import pack
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized

__all__ = ["Attributes", "StoredLayer", "stored_layer", "write_layer"]

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True)
class StoredLayer:
    """A layer as it will lie in the file: checked, so that only the disk can fail from here on.

    Attributes
    ----------
    encoding : str
    attributes : dict
    arrays : dict of str to (array, bits)
        By dataset; bits of packed codes, None for plain arrays.
    """

    encoding: str
    attributes: dict[str, Any]
    arrays: dict[str, tuple[np.ndarray, int | None]]


def stored_layer(name: str, layer: Quantized | Pruned, attributes: Attributes) -> StoredLayer:
    """Check a layer and the caller's own attributes; nothing is written.

    Raises
    ------
    InvalidArgumentError
        A reserved attribute, or a layer at odds with itself.
    DTypeError
        Neither Quantized nor Pruned, or an attribute that is no text and no number.
    """
    if not isinstance(layer, Quantized | Pruned):
        raise DTypeError(
            f"layer must be a Quantized or a Pruned; got {type(layer).__name__} for {name!r}. "
            "Pass what ldlq or obs_prune returned; ProblemWriter takes weights."
        )
    taken = sorted(RESERVED & set(attributes))
    if taken:
        raise InvalidArgumentError(
            f"attributes must have names of their own; got {', '.join(taken)}, which the "
            "layout uses. Rename them."
        )
    stored_attributes(attributes)
    if isinstance(layer, Pruned):
        return _pruned(name, layer, attributes)
    return _quantized(name, layer, attributes)


def write_layer(file: h5py.File, name: str, stored: StoredLayer) -> None:
    """Write a layer below ``layers``."""
    group = make_group(file["layers"], name.split("/"), stored.encoding)
    set_attributes(group, **stored.attributes)
    for key, (array, bits) in stored.arrays.items():
        if bits is None:
            write_array(group, key, array, "array", crc32=checksum(array))
            continue
        m, n = array.shape
        packed = pack(array, bits).reshape(-1)
        write_array(group, key, packed, "packed-codes", crc32=checksum(packed), bits=bits, m=m, n=n)
    set_attributes(group, **{CHECKSUM: layer_checksum(name, group, sorted(group))})


def _pruned(name: str, pruned: Pruned, attributes: Attributes) -> StoredLayer:
    weights, mask = np.asarray(pruned.weights), np.asarray(pruned.mask)
    dead = np.asarray(pruned.dead, np.int64)
    _refuse(name, pruned_objection(weights, mask, dead))
    fields = {key: getattr(pruned, field) for key, (field, _, _) in PRUNED_SCALARS.items()}
    arrays = {"weight": (weights, None), "mask": (mask.astype(np.uint8), 1), "dead": (dead, None)}
    return StoredLayer("pruned-layer", {**fields, **attributes}, arrays)


def _quantized(name: str, quantized: Quantized, attributes: Attributes) -> StoredLayer:
    grid = quantized.grid
    codes = to_numpy(quantized.codes, "codes", integers=True)
    held = {"dead": quantized.dead, "permutation": quantized.permutation}
    held |= {"scale": grid.scale, "zero": grid.zero, "group_index": grid.group_index}
    arrays = {
        key: np.asarray(array, DATASETS[key]) for key, array in held.items() if array is not None
    }
    fields: dict[str, Any] = {}
    for scalars, record in ((LAYER_SCALARS, quantized), (GRID_SCALARS, grid)):
        fields |= {key: getattr(record, field) for key, (field, _, _) in scalars.items()}
    if quantized.processing is not None:
        marks, parts = quantized.processing.to_parts()
        fields |= marks
        arrays |= parts
    if quantized.candidates:
        fields[CANDIDATES] = json.dumps(dict(quantized.candidates))
    mask = None if quantized.mask is None else np.asarray(quantized.mask)
    problem = layer_objection(codes, grid, arrays.get("permutation"), arrays["dead"])
    _refuse(name, problem or mask_objection(mask, codes.shape))

    stored: dict[str, tuple[np.ndarray, int | None]] = {"codes": (codes, grid.bits)}
    if mask is not None:
        stored["mask"] = (mask.astype(np.uint8), 1)
    stored |= {key: (array, None) for key, array in arrays.items()}
    return StoredLayer("layer", {**fields, **attributes}, stored)


def _refuse(name: str, problem: str | None) -> None:
    if problem:
        raise InvalidArgumentError(f"layer {name!r}: {problem}.")
