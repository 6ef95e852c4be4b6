"""What reaches the disk: whole files, and errors of the disk as OSError, never a crash."""

from __future__ import annotations

import errno
import io
import os

import h5py
import numpy as np
import pytest

from quiplinalg import ldlq
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.files import ProblemWriter, ResultWriter, open_problem
from quiplinalg.files.durable import append, write_all, write_new
from quiplinalg.files.sink import Sink

EYE = np.eye(40)


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Disk:
    """os.write of a disk with so many bytes left, a few at a time."""

    def __init__(self, left=10**9, at_most=10**9, code=errno.ENOSPC):
        self.left, self.at_most, self.code, self.write = left, at_most, code, os.write

    def __call__(self, descriptor, data):
        count = min(self.left, self.at_most, len(data))
        if not count:
            raise OSError(self.code, os.strerror(self.code))
        self.left -= count
        return self.write(descriptor, bytes(data[:count]))


def test_a_write_that_takes_a_few_bytes_is_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", Disk(at_most=7))
    write_new(tmp_path / "a", bytes(range(100)))
    descriptor = os.open(tmp_path / "a", os.O_WRONLY | os.O_APPEND)
    numbers = np.arange(25, dtype=np.int32)
    append(descriptor, numbers.data)
    os.close(descriptor)
    assert (tmp_path / "a").read_bytes() == bytes(range(100)) + numbers.tobytes()


def test_a_write_that_takes_nothing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    with open(tmp_path / "a", "wb") as file, pytest.raises(OSError, match="no more bytes"):
        write_all(file.fileno(), b"abc")


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_write_new_leaves_what_was_there(tmp_path, monkeypatch, call):
    (tmp_path / "a").write_bytes(b"old")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="Input/output"):
        write_new(tmp_path / "a", b"new")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("a", b"old")]
    monkeypatch.undo()
    write_new(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"


def test_hdf5_writes_the_same_through_a_sink_as_into_memory(tmp_path):
    sink, memory = Sink(tmp_path / "a.h5"), io.BytesIO()
    for target in (sink, memory):
        with h5py.File(target, "w") as file:
            for k in range(50):
                file.create_dataset(f"group{k % 3}/{k}", data=np.full(100 * k, k))
            file["group0/0"].attrs["text"] = "x" * 1000
            del file["group1/1"]
            np.testing.assert_array_equal(file["group2/47"], 47)
    sink.check()
    sink.close()
    sink.close()
    assert (tmp_path / "a.h5").read_bytes() == memory.getvalue()


def test_reading_past_the_end_of_a_sink_gives_zeros(tmp_path):
    sink = Sink(tmp_path / "a")
    sink.write(b"abc")
    sink.seek(1)
    assert sink.read(4) == b"bc\0\0" and sink.tell() == 3
    buffer = bytearray(b"....")
    sink.seek(0)
    assert sink.readinto(buffer) == 4 and buffer == b"abc\0"
    sink.close()


@pytest.mark.parametrize("left", [0, 1, 700, 5_000, 20_000, 60_000])
@pytest.mark.parametrize("writer_type", [ProblemWriter, ResultWriter])
def test_a_full_disk_is_an_oserror_and_makes_no_file(tmp_path, monkeypatch, left, writer_type):
    layer = (np.ones((40, 40)), EYE)
    layer = layer if writer_type is ProblemWriter else (ldlq(*layer),)
    monkeypatch.setattr(os, "write", Disk(left))
    with pytest.raises(OSError) as caught:
        with writer_type(tmp_path / "out.h5") as writer:
            for k in range(60):
                writer.add(f"layer{k}", *layer)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_inside_of_hdf5_comes_out_after_it(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with ProblemWriter(tmp_path / "out.h5") as writer:
            writer.add("a", EYE, EYE)
            monkeypatch.setattr(os, "write", interrupt)
            writer.add("b", EYE, EYE)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_caller_comes_before_that_of_the_disk(tmp_path, monkeypatch):
    with pytest.raises(ZeroDivisionError):
        with ProblemWriter(tmp_path / "out.h5"):
            monkeypatch.setattr(os, "write", Disk(0))
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_layer_that_does_not_fit_leaves_the_writer_as_it_was(tmp_path):
    with ResultWriter(tmp_path / "out.h5") as writer:
        with pytest.raises(InvalidArgumentError, match="of their own"):
            writer.add("a", ldlq(EYE, EYE), loss=3.0)
        writer.add("a", ldlq(EYE, EYE))
    with pytest.raises(Exception, match="expected"):
        open_problem(tmp_path / "out.h5")
