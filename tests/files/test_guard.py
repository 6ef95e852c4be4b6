"""Hostile and damaged files: each is refused, with FormatError."""

import os
import struct
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5d, h5p, h5s, h5t

from quiplinalg.errors import FormatError
from quiplinalg.files import Limits, ProblemWriter, open_keras, open_problem, open_result

sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))

from object_headers import seal, sealed_blocks

N = 64


@pytest.fixture
def path(tmp_path):
    """A problem file with one sound layer, and a foreign file beside it."""
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["weight"] = np.full((2, N), 42.0)
    (tmp_path / "secret.raw").write_bytes(bytes(8 * 2 * N))
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a", np.ones((2, N)), np.eye(N), storage="full")
    return tmp_path / "p.h5"


def replace_weight(path, make):
    """Put another weight in the layer, with the attributes of the sound one."""
    with h5py.File(path, "r+") as file:
        group = file["layers/a"]
        attributes = dict(group["weight"].attrs)
        del group["weight"]
        make(group)
        if group.get("weight", getlink=True).__class__ is h5py.HardLink:
            group["weight"].attrs.update(attributes)


def external_link(group):
    group["weight"] = h5py.ExternalLink("secret.h5", "/weight")


def soft_link(group):
    group["weight"] = h5py.SoftLink("/layers/a/hessian")


def dangling_link(group):
    group["weight"] = h5py.SoftLink("/nowhere")


def external_storage(group):
    raw = os.path.join(os.path.dirname(group.file.filename), "secret.raw")
    group.create_dataset("weight", (2, N), "f8", external=[(raw, 0, 8 * 2 * N)])


def virtual_dataset(group):
    layout = h5py.VirtualLayout((2, N), "f8")
    layout[...] = h5py.VirtualSource("secret.h5", "weight", shape=(2, N))
    group.create_virtual_dataset("weight", layout)


def never_written(group):
    group.create_dataset("weight", (2, N), "f8")


def chunk_never_written(group):
    group.create_dataset("weight", (2, N), "f8", chunks=(1, N))[0] = 1.0


def bomb(group):
    group.create_dataset("weight", data=np.zeros((2, 2**20)), chunks=(1, 2**16), compression=9)


def large_chunk(group):
    group.create_dataset("weight", (2, 2**25), "f8", chunks=(2, 2**25), compression=9)


def chunk_bomb(group):
    """A chunk of 1 KiB whose stream inflates to 64 MiB."""
    dataset = group.create_dataset("weight", (2, N), "f8", chunks=(2, N), compression=9)
    dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**26), 9)[: 2**16])


def objects(group):
    group.create_dataset("weight", data=["text"] * 3, dtype=h5py.string_dtype())


def references(group):
    group.create_dataset("weight", data=[group.ref] * 3, dtype=h5py.ref_dtype)


def compound(group):
    group.create_dataset("weight", data=np.zeros((2, N), [("a", "f4"), ("b", "f4")]))


def opaque(group):
    group.create_dataset("weight", data=np.zeros((2, N), "V2"))


def integers(group):
    group.create_dataset("weight", data=np.zeros((2, N), int))


def wide_float(group):
    group.create_dataset("weight", data=np.zeros((2, N), np.longdouble))


def array_type(group):
    kind = h5t.array_create(h5t.IEEE_F64LE, (2**20,))
    h5d.create(group.id, b"weight", kind, h5s.create_simple((2,)))


def null_space(group):
    h5d.create(group.id, b"weight", h5t.IEEE_F64LE, h5s.create(h5s.NULL))


def too_large(group):
    h5d.create(group.id, b"weight", h5t.IEEE_F64LE, h5s.create_simple((2**40, 2**20)))


def foreign_filter(group):
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_chunk((2, N))
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL)
    dataset = h5d.create(group.id, b"weight", h5t.IEEE_F64LE, h5s.create_simple((2, N)), dcpl=plist)
    dataset.write_direct_chunk((0, 0), bytes(8 * 2 * N), 1)


def scale_offset(group):
    group.create_dataset("weight", data=np.ones((2, N)), chunks=(2, N), scaleoffset=4)


def three_dimensional(group):
    group.create_dataset("weight", data=np.ones((2, N, 1)))


