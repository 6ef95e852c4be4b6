"""How objects of an untrusted file are reached: part by part, over hard links only.

A soft or an external link can point anywhere, into another file too; none is ever followed.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator

import h5py
from h5py import h5l

from quiplinalg.errors import FormatError, InvalidArgumentError, QuipLinalgError
from quiplinalg.files.loops import address
from quiplinalg.files.measure import Limits, check_dataset

__all__ = [
    "address",
    "format_errors",
    "has_link",
    "leaves",
    "open_dataset",
    "open_file",
    "open_group",
    "split_name",
]

_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, zlib.error, struct.error)


@contextlib.contextmanager
def format_errors(path: str, dataset: str | None = None) -> Iterator[None]:
    """Turn what h5py raises on a damaged file into :class:`FormatError`."""
    try:
        yield
    except QuipLinalgError:
        raise
    except _DAMAGE as error:
        raise FormatError(
            f"the file is damaged or not written by quiplinalg ({error}). "
            "Copy it again from its source, or write it anew",
            path,
            dataset,
        ) from error


def open_file(path: str | os.PathLike) -> h5py.File:
    """Open an existing HDF5 file for reading only; raise FormatError if it is none."""
    name = os.fspath(path)
    try:
        status = os.stat(name)
    except OSError as error:
        raise FormatError(
            f"expected an HDF5 file; {error.strerror}. Check the path", name
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise FormatError("expected an HDF5 file; got something that is not a plain file", name)
    if status.st_size == 0:
        raise FormatError("expected an HDF5 file; got an empty one. Write it again", name)
    with format_errors(name):
        if not h5py.is_hdf5(name):
            raise FormatError(
                "expected an HDF5 file; got one with another signature. Convert .safetensors, "
                ".npz or .pt files with quiplinalg.files.ProblemWriter first",
                name,
            )
        return h5py.File(name, "r", locking="best-effort")


def split_name(name: str) -> list[str]:
    """The parts of a layer or array name; ``/`` nests groups.

    Raises
    ------
    InvalidArgumentError
        On an empty name or part, ``.``, ``..``, a leading ``/``, NUL, or text that is not UTF-8.
    """
    try:
        name.encode()
        parts = name.split("/")
    except (AttributeError, UnicodeEncodeError):
        parts = [""]
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise InvalidArgumentError(
            "a name must be parts joined by '/', none of them empty, '.' or '..', in UTF-8 "
            f"without NUL; got name={name!r}. Rename it, for instance with name.strip('/')."
        )
    return parts


def has_link(group: h5py.Group, part: str) -> bool:
    """Whether a link of any kind is there; ``part in group`` would follow it."""
    return group.id.links.exists(part.encode())


def _child(group: h5py.Group, part: str, dataset: str) -> h5py.Group | h5py.Dataset:
    """Follow one hard link."""
    path = group.file.filename
    if not has_link(group, part):
        raise FormatError(
            f"expected a group or a dataset named {part!r}; got none. Check the name, or add it",
            path,
            dataset,
        )
    if group.id.links.get_info(part.encode()).type != h5l.TYPE_HARD:
        raise FormatError(
            "expected an object in the file; got a soft or an external link. Copy what it points "
            "to into the file",
            path,
            dataset,
        )
    child = group[part]
    if not isinstance(child, h5py.Group | h5py.Dataset):
        raise FormatError("expected a group or a dataset; got a named datatype", path, dataset)
    return child


def _open(root: h5py.Group, name: str, limits: Limits) -> h5py.Group | h5py.Dataset:
    if not root:
        raise InvalidArgumentError(
            "the reader must be open; got one that is closed. Open the file again."
        )
    parts = split_name(name)
    if len(parts) > limits.max_depth + 2:
        raise FormatError(
            f"expected at most {limits.max_depth} nested groups; got {len(parts)}",
            root.file.filename,
            name,
        )
    node: h5py.Group | h5py.Dataset = root
    for depth, part in enumerate(parts):
        if not isinstance(node, h5py.Group):
            raise FormatError("expected a group; got a dataset", root.file.filename, name)
        node = _child(node, part, "/".join(parts[: depth + 1]))
    return node


def open_group(root: h5py.Group, name: str, limits: Limits) -> h5py.Group:
    """Open the group ``name`` below ``root`` over hard links."""
    node = _open(root, name, limits)
    if not isinstance(node, h5py.Group):
        raise FormatError("expected a group; got a dataset", root.file.filename, name)
    return node


def open_dataset(root: h5py.Group, name: str, limits: Limits) -> h5py.Dataset:
    """Open the dataset ``name`` below ``root`` over hard links, checked but not read."""
    node = _open(root, name, limits)
    if not isinstance(node, h5py.Dataset):
        raise FormatError("expected a dataset; got a group", root.file.filename, name)
    check_dataset(node, limits)
    return node


def leaves(
    root: h5py.Group, limits: Limits, is_leaf: Callable[[h5py.Group], bool]
) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
    """Yield (name, object) of every dataset and every leaf group below ``root``, in name order.

    Links are enumerated, so hard-linked siblings are all visited (``visititems`` skips them).
    A cycle, a link that is not hard, and more depth or links than allowed raise FormatError.
    """
    path, seen = root.file.filename, 0

    def visit(
        group: h5py.Group, prefix: str, ancestors: tuple[int, ...]
    ) -> Iterator[tuple[str, h5py.Group | h5py.Dataset]]:
        nonlocal seen
        seen += len(group)
        if seen > limits.max_links:
            raise FormatError(f"expected at most {limits.max_links} links", path, root.name)
        if len(ancestors) > limits.max_depth:
            raise FormatError(f"expected at most {limits.max_depth} nested groups", path, prefix)
        for part in group:
            name = prefix + part
            node = _child(group, part, name)
            if isinstance(node, h5py.Dataset) or is_leaf(node):
                yield name, node
            elif address(node) in ancestors:
                raise FormatError("expected a tree; got a group inside itself", path, name)
            else:
                yield from visit(node, name + "/", (*ancestors, address(node)))

    yield from visit(root, "", (address(root),))
