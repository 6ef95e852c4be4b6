"""The command itself, and the small commands: help, inspect, info, warmup, demo."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from quiplinalg import __version__, open_result
from quiplinalg.cli.main import COMMANDS, main
from quiplinalg.cli.picture import Magnitudes, is_picture, write_picture
from quiplinalg.files import ProblemWriter
from quiplinalg.kernels.record import select

RUN = "import sys; from quiplinalg.cli.main import main; code = main(sys.argv[1:]); "


@pytest.fixture
def problem(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((64, 16))
    with ProblemWriter(tmp_path / "in.h5") as writer:
        writer.add("q", rng.standard_normal((4, 16)), X.T @ X / 64, n_samples=64)
        writer.add("k", rng.standard_normal((6, 16)), shared_hessian_of="q")
        writer.add_array("bias", np.zeros(3))
    return str(tmp_path / "in.h5")


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
    assert f"quiplinalg {name}" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"quiplinalg {__version__}\n"
    assert main([]) == 2


def test_unknown_commands_and_options(capsys):
    assert main(["quantise"]) == 2
    assert "did you mean quantize?" in capsys.readouterr().err
    assert main(["--verson"]) == 2
    assert "--version" in capsys.readouterr().err
    assert main(["inspect"]) == 2
    assert "FILE.h5" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["quantize", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    heavy = "{'numpy', 'numba', 'h5py', 'scipy', 'tqdm'}"
    check = f"sys.stderr.write(repr(sorted({heavy} & set(sys.modules)))); sys.exit(code)"
    done = subprocess.run(
        [sys.executable, "-c", RUN + check, *arguments], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "[]")


def test_a_closed_pipe_is_no_traceback(problem):
    command = [sys.executable, "-c", RUN + "sys.exit(code)", "inspect", problem]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 1 and b"Traceback" not in error and b"Broken" not in error


def test_inspect(problem, tmp_path, capsys):
    assert main(["inspect", problem]) == 0
    text = capsys.readouterr().out
    assert "problem file" in text and "4 x 16" in text and "bias" in text
    assert main(["inspect", problem, "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e.get("shape") for e in events] == [[6, 16], [4, 16], None]
    assert events[1]["shares_hessian_of"] == "k" and events[-1]["hessians"] == 1

    out = str(tmp_path / "out.h5")
    assert main(["quantize", problem, out, "--bits", "3", "--group-size", "8"]) == 0
    capsys.readouterr()
    assert main(["inspect", out]) == 0
    text = capsys.readouterr().out
    assert "result file" in text and "ldlq" in text
    assert main(["inspect", out, "--json"]) == 0
    layer, *_, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (layer["bits"], layer["groups"], layer["method"]) == (3, 2, "ldlq")
    assert layer["loss_db"] < 0 and summary["kind"] == "result"


def test_names_do_not_drive_the_terminal(tmp_path, capsys):
    with ProblemWriter(tmp_path / "in.h5") as writer:
        writer.add("a\x1b[2Jb", np.ones((2, 3)), np.eye(3))
    assert main(["inspect", str(tmp_path / "in.h5")]) == 0
    assert main(["quantize", str(tmp_path / "in.h5"), str(tmp_path / "out.h5")]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text and "a\\x1b[2Jb" in text


def test_inspect_refuses_other_files(tmp_path, capsys):
    import h5py

    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = np.zeros(3)
    (tmp_path / "text.h5").write_text("no")
    for name in ("foreign.h5", "text.h5", "missing.h5"):
        assert main(["inspect", str(tmp_path / name)]) == 4
        assert capsys.readouterr().err.startswith("quiplinalg: error: ")


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    assert __version__ in text and "kernels" in text and "cupy" in text
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["numpy"] == np.__version__ and facts["threads"] >= 1
    assert isinstance(facts["cpu_features"], list)


def test_warmup(capsys):
    assert main(["warmup"]) == 0
    text = capsys.readouterr().out
    assert "ready in" in text and "warmup --all" in text
    assert main(["warmup", "--all"]) == 0
    assert "--all" not in capsys.readouterr().out
    kernels = select("cpu")
    compiled = {
        field.name: len(kernel.signatures)
        for field in dataclasses.fields(kernels)
        if hasattr(kernel := getattr(kernels, field.name), "signatures")
    }
    assert len(compiled) > 20 and all(compiled.values()), compiled


def test_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["demo"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Handwritten digits (UCI") and "450" in text and "CC BY 4.0" in text
    rows = [line.split() for line in text.splitlines()]
    rows = {(r[0], int(r[1])): r for r in rows if len(r) == 8 and r[1].isdigit()}
    assert len(rows) == 12
    for bits in (2, 3, 4):
        assert float(rows["ldlq", bits][4]) < float(rows["nearest", bits][4]) - 3
        assert float(rows["quip", bits][4]) < float(rows["ldlq", bits][4])
    assert rows["ldlq", 4][5].endswith("%")
    assert "quiplinalg verify" in text and str(tmp_path / "quiplinalg-demo.h5") in text
    with open_result(tmp_path / "quiplinalg-demo.h5") as result:
        assert {result.layer(name).grid.bits for name in result.names} == {2}
    from pathlib import Path

    import quiplinalg

    data = Path(quiplinalg.__file__).parent / "data" / "digits.h5"
    assert main(["verify", str(data), "quiplinalg-demo.h5"]) == 0
    assert main(["demo"]) == 0  # its own file may be replaced
    (tmp_path / "mine.h5").write_text("precious")
    assert main(["demo", "--output", "mine.h5"]) == 2
    assert (tmp_path / "mine.h5").read_text() == "precious"
    (tmp_path / "mine.html").write_text("<p>precious")
    assert main(["demo", "--picture", "mine.html"]) == 2
    assert (tmp_path / "mine.html").read_text() == "<p>precious"
    made = ["mine.h5", "mine.html", "quiplinalg-demo.h5", "quiplinalg-demo.html"]
    assert sorted(os.listdir(tmp_path)) == made


def test_the_picture_is_one_page_that_needs_nothing_else(tmp_path):
    from xml.etree import ElementTree

    rng = np.random.default_rng(0)
    W = rng.standard_normal((20, 30))
    layers = [Magnitudes(name, W, W / 2, (3.0, 2.0), (5.0, 4.0)) for name in ("a<b>", "c")]
    losses = [(method, bits, -6.0 * bits - k)
              for bits in (2, 3) for k, method in enumerate(("nearest", "quip"))]  # fmt: skip
    path = tmp_path / "p.html"
    write_picture(str(path), layers, losses)
    text = path.read_text()
    assert is_picture(str(path)) and not is_picture(__file__)
    assert "<script" not in text and "http" not in text and "a&lt;b&gt;" in text
    svgs = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(svgs) == 2
    magnitudes, dots = (ElementTree.fromstring(svg) for svg in svgs)
    curves = magnitudes.findall(".//polyline")
    assert len(curves) == 6  # Gaussian, before and after of two layers
    # the last point of a curve is the largest weight: 1 of 600 lies beyond, at the right edge
    x = [float(point.split(",")[0]) for point in curves[1].get("points").split()]
    assert x == sorted(x)
    places = [float(dot.get("cx")) for dot in dots.findall(".//circle")]
    assert len(places) == 4
    # bits 3 first: nearest -18, quip -19, then -12 and -13; one scale for all
    assert abs((places[0] - places[1]) - (places[2] - places[3])) <= 0.2
    assert abs((places[2] - places[0]) - 6 * (places[0] - places[1])) <= 1


def test_color_only_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert main(["nope"]) == 2
    assert "\x1b[31merror" in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["nope"]) == 2
    assert "\x1b" not in capsys.readouterr().err
