"""Groups, datasets and attributes as both file layouts use them, each with its encoding."""

from __future__ import annotations

import numbers
import zlib
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5t

from quiplinalg.errors import DTypeError, FormatError, InvalidArgumentError
from quiplinalg.files.bfloat16 import (
    BFLOAT16,
    is_bfloat16,
    is_opaque_bfloat16,
    read_bfloat16,
    write_bfloat16,
)
from quiplinalg.files.loops import text_objection
from quiplinalg.files.measure import check_chunks

__all__ = [
    "FLOATS",
    "VERSION",
    "attribute_names",
    "attribute_text",
    "check_encoding",
    "checksum",
    "float_dtype",
    "make_group",
    "read_array",
    "read_attribute",
    "read_part",
    "require_attribute",
    "set_attributes",
    "set_encoding",
    "stored_attributes",
    "write_array",
]

VERSION = "1.0"
FLOATS = tuple(map(np.dtype, (np.float16, BFLOAT16, np.float32, np.float64)))

_MAX_ATTRIBUTES = 1000
_MAX_ATTRIBUTE_BYTES = 60_000  # what an object header can hold, less some room

Attribute = str | int | float


def set_encoding(node: h5py.Group | h5py.Dataset, encoding: str, version: str = VERSION) -> None:
    """Mark what an element is, and by which version of the layout."""
    set_attributes(node, **{"encoding-type": encoding, "encoding-version": version})


def check_encoding(node: h5py.Group | h5py.Dataset, encoding: str, known: str = VERSION) -> None:
    """Raise FormatError unless an element is what it should be, in a version that is known."""
    path = node.file.filename
    found = read_attribute(node, "encoding-type", str)
    if found != encoding:
        raise FormatError(
            f"expected encoding-type={encoding!r}; got {found!r}. Open the file with the function "
            "for its kind (open_problem, open_result, open_statistics or open_keras)",
            path,
            node.name,
        )
    version = read_attribute(node, "encoding-version", str)
    major = str(version).partition(".")[0]
    if not (major.isascii() and major.isdigit()):
        raise FormatError(
            f"expected encoding-version={VERSION!r}; got {version!r}", path, node.name
        )
    if int(major) > int(known.partition(".")[0]):
        raise FormatError(
            f"expected encoding-version {known} or older; got {version}: the file was written "
            "by a newer quiplinalg. Upgrade quiplinalg",
            path,
            node.name,
        )


def make_group(
    root: h5py.Group, parts: list[str], encoding: str, version: str = VERSION
) -> h5py.Group:
    """Create a group below ``root``, and those on the way to it."""
    group = root
    for part in parts[:-1]:
        if part not in group:
            set_encoding(group.create_group(part), "group")
        group = group[part]
    group = group.create_group(parts[-1])
    set_encoding(group, encoding, version)
    return group


def set_attributes(
    node: h5py.Group | h5py.Dataset, **attributes: Attribute | np.number | None
) -> None:
    """Store text as UTF-8 of fixed length, integers as int64, floats as float64; leave out None."""
    for key, value in stored_attributes(attributes).items():
        node.attrs[key] = value


