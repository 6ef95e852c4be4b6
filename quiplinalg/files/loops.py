"""Structures in which libhdf5 loops for ever where a byte is wrong, looked at before it does.

After the HDF5 file format specification, 3.0.  Text of variable length lies in a global heap, whose
objects are walked by their sizes; the newer indexes of chunks are walked up to a count.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator

import h5py
from h5py import h5g

__all__ = ["address", "index_objection", "text_objection"]

Read = Callable[[int, int], bytes]

_LAYOUT, _ATTRIBUTE, _CONTINUATION = 0x08, 0x0C, 0x10  # types of messages
_MOST_BLOCKS, _MOST_BYTES = 1000, 2**24  # of an object header or a heap
_UNDEFINED = 2**64 - 1
# Fixed and extensible arrays: bytes of parameters before their address, where their count is.
_COUNTS = {3: (1, 8), 4: (5, 44)}


def address(node: h5py.Group | h5py.Dataset) -> int:
    """Where the object lies in its file: equal for two hard links to one object.

    ``H5Oget_info`` would also walk the index of the chunks, and can crash there.
    """
    low, high = h5g.get_objinfo(node.id, b".").objno
    return low + (high << 32)


def text_objection(node: h5py.Group | h5py.Dataset, key: str) -> str | None:
    """What is wrong with the heap of an attribute of variable-length text, or None.

    A file that is open for writing is trusted: it may not be on the disk yet.
    """
    if node.file.mode != "r":
        return None
    with _reading(node) as read:
        for kind, body in _messages(read, address(node)):
            if kind == _ATTRIBUTE:
                name, value = _attribute(body)
                if name == key.encode():
                    (place,) = struct.unpack_from("<4xQ", value)
                    return None if _is_sane_heap(read, place) else "expected text in a sound heap"
    return "expected text beside the object itself"


def index_objection(dataset: h5py.Dataset, most: int) -> str | None:
    """What is wrong with the index of the chunks, or None."""
    with _reading(dataset) as read:
        for kind, body in _messages(read, address(dataset)):
            if kind == _LAYOUT and body[0] >= 4:  # an older version has a B-tree, which ends
                at = 5 + body[3] * body[4]  # behind the dimensions of a chunk
                if body[at] in _COUNTS:
                    skipped, offset = _COUNTS[body[at]]
                    (place,) = struct.unpack_from("<Q", body, at + 1 + skipped)
                    if place != _UNDEFINED:
                        (count,) = struct.unpack("<Q", read(place + offset, 8))
                        if count > most:
                            return f"expected at most {most} chunks; got an index of {count}"
    return None


@contextlib.contextmanager
def _reading(node: h5py.Group | h5py.Dataset) -> Iterator[Read]:
    """A function that reads (address, size) from the file of an object."""
    base = node.file.userblock_size
    if node.file.id.get_create_plist().get_sizes() != (8, 8):
        raise ValueError("addresses or sizes are not of 8 bytes")
    with open(node.file.filename, "rb") as file:
        end = file.seek(0, os.SEEK_END)

        def read(address: int, size: int) -> bytes:
            if size > _MOST_BYTES or base + address + size > end:
                raise ValueError("an address or a size is beyond the end")
            file.seek(base + address)
            return file.read(size)

        yield read


def _messages(read: Read, address: int) -> Iterator[tuple[int, bytes]]:
    """(type, body) of every message of an object header, of either version."""
    start = read(address, 16)
    if start[:4] == b"OHDR":
        flags = start[5]
        front = 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        width = 1 << (flags & 3)
        length = int.from_bytes(read(address + front, width), "little")
        blocks, sealed = [(address + front + width, length)], 4
        fields, head = "<BH", 4 + 2 * bool(flags & 4)
    else:
        blocks, sealed = [(address + 16, struct.unpack_from("<I", start, 8)[0])], 0
        fields, head = "<HH", 8
    for place, length in blocks:  # which grows
        if len(blocks) > _MOST_BLOCKS:
            raise ValueError("an object header has no end")
        block, at = read(place, length), 0
        while at + head <= length:
            kind, size = struct.unpack_from(fields, block, at)
            body = block[at + head : at + head + size]
            if kind == _CONTINUATION:
                where, much = struct.unpack_from("<QQ", body)
                blocks.append((where + sealed, max(much - 2 * sealed, 0)))
            yield kind, body
            at += head + size


def _attribute(body: bytes) -> tuple[bytes, bytes]:
    """The name and the raw value of an attribute message of version 1, 2 or 3."""
    version, *sizes = struct.unpack_from("<BxHHH", body)  # of name, datatype, dataspace
    if version == 1:
        sizes = [-(-size // 8) * 8 for size in sizes]
    start = 9 if version == 3 else 8
    return body[start : start + sizes[0]].partition(b"\0")[0], body[start + sum(sizes) :]


def _is_sane_heap(read: Read, address: int) -> bool:
    """Whether the objects of a global heap collection fill it, each with a size of its own."""
    mark, size = struct.unpack("<4s4xQ", read(address, 16))
    if mark != b"GCOL" or size < 16:
        return False
    heap, at = read(address, size), 16
    while at + 16 <= size:
        index, length = struct.unpack_from("<H6xQ", heap, at)
        step = 16 + -(-length // 8) * 8 if index else length  # free space counts its own head
        if not 16 <= step <= size - at:
            return False
        at += step
    return True
