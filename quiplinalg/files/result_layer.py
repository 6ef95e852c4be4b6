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
    VERSION,
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
    REFINED,
    RESERVED,
    layer_checksum,
    layer_objection,
    mask_objection,
    pruned_objection,
)
from quiplinalg.grids.codebook import CodebookGrid
from quiplinalg.grids.packing import pack
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized
from quiplinalg.rounding.members import refuse_stack

__all__ = ["Attributes", "StoredArray", "StoredLayer", "stored_layer", "write_layer"]

Attributes = Mapping[str, str | int | float]


@dataclass(frozen=True)
class StoredArray:
    """A dataset: its elements, encoding and attributes, but for the checksum."""

    array: np.ndarray
    encoding: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class StoredLayer:
    """A layer as it lies in a file: checked and packed, so that only the disk can still fail."""

    encoding: str
    attributes: dict[str, Any]
    arrays: dict[str, StoredArray]


def stored_layer(name: str, layer: Quantized | Pruned, attributes: Attributes) -> StoredLayer:
    """Check a layer and the caller's own attributes; nothing is written.

    A layer on a device is copied: files are the host's.

    Raises
    ------
    InvalidArgumentError
        A reserved attribute, or a layer at odds with itself.
    DTypeError
        Neither Quantized nor Pruned, or an attribute that is no text and no number.
    """
    refuse_stack(layer, "layer")
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
    return _quantized(name, layer.to_host(), attributes)


def write_layer(file: h5py.File, name: str, stored: StoredLayer) -> None:
    """Write a layer below ``layers``, its parts in name order: equal layers make equal bytes."""
    refined = stored.attributes.get("refit") is not None or "correction_left" in stored.arrays
    version = REFINED if refined else VERSION
    group = make_group(file["layers"], name.split("/"), stored.encoding, version)
    set_attributes(group, **dict(sorted(stored.attributes.items())))
    for key, part in sorted(stored.arrays.items()):
        attributes = dict(sorted(part.attributes.items()))
        write_array(group, key, part.array, part.encoding, crc32=checksum(part.array), **attributes)
    set_attributes(group, **{CHECKSUM: layer_checksum(name, group, sorted(group))})


def _plain(array: np.ndarray) -> StoredArray:
    return StoredArray(array, "array", {})


def _packed(codes: np.ndarray, bits: int) -> StoredArray:
    m, n = codes.shape
    packed = pack(codes, bits).reshape(-1)
    return StoredArray(packed, "packed-codes", {"bits": bits, "m": m, "n": n})


def _pruned(name: str, pruned: Pruned, attributes: Attributes) -> StoredLayer:
    weights, mask = np.asarray(pruned.weights), np.asarray(pruned.mask)
    dead = np.asarray(pruned.dead, np.int64)
    _refuse(name, pruned_objection(weights, mask, dead))
    fields = {key: getattr(pruned, field) for key, (field, _, _) in PRUNED_SCALARS.items()}
    arrays = {"weight": _plain(weights), "dead": _plain(dead)}
    arrays["mask"] = _packed(mask.astype(np.uint8), 1)
    return StoredLayer("pruned-layer", {**fields, **attributes}, arrays)


def _quantized(name: str, quantized: Quantized, attributes: Attributes) -> StoredLayer:
    grid = quantized.grid
    codes = to_numpy(quantized.codes, "codes", integers=True)
    held = {"dead": quantized.dead, "permutation": quantized.permutation}
    if isinstance(grid, CodebookGrid):
        held["levels"] = grid.levels
    else:
        held |= {"scale": grid.scale, "zero": grid.zero, "group_index": grid.group_index}
    correction = quantized.correction
    if correction is not None:
        held |= {"correction_left": correction.left, "correction_right": correction.right}
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
    problem = layer_objection(codes, grid, arrays.get("permutation"), arrays["dead"], correction)
    _refuse(name, problem or mask_objection(mask, codes.shape))

    stored = {key: _plain(array) for key, array in arrays.items()}
    stored["codes"] = _plain(codes) if grid.bits is None else _packed(codes, grid.bits)
    if mask is not None:
        stored["mask"] = _packed(mask.astype(np.uint8), 1)
    return StoredLayer("layer", {**fields, **attributes}, stored)


def _refuse(name: str, problem: str | None) -> None:
    if problem:
        raise InvalidArgumentError(f"layer {name!r}: {problem}.")
