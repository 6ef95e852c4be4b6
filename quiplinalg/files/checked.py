"""What readers of files with checksums share: entries and arrays that are what was written."""

from __future__ import annotations

import os
from typing import Self

import h5py
import numpy as np

from quiplinalg.errors import FormatError
from quiplinalg.files.elements import check_encoding, checksum, read_array, read_attribute
from quiplinalg.files.guard import format_errors, leaves, open_file, open_group
from quiplinalg.files.measure import Limits
from quiplinalg.files.result_layout import CHECKSUM, layer_checksum

__all__ = ["CheckedReader"]


class CheckedReader:
    """A file opened for reading, of one encoding, with entries below one group."""

    _encoding: str
    _top: str  # the group of the entries
    _entry_name: str  # what one is called
    _entries: str  # and several
    _again: str  # how damage is mended

    def __init__(self, path: str | os.PathLike, limits: Limits | None = None):
        self.path = os.fspath(path)
        self._limits = limits or Limits()
        self._last: tuple[str, h5py.Group] | None = None
        self._file = self._open()
        try:
            with format_errors(self.path):
                check_encoding(self._file, self._encoding)
                self.names: tuple[str, ...] = self._list()
        except BaseException:
            self._file.close()
            raise

    def _open(self) -> h5py.File:
        return open_file(self.path)

    def _list(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _checked_group(self, name: str) -> h5py.Group:
        """The group of an entry, its attributes held against their checksum, once in a row."""
        if self._last is not None and self._last[0] == name and self._last[1]:
            return self._last[1]
        where = f"{self._top}/{name}"
        if name not in self.names:
            raise FormatError(
                f"expected {self._entry_name} {name!r}; got {len(self.names)} other "
                f"{self._entries}. See .names",
                self.path,
                where,
            )
        group = open_group(self._file, where, self._limits)
        parts = [key for key, _ in leaves(group, self._limits, lambda _: True)]
        if read_attribute(group, CHECKSUM, int) != layer_checksum(name, group, parts):
            raise FormatError(
                f"expected attributes with their checksum {CHECKSUM}; got others. "
                f"Copy the file again, or {self._again}",
                self.path,
                group.name,
            )
        self._last = (name, group)
        return group

    def _checked_array(self, dataset: h5py.Dataset) -> np.ndarray:
        """Read a dataset, held against its checksum."""
        array = read_array(dataset)
        if read_attribute(dataset, "crc32", int) != checksum(array):
            raise FormatError(
                "expected data with their checksum crc32; got others. Copy the file again, or "
                f"{self._again}",
                self.path,
                dataset.name,
            )
        return array

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.path!r}, {len(self.names)} {self._entries})"
