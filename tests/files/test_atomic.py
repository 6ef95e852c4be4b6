"""A file appears whole, or not at all."""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from quiplinalg.errors import FormatError, InvalidArgumentError, QuipLinalgError
from quiplinalg.files import ProblemWriter, ResultWriter, open_problem, problem_writer

EYE = np.eye(3)

KILLED = """
import os, signal, sys
import numpy as np
from quiplinalg.files import ProblemWriter
with ProblemWriter(sys.argv[1], overwrite=sys.argv[2] == "True") as writer:
    for k in range(int(sys.argv[3])):
        writer.add(f"layer{k}", np.eye(200), k * np.eye(200), storage="full")
    writer._file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("writer_type", [ProblemWriter, ResultWriter])
def test_an_exception_leaves_nothing(tmp_path, writer_type):
    with pytest.raises(KeyError):
        with writer_type(tmp_path / "p.h5") as writer:
            if writer_type is ProblemWriter:
                writer.add("a", EYE, EYE)
            raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_nothing_appears_before_the_end(tmp_path):
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a", EYE, EYE)
        assert not (tmp_path / "p.h5").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]


def test_an_existing_file_is_kept(tmp_path):
    path = tmp_path / "p.h5"
    path.write_bytes(b"precious")
    with pytest.raises(InvalidArgumentError, match="overwrite=True"):
        ProblemWriter(path)
    with pytest.raises(KeyError):
        with ProblemWriter(path, overwrite=True) as writer:
            writer.add("a", EYE, EYE)
            raise KeyError
    assert path.read_bytes() == b"precious"
    with ProblemWriter(path, overwrite=True) as writer:
        writer.add("a", EYE, EYE)
        assert path.read_bytes() == b"precious"
    with open_problem(path) as problem:
        assert problem.names == ("a",)


def test_a_file_that_appears_in_the_meantime_is_kept(tmp_path):
    path = tmp_path / "p.h5"
    with pytest.raises(InvalidArgumentError, match="exists"):
        with ProblemWriter(path) as writer:
            writer.add("a", EYE, EYE)
            path.write_bytes(b"precious")
    assert path.read_bytes() == b"precious"
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]


def test_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a", EYE, EYE)
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]


def test_an_open_reader_keeps_what_it_opened(tmp_path):
    path = tmp_path / "p.h5"
    with ProblemWriter(path) as writer:
        writer.add("old", EYE, EYE)
    with open_problem(path) as problem:
        with ProblemWriter(path, overwrite=True) as writer:
            writer.add("new", 2 * EYE, EYE)
        np.testing.assert_array_equal(problem.weight("old"), EYE)


def test_a_layer_that_fails_half_way_makes_no_file(tmp_path, monkeypatch):
    write_array = problem_writer.write_array

    def full_disk(group, name, *arguments, **keywords):
        if name == "hessian":
            raise OSError("no space left on device")
        return write_array(group, name, *arguments, **keywords)

    with pytest.raises(QuipLinalgError, match="'b' failed"):
        with ProblemWriter(tmp_path / "p.h5") as writer:
            writer.add("a", EYE, EYE)
            monkeypatch.setattr(problem_writer, "write_array", full_disk)
            with pytest.raises(OSError, match="no space"):
                writer.add("b", EYE, 2 * EYE)
    assert list(tmp_path.iterdir()) == []


def test_use_of_a_writer(tmp_path):
    writer = ProblemWriter(tmp_path / "p.h5")
    with pytest.raises(InvalidArgumentError, match="with ProblemWriter"):
        writer.add("a", EYE, EYE)
    with writer:
        writer.add("a", EYE, EYE)
    with pytest.raises(InvalidArgumentError, match="with ProblemWriter"):
        writer.add("b", EYE, EYE)
    with pytest.raises(InvalidArgumentError, match="once"), writer:
        pass
    with pytest.raises(InvalidArgumentError, match="existing directory"):
        ProblemWriter(tmp_path / "no" / "p.h5")
    with pytest.raises(InvalidArgumentError, match="directory"):
        ProblemWriter(tmp_path)


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link.h5").symlink_to(tmp_path / "real" / "p.h5")
    with ProblemWriter(tmp_path / "link.h5") as writer:
        writer.add("a", EYE, EYE)
    assert (tmp_path / "link.h5").is_symlink() and (tmp_path / "real" / "p.h5").is_file()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
@pytest.mark.parametrize("existing", [False, True])
def test_sigkill_between_layers(tmp_path, existing):
    for count in range(3):
        path = tmp_path / f"p{count}.h5"
        if existing:
            with ProblemWriter(path) as writer:
                writer.add("old", EYE, EYE)
        before = (path.read_bytes(), path.stat().st_mtime_ns) if existing else None
        arguments = [sys.executable, "-c", KILLED, str(path), str(existing), str(count)]
        assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
        if existing:
            assert (path.read_bytes(), path.stat().st_mtime_ns) == before
        else:
            assert not path.exists()
            with pytest.raises(FormatError):
                open_problem(path)
        with ProblemWriter(path, overwrite=existing) as writer:  # and the work can start again
            writer.add("new", EYE, EYE)
