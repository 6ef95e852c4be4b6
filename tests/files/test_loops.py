"""Damage at which libhdf5 would loop for ever, or crash, is found before it gets there."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from h5py import h5o

from quiplinalg.errors import FormatError
from quiplinalg.files import Limits
from quiplinalg.files.elements import read_attribute
from quiplinalg.files.guard import address, format_errors, open_dataset
from quiplinalg.files.loops import index_objection, text_objection

sys.path.insert(0, str(Path(__file__).parents[1] / "hostile"))

from object_headers import messages, seal, sealed_blocks


def texts(path, version="earliest", count=3, userblock=0):
    """A file with attributes of variable-length text, in a heap."""
    with h5py.File(path, "w", libver=version, userblock_size=userblock) as file:
        for k in range(count):
            file.attrs[f"key{k}"] = f"text {k}"
        file.attrs["array"] = ["a", "b"]
    return path


@pytest.mark.parametrize("version, count", [("earliest", 3), ("earliest", 60), ("latest", 7)])
@pytest.mark.parametrize("userblock", [0, 512])
def test_sound_text_of_variable_length_is_read(tmp_path, version, count, userblock):
    path = texts(tmp_path / "a.h5", version, count, userblock)
    with h5py.File(path) as file:
        for k in range(count):
            assert text_objection(file, f"key{k}") is None
            assert read_attribute(file, f"key{k}", str) == f"text {k}"


def test_text_that_cannot_be_checked_is_refused(tmp_path):
    path = texts(tmp_path / "a.h5", "latest", 20)  # so many that they lie in a heap of their own
    with h5py.File(path) as file, pytest.raises(FormatError, match="fixed length"):
        read_attribute(file, "key1", str)


OBJECT = 16  # where the first one of a collection is: index, references, length


@pytest.mark.parametrize(
    "place, fields, values",
    [
        (OBJECT, "<HHIQ", (0, 0, 0, 0)),  # free space of no bytes
        (OBJECT + 8, "<Q", (2**64 - 16,)),  # 16 bytes of head and these make none
        (OBJECT + 8, "<Q", (2**64 - 8,)),
        (OBJECT + 8, "<Q", (5000,)),
        (0, "<4s", (b"GCOX",)),
        (8, "<Q", (8,)),
        (8, "<Q", (2**40,)),
    ],
)
def test_a_heap_without_end_is_refused(tmp_path, place, fields, values):
    path = texts(tmp_path / "a.h5")
    data = bytearray(path.read_bytes())
    struct.pack_into(fields, data, data.index(b"GCOL") + place, *values)
    path.write_bytes(data)
    with h5py.File(path) as file, pytest.raises(FormatError):
        with format_errors(str(path)):
            read_attribute(file, "key0", str)


def test_text_in_no_heap_is_refused(tmp_path):
    path = texts(tmp_path / "a.h5")
    data = bytearray(path.read_bytes())
    heap = struct.pack("<Q", data.index(b"GCOL"))
    for other in (0, 2**40, 2**64 - 1):
        path.write_bytes(data.replace(heap, struct.pack("<Q", other)))
        with h5py.File(path) as file, pytest.raises(FormatError), format_errors(str(path)):
            read_attribute(file, "key0", str)


def test_an_object_header_without_end_is_refused(tmp_path):
    path = texts(tmp_path / "a.h5", count=60)
    data = bytearray(path.read_bytes())
    with h5py.File(path) as file:
        start = address(file)
    more = [m for m in messages(bytes(data), start) if m.kind == 0x10]
    struct.pack_into("<QQ", data, more[-1].body, *struct.unpack_from("<QQ", data, more[0].body))
    with h5py.File(path) as file:
        assert text_objection(file, "nowhere")
        path.write_bytes(data)  # under the open file, whose header HDF5 has read
        with pytest.raises(ValueError, match="no end"):
            text_objection(file, "nowhere")


def chunked(path, limits):
    with h5py.File(path, "w", libver="latest") as file:
        file.create_dataset("x", data=np.ones((24, 8)), chunks=(8, 8), maxshape=limits)
    return path


@pytest.mark.parametrize(
    "limits, signature, offset", [((24, 8), b"FAHD", 8), ((None, 8), b"EAHD", 44)]
)
def test_an_index_with_a_huge_count_is_refused(tmp_path, limits, signature, offset):
    path = chunked(tmp_path / "a.h5", limits)
    with h5py.File(path) as file:
        assert index_objection(file["x"], 3) is None
        assert index_objection(file["x"], 2) is not None
    data = bytearray(path.read_bytes())
    blocks = sealed_blocks(bytes(data))
    struct.pack_into("<Q", data, data.index(signature) + offset, 2**62)
    seal(data, blocks)
    path.write_bytes(data)
    with h5py.File(path) as file, pytest.raises(FormatError, match="chunks"):
        open_dataset(file, "x", Limits())


ADDRESS = """
import sys, h5py
from quiplinalg.files.guard import address
with h5py.File(sys.argv[1]) as file:
    print(address(file["x"]))
"""


def test_the_address_of_a_dataset_does_not_depend_on_its_index(tmp_path):
    """H5Oget_info crashes on this file."""
    path = chunked(tmp_path / "a.h5", (None, None))
    with h5py.File(path) as file:
        expected = h5o.get_info(file["x"].id).addr
        assert address(file["x"]) == expected and address(file) == h5o.get_info(file.id).addr
    data = bytearray(path.read_bytes())
    (layout,) = (m for m in messages(bytes(data), expected) if m.kind == 8)
    blocks = sealed_blocks(bytes(data))
    struct.pack_into("<Q", data, layout.body + layout.size - 8, 0)  # where its B-tree is
    seal(data, blocks)
    path.write_bytes(data)
    run = subprocess.run(
        [sys.executable, "-c", ADDRESS, str(path)], capture_output=True, text=True, check=True
    )
    assert int(run.stdout) == expected