def stored_attributes(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes as they are stored, without those that are None; raise for what cannot be."""
    stored: dict[str, Any] = {}
    for key, value in attributes.items():
        if isinstance(value, str):
            stored[key] = _fixed_text(key, value)
        elif isinstance(value, numbers.Integral):
            if not -(2**63) <= int(value) < 2**63:
                raise InvalidArgumentError(f"{key} must fit in int64; got {key}={value}.")
            stored[key] = np.int64(value)
        elif isinstance(value, numbers.Real):
            stored[key] = np.float64(value)
        elif value is not None:
            raise DTypeError(
                f"{key} must be text, a whole number or a float; got {key}={value!r} of type "
                f"{type(value).__name__}. Store arrays with add_array, and records as JSON text."
            )
    return stored


def _fixed_text(key: str, value: str) -> np.ndarray:
    """Text inside the object header.

    Text of variable length lies in a heap of its own, in which a single damaged byte can make
    HDF5 loop for ever.
    """
    raw = value.encode(errors="surrogatepass")
    if "\0" in value or len(raw) > _MAX_ATTRIBUTE_BYTES or raw != value.encode(errors="replace"):
        raise InvalidArgumentError(
            f"{key} must be at most {_MAX_ATTRIBUTE_BYTES} bytes of UTF-8 text without NUL; got "
            f"{key}={value[:40]!r} of {len(raw)} bytes. Store long text with add_array."
        )
    return np.array(raw, h5py.string_dtype("utf-8", max(1, len(raw))))


def read_attribute(node: h5py.Group | h5py.Dataset, key: str, kind: type | None = None) -> Any:
    """Read one scalar attribute as str, int or float; None where there is none.

    Raises FormatError where it is no scalar of text, int or float, or not of type ``kind``.
    """
    if key not in node.attrs:
        return None
    handle = h5a.open(node.id, key.encode())
    stored = handle.get_type()
    plain = isinstance(stored, h5t.TypeStringID | h5t.TypeIntegerID | h5t.TypeFloatID)
    if handle.shape != () or not plain or stored.get_size() > _MAX_ATTRIBUTE_BYTES:
        raise FormatError(
            f"expected attribute {key!r} to be one text or number; got {handle.dtype} of shape "
            f"{handle.shape}",
            node.file.filename,
            node.name,
        )
    loose = isinstance(stored, h5t.TypeStringID) and stored.is_variable_str()
    problem = text_objection(node, key) if loose else None
    if problem:
        raise FormatError(
            f"{problem}; got attribute {key!r} of variable length. Store it with a fixed length",
            node.file.filename,
            node.name,
        )
    raw = node.attrs[key]
    if isinstance(raw, bytes):
        value: Attribute = raw.decode()
    elif isinstance(raw, str):
        value = raw
    else:
        value = raw.item()
    if kind is float and isinstance(value, int):
        value = float(value)
    if kind is not None and not isinstance(value, kind):
        raise FormatError(
            f"expected attribute {key!r} to be {kind.__name__}; got {value!r}",
            node.file.filename,
            node.name,
        )
    return value


def require_attribute(node: h5py.Group | h5py.Dataset, key: str, kind: type) -> Any:
    """Read a scalar attribute that must be there."""
    value = read_attribute(node, key, kind)
    if value is None:
        raise FormatError(
            f"expected attribute {key!r} ({kind.__name__}); got none. Files of other programs "
            f"must follow layout {VERSION}, described in quiplinalg.files",
            node.file.filename,
            node.name,
        )
    return value


def attribute_names(node: h5py.Group | h5py.Dataset) -> list[str]:
    """The names of the attributes, sorted."""
    if len(node.attrs) > _MAX_ATTRIBUTES:
        raise FormatError(
            f"expected at most {_MAX_ATTRIBUTES} attributes", node.file.filename, node.name
        )
    return sorted(node.attrs)


def attribute_text(node: h5py.Group | h5py.Dataset, without: str | None = None) -> str:
    """The attributes of an element as one line each, ``name=value`` with Python's repr, sorted."""
    names = [name for name in attribute_names(node) if name != without]
    return "".join(f"{name}={read_attribute(node, name)!r}\n" for name in names)


def write_array(
    group: h5py.Group,
    name: str,
    array: np.ndarray,
    encoding: str,
    **attributes: Attribute | np.number | None,
) -> h5py.Dataset:
    """Write a contiguous, uncompressed dataset in the byte order of this machine."""
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    if array.dtype == BFLOAT16:
        dataset = write_bfloat16(group, name, array)
    else:
        dataset = group.create_dataset(name, data=array)
    set_encoding(dataset, encoding)
    set_attributes(dataset, **attributes)
    return dataset


def read_array(dataset: h5py.Dataset) -> np.ndarray:
    """Read a whole dataset that :func:`open_dataset` has let pass, in native byte order."""
    check_chunks(dataset)
    return read_part(dataset, None)


def read_part(dataset: h5py.Dataset, part: tuple[slice, ...] | None) -> np.ndarray:
    """Read a block of a dataset whose chunks were checked; None for all of it."""
    if is_bfloat16(dataset):
        return read_bfloat16(dataset, part)
    if is_opaque_bfloat16(dataset):
        float_dtype(dataset)
        return read_bfloat16(dataset, part)
    array = np.asarray(dataset[() if part is None else part])
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def float_dtype(dataset: h5py.Dataset) -> np.dtype:
    """The dtype that a dataset of weights or of a Hessian is read as; FormatError for others."""
    if is_bfloat16(dataset):
        return BFLOAT16
    dtype = dataset.dtype.newbyteorder("=")
    if is_opaque_bfloat16(dataset) and read_attribute(dataset, "dtype") == "bfloat16":
        return BFLOAT16
    if dtype in FLOATS and dataset.id.get_type().get_size() == dtype.itemsize:
        return dtype
    raise FormatError(
        f"expected float16, bfloat16, float32 or float64; got {dtype}. Convert the array first",
        dataset.file.filename,
        dataset.name,
    )


def checksum(array: np.ndarray) -> int:
    """CRC-32 of the elements in C order, little-endian."""
    array = np.ascontiguousarray(array)
    if array.dtype != BFLOAT16:
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return zlib.crc32(array.reshape(-1).view(np.uint8).data) if array.size else 0