def wrong_inputs(group):
    group.create_dataset("weight", data=np.ones((2, N + 1)))


def a_group(group):
    group.create_group("weight")


def named_type(group):
    group["weight"] = np.dtype("f8")


CASES = {
    external_link: "link",
    soft_link: "link",
    dangling_link: "link",
    external_storage: "external storage",
    virtual_dataset: "virtual",
    never_written: "never written",
    chunk_never_written: "never written",
    bomb: "times the stored bytes",
    large_chunk: "chunks of at most",
    chunk_bomb: "expected a chunk|times the stored",
    objects: "at most 8 bytes",
    references: "at most 8 bytes",
    compound: "at most 8 bytes",
    opaque: "bfloat16",
    integers: "float16, bfloat16, float32 or float64",
    wide_float: "at most 8 bytes",
    array_type: "at most 8 bytes",
    null_space: "null",
    too_large: "max_bytes",
    foreign_filter: "filter 32015",
    scale_offset: "filter 6",
    three_dimensional: "2-D",
    wrong_inputs: "inputs of the weight",
    a_group: "got a group",
    named_type: "named datatype",
}


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_hostile_datasets(path, make):
    replace_weight(path, make)
    with open_problem(path) as problem:
        with pytest.raises(FormatError, match=CASES[make]) as caught:
            problem.weight("a")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("compression", ["gzip", "lzf", None])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("fletcher32", [False, True])
def test_honest_compression_is_read(path, compression, shuffle, fletcher32):
    W = np.random.default_rng(0).standard_normal((2, N)).round(1)
    keywords = dict(compression=compression, shuffle=shuffle, fletcher32=fletcher32)
    replace_weight(path, lambda g: g.create_dataset("weight", data=W, chunks=(1, 10), **keywords))
    with open_problem(path) as problem:
        np.testing.assert_array_equal(problem.weight("a"), W)


def test_chunk_bomb_is_found_by_inflating(path):
    """The chunk stores more than it declares, so that no ratio gives it away."""

    def make(group):
        dataset = group.create_dataset("weight", (2, N), "f8", chunks=(2, N), compression=9)
        dataset.id.write_direct_chunk((0, 0), zlib.compress(bytes(2**20), 9))

    replace_weight(path, make)
    with open_problem(path) as problem:
        assert problem.info("a").shape == (2, N)
        with pytest.raises(FormatError, match="expected a chunk"):
            problem.weight("a")


@pytest.mark.parametrize(
    "keywords, stored, skipped",
    [
        ({"shuffle": True}, bytes(8), 0),
        ({"compression": "gzip"}, bytes(8), 1),  # stored without the compressor
        ({"compression": "gzip"}, zlib.compress(bytes(8)), 0),
        ({"compression": "lzf"}, b"\x07" + bytes(8), 0),
        ({"compression": "lzf"}, b"\x07" + bytes(7), 0),
    ],
)
def test_a_chunk_that_falls_short_is_not_filled_up_from_memory(path, keywords, stored, skipped):
    """HDF5 leaves the rest of the chunk as it was in memory, whatever was there."""

    def make(group):
        dataset = group.create_dataset("weight", (2, N), "f8", chunks=(2, N), **keywords)
        dataset.id.write_direct_chunk((0, 0), stored, skipped)

    replace_weight(path, make)
    with open_problem(path, limits=Limits(max_ratio=1e6)) as problem:
        with pytest.raises(FormatError, match=r"expected a chunk|times the stored"):
            problem.weight("a")


@pytest.mark.parametrize("place", [(0, 0, 0), (2, 0, 0), (1, 1, 0), (2**40, 0, 0)])
def test_a_chunk_in_another_place_leaves_no_zeros_in_its_own(path, place):
    """As many chunks as there should be, but HDF5 finds none where the second is read."""
    W = np.ones((2, N))
    replace_weight(path, lambda g: g.create_dataset("weight", data=W, chunks=(1, N)))
    key = struct.pack("<IIQQQ", 8 * N, 0, 1, 0, 0)  # bytes, filters left out, where it belongs
    sound = path.read_bytes()
    assert sound.count(key) == 1
    path.write_bytes(sound.replace(key, struct.pack("<IIQQQ", 8 * N, 0, *place)))
    with open_problem(path) as problem:
        with pytest.raises(FormatError, match=r"expected a chunk|bad coordinate"):
            problem.weight("a")


