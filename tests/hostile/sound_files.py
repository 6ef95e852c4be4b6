"""Sound files of every layout that the readers take, small enough to be damaged by thousands.

Weights and Hessians have no zeros, and chunks of more bytes than HDF5 leaves empty anywhere, so
that zeros in what is read betray data that were never written.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import h5py
import ml_dtypes
import numpy as np
from object_headers import Message, messages, sealed_blocks

import quiplinalg as ql
from quiplinalg.files import ProblemWriter, ResultWriter
from quiplinalg.grids.uniform import UniformGrid

__all__ = ["HOLE", "Sound", "keras_mapping", "make_sound_files"]

HOLE = 3000  # bytes of zeros, which a chunk exceeds, and nothing else does
M, N = 32, 48


@dataclass(frozen=True)
class Sound:
    """A file as it should be, and where its parts lie."""

    name: str
    kind: str  # "problem", "result", "statistics" or "keras"
    data: bytes
    spans: tuple[tuple[int, int, int], ...]  # start, bytes and item size of stored elements
    messages: tuple[Message, ...]
    addresses: tuple[int, ...]  # of the object headers
    blocks: tuple[tuple[int, int], ...]  # with a checksum at their end

    @cached_property
    def metadata(self) -> np.ndarray:
        """Where the bytes are that are not zero, and of no element."""
        kept = np.frombuffer(self.data, np.uint8) != 0
        for start, size, _ in self.spans:
            kept[start : start + size] = False
        return np.flatnonzero(kept)


def make_sound_files(directory: Path) -> list[Sound]:
    """Write the files into ``directory``, and look where their parts lie."""
    makers = {
        "problem": ("problem", _problem),
        "foreign": ("problem", lambda path: _foreign(path, "earliest")),
        "latest": ("problem", lambda path: _foreign(path, "latest")),
        "result": ("result", _result),
        "statistics": ("statistics", _statistics),
        "keras": ("keras", _keras),
    }
    found = []
    for name, (kind, make) in makers.items():
        path = directory / f"{name}.h5"
        make(path)
        found.append(_sound(name, kind, path))
    return found


def keras_mapping(path: Path) -> dict[str, dict[str, str]]:
    """Where the kernels and the Hessians of the Keras file are."""
    return {
        "dense": {"weight": "layers/dense/vars/0", "hessian": f"{path}:statistics/dense"},
        "half": {"weight": "layers/half/vars/0", "hessian": f"{path}:statistics/packed"},
    }


def _sound(name: str, kind: str, path: Path) -> Sound:
    data = path.read_bytes()
    assert bytes(HOLE) not in data, name
    spans: set[tuple[int, int, int]] = set()
    with h5py.File(path) as file:
        objects = [file, *_below(file)]
        addresses = tuple(sorted({h5py.h5o.get_info(node.id).addr for node in objects}))
        for node in objects:
            if isinstance(node, h5py.Dataset) and node.size:
                spans |= _spans(node)
    return Sound(
        name=name,
        kind=kind,
        data=data,
        spans=tuple(sorted(spans)),
        messages=tuple(m for address in addresses for m in messages(data, address)),
        addresses=addresses,
        blocks=tuple(sealed_blocks(data)),
    )


def _below(group: h5py.Group) -> list[h5py.Group | h5py.Dataset]:
    found = []
    for node in group.values():
        found += [node, *(_below(node) if isinstance(node, h5py.Group) else [])]
    return found


def _spans(dataset: h5py.Dataset) -> set[tuple[int, int, int]]:
    item = dataset.dtype.itemsize
    if dataset.chunks is None:
        return {(dataset.id.get_offset(), dataset.id.get_storage_size(), item)}
    chunks: list = []
    dataset.id.chunk_iter(chunks.append)
    return {(chunk.byte_offset, chunk.size, item) for chunk in chunks}


def _weight(seed: int, dtype: type = np.float32, shape: tuple[int, int] = (M, N)) -> np.ndarray:
    """Nothing below 0.5 in magnitude."""
    rng = np.random.default_rng(seed)
    return (rng.choice([-1, 1], shape) * rng.uniform(0.5, 2, shape)).astype(dtype)


def _hessian(seed: int, dtype: type = np.float64) -> np.ndarray:
    X = np.random.default_rng(seed).standard_normal((N, 3 * N)) + 0.5
    return (X @ X.T / (3 * N)).astype(dtype)


def _problem(path: Path) -> None:
    with ProblemWriter(path) as writer:
        writer.add("block/q", _weight(0), _hessian(0), n_samples=96)
        writer.add("block/k", _weight(1, np.float16), shared_hessian_of="block/q")
        writer.add(
            "head", _weight(2, ml_dtypes.bfloat16).T, _hessian(1, np.float32),
            orientation="in_out", storage="full", normalization="sum",
        )  # fmt: skip
        writer.add_array("bias/q", _weight(3)[0])


def _foreign(path: Path, version: str) -> None:
    """A problem file by another program: text of variable length, chunks, filters, any index."""
    unlimited = [(M, N), (None, N), (None, None)]  # a fixed array, an extensible one, a B-tree
    filters: list[dict] = [
        {"compression": "gzip", "shuffle": True}, {"compression": "lzf"}, {"fletcher32": True}, {},
    ]  # fmt: skip
    with h5py.File(path, "w", libver=version) as file:
        file.attrs.update(_encoded("quiplinalg-problem"))
        file.attrs["note"] = "x" * 2500  # so that the heap of texts has little free space
        for group in ("layers", "arrays"):
            file.create_group(group).attrs.update(_encoded("group"))
        for k, keywords in enumerate(filters):
            layer = file.create_group(f"layers/{k}")
            layer.attrs.update(_encoded("layer"))
            chunks = (M, N) if k == 3 else (16, N)
            weight = layer.create_dataset(
                "weight", data=_weight(k), chunks=chunks, maxshape=unlimited[k % 3], **keywords
            )
            weight.attrs.update(_encoded("array"), orientation="out_in")
            layer["hessian"] = _hessian(k, np.float32)
            layer["hessian"].attrs.update(
                _encoded("hessian"), storage="full", n_samples=-1, normalization="mean"
            )


def _encoded(kind: str) -> dict[str, str]:
    return {"encoding-type": kind, "encoding-version": "1.0"}


def _result(path: Path) -> None:
    W, H = _weight(0), _hessian(0)
    H[:, 3] = H[3, :] = 0  # a dead column
    with ResultWriter(path) as writer:
        writer.add("block/q", ql.ldlq(W, H, bits=3, group_size=8), note="text", share=0.25)
        unbounded = UniformGrid(np.full((1, 1), 0.1), np.zeros((1, 1)), None)
        writer.add("free", ql.ldlq(W, H, grid=unbounded))
        writer.add("quip", ql.quip(W, _hessian(1), bits=2, sides="both", seed=3))
        writer.add("sparse", ql.obs_prune(W, H, sparsity=0.5))


def _statistics(path: Path) -> None:
    X, Y = np.random.default_rng(5).standard_normal((2, 40, N)) + 0.25
    H, both = ql.Hessian(N, track_mean=True), ql.CrossMoment(N)
    H.add(X)
    both.add(X, Y)
    with ql.StatisticsWriter(path) as writer:
        writer.add("block/q", H)
        writer.add("cross", both)


def _keras(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = _weight(0).T
        file["layers/dense/vars/1"] = _weight(1)[0]
        bits = _weight(2, ml_dtypes.bfloat16).T.copy().view("V2")
        file.create_dataset("layers/half/vars/0", data=bits).attrs["dtype"] = "bfloat16"
        file["layers"].attrs["name"] = "x" * 2500
        file["statistics/dense"] = _hessian(0)
        file["statistics/packed"] = _hessian(1, np.float32)[np.tril_indices(N)]
