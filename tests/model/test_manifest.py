"""The manifest: what was appended is there, whatever byte the process died at."""

from __future__ import annotations

import errno
import math
import os

import pytest

from quiplinalg.errors import FormatError
from quiplinalg.model.manifest import Manifest, from_line, to_line

RECORDS = [
    {"layer": "a", "loss": 0.1 + 0.2, "shape": [3, 4]},
    {"layer": "b/é\n\r\x0b", "candidates": {"x": None}, "deep": {"q": [True, "}"]}},
    {"layer": "c", "loss": math.inf, "big": 2**63},
]


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "manifest.jsonl"


def fill(path, records=RECORDS):
    manifest = Manifest(path)
    for record in records:
        manifest.append(record)
    manifest.close()
    return path.read_bytes()


def read(path):
    manifest = Manifest(path)
    manifest.close()
    return manifest.records


def test_records_come_back(path):
    fill(path)
    assert read(path) == RECORDS
    assert path.read_bytes().count(b"\n") == len(RECORDS)
    fill(path, [{"layer": "d"}])
    assert read(path) == [*RECORDS, {"layer": "d"}]


def test_lines():
    line, crc = to_line(RECORDS[1], 17)
    assert from_line(line, 17) == (RECORDS[1], crc)
    assert from_line(line, 18) is None and from_line(line[:-1], 17) is None
    assert from_line(b"", 0) is None and from_line(b"{}\n", 0) is None


def test_a_file_cut_at_any_byte_keeps_every_whole_record(path):
    data = fill(path)
    ends = [i + 1 for i, byte in enumerate(data) if byte == ord("\n")]
    for size in range(len(data) + 1):
        whole = sum(end <= size for end in ends)
        path.write_bytes(data[:size])
        assert read(path) == RECORDS[:whole]
        assert path.read_bytes() == data[: [0, *ends][whole]]
        fill(path, RECORDS[whole:])
        assert path.read_bytes() == data


def test_damage_before_the_last_line_is_found(path):
    data = fill(path)
    last = data[:-1].rindex(b"\n")
    for where in range(last):  # without that newline the last two are one torn line
        damaged = bytearray(data)
        damaged[where] ^= 1 << where % 8
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="--restart"):
            read(path)
        assert path.read_bytes() == damaged  # nothing is cut from what is not understood


def test_lines_lost_doubled_or_moved_are_found(path):
    lines = fill(path).splitlines(keepends=True)
    for order in ([1, 2, 0], [0, 0, 1, 2], [0, 2, 1], [1, 2]):
        path.write_bytes(b"".join(lines[i] for i in order))
        with pytest.raises(FormatError):
            read(path)


def test_zeros_at_the_end_are_cut(path):
    data = fill(path)
    path.write_bytes(data + bytes(4096))
    assert read(path) == RECORDS and path.read_bytes() == data


@pytest.mark.parametrize("call", ["write", "fsync", "half"])
@pytest.mark.parametrize("cut_fails", [False, True])
def test_a_record_that_failed_is_not_there_and_the_next_one_is(path, monkeypatch, call, cut_fails):
    def fail(*arguments):
        if call == "half":
            write(arguments[0], bytes(arguments[1])[:10])
        raise OSError(errno.EIO, "Input/output error")

    write = os.write
    manifest = Manifest(path)
    manifest.append(RECORDS[0])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync" if call == "fsync" else "write", fail)
        if cut_fails:
            patch.setattr(os, "ftruncate", fail)
        with pytest.raises(OSError, match="Input/output"):
            manifest.append(RECORDS[1])
    assert manifest.records == RECORDS[:1]
    manifest.append(RECORDS[2])
    manifest.close()
    manifest.close()
    assert read(path) == manifest.records == [RECORDS[0], RECORDS[2]]


def test_what_is_no_json_changes_nothing(path):
    manifest = Manifest(path)
    with pytest.raises(TypeError):
        manifest.append({"layer": object()})
    manifest.append(RECORDS[0])
    manifest.close()
    assert read(path) == RECORDS[:1]
