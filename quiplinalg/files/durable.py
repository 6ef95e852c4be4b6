"""Bytes that are on the disk when a function returns, or an OSError and nothing half-written."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from quiplinalg.files.atomic import commit, discard, temporary_name

__all__ = ["append", "create", "write_all", "write_new"]

Bytes = bytes | bytearray | memoryview


def create(path: Path) -> int:
    """The descriptor of a new file, to read and write."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    return os.open(path, flags, 0o666)


def write_all(descriptor: int, data: Bytes) -> None:
    """Write every byte where the descriptor stands; one call of the system may take fewer."""
    rest = memoryview(data).cast("B")
    while rest.nbytes:
        written = os.write(descriptor, rest)
        if written <= 0:
            raise OSError(errno.EIO, "the disk took no more bytes")
        rest = rest[written:]


def write_new(path: Path, data: Bytes) -> None:
    """Make a file of these bytes, in place of any other, in one step; it is durable on return."""
    temporary = temporary_name(path)
    try:
        descriptor = create(temporary)
        try:
            write_all(descriptor, data)
        finally:
            os.close(descriptor)
        commit(temporary, path, overwrite=True)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to tell
            discard(temporary)
        raise


def append(descriptor: int, data: Bytes) -> None:
    """Add bytes at the end of a file opened with O_APPEND; they are durable on return.

    After an exception some of them may be there: the caller cuts the file.
    """
    write_all(descriptor, data)
    os.fsync(descriptor)
