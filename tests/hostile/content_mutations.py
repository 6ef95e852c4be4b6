"""Well-formed HDF5 files whose content is not what a reader may expect, made with h5py."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import h5py
import numpy as np
from h5py import h5d, h5s, h5t

from quiplinalg.files.elements import checksum
from quiplinalg.files.result_layout import CHECKSUM, layer_checksum

__all__ = ["CONTENT_MUTATIONS", "Edit"]

_BOMB = zlib.compress(bytes(2**26), 1)  # 64 MiB

Edit = Callable[[np.random.Generator, h5py.File], None]


def odd_attribute(rng: np.random.Generator, file: h5py.File) -> None:
    """An attribute of another type, shape or value."""
    node = _pick(rng, _nodes(file))
    names = [*node.attrs, "encoding-type", "surplus"]
    odd = (
        1, -1, 2**63 - 1, 0.5, np.nan, np.inf, "", "text", "lower", "full", "9.0", "in_out",
        b"\xff", "layer", "array", "group", "problem", "x" * 60_000, True, [1, 2], ["a", "b"],
        np.float16(2), np.uint64(2**64 - 1), h5py.Empty("f8"), np.zeros(0), node.ref,
        np.longdouble(2),
    )  # fmt: skip
    value = odd[rng.integers(len(odd))]
    if isinstance(value, str) and rng.random() < 0.5:
        value = np.bytes_(value or "x")
    node.attrs[str(_pick(rng, names))] = value


def drop(rng: np.random.Generator, file: h5py.File) -> None:
    """A link or an attribute is missing."""
    node = _pick(rng, _nodes(file))
    if len(node.attrs) and rng.random() < 0.5:
        del node.attrs[str(_pick(rng, list(node.attrs)))]
    else:
        parent, name = _pick(rng, _links(file))
        del parent[name]


def relink(rng: np.random.Generator, file: h5py.File) -> None:
    """A name stands for something else: of the file, of another one, of nothing."""
    parent, name = _pick(rng, _links(file))
    target = _pick(rng, _nodes(file))
    del parent[name]
    links = (
        target, file, parent, h5py.SoftLink(target.name or "/"), h5py.SoftLink("/nowhere"),
        h5py.ExternalLink("sound.h5", "/"), np.dtype("f8"),
    )  # fmt: skip
    parent[name] = links[rng.integers(len(links))]


def replace_dataset(rng: np.random.Generator, file: h5py.File) -> None:
    """Another dataset, with the attributes of the one that was there."""
    _replace(rng, file, REPLACEMENTS)


def leave_unwritten(rng: np.random.Generator, file: h5py.File) -> None:
    """A dataset of the right shape, without its elements or most of them."""
    _replace(rng, file, (_never_written, _partly_written))


def _replace(rng, file, replacements) -> None:
    parent, name = _pick(rng, [(g, k) for g, k in _links(file) if isinstance(g[k], h5py.Dataset)])
    old, attributes = parent[name], dict(parent[name].attrs)
    shape = old.shape
    del parent[name]
    _pick(rng, replacements)(rng, parent, name, shape)
    parent[name].attrs.update(attributes)


def poison_and_seal(rng: np.random.Generator, file: h5py.File) -> None:
    """NaN or infinity among floats, or as an attribute, with checksums that match."""
    floats = [n for n in _nodes(file) if isinstance(n, h5py.Dataset) and n.dtype.kind == "f"]
    node = _pick(rng, floats)
    array = node[()]
    array[tuple(rng.integers(array.shape))] = _pick(rng, [np.nan, np.inf, -np.inf])
    node[...] = array
    if "crc32" in node.attrs:
        node.attrs["crc32"] = np.int64(checksum(array))
    layer = node.parent
    scalars = [key for key in layer.attrs if isinstance(layer.attrs[key], np.float64)]
    if scalars and rng.random() < 0.3:
        layer.attrs[str(_pick(rng, scalars))] = np.float64(_pick(rng, [np.nan, np.inf]))
    if CHECKSUM in layer.attrs:
        top = "statistics/" if layer.name.startswith("/statistics/") else "layers/"
        parts = sorted(layer)
        layer.attrs[CHECKSUM] = np.int64(layer_checksum(layer.name[1 + len(top) :], layer, parts))


def _pick(rng: np.random.Generator, choices):
    return choices[rng.integers(len(choices))]


def _links(group: h5py.Group) -> list[tuple[h5py.Group, str]]:
    found = []
    for name, node in group.items():
        found += [(group, name), *(_links(node) if isinstance(node, h5py.Group) else [])]
    return found


def _nodes(file: h5py.File) -> list[h5py.Group | h5py.Dataset]:
    return [file, *(group[name] for group, name in _links(file))]


def _never_written(rng, group, name, shape):
    chunks = None if rng.random() < 0.5 or not all(shape) else shape
    group.create_dataset(name, shape, "f4", chunks=chunks, compression="gzip" if chunks else None)


def _partly_written(rng, group, name, shape):
    """Only the first row's chunk."""
    shape = (max(shape[0], 2), *shape[1:])
    group.create_dataset(name, shape, "f4", chunks=(1, *shape[1:]))[0] = 1


