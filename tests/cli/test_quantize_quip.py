"""``quiplinalg quantize --method quip``, and --refine with every method."""

import json

import numpy as np
import pytest

from quiplinalg import descend, ldlq, open_problem, open_result, quip
from quiplinalg.cli.main import main
from quiplinalg.files import ProblemWriter
from quiplinalg.model.options import layer_seed


@pytest.fixture
def problem(tmp_path):
    rng = np.random.default_rng(1)
    path = tmp_path / "in.h5"
    with ProblemWriter(path) as writer:
        for name in ("block/q", "head"):
            X = rng.standard_normal((300, 64)) * np.exp(rng.standard_normal(64))
            W = rng.standard_t(4, (48, 64)).astype(np.float32)
            writer.add(name, W, (X.T @ X / 300).astype(np.float32))
    return str(path)


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.h5")


def test_quip_then_verify_and_inspect(problem, out, capsys):
    assert main(["quantize", problem, out, "--method", "quip"]) == 0
    text = capsys.readouterr().out
    assert "rotation" in text and "gain dB" in text and "hadamard" in text
    with open_problem(problem) as source, open_result(out) as result:
        for name in result.names:
            expected = quip(source.weight(name), source.hessian(name), seed=layer_seed(0, name))
            found = result.layer(name)
            assert (found.codes == expected.codes).all() and found.loss == expected.loss
            assert (np.asarray(found) == expected.__array__()).all()
            assert dict(found.candidates) == dict(expected.candidates)
    assert main(["verify", problem, out]) == 0
    assert main(["inspect", out]) == 0
    assert "quip" in capsys.readouterr().out


@pytest.mark.parametrize(
    "flags, check",
    [
        (["--rotation", "kronecker"], lambda q: q.processing.rotation == "kronecker"),
        (["--rotation", "none"], lambda q: q.processing.rotation == "none"),
        (["--rotation", "hadamard", "--sides", "both"], lambda q: q.processing.output.n == 48),
        (
            ["--rotation", "hadamard", "--rescale", "none"],
            lambda q: q.processing.scales is None and q.processing.input.n == 64,
        ),
        (["--rotation", "none", "--rho", "table"], lambda q: q.grid.kind == "rms"),
        (["--rotation", "none", "--rho", "2.4"], lambda q: q.grid.kind == "rms"),
        (["--refine", "all"], lambda q: q.passes > 0 and q.changed == 0),
        (["--order", "act"], lambda q: q.order == "act"),
        (["--rotation", "hadamard", "--per-tensor"], lambda q: q.grid.scale.shape == (1, 1)),
        (["--rotation", "none", "--rescale", "trace"], lambda q: q.processing.scales is not None),
        (["--bits", "3", "--group-size", "16"], lambda q: q.grid.bits == 3),
    ],
)
def test_options_reach_the_library(problem, out, flags, check, capsys):
    assert main(["quantize", problem, out, "--method", "quip", *flags]) == 0
    with open_result(out) as result:
        assert all(check(result.layer(name)) for name in result.names)
    assert main(["verify", problem, out, "--json"]) == 0


def test_refine_is_for_every_method(problem, out, capsys):
    assert main(["quantize", problem, out, "--refine", "2"]) == 0
    with open_problem(problem) as source, open_result(out) as result:
        W, H = source.weight("head"), source.hessian("head")
        assert (result.layer("head").codes == descend(W, H, ldlq(W, H), passes=2).codes).all()
    assert main(["verify", problem, out]) == 0


def test_json_has_the_choice(problem, out, capsys):
    assert main(["quantize", problem, out, "--method", "quip", "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[1])
    assert set(first["candidates"]) == {"hadamard", "kronecker", "none"}
    assert first["rotation"] in ("hadamard", "kronecker", None)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--rotation", "hadamard"], "--rotation is for --method quip; got it with ldlq"),
        (["--method", "quip", "--clip", "mse"], "--clip is for --method nearest"),
        (["--method", "quip", "--sym"], "--sym is for --method"),
        (["--method", "quip", "--rho", "wide"], "--rho"),
        (["--method", "quip", "--rho", "-1"], "rho must be positive"),
        (["--refine", "-1"], "refine must be a number of passes"),
        (["--method", "quip", "--seed", "-1"], "seed must be a whole number"),
        (["--method", "safe", "--refine", "1"], "--refine is for --method nearest"),
        (
            ["--method", "quip", "--rotation", "none", "--sides", "both"],
            "--rotation must not be none",
        ),
        (["--method", "quip", "--rotation", "dct"], "--rotation"),
    ],
)
def test_usage_errors(problem, out, flags, said, capsys):
    assert main(["quantize", problem, out, *flags]) == 2
    assert said in capsys.readouterr().err


def test_config(problem, out, tmp_path, capsys):
    config = tmp_path / "c.toml"
    config.write_text('method = "quip"\nrho = 2.0\nrefine = "all"\nrotation = "hadamard"\n')
    assert main(["quantize", problem, out, "--config", str(config)]) == 0
    with open_result(out) as result:
        assert result.layer("head").method == "quip" and result.layer("head").changed == 0
    config.write_text('method = "quip"\nrho = "wide"\n')
    assert main(["quantize", problem, out, "--config", str(config), "--overwrite"]) == 2
    assert 'rho must be a number or "search" or "table"' in capsys.readouterr().err


def test_every_layer_has_its_own_rotation(tmp_path, out, capsys):
    """Two layers of one size get different rotations from one seed."""
    path = tmp_path / "p.h5"
    with ProblemWriter(path) as writer:
        for name in ("a", "b"):
            writer.add(name, np.ones((4, 16), np.float32), np.eye(16, dtype=np.float32))
    flags = ["--method", "quip", "--rotation", "hadamard", "--seed", "3"]
    assert main(["quantize", str(path), out, *flags]) == 0
    with open_result(out) as result:
        a, b = (result.layer(name).processing.input.signs for name in "ab")
    assert (a != b).any()
