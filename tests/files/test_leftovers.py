"""What killed writers leave is swept by the next one, and what live ones write is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from quiplinalg.files import ProblemWriter, open_problem
from quiplinalg.files.atomic import temporary_name
from quiplinalg.files.leftovers import held, sweep

pytestmark = pytest.mark.skipif(os.name == "nt", reason="flock")

EYE = np.eye(3)
WRITE = """
import sys, numpy as np
from quiplinalg.files import ProblemWriter
with ProblemWriter(sys.argv[1]) as writer:
    writer.add("theirs", np.eye(200), np.eye(200), storage="full")
    writer._file.flush()
    print("written", flush=True)
    sys.stdin.read()
"""


def start(path):
    """A process that has written to its temporary file, and waits until its input is closed."""
    arguments = [sys.executable, "-c", WRITE, str(path)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    return process


def leftover(target, content=b"half a file", age=0.0):
    path = temporary_name(target)
    path.write_bytes(content)
    status = path.stat()
    os.utime(path, (status.st_atime, status.st_mtime - age))
    return path


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    path = tmp_path / "p.h5"
    process = start(path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = tmp_path.iterdir()
    assert left.stat().st_size
    with ProblemWriter(path) as writer:
        assert not left.exists()
        writer.add("ours", EYE, EYE)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_live_process_writes_is_kept_until_it_has_its_name(tmp_path):
    path = tmp_path / "p.h5"
    process = start(path)
    with ProblemWriter(path, overwrite=True) as writer:
        writer.add("ours", EYE, EYE)
    process.communicate("")
    assert process.returncode != 0  # ours is there, and theirs may not replace it
    path.unlink()
    process = start(path)
    sweep(path)
    process.communicate("")
    assert process.returncode == 0
    with open_problem(path) as problem:
        assert problem.names == ("theirs",)
    assert list(tmp_path.iterdir()) == [path]


def test_a_second_writer_of_the_same_process_is_kept(tmp_path):
    path = tmp_path / "p.h5"
    with ProblemWriter(path, overwrite=True) as first:
        first.add("first", EYE, EYE)
        first._file.flush()
        with ProblemWriter(path, overwrite=True) as second:
            second.add("second", EYE, EYE)
    with open_problem(path) as problem:
        assert problem.names == ("first",)
    assert list(tmp_path.iterdir()) == [path]


def test_it_is_held_until_after_the_rename(tmp_path, monkeypatch):
    path = tmp_path / "p.h5"
    rename = os.link

    def sweep_first(source, target):
        sweep(path)
        rename(source, target)

    monkeypatch.setattr(os, "link", sweep_first)
    with ProblemWriter(path) as writer:
        writer.add("a", EYE, EYE)
    assert list(tmp_path.iterdir()) == [path]


def test_only_the_temporaries_of_the_target_are_swept(tmp_path):
    path = tmp_path / "a+b.h5"
    mine = leftover(path)
    others = [
        leftover(tmp_path / "aab.h5"),  # the name is no pattern
        leftover(tmp_path / "b.h5"),
        tmp_path / ".a+b.h5.notes.tmp",
        tmp_path / f".a+b.h5.{'0' * 16}.tmp.old",
    ]
    for other in others:
        other.write_bytes(b"x")
    (tmp_path / f".a+b.h5.{'1' * 16}.tmp").symlink_to(others[0])
    (tmp_path / f".a+b.h5.{'2' * 16}.tmp").mkdir()
    sweep(path)
    assert not mine.exists() and all(other.exists() for other in others)
    assert len(list(tmp_path.iterdir())) == len(others) + 2


def test_an_empty_file_may_have_been_made_a_moment_ago(tmp_path):
    path = tmp_path / "p.h5"
    young, old = leftover(path, b""), leftover(path, b"", age=120)
    sweep(path)
    assert young.exists() and not old.exists()


def test_held_ends_with_its_block(tmp_path):
    left = leftover(tmp_path / "p.h5")
    with held(left):
        sweep(tmp_path / "p.h5")
        assert left.exists()
    sweep(tmp_path / "p.h5")
    assert not left.exists()


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    import fcntl

    def refuse(*_):
        raise OSError("no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    left = leftover(tmp_path / "p.h5")
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a", EYE, EYE)
    assert left.exists() and (tmp_path / "p.h5").exists()
