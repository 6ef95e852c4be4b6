"""A file that libhdf5 writes through; errors are kept back, and raised when HDF5 is done.

libhdf5 can bring the process down when a write fails, on a full disk say, so it never hears of it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quiplinalg.files.durable import Bytes, create, write_all

__all__ = ["Sink"]


class Sink:
    """A new file for ``h5py.File(sink, "w")``.

    After an error nothing more is written, and what HDF5 reads back is no longer true: whoever
    writes must `check` before the file gets its name.
    """

    def __init__(self, path: Path):
        self._descriptor = create(path)
        self._error: BaseException | None = None

    def check(self) -> None:
        """Raise the first error there was, again and again."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Close the file, once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    # What h5py calls, always seek before read or write.

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move; return the new position."""
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        """Return the position."""
        return self.seek(0, os.SEEK_CUR)

    def write(self, data: Bytes) -> int:
        """Write all of ``data``, unless something failed before."""
        self._attempt(write_all, data)
        return memoryview(data).nbytes

    def truncate(self, size: int) -> int:
        """Set the length."""
        self._attempt(os.ftruncate, size)
        return size

    def read(self, size: int) -> bytes:
        """Return ``size`` bytes, zeros past the end."""
        parts = []
        while size > 0 and (part := self._attempt(os.read, size)):
            parts.append(part)
            size -= len(part)
        return b"".join([*parts, bytes(size)])

    def readinto(self, buffer: Bytes) -> int:
        """Fill ``buffer``, with zeros past the end."""
        view = memoryview(buffer).cast("B")
        view[:] = self.read(view.nbytes)
        return view.nbytes

    def flush(self) -> None:
        """Nothing is kept back here."""

    def _attempt(self, call: Callable[..., Any], argument: Any) -> Any:
        if self._error is None:
            try:
                return call(self._descriptor, argument)
            except BaseException as error:  # an interrupt, too, waits until HDF5 is done
                self._error = error
        return None
