"""Reading problem files: the weights and Hessians of many layers in one HDF5 file."""

from __future__ import annotations

import os
from collections.abc import Collection

import h5py
import numpy as np

from quiplinalg.errors import FormatError
from quiplinalg.files.digest import dataset_digest
from quiplinalg.files.elements import (
    check_encoding,
    float_dtype,
    read_array,
    read_attribute,
    require_attribute,
)
from quiplinalg.files.guard import (
    address,
    format_errors,
    has_link,
    open_dataset,
    open_file,
    open_group,
)
from quiplinalg.files.hessian_source import HessianSource
from quiplinalg.files.measure import Limits
from quiplinalg.files.reader import (
    NORMALIZATIONS,
    STORAGES,
    LayerInfo,
    ProblemSource,
    array_names,
    check_full_size,
    check_hessian,
    check_orientation,
    layer_names,
    read_hessian,
)

__all__ = ["ProblemReader", "open_problem"]


class ProblemReader(ProblemSource):
    """Read a problem file; made by :func:`open_problem`.

    Attributes
    ----------
    path : str
    names : tuple of str
        Every layer, in name order.
    arrays : tuple of str
        Every other array.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        limits: Limits | None = None,
        names: Collection[str] | None = None,
    ):
        self.path = os.fspath(path)
        self._limits = limits or Limits()
        self._file = open_file(path)
        self._digests: dict[str, str] = {}  # of Hessians, by key
        self._infos: dict[str, LayerInfo] = {}
        self._last: tuple[str, tuple[h5py.Dataset, h5py.Dataset, LayerInfo]] | None = None
        try:
            with format_errors(self.path):
                check_encoding(self._file, "quiplinalg-problem")
                found = layer_names(self._file, self._limits) if names is None else names
                self.names: tuple[str, ...] = tuple(found)
                self.arrays: tuple[str, ...] = ()
                if names is None:
                    self.arrays = array_names(self._file, self._limits)
        except BaseException:
            self._file.close()
            raise

    def _layer(self, name: str) -> tuple[h5py.Dataset, h5py.Dataset, LayerInfo]:
        """The datasets of a layer, checked; those of the last one are kept."""
        found = self._last  # once: another thread may read another layer
        if found is None or found[0] != name:
            self._last = found = (name, self._open_layer(name))
        return found[1]

    def _open_layer(self, name: str) -> tuple[h5py.Dataset, h5py.Dataset, LayerInfo]:
        if name not in self.names:
            raise FormatError(
                f"expected layer {name!r}; got {len(self.names)} other layers. See .names",
                self.path,
                f"layers/{name}",
            )
        layer = open_group(self._file, f"layers/{name}", self._limits)
        check_encoding(layer, "layer")
        for part in ("weight", "hessian"):
            if not has_link(layer, part):
                raise FormatError(
                    f"expected a dataset {part!r} in layer {name!r}; got none. Add it, with "
                    "ProblemWriter.add",
                    self.path,
                    f"layers/{name}/{part}",
                )
        weight = open_dataset(layer, "weight", self._limits)
        hessian = open_dataset(layer, "hessian", self._limits)
        check_encoding(weight, "array")
        check_encoding(hessian, "hessian")
        orientation = require_attribute(weight, "orientation", str)
        shape = check_orientation(weight, orientation)
        storage = require_attribute(hessian, "storage", str)
        if storage not in STORAGES or (storage == "full") != (len(hessian.shape) == 2):
            raise FormatError(
                "expected storage='lower' or 'diagonal' for a 1-D and 'full' for a 2-D Hessian; "
                f"got {storage!r}",
                self.path,
                hessian.name,
            )
        normalization = require_attribute(hessian, "normalization", str)
        n_samples = require_attribute(hessian, "n_samples", int)
        if normalization not in NORMALIZATIONS:
            raise FormatError(
                f"expected a normalization in {NORMALIZATIONS}; got {normalization!r}",
                self.path,
                hessian.name,
            )
        info = LayerInfo(
            name=name,
            shape=shape,
            dtype=float_dtype(weight),
            orientation=orientation,
            n_samples=None if n_samples < 0 else n_samples,
            normalization=normalization,
            hessian_dtype=check_hessian(hessian, shape[1], self._limits, storage),
            hessian_key=f"{address(hessian):#x}",
            storage=storage,
            sensitivity=self._sensitivity(layer),
        )
        return weight, hessian, info

    def _sensitivity(self, layer: h5py.Group) -> float:
        value = read_attribute(layer, "sensitivity", float)
        if value is not None and not 0 < value < np.inf:
            raise FormatError(
                f"expected a sensitivity above 0, and finite; got {value}", self.path, layer.name
            )
        return 1.0 if value is None else value

    def info(self, name: str) -> LayerInfo:
        """Describe a layer; no array is read."""
        if name not in self._infos:
            with format_errors(self.path, f"layers/{name}"):
                self._infos[name] = self._layer(name)[2]
        return self._infos[name]

    def weight(self, name: str) -> np.ndarray:
        """Read a weight as (out, in), in its stored dtype."""
        with format_errors(self.path, f"layers/{name}/weight"):
            dataset, _, info = self._layer(name)
            W = read_array(dataset)
            return W if info.orientation == "out_in" else W.T

    def hessian(self, name: str) -> np.ndarray:
        """Read a Hessian as the full symmetric (in, in) array, in its stored dtype."""
        with format_errors(self.path, f"layers/{name}/hessian"):
            _, dataset, info = self._layer(name)
            check_full_size(dataset, info.shape[1], self._limits)
            return read_hessian(dataset, info.shape[1], info.storage)

    def diagonal(self, name: str) -> np.ndarray:
        """Read the diagonal of a Hessian, (in,), of any storage."""
        with format_errors(self.path, f"layers/{name}/hessian"):
            _, dataset, info = self._layer(name)
            if info.storage != "diagonal":
                return self.hessian_source(name).diagonal()
            values = read_array(dataset)
            if not (np.isfinite(values).all() and (values >= 0).all()):
                raise FormatError(
                    "expected a diagonal of finite numbers of at least 0; got others",
                    self.path,
                    dataset.name,
                )
            return values

    def hessian_source(self, name: str) -> HessianSource:
        """Open a Hessian to be read piece by piece, for as long as this reader is open."""
        with format_errors(self.path, f"layers/{name}/hessian"):
            _, dataset, info = self._layer(name)
            if info.storage == "diagonal":
                raise FormatError(
                    "expected a whole Hessian; got its diagonal. Read it with diagonal()",
                    self.path,
                    dataset.name,
                )
            return HessianSource(dataset, info.shape[1])

    def digests(self, name: str) -> tuple[str, str]:
        """SHA-256 of what is stored as the weight and as the Hessian of a layer."""
        with format_errors(self.path, f"layers/{name}"):
            weight, hessian, info = self._layer(name)
            if info.hessian_key not in self._digests:
                self._digests[info.hessian_key] = dataset_digest(hessian)
            return dataset_digest(weight), self._digests[info.hessian_key]

    def array(self, name: str) -> np.ndarray:
        """Read one of ``arrays``."""
        with format_errors(self.path, f"arrays/{name}"):
            return read_array(open_dataset(self._file, f"arrays/{name}", self._limits))

    def close(self) -> None:
        """Close the file."""
        self._last = None
        self._infos.clear()
        self._file.close()


def open_problem(
    path: str | os.PathLike,
    *,
    limits: Limits | None = None,
    names: Collection[str] | None = None,
) -> ProblemReader:
    """Open a problem file for reading.

    Parameters
    ----------
    path : str or path-like
    limits : Limits or None
        How much an untrusted file may ask for; None for the defaults.
    names : collection of str, optional
        The layers to offer; the others are not looked for.  Default: all there are.

    Returns
    -------
    ProblemReader
        A context manager with ``names``, ``arrays``, ``info``, ``weight``, ``hessian``,
        ``diagonal``, ``array`` and ``shared``.

    Raises
    ------
    FormatError
        Not a problem file, of a newer version, damaged, or with links into other files.

    Examples
    --------
    >>> import os, tempfile, numpy as np, quiplinalg as ql
    >>> path = os.path.join(tempfile.mkdtemp(), "model.h5")
    >>> with ql.ProblemWriter(path) as file:
    ...     file.add("dense", np.ones((2, 3)), np.eye(3), n_samples=100)
    >>> with ql.open_problem(path) as file:
    ...     file.names, file.weight("dense").shape
    (('dense',), (2, 3))
    """
    return ProblemReader(path, limits, names)
