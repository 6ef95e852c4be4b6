"""``quiplinalg export``: options, exit codes, and what is printed."""

import json
import os

import numpy as np
import pytest
from export_layers import make_layer, make_pruned, write_result

from quiplinalg.cli.main import main


@pytest.fixture
def source(tmp_path):
    layers = {"block/q": make_layer(), "block/k": make_layer(bits=2), "head": make_pruned()}
    return str(write_result(tmp_path / "result.h5", layers))


def test_dense_weights(source, tmp_path, capsys):
    target = str(tmp_path / "w.npz")
    assert main(["export", source, target, "--to", "dense", "--exclude", "head"]) == 0
    size = os.path.getsize(target) / 1024
    assert capsys.readouterr().out == f"{target}: 2 layers, {size:.1f} KiB\n"
    with np.load(target) as file:
        assert set(file) == {"block/q", "block/k"}


def test_json(source, tmp_path, capsys):
    target = str(tmp_path / "w.h5")
    flags = ["--to", "dense", "--dtype", "float16", "--include", "block/*", "--json"]
    assert main(["export", source, target, *flags]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "event": "exported", "output": target, "to": "dense",
        "layers": ["block/k", "block/q"], "bytes": os.path.getsize(target),
    }  # fmt: skip


@pytest.mark.parametrize(
    "flags, code, text",
    [
        ([], 2, "--to"),
        (["--to", "gguf"], 2, "invalid choice"),
        (["--to", "dense", "--include", "neck"], 2, "'neck'"),
        (["--to", "dense", "--layout", "gptq"], 1, "layout must be left out"),
        (["--to", "dense", "--format", "x"], 2, "has no option --format"),
        (["--to", "dense", "--exclude", "neck", "--dtype", "bfloat16"], 1, "exclude 'neck'"),
    ],
)
def test_errors(source, tmp_path, capsys, flags, code, text):
    assert main(["export", source, str(tmp_path / "w.npz"), *flags]) == code
    assert text in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["result.h5"]


def test_an_existing_file_is_kept_unless_told(source, tmp_path, capsys):
    target = tmp_path / "w.npz"
    target.write_bytes(b"precious")
    assert main(["export", source, str(target), "--to", "dense"]) == 1
    assert "exists" in capsys.readouterr().err and target.read_bytes() == b"precious"
    assert main(["export", source, str(target), "--to", "dense", "--overwrite"]) == 0
    assert target.read_bytes() != b"precious"


def test_a_damaged_source_is_invalid(source, tmp_path):
    raw = bytearray(open(source, "rb").read())
    raw[:8] = b"damaged!"
    (tmp_path / "bad.h5").write_bytes(raw)
    assert main(["export", str(tmp_path / "bad.h5"), str(tmp_path / "w.h5"), "--to", "dense"]) == 4