def test_an_index_of_chunks_that_does_not_fit_the_dataspace(path):
    """The chunks are enumerated where they belong, and looked up elsewhere."""
    with h5py.File(path.parent / "q.h5", "w", libver="latest") as file:
        file.create_dataset("x", data=np.ones((24, N)), chunks=(8, N), maxshape=(None, N))
    data = bytearray((path.parent / "q.h5").read_bytes())
    limits = struct.pack("<QQ", 2**64 - 1, N)
    assert data.count(limits) == 1
    place = data.index(limits) + 8
    data[place : place + 8] = struct.pack("<Q", 2**40)
    seal(data, sealed_blocks(bytes((path.parent / "q.h5").read_bytes())))
    (path.parent / "q.h5").write_bytes(data)
    mapping = {"x": {"weight": "x", "hessian": np.eye(24)}}
    with open_keras(path.parent / "q.h5", mapping) as problem:
        with pytest.raises(FormatError, match="expected a chunk"):
            problem.weight("x")


def test_links_on_the_way(path):
    with h5py.File(path, "r+") as file:
        file["layers/b"] = h5py.SoftLink("/layers/a")
    with pytest.raises(FormatError, match="link"):
        open_problem(path)
    with h5py.File(path, "r+") as file:
        del file["layers/b"]
        file.move("layers", "elsewhere")
        file["layers"] = h5py.ExternalLink("secret.h5", "/")
    with pytest.raises(FormatError, match="link"):
        open_problem(path)


def test_cycles_depth_and_count(path):
    with h5py.File(path, "r+") as file:
        file["layers/loop/x"] = file["layers"]
    with pytest.raises(FormatError, match="inside itself"):
        open_problem(path)
    with h5py.File(path, "r+") as file:
        del file["layers/loop"]
        file.create_group("layers/" + "/".join("d" * 40))
    with pytest.raises(FormatError, match="nested"):
        open_problem(path)
    with h5py.File(path, "r+") as file:  # 4^12 paths through 12 groups
        del file["layers/d"]
        group = file["layers"]
        for _ in range(12):
            child = group.create_group("0")
            for name in "123":
                group[name] = child
            group = child
    with pytest.raises(FormatError, match="at most 1000 links"):
        open_problem(path, limits=Limits(max_links=1000))


def test_odd_attributes(path):
    for value in ([1, 2], np.array(["a"], object), True, 3, b"\xff"):
        with h5py.File(path, "r+") as file:
            file["layers/a/weight"].attrs["orientation"] = value
        with open_problem(path) as problem, pytest.raises(FormatError, match=r"attribute|damaged"):
            problem.weight("a")


def test_limits_of_the_expanded_hessian(tmp_path):
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a", np.ones((2, N)), np.eye(N))
    with open_problem(tmp_path / "p.h5", limits=Limits(max_bytes=8 * N * N - 1)) as problem:
        with pytest.raises(FormatError, match="full Hessian"):
            problem.hessian("a")


@pytest.mark.parametrize("opener", [open_problem, open_result, lambda p: open_keras(p, {})])
def test_not_hdf5(tmp_path, opener):
    sound = tmp_path / "sound.h5"
    with ProblemWriter(sound) as writer:
        writer.add("a", np.ones((2, N)), np.eye(N))
    files = {
        "text": b"PK not this" * 100,
        "empty": b"",
        "truncated": sound.read_bytes()[:-1000],
        "header": sound.read_bytes()[:8],
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for name in (*files, "missing", "."):
        with pytest.raises(FormatError) as caught:
            opener(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_the_wrong_kind_of_file(path):
    with pytest.raises(FormatError, match="open_problem"):
        open_result(path)
    with pytest.raises(FormatError, match="encoding-type"):
        open_problem(path.parent / "secret.h5")


def test_flipped_bytes_never_raise_anything_else(path):
    sound = path.read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.choice(len(sound), 120, replace=False):
        mutant = bytearray(sound)
        mutant[position] ^= 1 << rng.integers(8)
        path.write_bytes(mutant)
        try:
            with open_problem(path) as problem:
                for name in problem.names:
                    problem.weight(name), problem.hessian(name)
        except FormatError:
            pass
