"""Damage to the bytes of an HDF5 file: by chance, or aimed at what its metadata say."""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
from object_headers import Message
from sound_files import Sound

__all__ = ["BYTE_MUTATIONS", "Mutation"]

Mutation = Callable[[np.random.Generator, Sound], bytearray]

_DATASPACE, _DATATYPE, _FILL, _LAYOUT, _FILTERS, _ATTRIBUTE = 1, 3, 5, 8, 11, 12


def flip_bits(rng: np.random.Generator, sound: Sound) -> bytearray:
    """One to eight bits anywhere."""
    data = bytearray(sound.data)
    for at in rng.integers(len(data), size=rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def flip_metadata_bit(rng: np.random.Generator, sound: Sound) -> bytearray:
    """One bit of a byte that is not empty, and no element of an array."""
    data = bytearray(sound.data)
    data[int(rng.choice(sound.metadata))] ^= 1 << int(rng.integers(8))
    return data


def truncate(rng: np.random.Generator, sound: Sound) -> bytearray:
    """The file ends early."""
    return bytearray(sound.data[: rng.integers(len(sound.data))])


def remove_range(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Bytes are missing, and all behind them moved."""
    start, size = _range(rng, sound)
    return bytearray(sound.data[:start] + sound.data[start + size :])


def repeat_range(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Bytes are there twice, and all behind them moved."""
    start, size = _range(rng, sound)
    return bytearray(sound.data[: start + size] + sound.data[start:])


def zero_range(rng: np.random.Generator, sound: Sound) -> bytearray:
    """A sector that was never written."""
    return _fill(rng, sound, b"\x00")


def fill_range(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Ones everywhere, which is HDF5's undefined address, and NaN."""
    return _fill(rng, sound, b"\xff")


def copy_range(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Bytes overwritten by others of the file."""
    data = bytearray(sound.data)
    (source, size), (target, _) = _range(rng, sound), _range(rng, sound)
    piece = sound.data[source : source + size][: len(data) - target]
    data[target : target + len(piece)] = piece
    return data


def swap_ranges(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Two blocks, in each other's place."""
    data = bytearray(sound.data)
    size = int(rng.choice([8, 24, 40, 512, 1024]))
    first, second = (int(at) // 8 * 8 for at in rng.integers(len(data) - size, size=2))
    data[first : first + size] = sound.data[second : second + size]
    data[second : second + size] = sound.data[first : first + size]
    return data


def point_elsewhere(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Another number where an address or a size seems to be."""
    data = bytearray(sound.data)
    words = np.frombuffer(sound.data[: len(data) // 8 * 8], "<u8")
    likely = np.flatnonzero((words > 0) & (words <= len(data)) | (words == 2**64 - 1)) * 8
    places = np.intersect1d(likely, sound.metadata // 8 * 8)
    _put(rng, data, int(rng.choice(places)), 8, sound)
    return data


def change_header(rng: np.random.Generator, sound: Sound) -> bytearray:
    """The start of an object header: version, counts, sizes."""
    data = bytearray(sound.data)
    address = int(rng.choice(sound.addresses))
    _put(rng, data, address + int(rng.integers(16)), int(rng.choice([1, 2, 4])), sound)
    return data


def change_message_head(rng: np.random.Generator, sound: Sound) -> bytearray:
    """The type, the size or the flags of a header message."""
    data = bytearray(sound.data)
    message = _message(rng, sound)
    field = rng.choice(["type", "size", "flags"])
    if field == "type":
        data[message.head] = int(rng.integers(0x1A))
    elif field == "size":
        _put(rng, data, message.head + (2 if message.version == 1 else 1), 2, sound)
    else:
        data[message.head + (4 if message.version == 1 else 3)] = int(rng.integers(256))
    return data


def change_message(rng: np.random.Generator, sound: Sound) -> bytearray:
    """A number inside any header message."""
    return _change_message(rng, sound)


def change_dataspace(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Rank, flags, or dimensions, often huge ones."""
    return _change_message(rng, sound, _DATASPACE)


def change_datatype(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Class, size, byte order, the fields of floats."""
    return _change_message(rng, sound, _DATATYPE)


def change_storage(rng: np.random.Generator, sound: Sound) -> bytearray:
    """Where the elements are, in which chunks, through which filters, and their fill value."""
    return _change_message(rng, sound, _LAYOUT, _LAYOUT, _FILTERS, _FILL)


def change_attribute(rng: np.random.Generator, sound: Sound) -> bytearray:
    """The name, the type, the shape, or the value of an attribute."""
    return _change_message(rng, sound, _ATTRIBUTE)


def poison(rng: np.random.Generator, sound: Sound) -> bytearray:
    """NaN or infinity among the elements, whatever checksums say."""
    data = bytearray(sound.data)
    start, size, item = sound.spans[rng.integers(len(sound.spans))]
    patterns = {2: (0x7E00, 0x7FC0, 0x7C00, 0x7F80), 4: (0x7FC00000, 0x7F800000)}
    bad = patterns.get(item, (0x7FF8000000000000, 0x7FF0000000000000, 2**64 - 1))
    for k in rng.integers(max(1, size // item), size=rng.integers(1, 4)):
        value = int(bad[rng.integers(len(bad))])
        data[start + k * item : start + (k + 1) * item] = value.to_bytes(8, "little")[:item]
    return data


def _range(rng: np.random.Generator, sound: Sound) -> tuple[int, int]:
    """(start, size), often whole blocks at multiples of eight."""
    size = int(rng.choice([1, 3, 8, 16, 64, 512, 4096]))
    start = int(rng.integers(len(sound.data)))
    return (start // 8 * 8 if rng.random() < 0.5 else start), size


def _fill(rng: np.random.Generator, sound: Sound, byte: bytes) -> bytearray:
    data = bytearray(sound.data)
    start, size = _range(rng, sound)
    size = min(size, len(data) - start)
    data[start : start + size] = byte * size
    return data


def _message(rng: np.random.Generator, sound: Sound, *kinds: int) -> Message:
    """Any message, or one of a kind that the file has."""
    kind = kinds[rng.integers(len(kinds))] if kinds else None
    fitting = [m for m in sound.messages if m.size and kind in (None, m.kind)]
    return fitting[rng.integers(len(fitting))] if fitting else _message(rng, sound)


def _change_message(rng: np.random.Generator, sound: Sound, *kinds: int) -> bytearray:
    data = bytearray(sound.data)
    message = _message(rng, sound, *kinds)
    for _ in range(rng.integers(1, 3)):
        width = int(rng.choice([1, 1, 2, 4, 8]))
        place = int(rng.integers(message.size)) // width * width
        _put(rng, data, message.body + place, width, sound)
    return data


def _put(rng: np.random.Generator, data: bytearray, at: int, width: int, sound: Sound) -> None:
    """Write a number that readers may trip over; keep the length of the file."""
    (old,) = struct.unpack("<Q", bytes(data[at : at + 8]).ljust(8, b"\0"))
    size = len(data)
    edges = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
    near = (old + 1, old - 1, 2 * old, old // 2, -old, old ^ (1 << int(rng.integers(8 * width))))
    inside = (size, size - 1, size + 1, int(rng.integers(size)), int(rng.choice(sound.addresses)))
    family = (edges, near, inside)[rng.integers(3)]
    value = int(family[rng.integers(len(family))]) % 2 ** (8 * width)
    stop = min(at + width, size)
    data[at:stop] = value.to_bytes(width, "little")[: max(0, stop - at)]


BYTE_MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, flip_metadata_bit, truncate, remove_range, repeat_range, zero_range, fill_range,
    copy_range, swap_ranges, point_elsewhere, change_header, change_message_head, change_message,
    change_dataspace, change_datatype, change_storage, change_attribute, poison,
)  # fmt: skip
