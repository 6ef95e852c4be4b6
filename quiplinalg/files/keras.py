"""Reading Keras ``.weights.h5`` files, by a mapping that says where each kernel is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from quiplinalg.arrays import as_matrix
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.files.elements import float_dtype, read_array
from quiplinalg.files.guard import address, format_errors, open_dataset, open_file
from quiplinalg.files.measure import Limits
from quiplinalg.files.reader import (
    NORMALIZATIONS,
    ORIENTATIONS,
    LayerInfo,
    ProblemSource,
    check_hessian,
    check_orientation,
    read_hessian,
)

__all__ = ["KerasReader", "open_keras"]

_KEYS = ("weight", "hessian", "orientation", "n_samples", "normalization")


class KerasReader(ProblemSource):
    """Read kernels from one file and Hessians from others; made by :func:`open_keras`.

    Attributes
    ----------
    path : str
    names : tuple of str
        The names of the mapping, in its order.
    arrays : tuple of str
        Always empty; ``array(path)`` reads any dataset of the weights file.
    """

    arrays: tuple[str, ...] = ()

    def __init__(
        self,
        path: str | os.PathLike,
        mapping: Mapping[str, Mapping[str, Any]],
        limits: Limits | None = None,
    ):
        self.path = os.fspath(path)
        self.names = tuple(mapping)
        self._limits = limits or Limits()
        self._mapping = {name: _check_entry(name, mapping[name]) for name in mapping}
        self._files: dict[str, h5py.File] = {self.path: open_file(path)}

    def _open(self, path: str) -> h5py.File:
        if not self._files:
            raise InvalidArgumentError(
                f"the reader must be open; got one that is closed. Open {self.path!r} again."
            )
        if path not in self._files:
            self._files[path] = open_file(path)
        return self._files[path]

    def _weight(self, name: str) -> tuple[h5py.Dataset, tuple[int, int]]:
        if name not in self._mapping:
            raise InvalidArgumentError(
                f"name must be in the mapping; got name={name!r}. The mapping has "
                f"{', '.join(self.names)}."
            )
        entry = self._mapping[name]
        weight = open_dataset(self._open(self.path), entry["weight"], self._limits)
        float_dtype(weight)
        return weight, check_orientation(weight, entry["orientation"])

    def _hessian(self, name: str, n: int) -> h5py.Dataset | np.ndarray:
        source = self._mapping[name]["hessian"]
        if not isinstance(source, str):
            H = as_matrix(source, "hessian", square=True)
            if len(H) != n:
                raise InvalidArgumentError(
                    f"hessian of {name!r} must be ({n}, {n}) to match the {n} inputs of its "
                    f"kernel; got hessian.shape={H.shape}. Check the mapping, or its orientation."
                )
            return H
        path, _, dataset = source.rpartition(":")
        with format_errors(path, dataset):
            hessian = open_dataset(self._open(path), dataset, self._limits)
            check_hessian(hessian, n, self._limits)
        return hessian

    def _hessian_key(self, name: str, hessian: h5py.Dataset | np.ndarray) -> str:
        if isinstance(hessian, h5py.Dataset):
            return f"{os.path.realpath(hessian.file.filename)}#{address(hessian):#x}"
        source = self._mapping[name]["hessian"]
        first = next(k for k, v in enumerate(self._mapping.values()) if v["hessian"] is source)
        return f"array-{first}"

    def info(self, name: str) -> LayerInfo:
        """Describe a layer; no array is read from a file."""
        with format_errors(self.path, name):
            weight, shape = self._weight(name)
            hessian = self._hessian(name, shape[1])
            entry = self._mapping[name]
            return LayerInfo(
                name=name,
                shape=shape,
                dtype=float_dtype(weight),
                orientation=entry["orientation"],
                n_samples=entry["n_samples"],
                normalization=entry["normalization"],
                hessian_dtype=(
                    float_dtype(hessian) if isinstance(hessian, h5py.Dataset) else hessian.dtype
                ),
                hessian_key=self._hessian_key(name, hessian),
                storage="full" if hessian.ndim == 2 else "lower",
            )

    def weight(self, name: str) -> np.ndarray:
        """Read a kernel as (out, in), in its stored dtype."""
        with format_errors(self.path, name):
            weight, _ = self._weight(name)
            W = read_array(weight)
            return W if self._mapping[name]["orientation"] == "out_in" else W.T

    def hessian(self, name: str) -> np.ndarray:
        """Read a Hessian as the full (in, in) array; one of the mapping comes back as NumPy."""
        with format_errors(self.path, name):
            _, shape = self._weight(name)
            hessian = self._hessian(name, shape[1])
            if isinstance(hessian, np.ndarray):
                return hessian
            return read_hessian(hessian, shape[1])

    def array(self, path: str) -> np.ndarray:
        """Read a dataset of the weights file by its path, such as a bias."""
        with format_errors(self.path, path):
            return read_array(open_dataset(self._open(self.path), path, self._limits))

    def close(self) -> None:
        """Close all files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def open_keras(
    path: str | os.PathLike,
    mapping: Mapping[str, Mapping[str, Any]],
    *,
    limits: Limits | None = None,
) -> KerasReader:
    """Open a Keras ``.weights.h5`` file, which has kernels but no names and no Hessians.

    Parameters
    ----------
    path : str or path-like
    mapping : dict of dict
        For each layer name: ``weight``, the path of its kernel in the file, and ``hessian``,
        either an (n, n) array or the text ``"file.h5:path/of/dataset"``, of a full or packed
        Hessian in any HDF5 file.  Optional: ``orientation`` ("in_out"), ``n_samples`` (None),
        ``normalization`` ("unknown").
    limits : Limits or None
        How much an untrusted file may ask for; None for the defaults.

    Returns
    -------
    KerasReader
        With the methods of :func:`open_problem`'s reader.

    Raises
    ------
    InvalidArgumentError
        An entry of the mapping that has no meaning.
    FormatError
        Not an HDF5 file; a missing or unsafe dataset is reported when its layer is read.

    Examples
    --------
    >>> mapping = {
    ...     "fc": {"weight": "layers/dense/vars/0", "hessian": "stats.h5:layers/fc/hessian"}
    ... }
    >>> with open_keras("model.weights.h5", mapping) as problem:  # doctest: +SKIP
    ...     W, H = problem.weight("fc"), problem.hessian("fc")
    """
    return KerasReader(path, mapping, limits)


def _check_entry(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        raise InvalidArgumentError(
            f"mapping[{name!r}] must be a dict with 'weight' and 'hessian'; got {entry!r}."
        )
    unknown = sorted(set(entry) - set(_KEYS))
    missing = [key for key in _KEYS[:2] if entry.get(key) is None]
    if unknown or missing:
        raise InvalidArgumentError(
            f"mapping[{name!r}] must have 'weight' and 'hessian', and may have "
            f"{', '.join(_KEYS[2:])}; got unknown {unknown}, missing {missing}. The file has no "
            "Hessians: accumulate them with quiplinalg and name the file here."
        )
    full = {"orientation": "in_out", "n_samples": None, "normalization": "unknown", **entry}
    for key, choices in (("orientation", ORIENTATIONS), ("normalization", NORMALIZATIONS)):
        if full[key] not in choices:
            raise InvalidArgumentError(
                f"{key} of {name!r} must be one of {', '.join(choices)}; got {full[key]!r}."
            )
    source = full["hessian"]
    if isinstance(source, str) and not all(source.rpartition(":")[::2]):
        raise InvalidArgumentError(
            f"hessian of {name!r} must be an array or 'file.h5:path/of/dataset'; got {source!r}."
        )
    return full
