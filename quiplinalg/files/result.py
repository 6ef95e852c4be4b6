"""Reading result files: quantised layers, and pruned ones, in one HDF5 file."""

from __future__ import annotations

import json
import os
from typing import Any

import h5py
import numpy as np

from quiplinalg.errors import DTypeError, FormatError, InvalidArgumentError
from quiplinalg.files.checked import CheckedReader
from quiplinalg.files.elements import (
    attribute_names,
    check_encoding,
    read_attribute,
    require_attribute,
)
from quiplinalg.files.guard import (
    format_errors,
    has_link,
    leaves,
    open_dataset,
)
from quiplinalg.files.measure import Limits
from quiplinalg.files.reader import layer_names
from quiplinalg.files.result_layer import StoredArray, StoredLayer
from quiplinalg.files.result_layout import (
    CANDIDATES,
    CHECKSUM,
    DATASETS,
    DEFAULTS,
    GRID_SCALARS,
    KINDS,
    LAYER_SCALARS,
    PROCESSING_SCALARS,
    PRUNED_SCALARS,
    REFINED,
    RESERVED,
    is_processing,
    layer_objection,
    mask_objection,
    pruned_objection,
)
from quiplinalg.grids.codebook import CodebookGrid, Grid
from quiplinalg.grids.correction import LowRankCorrection
from quiplinalg.grids.packing import unpack
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.incoherence.process import Processing
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized

__all__ = ["ResultReader", "open_result"]


