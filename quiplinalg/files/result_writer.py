"""Writing result files: quantised layers, and pruned ones, in one HDF5 file."""

from __future__ import annotations

import json
from importlib import metadata

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
from quiplinalg.files.writer import AtomicWriter
from quiplinalg.grids.packing import pack
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized

__all__ = ["ResultWriter"]


class ResultWriter(AtomicWriter):
    """Write a result file; it appears under its name when the ``with`` block ends cleanly.

    Parameters
    ----------
    path : str or path-like
        Where the file will be; the data go to a hidden temporary file beside it until then.
    overwrite : bool
        Replace an existing file, in one step at the end.

    Raises
    ------
    InvalidArgumentError
        The file exists and ``overwrite`` is False, or its directory does not exist.
    """

    _encoding = "quiplinalg-result"
    _groups = ("layers",)

    def _root_attributes(self) -> dict[str, str]:
        try:
            return {"quiplinalg-version": metadata.version("quiplinalg")}
        except metadata.PackageNotFoundError:
            return {"quiplinalg-version": "unknown"}

    def add(self, name: str, layer: Quantized | Pruned, /, **attributes: str | int | float) -> None:
        """Add a layer.

        Parameters
        ----------
        name : str
            Parts joined by ``/`` become nested groups.
        layer : Quantized or Pruned
            Everything but ``restore``, and the trace of a pruning, is kept.
        **attributes : str, int or float
            Anything else to keep with the layer; :meth:`ResultReader.attributes` gives it back.

        Raises
        ------
        InvalidArgumentError
            A name that does not fit, a reserved attribute, or a layer at odds with itself.
        DTypeError
            Neither Quantized nor Pruned.
        """
        if not isinstance(layer, Quantized | Pruned):
            raise DTypeError(
                f"layer must be a Quantized or a Pruned; got {type(layer).__name__} for {name!r}. "
                "Pass what ldlq or obs_prune returned; ProblemWriter takes weights."
            )
        parts = self._check_name("layers", name)
        taken = sorted(RESERVED & set(attributes))
        if taken:
            raise InvalidArgumentError(
                f"attributes must have names of their own; got {', '.join(taken)}, which the "
                "layout uses. Rename them."
            )
        stored_attributes(attributes)  # raises before anything is written
        if isinstance(layer, Pruned):
            self._add_pruned(name, parts, layer, attributes)
        else:
            self._add_quantized(name, parts, layer, attributes)

    def _add_pruned(
        self, name: str, parts: list[str], pruned: Pruned, attributes: dict[str, str | int | float]
    ) -> None:
        weights, mask = np.asarray(pruned.weights), np.asarray(pruned.mask)
        dead = np.asarray(pruned.dead, np.int64)
        problem = pruned_objection(weights, mask, dead)
        if problem:
            raise InvalidArgumentError(f"layer {name!r}: {problem}.")
        with self._writing("layers", name):
            group = make_group(self._file["layers"], parts, "pruned-layer")
            fields = {k: getattr(pruned, f) for k, (f, _, _) in PRUNED_SCALARS.items()}
            set_attributes(group, **fields, **attributes)
            _write(group, "weight", weights)
            _write_packed(group, "mask", mask.astype(np.uint8), 1)
            _write(group, "dead", dead)
            set_attributes(group, **{CHECKSUM: layer_checksum(name, group, sorted(group))})

    def _add_quantized(
        self,
        name: str,
        parts: list[str],
        quantized: Quantized,
        attributes: dict[str, str | int | float],
    ) -> None:
        grid = quantized.grid
        codes = to_numpy(quantized.codes, "codes", integers=True)
        held = {"dead": quantized.dead, "permutation": quantized.permutation}
        held |= {"scale": grid.scale, "zero": grid.zero, "group_index": grid.group_index}
        arrays = {
            key: np.asarray(array, DATASETS[key])
            for key, array in held.items()
            if array is not None
        }
        marks: dict[str, str | int] = {}
        if quantized.processing is not None:
            marks, parts_of_it = quantized.processing.to_parts()
            arrays |= parts_of_it
        if quantized.candidates:
            marks[CANDIDATES] = json.dumps(dict(quantized.candidates))
        mask = None if quantized.mask is None else np.asarray(quantized.mask)
        problem = layer_objection(codes, grid, arrays.get("permutation"), arrays["dead"])
        problem = problem or mask_objection(mask, codes.shape)
        if problem:
            raise InvalidArgumentError(f"layer {name!r}: {problem}.")

        with self._writing("layers", name):
            group = make_group(self._file["layers"], parts, "layer")
            for scalars, record in ((LAYER_SCALARS, quantized), (GRID_SCALARS, grid)):
                set_attributes(group, **{k: getattr(record, f) for k, (f, _, _) in scalars.items()})
            set_attributes(group, **marks, **attributes)
            if grid.bits is None:
                _write(group, "codes", codes)
            else:
                _write_packed(group, "codes", codes, grid.bits)
            if mask is not None:
                _write_packed(group, "mask", mask.astype(np.uint8), 1)
            for key, array in arrays.items():
                _write(group, key, array)
            set_attributes(group, **{CHECKSUM: layer_checksum(name, group, sorted(group))})


def _write_packed(group: h5py.Group, key: str, codes: np.ndarray, bits: int) -> None:
    m, n = codes.shape
    _write(group, key, pack(codes, bits).reshape(-1), "packed-codes", bits=bits, m=m, n=n)


def _write(
    group: h5py.Group, key: str, array: np.ndarray, encoding: str = "array", **attributes: int
) -> None:
    write_array(group, key, array, encoding, crc32=checksum(array), **attributes)