def _huge(rng, group, name, shape):
    sizes = rng.choice([2**20, 2**31, 2**40, 2**62], size=max(1, len(shape)))
    sizes[1:] = np.minimum(sizes[1:], 2**20)
    kind = _pick(rng, [h5t.IEEE_F32LE, h5t.IEEE_F64LE, h5t.STD_U8LE])
    while np.prod(sizes.astype(float)) * kind.get_size() >= 2.0**63:
        sizes //= 2
    h5d.create(group.id, name.encode(), kind, h5s.create_simple(tuple(map(int, sizes))))


def _other_type(rng, group, name, shape):
    kinds = ("i1", "u8", "?", "f2", ">f4", ">f8", "c8", "S3", "V2", "f4,f4", np.longdouble)
    dtype = np.dtype(_pick(rng, kinds))
    number = dtype.kind in "iufbc"
    group.create_dataset(name, data=np.ones(shape, dtype) if number else np.zeros(shape, dtype))


def _other_shape(rng, group, name, shape):
    shapes = ((), (1,), (0,), (*shape, 1), shape[::-1], (shape[0] + 1, *shape[1:]), (0, *shape[1:]))
    group.create_dataset(name, data=np.ones(_pick(rng, shapes), "f4"))


def _no_space(rng, group, name, shape):
    h5d.create(group.id, name.encode(), h5t.IEEE_F64LE, h5s.create(h5s.NULL))


def _text(rng, group, name, shape):
    group.create_dataset(name, data=["text"] * 3, dtype=h5py.string_dtype())


def _bomb(rng, group, name, shape):
    """A small stream that inflates to far more than the chunk."""
    dataset = group.create_dataset(name, shape, "f4", chunks=shape, compression=9)
    dataset.id.write_direct_chunk((0,) * len(shape), _BOMB)


def _strange_float(rng, group, name, shape):
    """Four bytes whose exponent has another bias, so that most values vanish or overflow."""
    kind = h5t.IEEE_F32LE.copy()
    kind.set_ebias(int(_pick(rng, [0, 255, 400])))
    dataset = h5d.create(group.id, name.encode(), kind, h5s.create_simple(shape))
    dataset.write(h5s.ALL, h5s.ALL, np.ones(shape, "f4"), mtype=h5t.IEEE_F32LE)


def _a_group(rng, group, name, shape):
    group.create_group(name)


REPLACEMENTS = (
    _huge, _other_type, _other_shape, _no_space, _text, _bomb, _strange_float, _a_group,
)  # fmt: skip

CONTENT_MUTATIONS: tuple[Edit, ...] = (
    odd_attribute, drop, relink, replace_dataset, leave_unwritten, poison_and_seal,
)  # fmt: skip
