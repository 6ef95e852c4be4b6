"""What the writers of both file layouts share: names, and a file that appears whole or not."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import TracebackType

import h5py

from quiplinalg.errors import InvalidArgumentError, QuipLinalgError
from quiplinalg.files.atomic import check_target, commit, discard, temporary_name
from quiplinalg.files.elements import set_attributes, set_encoding
from quiplinalg.files.guard import split_name
from quiplinalg.files.leftovers import held, sweep
from quiplinalg.files.sink import Sink

__all__ = ["AtomicWriter", "start_file", "written_by"]


def start_file(
    file: h5py.File, encoding: str, groups: Iterable[str], attributes: Mapping[str, str]
) -> None:
    """Mark an empty file as what it will be, and make its groups."""
    set_encoding(file, encoding)
    set_attributes(file, **attributes)
    for group in groups:
        set_encoding(file.create_group(group), "group")


def written_by() -> dict[str, str]:
    """The attribute that says which version wrote a file."""
    try:
        return {"quiplinalg-version": metadata.version("quiplinalg")}
    except metadata.PackageNotFoundError:
        return {"quiplinalg-version": "unknown"}


class AtomicWriter:
    """Context manager around an HDF5 file with a temporary name, moved in place on a clean exit.

    On an exception the temporary file is removed and the final name is left as it was.  One that a
    killed process has left is removed by the next writer of the same name.
    """

    _encoding: str
    _groups: tuple[str, ...]

    def __init__(self, path: str | os.PathLike, overwrite: bool = False):
        self.path: Path = check_target(path, overwrite)
        self._overwrite = overwrite
        self._temporary = temporary_name(self.path)
        self._sink: Sink | None = None
        self._hold = contextlib.ExitStack()
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
        sweep(self.path)
        self._sink = Sink(self._temporary)
        self._hold.enter_context(held(self._temporary))
        self._handle = h5py.File(self._sink, "w")
        start_file(self._handle, self._encoding, self._groups, self._root_attributes())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                with contextlib.suppress(Exception):  # of a file that is thrown away
                    self._close()
        finally:
            with contextlib.suppress(OSError):
                discard(self._temporary)
            self._hold.close()

    def _finish(self) -> None:
        self._close()
        if self._half_written:
            raise QuipLinalgError(
                f"every layer must be whole; {self._half_written!r} failed while it was "
                f"written, so {str(self.path)!r} was not made. Write it again."
            )
        commit(self._temporary, self.path, self._overwrite)

    def _close(self) -> None:
        try:
            with self._disk_errors():
                self._file.close()
        finally:
            self._handle = None
            if self._sink is not None:
                self._sink.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """Raise the error of the disk, of which HDF5 knows nothing, before any that follow."""
        try:
            yield
        except Exception:
            self._check_disk()
            raise
        self._check_disk()

    def _check_disk(self) -> None:
        if self._sink is not None:
            self._sink.check()

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
        with self._disk_errors():
            yield
        self._half_written = None
        self._names[group].add(name)
        parts = name.split("/")
        self._parents[group].update("/".join(parts[:i]) for i in range(1, len(parts)))
