"""Stdout that is full, closed, left by its reader or of few characters; what stderr then says."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quiplinalg import open_result
from quiplinalg.cli import main as command
from quiplinalg.cli.common import typed
from quiplinalg.cli.main import main
from quiplinalg.errors import InsufficientMemoryError
from quiplinalg.files import ProblemWriter
from quiplinalg.files.atomic import check_target
from quiplinalg.model import runner
from quiplinalg.model.budget import Budget

FULL = OSError(28, "No space left on device")


def write(path, names=("a", "b", "c")):
    rng = np.random.default_rng(0)
    with ProblemWriter(path) as writer:
        for name in names:
            writer.add(name, rng.standard_normal((4, 8)), np.eye(8))
    return str(path)


@pytest.fixture
def files(tmp_path):
    return [write(tmp_path / "in.h5"), str(tmp_path / "out.h5")]


class Stdout(io.StringIO):
    """It raises an error once it is to hold some words, and from then on takes nothing."""

    def __init__(self, words, error):
        super().__init__()
        self.words, self.error = words, error

    def write(self, text):
        if self.words not in text:
            return super().write(text)
        self.words, error, self.error = "", self.error, FULL
        raise error


def left_by_its_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


needs_full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")


@needs_full
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_stdout_is_not_a_full_disk(files, flags, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["quantize", *files, *flags]) == 1
    err = capsys.readouterr().err
    assert "error: stdout could not be written (No space left on device)" in err
    assert f"{files[1]} is complete, with all 3 layers done" in err or flags
    assert os.path.exists(files[1]) != bool(flags)  # with --json the first line fails


@needs_full
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["quantize", "--help"]])
def test_help_that_could_not_be_written(arguments, monkeypatch, capsys):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(arguments) == 1
    assert "stdout could not be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, text",
    [(BrokenPipeError(32, "Broken pipe"), "the reader of stdout has gone"),
     (FULL, "stdout could not be written (No space left on device)")],
)  # fmt: skip
def test_a_run_goes_on_after_its_stdout_has_failed(files, error, text, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", Stdout('"layer": "b"', error))
        assert main(["quantize", *files, "--json"]) == 1
    kept, failed = capsys.readouterr().err.splitlines()
    assert kept.startswith("quiplinalg: 2 of 3 layers are done and kept in ")
    assert f"{files[1]}.run; the same command with --resume does the rest" in kept
    assert failed == f"quiplinalg: error: {text}: what was printed is not complete"
    assert main(["quantize", *files, "--json", "--resume"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["resumed"], summary["layers"]) == (2, 3)


def test_a_pipe_without_a_reader(files, monkeypatch, capsys):
    with left_by_its_reader() as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["quantize", *files]) == 1
    err = capsys.readouterr().err
    assert f"{files[1]} is complete" in err and "the reader of stdout has gone" in err


def test_an_interrupt_that_ended_the_reader_too(files, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Stdout('"layer": "b"', KeyboardInterrupt()))
    assert main(["quantize", *files, "--json"]) == 130
    err = capsys.readouterr().err
    assert "--resume does the rest" in err and "interrupted" in err and "stdout" not in err


def test_a_plan_without_a_file_keeps_nothing_and_says_nothing_of_it(files, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Stdout('"layer": "b"', BrokenPipeError()))
    assert main(["plan", files[0], "--bits", "2,3", "--json"]) == 1
    assert "kept" not in capsys.readouterr().err


def test_stdout_and_stderr_may_be_none(files, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", None)
        patch.setattr(sys, "stderr", None)
        assert main(["quantize", *files]) == 0
        sys.stdout.close(), sys.stderr.close()
    assert os.path.exists(files[1])


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_no_result_file_becomes_descriptor_1(files):
    program = (
        "import os, sys; from quiplinalg.cli.main import main; code = main(sys.argv[1:]); "
        "os.write(1, b'stray'); sys.exit(code)"
    )
    shell = ["sh", "-c", 'exec "$@" <&- >&-', "sh", sys.executable, "-c", program]
    done = subprocess.run([*shell, "quantize", *files], stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    with open_result(files[1]) as result:
        assert len(result.names) == 3


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_names_that_stdout_has_no_characters_for(flags, tmp_path, monkeypatch):
    problem, raw = write(tmp_path / "in.h5", ["日本"]), io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
        assert main(["quantize", problem, str(tmp_path / "out.h5"), *flags]) == 0
        sys.stdout.detach()
    text = raw.getvalue().decode("ascii")
    assert r"\u65e5\u672c" in text
    if flags:
        assert json.loads(text.splitlines()[1])["layer"] == "日本"


def test_a_traceback_has_lines_and_names_have_none(tmp_path, monkeypatch, capsys):
    from quiplinalg.model.options import LayerOptions

    def quantize(self, name, W, H):
        raise RuntimeError("no \x1b[2J such code")

    problem = write(tmp_path / "in.h5", ["a\nb"])
    monkeypatch.setattr(LayerOptions, "quantize", quantize)
    assert main(["quantize", problem, str(tmp_path / "out.h5")]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert r"layer 'a\nb': RuntimeError" in lines[0]
    assert "Traceback (most recent call last):" in lines
    assert r"RuntimeError: no \x1b[2J such code" in lines


def test_too_little_memory_has_one_remedy(files, monkeypatch, capsys):
    assert main(["quantize", *files, "--max-memory", "1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("quiplinalg: error: --max-memory must hold every layer; got ")
    assert "got --max-memory 1, " in line
    assert "out of memory" not in line and "--threads" not in line
    monkeypatch.setattr(command, "_run", lambda arguments: bytearray(sys.maxsize))
    assert main(["info"]) == 1
    assert "out of memory" in capsys.readouterr().err


def test_options_are_named_as_they_are_typed(tmp_path):
    budget = Budget(1, 1, 1)
    budget._misfits.append((2, "layer 'a' needs 2 B", True))
    with pytest.raises(InsufficientMemoryError) as memory:
        budget.check()
    with pytest.raises(ValueError) as exists:
        check_target(Path(__file__), overwrite=False)
    for text in (str(memory.value), str(exists.value), runner._blame("was killed")):
        assert typed(text) != text
        assert not any(name in typed(text) for name in ("max_memory", "overwrite=True"))
    key = "c.toml: max_memory must be a size; got max_memory = 'much'."
    assert typed(key) == key
