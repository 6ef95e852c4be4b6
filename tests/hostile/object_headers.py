"""Where the messages of HDF5 object headers lie, and checksums of metadata made right again.

After the HDF5 file format specification, 3.0: object headers of versions 1 and 2, their
continuations, and the lookup3 hash that seals every block of metadata of the newer formats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

__all__ = ["CONTINUATION", "Message", "lookup3", "messages", "seal", "sealed_blocks"]

CONTINUATION = 0x10
_SIGNATURES = (
    b"OHDR", b"OCHK", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTIN", b"BTLF", b"FAHD", b"FADB",
    b"EAHD", b"EAIB", b"EASB", b"EADB", b"\x89HDF",
)  # fmt: skip
_LONGEST = 2048  # bytes of a sealed block


@dataclass(frozen=True)
class Message:
    """A header message: offsets in the file of its head and its body."""

    kind: int
    head: int
    body: int
    size: int
    version: int  # of the object header


def messages(data: bytes, address: int) -> Iterator[Message]:
    """The messages of the object header at ``address``, in file order of each block."""
    if data[address : address + 4] == b"OHDR":
        flags = data[address + 5]
        start = address + 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        width = 1 << (flags & 3)
        length = int.from_bytes(data[start : start + width], "little")
        yield from _block(data, start + width, length, 2, 4 + 2 * bool(flags & 4))
    else:
        (length,) = struct.unpack_from("<I", data, address + 8)
        yield from _block(data, address + 16, length, 1, 8)


def _block(data: bytes, start: int, length: int, version: int, head: int) -> Iterator[Message]:
    at, stop = start, start + length
    while at + head <= stop:
        kind, size = struct.unpack_from("<HH" if version == 1 else "<BH", data, at)
        yield Message(kind, at, at + head, size, version)
        if kind == CONTINUATION:
            where, much = struct.unpack_from("<QQ", data, at + head)
            signed = 4 if version == 2 else 0  # signature before, checksum after
            yield from _block(data, where + signed, much - 2 * signed, version, head)
        at += head + size


def lookup3(data: bytes, lengths: np.ndarray) -> np.ndarray:
    """Bob Jenkins' lookup3 hash of the first ``lengths`` (positive, ascending) bytes each."""
    words = np.frombuffer(data + bytes(-len(data) % 12), "<u4").reshape(-1, 3)
    a, b, c = state = np.full((3, len(lengths)), 0xDEADBEEF, np.uint32)
    state += lengths.astype(np.uint32)
    for k in range((int(lengths[-1]) - 1) // 12):
        going = state[:, np.searchsorted(lengths, 12 * (k + 1), "right") :]
        going += words[k][:, None]
        _mix(*going)
    places = (lengths - 1) // 12 * 12 + np.arange(12)[:, None]
    inside = np.frombuffer(data + bytes(12), np.uint8)[np.minimum(places, len(data))]
    tail = np.ascontiguousarray((inside * (places < lengths)).T.astype(np.uint8))
    state += tail.view("<u4").T
    _finish(a, b, c)
    return c


def _rotated(x: np.ndarray, k: int) -> np.ndarray:
    return (x << np.uint32(k)) | (x >> np.uint32(32 - k))


def _mix(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    for k in (4, 6, 8, 16, 19, 4):
        a -= c
        a ^= _rotated(c, k)
        c += b
        a, b, c = b, c, a


def _finish(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> None:
    for k in (14, 11, 25, 16, 4, 14, 24):
        c ^= b
        c -= _rotated(b, k)
        a, b, c = b, c, a


def sealed_blocks(data: bytes) -> list[tuple[int, int]]:
    """(start, stop) of every block whose lookup3 hash stands at ``stop``."""
    found = []
    for signature in _SIGNATURES:
        start = data.find(signature)
        while start >= 0:
            block = data[start : start + _LONGEST + 4]
            lengths = np.arange(4, len(block) - 3)
            here = np.frombuffer(block, np.uint8).astype(np.uint32)
            stored = sum(here[4 + i : len(block) - 3 + i] << np.uint32(8 * i) for i in range(4))
            match = lengths[lookup3(block, lengths) == stored]
            found += [(start, start + int(n)) for n in match[:1]]
            start = data.find(signature, start + 1)
    return sorted(found)


def seal(data: bytearray, blocks: list[tuple[int, int]]) -> None:
    """Put the hash of each block at its end again, as one who means harm would."""
    for start, stop in blocks:
        if stop + 4 <= len(data):
            (value,) = lookup3(bytes(data[start:stop]), np.array([stop - start]))
            data[stop : stop + 4] = int(value).to_bytes(4, "little")
