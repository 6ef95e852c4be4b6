"""What the writers of both file layouts share: names, and a file that appears whole or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import h5py

from quiplinalg.errors import InvalidArgumentError, QuipLinalgError
from quiplinalg.files.atomic import check_target, commit, discard, temporary_name
from quiplinalg.files.elements import set_attributes, set_encoding
from quiplinalg.files.guard import split_name

__all__ = ["AtomicWriter"]


class AtomicWriter:
    """Context manager around an HDF5 file with a temporary name, moved in place on a clean exit.

    On an exception the temporary file is removed and the final name is left as it was.
    """

    _encoding: str
    _groups: tuple[str, ...]

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        self.path: Path = check_target(path, overwrite)
        self._overwrite = overwrite
        self._temporary = temporary_name(self.path)
        self._handle: h5py.File | None = None
        self._entered = False
        self._names: dict[str, set[str]] = {group: set() for group in self._groups}
        self._parents: dict[str, set[str]] = {group: set() for group in self._groups}
        self._half_written: str | None = None

    def __enter__(self):
        if self._entered:
            raise InvalidArgumentError(
                "a writer must be used once; got a second 'with'. Make a new one."
            )
        self._entered = True
        self._handle = h5py.File(self._temporary, "x")
        set_encoding(self._handle, self._encoding)
        set_attributes(self._handle, **self._root_attributes())
        for group in self._groups:
            set_encoding(self._handle.create_group(group), "group")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
            self._handle = None
            if kind is not None:
                return
            if self._half_written:
                raise QuipLinalgError(
                    f"every layer must be whole; {self._half_written!r} failed while it was "
                    f"written, so {str(self.path)!r} was not made. Write it again."
                )
            commit(self._temporary, self.path, self._overwrite)
        finally:
            discard(self._temporary)

    def _root_attributes(self) -> dict[str, str]:
        return {}

    @property
    def _file(self) -> h5py.File:
        if self._handle is None:
            raise InvalidArgumentError(
                f"the writer must be open; got one that is closed. Use "
                f"'with {type(self).__name__}(path) as writer:'."
            )
        return self._handle

    def _check_name(self, group: str, name: str) -> list[str]:
        """The parts of a name that is new, and neither inside nor around another one."""
        parts = split_name(name)
        around = {"/".join(parts[:i]) for i in range(1, len(parts) + 1)}
        taken = self._names[group]
        if around & taken or name in self._parents[group]:
            raise InvalidArgumentError(
                "names must be different, and none inside another; got "
                f"name={name!r} after {next(iter(around & taken), name + '/...')!r}. Rename one."
            )
        return parts

    @contextlib.contextmanager
    def _writing(self, group: str, name: str) -> Iterator[None]:
        """Note the name; a file in which a write failed is never moved in place."""
        self._half_written = name
        yield
        self._half_written = None
        self._names[group].add(name)
        parts = name.split("/")
        self._parents[group].update("/".join(parts[:i]) for i in range(1, len(parts)))
