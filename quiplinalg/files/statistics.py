"""Statistics files: the accumulated second moments of many layers in one HDF5 file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np

from quiplinalg.errors import DTypeError, FormatError, InvalidArgumentError
from quiplinalg.files.checked import CheckedReader
from quiplinalg.files.elements import (
    check_encoding,
    checksum,
    make_group,
    read_attribute,
    require_attribute,
    set_attributes,
    write_array,
)
from quiplinalg.files.guard import (
    format_errors,
    has_link,
    leaves,
    open_dataset,
    open_group,
)
from quiplinalg.files.measure import Limits
from quiplinalg.files.result_layout import CHECKSUM, layer_checksum
from quiplinalg.files.triangle import pack_lower, packed_size, unpack_lower
from quiplinalg.files.writer import AtomicWriter, written_by
from quiplinalg.hessian.accumulate import Hessian
from quiplinalg.hessian.cross import CrossMoment

__all__ = ["StatisticsInfo", "StatisticsReader", "StatisticsWriter", "open_statistics"]

KINDS = ("hessian", "cross")
_SCALARS = {"n": int, "count": int, "weight": float, "weight_squared": float, "precision": str}
_UNITS = {"normalization": "sum", "damping": "none"}
_PARTS = {"second": "hessian", "first": "array", "cross": "array"}  # dataset: encoding


@dataclass(frozen=True)
class StatisticsInfo:
    """What is known about an entry of a statistics file without reading its arrays.

    Attributes
    ----------
    name : str
    kind : str
        "hessian" (sum of x x^T) or "cross" (of x x~^T and x~ x~^T).
    n, count : int
        Inputs of the layer; tokens of weight above 0.
    weight : float
        Sum of the weights: what the sums are divided by for means.
    precision : str
        Of the products that were summed, "float32" or "float64"; the sums are float64.
    tracks_mean : bool
        Whether the sum of the inputs is there.
    """

    name: str
    kind: str
    n: int
    count: int
    weight: float
    precision: str
    tracks_mean: bool


class StatisticsWriter(AtomicWriter):
    """Write a statistics file; it appears under its name when the ``with`` block ends cleanly.

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

    Examples
    --------
    >>> import os, tempfile, numpy as np, quiplinalg as ql
    >>> path = os.path.join(tempfile.mkdtemp(), "shard0.h5")
    >>> H = ql.Hessian(3)
    >>> H.add(np.eye(3))
    >>> with ql.StatisticsWriter(path) as file:
    ...     file.add("block/q", H)
    >>> with ql.open_statistics(path) as file:
    ...     file.hessian("block/q").count
    3
    """

    _encoding = "quiplinalg-statistics"
    _groups = ("statistics",)

    def _root_attributes(self) -> dict[str, str]:
        return written_by()

    def add(self, name: str, statistics: Hessian | CrossMoment) -> None:
        """Add the sums of an accumulator, which is not changed.

        Parameters
        ----------
        name : str
            Parts joined by ``/`` become nested groups.
        statistics : Hessian or CrossMoment

        Raises
        ------
        InvalidArgumentError
            A name that does not fit.
        DTypeError
            Not an accumulator.
        """
        file, parts = self._file, self._check_name("statistics", name)
        if not isinstance(statistics, Hessian | CrossMoment):
            raise DTypeError(
                f"statistics must be a Hessian or a CrossMoment; got "
                f"{type(statistics).__name__}. Matrices go into a problem file, with their weight."
            )
        scalars, arrays = statistics.to_parts()
        kind = "cross" if isinstance(statistics, CrossMoment) else "hessian"
        arrays["second"] = pack_lower(arrays["second"])
        with self._writing("statistics", name):
            group = make_group(file["statistics"], parts, "statistics")
            set_attributes(group, kind=kind, **_UNITS, **scalars)
            for key, array in arrays.items():
                write_array(group, key, array, _PARTS[key], crc32=checksum(array))
            set_attributes(group["second"], storage="lower")
            set_attributes(group, **{CHECKSUM: layer_checksum(name, group, sorted(group))})


class StatisticsReader(CheckedReader):
    """Read a statistics file; made by :func:`open_statistics`.

    Attributes
    ----------
    path : str
    names : tuple of str
        Every entry, in name order.
    """

    _encoding = "quiplinalg-statistics"
    _top, _entry_name, _entries = "statistics", "entry", "entries"
    _again = "accumulate again"

    def info(self, name: str) -> StatisticsInfo:
        """Describe an entry; no array is read."""
        with format_errors(self.path, f"statistics/{name}"):
            group, kind, scalars = self._entry(name)
            return StatisticsInfo(
                name=name,
                kind=kind,
                n=scalars["n"],
                count=scalars["count"],
                weight=scalars["weight"],
                precision=scalars["precision"],
                tracks_mean=has_link(group, "first"),
            )

    def hessian(self, name: str) -> Hessian:
        """Read the second moment of an entry: of a "cross" entry, that of x~.

        Raises
        ------
        FormatError
            A checksum that does not match, or parts that do not fit together.
        """
        with format_errors(self.path, f"statistics/{name}"):
            group, _, scalars = self._entry(name)
            arrays = self._arrays(group, scalars["n"], ("second", "first"))
            return self._made(Hessian, scalars, arrays, group)

    def cross(self, name: str) -> CrossMoment:
        """Read a "cross" entry.

        Raises
        ------
        FormatError
            An entry of the other kind; else as `hessian`.
        """
        with format_errors(self.path, f"statistics/{name}"):
            group, kind, scalars = self._entry(name)
            if kind != "cross":
                raise FormatError(
                    f"expected an entry of kind 'cross'; got {kind!r}. Read it with hessian(name), "
                    "or accumulate a CrossMoment",
                    self.path,
                    group.name,
                )
            arrays = self._arrays(group, scalars["n"], ("second", "cross"))
            return self._made(CrossMoment, scalars, arrays, group)

    def _list(self) -> tuple[str, ...]:
        def is_entry(group: h5py.Group) -> bool:
            return read_attribute(group, "encoding-type") == "statistics"

        top = open_group(self._file, "statistics", self._limits)
        found = list(leaves(top, self._limits, is_entry))
        for name, node in found:
            if isinstance(node, h5py.Dataset):
                raise FormatError(
                    "expected a group with encoding-type 'statistics'; got a dataset",
                    self.path,
                    f"statistics/{name}",
                )
        return tuple(name for name, _ in found)

    def _entry(self, name: str) -> tuple[h5py.Group, str, dict[str, Any]]:
        """The group of an entry, its kind and its scalars, all checked."""
        group = self._checked_group(name)
        check_encoding(group, "statistics")
        kind = require_attribute(group, "kind", str)
        units = {key: require_attribute(group, key, str) for key in _UNITS}
        if kind not in KINDS or units != _UNITS:
            raise FormatError(
                f"expected a kind in {KINDS}, and {_UNITS}; got {kind!r} and {units}",
                self.path,
                group.name,
            )
        scalars = {key: require_attribute(group, key, type_) for key, type_ in _SCALARS.items()}
        if not 0 <= scalars["n"] < 2**31 or scalars["count"] < 0:
            raise FormatError(
                f"expected n and count of at least 0; got {scalars}", self.path, group.name
            )
        return group, kind, scalars

    def _arrays(self, group: h5py.Group, n: int, keys: tuple[str, ...]) -> dict[str, np.ndarray]:
        shapes = {"second": (packed_size(n),), "first": (n,), "cross": (n, n)}
        if 8 * n * n > self._limits.max_bytes:
            raise FormatError(
                f"expected at most {self._limits.max_bytes} bytes in one array; the full matrix "
                f"takes {8 * n * n}. Pass limits=Limits(max_bytes=...)",
                self.path,
                group.name,
            )
        arrays = {}
        for key in keys:
            if key == "first" and not has_link(group, key):
                continue
            dataset = open_dataset(group, key, self._limits)
            check_encoding(dataset, _PARTS[key])
            if dataset.shape != shapes[key] or dataset.dtype != np.float64:
                raise FormatError(
                    f"expected float64 of shape {shapes[key]} for n={n}; got {dataset.dtype} of "
                    f"{dataset.shape}",
                    self.path,
                    dataset.name,
                )
            array = self._checked_array(dataset)
            arrays[key] = unpack_lower(array, n) if key == "second" else array
        return arrays

    def _made(self, kind: type, scalars: dict, arrays: dict, group: h5py.Group) -> Any:
        try:
            return kind.from_parts(scalars, arrays)  # type: ignore[attr-defined]
        except InvalidArgumentError as error:
            raise FormatError(f"expected sums; {error}", self.path, group.name) from error


def open_statistics(path: str | os.PathLike, *, limits: Limits | None = None) -> StatisticsReader:
    """Open a statistics file for reading.

    Parameters
    ----------
    path : str or path-like
    limits : Limits or None
        How much an untrusted file may ask for; None for the defaults.

    Returns
    -------
    StatisticsReader
        A context manager with ``names``, ``info``, ``hessian`` and ``cross``.

    Raises
    ------
    FormatError
        Not a statistics file, of a newer version, damaged, or with links into other files.

    Examples
    --------
    >>> import os, tempfile, numpy as np, quiplinalg as ql
    >>> path = os.path.join(tempfile.mkdtemp(), "statistics.h5")
    >>> with ql.StatisticsWriter(path) as file:
    ...     file.add("dense", ql.Hessian(3))
    >>> with ql.open_statistics(path) as file:
    ...     file.names, file.info("dense").count
    (('dense',), 0)
    """
    return StatisticsReader(path, limits)