class ResultReader(CheckedReader):
    """Read a result file; made by :func:`open_result`.

    Attributes
    ----------
    path : str
    names : tuple of str
        Every layer, in name order.
    """

    _encoding = "quiplinalg-result"
    _top, _entry_name, _entries = "layers", "layer", "layers"
    _again = "quantise the layer again"

    def _list(self) -> tuple[str, ...]:
        return layer_names(self._file, self._limits, KINDS)

    def kind(self, name: str) -> str:
        """Say what a layer is, "quantized" (read it by `layer`) or "pruned" (by `pruned`)."""
        with format_errors(self.path, f"layers/{name}"):
            return KINDS[str(read_attribute(self._group(name), "encoding-type", str))]

    def pruned(self, name: str) -> Pruned:
        """Read a pruned layer, checked as a quantised one.

        Raises
        ------
        FormatError
            A checksum that does not match, parts that do not fit together, or a quantised layer.
        """
        with format_errors(self.path, f"layers/{name}"):
            group = self._group(name, "pruned-layer")
            weights, dead = self._read(group, "weight"), self._read(group, "dead", np.int64)
            mask = self._packed(group, "mask", 1).astype(bool)
            problem = pruned_objection(weights, mask, dead)
            if problem:
                raise FormatError(problem, self.path, group.name)
            fields = self._scalars(group, PRUNED_SCALARS)
            return Pruned(weights=weights, mask=mask, dead=dead, **fields, restore=None)

    def layer(self, name: str) -> Quantized:
        """Read a quantised layer; every array is checked against its checksum and the others.

        Raises
        ------
        FormatError
            A checksum that does not match, parts that do not fit together, or a pruned layer.
        """
        with format_errors(self.path, f"layers/{name}"):
            group = self._group(name, "layer")
            steps = ("levels",) if has_link(group, "levels") else ("scale", "zero")
            required = (*steps, "dead")
            arrays = {
                key: self._read(group, key, dtype)
                for key, dtype in DATASETS.items()
                if has_link(group, key) or key in required
            }
            fields = self._scalars(group, LAYER_SCALARS)
            grid_fields = self._scalars(group, GRID_SCALARS)
            codes = self._codes(group, grid_fields["bits"])
            try:
                grid, correction = _grid(arrays, grid_fields), _correction(arrays)
            except InvalidArgumentError as error:
                raise FormatError(str(error), self.path, group.name) from error
            permutation, dead = arrays.get("permutation"), arrays["dead"]
            mask = None
            if has_link(group, "mask"):
                mask = self._packed(group, "mask", 1).astype(bool)
            problem = layer_objection(codes, grid, permutation, dead, correction)
            problem = problem or mask_objection(mask, codes.shape)
            if problem:
                raise FormatError(problem, self.path, group.name)
            return Quantized(
                codes=codes,
                grid=grid,
                permutation=permutation,
                dead=dead,
                **fields,
                processing=self._processing(group, codes.shape),
                candidates=self._candidates(group),
                mask=mask,
                correction=correction,
                restore=None,
            )

    def attributes(self, name: str) -> dict[str, str | int | float]:
        """The attributes that were given to :meth:`ResultWriter.add`."""
        with format_errors(self.path, f"layers/{name}"):
            group = self._group(name)
            keys = [key for key in attribute_names(group) if key not in RESERVED]
            return {key: read_attribute(group, key) for key in keys}

    def stored(self, name: str) -> StoredLayer:
        """Read a layer of either kind as it lies in the file, for `ResultWriter.add_stored`.

        Checked against its checksums, but not unpacked.
        """
        with format_errors(self.path, f"layers/{name}"):
            group = self._group(name)
            arrays = {}
            for key, _ in leaves(group, self._limits, lambda _: True):
                dataset = open_dataset(group, key, self._limits)
                encoding, attributes = _described(dataset, "crc32")
                arrays[key] = StoredArray(self._checked_array(dataset), encoding, attributes)
            return StoredLayer(*_described(group, CHECKSUM), arrays)

    def _group(self, name: str, encoding: str | None = None) -> h5py.Group:
        """The group of a layer, of one kind or of any, its attributes checked."""
        group = self._checked_group(name)
        found = read_attribute(group, "encoding-type", str)
        if encoding is not None and found in KINDS and found != encoding:
            raise FormatError(
                f"expected a {KINDS[encoding]} layer; got a {KINDS[found]} one. Read it with "
                f".{'pruned' if found == 'pruned-layer' else 'layer'}({name!r})",
                self.path,
                group.name,
            )
        check_encoding(group, found if found in KINDS else "layer", REFINED)
        return group

    def _read(self, group: h5py.Group, key: str, dtype: Any = None) -> np.ndarray:
        dataset = open_dataset(group, key, self._limits)
        array = self._checked_array(dataset)
        if dtype is not None and array.dtype != dtype:
            raise FormatError(
                f"expected {np.dtype(dtype)}; got {array.dtype}", self.path, dataset.name
            )
        return array

    def _codes(self, group: h5py.Group, bits: int | None) -> np.ndarray:
        if bits is None:
            return self._read(group, "codes", np.int32)
        return self._packed(group, "codes", bits)

    def _packed(self, group: h5py.Group, key: str, bits: int) -> np.ndarray:
        dataset = open_dataset(group, key, self._limits)
        packed = self._read(group, key, np.uint8)
        m, n = (require_attribute(dataset, key, int) for key in ("m", "n"))
        row = -(-n * bits // 8)  # bytes
        fits = (
            require_attribute(dataset, "bits", int) == bits
            and 1 <= bits <= 8
            and min(m, n) >= 0
            and packed.shape == (m * row,)
            and m * n <= self._limits.max_bytes
        )
        if not fits:
            raise FormatError(
                f"expected m rows of ceil(n * bits / 8) bytes in one vector; got shape "
                f"{packed.shape} for m={m}, n={n}, bits={bits}",
                self.path,
                dataset.name,
            )
        return unpack(packed.reshape(m, row), bits, n)

    def _processing(self, group: h5py.Group, shape: tuple[int, int]) -> Processing | None:
        found = {key: read_attribute(group, key, kind) for key, kind in PROCESSING_SCALARS.items()}
        scalars = {key: value for key, value in found.items() if value is not None}
        names = [key for key, _ in leaves(group, self._limits, lambda _: True)]
        arrays = {key: self._read(group, key) for key in names if is_processing(key)}
        if not scalars and not arrays:
            return None
        try:
            return Processing.from_parts(shape, scalars, arrays)
        except (InvalidArgumentError, DTypeError, KeyError) as error:
            raise FormatError(f"expected a processing; {error}", self.path, group.name) from error

    def _candidates(self, group: h5py.Group) -> dict[str, float] | None:
        text = read_attribute(group, CANDIDATES, str)
        if text is None:
            return None
        table = json.loads(text)
        losses = isinstance(table, dict) and all(isinstance(v, float) for v in table.values())
        if not losses:
            raise FormatError(
                f"expected losses by name in {CANDIDATES!r}; got {text[:40]!r}",
                self.path,
                group.name,
            )
        return table

    def _scalars(self, group: h5py.Group, fields: dict) -> dict[str, Any]:
        found = {}
        for key, (field, kind, optional) in fields.items():
            read = read_attribute if optional or key in DEFAULTS else require_attribute
            value = read(group, key, kind)
            found[field] = DEFAULTS.get(key) if value is None else value
        return found


def _grid(arrays: dict[str, np.ndarray], fields: dict[str, Any]) -> Grid:
    if "levels" not in arrays:
        index = arrays.get("group_index")
        return UniformGrid(scale=arrays["scale"], zero=arrays["zero"], group_index=index, **fields)
    grid = CodebookGrid(arrays["levels"])
    if (grid.bits, grid.kind) != (fields["bits"], fields["kind"]) or "scale" in arrays:
        raise InvalidArgumentError(
            f"levels must be those of a codebook of {fields['bits']} bits; got {grid!r} on a grid "
            f"of kind {fields['kind']!r}. Quantise the layer again."
        )
    return grid


def _correction(arrays: dict[str, np.ndarray]) -> LowRankCorrection | None:
    sides = [arrays[key] for key in ("correction_left", "correction_right") if key in arrays]
    if len(sides) == 1:
        raise InvalidArgumentError(
            "correction must have a left and a right side; got one. Quantise the layer again."
        )
    return LowRankCorrection(*sides) if sides else None


def _described(node: h5py.Group | h5py.Dataset, checksum: str) -> tuple[str, dict[str, Any]]:
    """The encoding, and the attributes beside it and the checksum."""
    own = {"encoding-type", "encoding-version", checksum}
    attributes = {key: read_attribute(node, key) for key in attribute_names(node) if key not in own}
    return require_attribute(node, "encoding-type", str), attributes


def open_result(path: str | os.PathLike, *, limits: Limits | None = None) -> ResultReader:
    """Open a result file for reading.

    Parameters
    ----------
    path : str or path-like
    limits : Limits or None
        How much an untrusted file may ask for; None for the defaults.

    Returns
    -------
    ResultReader
        A context manager with ``names``, ``kind``, ``layer``, ``pruned`` and ``attributes``.

    Raises
    ------
    FormatError
        Not a result file, of a newer version, damaged, or with links into other files.

    Examples
    --------
    >>> import os, tempfile, numpy as np, quiplinalg as ql
    >>> path = os.path.join(tempfile.mkdtemp(), "result.h5")
    >>> with ql.ResultWriter(path) as file:
    ...     file.add("dense", ql.ldlq(np.ones((2, 3)), np.eye(3)))
    >>> with ql.open_result(path) as file:
    ...     file.layer("dense").codes.shape
    (2, 3)
    """
    return ResultReader(path, limits)
