"""What a layer of a result file consists of, and what must hold between its parts."""

from __future__ import annotations

import dataclasses
import types
import typing
import zlib

import h5py
import numpy as np

from quiplinalg.files.elements import attribute_text
from quiplinalg.grids.codebook import CodebookGrid, Grid
from quiplinalg.grids.correction import LowRankCorrection
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized

__all__ = [
    "CANDIDATES",
    "CHECKSUM",
    "DATASETS",
    "DEFAULTS",
    "GRID_SCALARS",
    "KINDS",
    "LAYER_SCALARS",
    "PROCESSING_SCALARS",
    "PRUNED_SCALARS",
    "REFINED",
    "RESERVED",
    "is_processing",
    "layer_checksum",
    "layer_objection",
    "mask_objection",
    "pruned_objection",
]

CHECKSUM = "attributes_crc32"
KINDS = {"layer": "quantized", "pruned-layer": "pruned"}  # by encoding

# The dtype of each dataset; None: the floats of the grid, as they are.
DATASETS = {
    "scale": None,
    "zero": None,
    "group_index": np.int32,
    "permutation": np.int64,
    "dead": np.int64,
    "levels": None,
    "correction_left": np.float16,
    "correction_right": np.float16,
}
REFINED = "2.0"  # version of the layout of a layer with levels, a fit or a correction


def _scalar_fields(record: type, prefix: str) -> dict[str, tuple[str, type, bool]]:
    """Attribute name of each scalar field: (field, type, whether it may be None)."""
    hints = typing.get_type_hints(record)
    found = {}
    for field in dataclasses.fields(record):
        hint = hints[field.name]
        kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        plain = [kind for kind in kinds if kind in (str, int, float)]
        if plain:
            found[prefix + field.name] = (field.name, plain[0], type(None) in kinds)
    return found


LAYER_SCALARS = _scalar_fields(Quantized, "")
GRID_SCALARS = _scalar_fields(UniformGrid, "grid_")
PRUNED_SCALARS = _scalar_fields(Pruned, "")
# Whole numbers that newer versions added: files written before have none.
DEFAULTS = {
    field.name: field.default
    for field in dataclasses.fields(Quantized)
    if isinstance(field.default, int)
}
CANDIDATES = "candidates"  # a JSON object of losses
PROCESSING_SCALARS = {
    f"{side}_{key}": kind
    for side in ("input", "output")
    for key, kind in (("rotation", str), ("seed", int))
}
RESERVED = {
    "encoding-type", "encoding-version", CHECKSUM, CANDIDATES,
    *LAYER_SCALARS, *GRID_SCALARS, *PROCESSING_SCALARS, *PRUNED_SCALARS,
}  # fmt: skip


def is_processing(name: str) -> bool:
    """Whether a dataset of a layer belongs to its processing."""
    return name == "scales" or name.startswith(("input_", "output_"))


def layer_checksum(name: str, group: h5py.Group, parts: list[str]) -> int:
    """CRC-32 over the name and every attribute of a layer and of its datasets."""
    text = f"{name}\n" + attribute_text(group, without=CHECKSUM)
    for part in sorted(parts):
        text += f"{part}\n" + attribute_text(group[part])
    return zlib.crc32(text.encode())


def layer_objection(
    codes: np.ndarray,
    grid: Grid,
    permutation: np.ndarray | None,
    dead: np.ndarray,
    correction: LowRankCorrection | None,
) -> str | None:
    """The first thing that does not fit in a layer, or None."""
    if codes.ndim != 2 or codes.dtype != grid.code_dtype:
        return f"expected (m, n) codes of {grid.code_dtype}; got {codes.dtype} of {codes.shape}"
    m, n = codes.shape
    if codes.size and codes.max() > grid.maxq:
        return f"expected codes of at most {grid.maxq:g}; got {codes.max()}"
    if grid.rows != m and (isinstance(grid, CodebookGrid) or grid.rows != 1):
        return f"expected a grid of 1 or {m} rows, or levels of {m}; got {grid!r}"
    index = grid.group_index if isinstance(grid, UniformGrid) else None
    if index is not None and len(index) != n:
        return f"expected a group_index of {n} columns; got {len(index)}"
    if correction is not None and correction.shape != (m, n):
        return f"expected a correction of shape {(m, n)}; got {correction.shape}"
    if permutation is not None and not (
        permutation.ndim == 1 and np.array_equal(np.sort(permutation), np.arange(n))
    ):
        return f"expected a permutation of {n} columns; got one of shape {permutation.shape}"
    return _dead_objection(dead, n)


def _dead_objection(dead: np.ndarray, n: int) -> str | None:
    inside = dead.ndim == 1 and (not dead.size or 0 <= dead.min() <= dead.max() < n)
    if not inside or len(np.unique(dead)) != len(dead):
        return f"expected dead to be different columns below {n}; got {dead}"
    return None


def mask_objection(mask: np.ndarray | None, shape: tuple[int, ...]) -> str | None:
    """What does not fit in the mask of a layer, or None."""
    if mask is None or (mask.dtype == bool and mask.shape == shape):
        return None
    return f"expected a boolean mask of shape {shape}; got {mask.dtype} of shape {mask.shape}"


def pruned_objection(weights: np.ndarray, mask: np.ndarray, dead: np.ndarray) -> str | None:
    """The first thing that does not fit in a pruned layer, or None."""
    if weights.ndim != 2 or weights.dtype not in (np.float32, np.float64):
        return (
            f"expected (m, n) weights in float32 or float64; got {weights.dtype} of shape "
            + str(weights.shape)
        )
    problem = mask_objection(mask, weights.shape) or _dead_objection(dead, weights.shape[1])
    if problem:
        return problem
    if not np.isfinite(weights).all():
        return "expected finite weights; got NaN or infinity"
    if weights[mask].any():
        return "expected zeros where weights are pruned; got others"
    return None
