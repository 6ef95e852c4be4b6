"""A list of records that only grows, one JSON line each, and survives being killed at any byte.

Each line carries the CRC-32 of its record, continued from the line before, so that a line that is
changed, missing, doubled or moved shows.  Only the last line can be torn: it is cut off.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import zlib
from pathlib import Path
from typing import Any

from quiplinalg.errors import FormatError
from quiplinalg.files.atomic import sync_directory
from quiplinalg.files.durable import append

__all__ = ["Manifest", "from_line", "to_line"]

Record = dict[str, Any]
_LINE = re.compile(rb'\{"crc32": "([0-9a-f]{8})", "record": (\{.*\})\}\n')


def to_line(record: Record, before: int = 0) -> tuple[bytes, int]:
    """A record as a line, and its checksum; ``before`` is that of the line before it.

    Examples
    --------
    >>> to_line({"layer": "dense"})
    (b'{"crc32": "74d8c175", "record": {"layer": "dense"}}\\n', 1960362357)
    """
    text = json.dumps(record).encode()
    crc = zlib.crc32(text, before)
    return b'{"crc32": "%08x", "record": %b}\n' % (crc, text), crc


def from_line(line: bytes, before: int = 0) -> tuple[Record, int] | None:
    """The record of a line and its checksum; None if it is not what was written."""
    match = _LINE.fullmatch(line)
    if match is None:
        return None
    crc = zlib.crc32(match[2], before)
    return (json.loads(match[2]), crc) if crc == int(match[1], 16) else None


class Manifest:
    """The records of a file, which is made if it is not there; `append` adds one.

    Attributes
    ----------
    records : list of dict

    Raises
    ------
    FormatError
        A line other than the last is not what was written.
    """

    def __init__(self, path: Path):
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        self.path = path
        self.records: list[Record] = []
        self._end = (0, 0)  # bytes, and the checksum there
        self._descriptor = os.open(path, flags, 0o666)
        try:
            sync_directory(path.parent)  # the name, where it is new
            self._replay(path.read_bytes())
        except BaseException:
            self.close()
            raise

    def append(self, record: Record) -> None:
        """Add a record; it is durable on return, and not there after an error."""
        self._cut()  # what an earlier error may have left
        size, before = self._end
        line, crc = to_line(record, before)
        try:
            append(self._descriptor, line)
            self._end = (size + len(line), crc)
        except BaseException:
            with contextlib.suppress(OSError):  # tried again before the next record
                self._cut()
            raise
        self.records.append(json.loads(json.dumps(record)))

    def close(self) -> None:
        """Close the file, once."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _replay(self, data: bytes) -> None:
        lines = [line for line in re.split(rb"(?<=\n)", data) if line]
        for number, line in enumerate(lines, 1):
            size, before = self._end
            found = from_line(line, before)
            if found is None:
                if number < len(lines):
                    raise FormatError(
                        f"expected records with their checksums; line {number} of {len(lines)} has "
                        "another. Throw the run away (--restart)",
                        str(self.path),
                    )
                self._cut()
                return
            record, crc = found
            self.records.append(record)
            self._end = (size + len(line), crc)

    def _cut(self) -> None:
        """Remove what is behind the last whole record."""
        if os.fstat(self._descriptor).st_size > self._end[0]:
            os.ftruncate(self._descriptor, self._end[0])
            os.fsync(self._descriptor)
