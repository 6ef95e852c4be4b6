"""What a dataset of an untrusted file must satisfy before it is allocated and read.

HDF5 lets a dataset keep its data in other files (external storage, virtual datasets) and declare
far more than the file holds.  :func:`check_dataset` looks at the declaration, at no cost;
:func:`check_chunks` looks up each chunk and unpacks it, right before a read.
"""

from __future__ import annotations

import itertools
import math
import zlib
from dataclasses import dataclass

import h5py
from h5py import h5d, h5t, h5z

from quiplinalg.errors import FormatError
from quiplinalg.files.bfloat16 import is_bfloat16, is_opaque_bfloat16
from quiplinalg.files.loops import index_objection
from quiplinalg.files.lzf import lzf_length

__all__ = ["Limits", "check_chunks", "check_dataset"]

_COMPRESSORS = (h5z.FILTER_DEFLATE, h5z.FILTER_LZF)
_FILTERS = (*_COMPRESSORS, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
_CHECKSUM_BYTES = 4  # what fletcher32 appends to a chunk


@dataclass(frozen=True)
class Limits:
    """How much a file may ask for; raise a limit for a file you trust.

    Parameters
    ----------
    max_bytes : int
        Size of one array in memory.
    max_chunk_bytes : int
        Size of one chunk in memory.
    max_ratio : float
        Declared bytes over stored bytes of a compressed dataset.
    max_depth : int
        Groups inside groups.
    max_links : int
        Links visited in one file, and chunks of one dataset.
    """

    max_bytes: int = 64 * 2**30
    max_chunk_bytes: int = 256 * 2**20
    max_ratio: float = 100.0
    max_depth: int = 32
    max_links: int = 1_000_000


def check_dataset(dataset: h5py.Dataset, limits: Limits) -> None:
    """Raise FormatError unless the data lie in this file, whole, and within the limits."""
    problem = (
        _foreign(dataset)
        or _strange_type(dataset)
        or _too_large(dataset, limits)
        or _strange_filters(dataset)
        or _incomplete(dataset, limits)
    )
    if problem:
        raise FormatError(problem, dataset.file.filename, dataset.name)


def _foreign(dataset: h5py.Dataset) -> str | None:
    plist = dataset.id.get_create_plist()
    if plist.get_layout() == h5d.VIRTUAL:
        return "expected data in the file; got a virtual dataset. Copy the data into the file"
    if plist.get_external_count():
        return "expected data in the file; got external storage. Copy the data into the file"
    return None


def _strange_type(dataset: h5py.Dataset) -> str | None:
    kind = dataset.id.get_type()
    if isinstance(kind, h5t.TypeFloatID | h5t.TypeIntegerID):
        plain = kind.get_size() <= 8
    else:
        plain = isinstance(kind, h5t.TypeEnumID) and dataset.dtype.kind == "b"
    if plain or is_bfloat16(dataset) or is_opaque_bfloat16(dataset):
        return None
    return (
        "expected floats, integers or booleans of at most 8 bytes, or bfloat16; got "
        f"{dataset.dtype}. Convert the array with .astype first"
    )


def _too_large(dataset: h5py.Dataset, limits: Limits) -> str | None:
    if dataset.shape is None:
        return "expected an array; got a null dataspace. Write the array, or leave the dataset out"
    declared = _declared_bytes(dataset)
    if declared > limits.max_bytes:
        return (
            f"expected at most {limits.max_bytes} bytes in one array; got shape {dataset.shape}, "
            f"{declared} bytes. Pass limits=Limits(max_bytes=...) if you trust the file"
        )
    if dataset.chunks and _chunk_bytes(dataset) > limits.max_chunk_bytes:
        return (
            f"expected chunks of at most {limits.max_chunk_bytes} bytes; got "
            f"{_chunk_bytes(dataset)}. Write the array with smaller chunks, or contiguously"
        )
    return None


def _strange_filters(dataset: h5py.Dataset) -> str | None:
    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    codes = [code for code, *_ in filters]
    foreign = [code for code in codes if code not in _FILTERS]
    if foreign:
        return (
            "expected no filters but deflate, shuffle, fletcher32 and lzf; got filter "
            f"{foreign[0]}. Write the array without it"
        )
    packed = [i for i, code in enumerate(codes) if code in _COMPRESSORS]
    after = codes[packed[0] + 1 :] if packed else []
    if len(set(codes)) < len(codes) or any(code != h5z.FILTER_FLETCHER32 for code in after):
        return (
            "expected each filter once, and nothing but fletcher32 after the compressor; got "
            f"filters {codes}. Write the array without compression"
        )
    for code, _, values, _ in filters:  # lzf allocates what its third value says
        if code == h5z.FILTER_LZF and any(value > _chunk_bytes(dataset) for value in values[2:3]):
            return "expected lzf chunks no larger than declared. Write the array without lzf"
    return None


def _incomplete(dataset: h5py.Dataset, limits: Limits) -> str | None:
    """HDF5 reads what was never written as zeros."""
    if dataset.chunks and (problem := index_objection(dataset, limits.max_links)):
        return f"{problem}. Write the array contiguously"
    declared, stored = _declared_bytes(dataset), dataset.id.get_storage_size()
    if not declared:
        return None
    if not stored:
        return "expected data; got a dataset that was never written. Write the file again"
    if stored > dataset.file.id.get_filesize():
        return "expected the data in the file; got fewer bytes than declared. Copy it again"
    if dataset.chunks:
        expected = math.prod(
            -(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)
        )
        if expected > limits.max_links:
            return f"expected at most {limits.max_links} chunks; got {expected}. Use larger chunks"
        if dataset.id.get_num_chunks() != expected:
            return (
                f"expected {expected} chunks; got {dataset.id.get_num_chunks()}: some were never "
                "written. Write the file again"
            )
    ratio = limits.max_ratio if _is_compressed(dataset) else 1.0
    if declared > ratio * stored:
        return (
            f"expected at most {ratio:g} times the stored bytes; got {declared} declared from "
            f"{stored} stored. Write the array without compression"
        )
    return None


def check_chunks(dataset: h5py.Dataset) -> None:
    """Raise FormatError unless every chunk is found where it is read, and fills its place.

    HDF5 reads a chunk that it does not find as zeros, leaves what a short one lacks as it was in
    memory, and inflates until the stream ends, whatever the size of the chunk.
    """
    if not dataset.size or not dataset.chunks:
        return
    chunks: list = []
    dataset.id.chunk_iter(chunks.append)
    most = 2 * _chunk_bytes(dataset) + 1024
    places = {chunk.chunk_offset for chunk in chunks if chunk.size <= most}
    steps = zip(dataset.shape, dataset.chunks, strict=True)
    for place in itertools.product(*(range(0, size, step) for size, step in steps)):
        if place not in places or not _fills_chunk(dataset, place):
            raise FormatError(
                f"expected a chunk of {math.prod(dataset.chunks)} elements at {place}; got none, "
                "or one of another size. Write the array again, without compression",
                dataset.file.filename,
                dataset.name,
            )


def _fills_chunk(dataset: h5py.Dataset, place: tuple[int, ...]) -> bool:
    """Whether a chunk has its declared size once its filters are undone, the last one first."""
    size = math.prod(dataset.chunks) * dataset.id.get_type().get_size()
    skipped, raw = dataset.id.read_direct_chunk(place)
    codes = _filter_codes(dataset)
    length = len(raw)
    for i in reversed(range(len(codes))):
        if skipped >> i & 1:
            continue
        if codes[i] == h5z.FILTER_FLETCHER32:
            length -= _CHECKSUM_BYTES
        elif codes[i] == h5z.FILTER_LZF:
            length = lzf_length(raw[:length])
        elif codes[i] == h5z.FILTER_DEFLATE:
            stream = zlib.decompressobj()
            length = len(stream.decompress(raw[:length], size + _CHECKSUM_BYTES + 1))
            length = length if stream.eof else -1
    return length == size


def _is_compressed(dataset: h5py.Dataset) -> bool:
    return any(code in _COMPRESSORS for code in _filter_codes(dataset))


def _filter_codes(dataset: h5py.Dataset) -> list[int]:
    plist = dataset.id.get_create_plist()
    return [plist.get_filter(i)[0] for i in range(plist.get_nfilters())]


def _item_bytes(dataset: h5py.Dataset) -> int:
    return max(dataset.id.get_type().get_size(), dataset.dtype.itemsize)


def _declared_bytes(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.shape or ()) * dataset.id.get_type().get_size()


def _chunk_bytes(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.chunks or ()) * _item_bytes(dataset)
