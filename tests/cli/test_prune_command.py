"""``quiplinalg prune``: the library's results, in patterns and with bits, and what it refuses."""

import json

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.cli.losses import magnitude_loss
from quiplinalg.cli.main import main
from quiplinalg.files import ProblemWriter


@pytest.fixture
def problem(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((64, 24)) @ rng.standard_normal((24, 24))
    with ProblemWriter(tmp_path / "in.h5") as writer:
        for name in ("a/q", "b"):
            writer.add(name, rng.standard_normal((8, 24)).astype(np.float32), X.T @ X / 64)
    return str(tmp_path / "in.h5")


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.h5")


@pytest.mark.parametrize(
    "flags, function, keywords",
    [
        ([], ql.sparsegpt, {}),
        (["--sparsity", "0.25", "--order", "act"], ql.sparsegpt,
         {"sparsity": 0.25, "order": "act"}),
        (["--pattern", "2:4", "--damp", "auto"], ql.sparsegpt, {"pattern": "2:4", "damp": "auto"}),
        (["--method", "obs", "--pattern", "4:8"], ql.obs_prune, {"pattern": "4:8"}),
        (["--method", "obs", "--pattern", "block:3", "--sparsity", "0.3"], ql.obs_prune,
         {"pattern": "block:3", "sparsity": 0.3}),
        (["--method", "obs", "--loss-budget", "0.01"], ql.obs_prune, {"loss_budget": 0.01}),
        (["--method", "columns", "--sparsity", "0.25"], ql.prune_columns, {"sparsity": 0.25}),
    ],
)  # fmt: skip
def test_pruned_files_hold_what_the_library_returns(
    problem, out, flags, function, keywords, capsys
):
    before = open(problem, "rb").read()
    assert main(["prune", problem, out, *flags]) == 0
    assert open(problem, "rb").read() == before
    text = capsys.readouterr().out
    assert "magnitude dB" in text and "a/q" in text and out in text
    with ql.open_problem(problem) as source, ql.open_result(out) as result:
        assert result.names == ("a/q", "b")
        for name in result.names:
            W, H = source.weight(name), source.hessian(name)
            got, expected = result.pruned(name), function(W, H, **keywords)
            np.testing.assert_array_equal(got.weights, expected.weights)
            np.testing.assert_array_equal(got.mask, expected.mask)
            assert (got.loss, got.pattern) == (expected.loss, expected.pattern)
            assert ql.verify_pruned(W, H, got).ok
    assert main(["inspect", out]) == 0
    assert "pruned %" in capsys.readouterr().out
    assert main(["verify", problem, out]) == 0


@pytest.mark.parametrize(
    "flags, keywords",
    [
        (["--bits", "4"], {}),
        (["--bits", "3", "--pattern", "2:4", "--group-size", "8", "--sym"],
         {"bits": 3, "pattern": "2:4", "group_size": 8, "sym": True}),
        (["--bits", "4", "--method", "obs", "--clip", "minmax"],
         {"method": "obs", "clip": "minmax"}),
    ],
)  # fmt: skip
def test_with_bits_the_rest_is_rounded(problem, out, flags, keywords, capsys):
    assert main(["prune", problem, out, *flags]) == 0
    with ql.open_problem(problem) as source, ql.open_result(out) as result:
        for name in result.names:
            W, H = source.weight(name), source.hessian(name)
            got, expected = result.layer(name), ql.prune_quantize(W, H, **keywords)
            np.testing.assert_array_equal(got.codes, expected.codes)
            np.testing.assert_array_equal(got.mask, expected.mask)
            assert not np.asarray(got)[got.mask].any() and got.loss == expected.loss
    capsys.readouterr()
    assert main(["inspect", out]) == 0
    text = capsys.readouterr().out
    assert "pruned %" in text and "50.00" in text
    assert main(["inspect", out, "--json"]) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[0])
    assert first["sparsity"] == 0.5 and first["bits"] in (3, 4)
    assert main(["verify", problem, out]) == 0


@pytest.mark.parametrize("method", ("sparsegpt", "obs"))
def test_a_quantised_mask_that_breaks_its_pattern_is_found(problem, out, method, capsys):
    with ql.open_problem(problem) as source, ql.ResultWriter(out) as writer:
        W, H = source.weight("b"), source.hessian("b")
        q = ql.prune_quantize(W, H, 4, 0.5, method=method)
        writer.add("b", q, mask_pattern="2:4")
    assert main(["verify", problem, out]) == 1
    assert "the mask is not 2:4" in capsys.readouterr().err


def test_json_and_dry_run(problem, out, tmp_path, capsys):
    assert main(["prune", problem, out, "--dry-run", "--json", "--pattern", "2:4"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [e["event"] for e in events] == ["plan", "plan", "summary"]
    assert not (tmp_path / "out.h5").exists()
    assert main(["prune", problem, out, "--json", "--include", "b"]) == 0
    layer, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert layer["layer"] == "b" and layer["sparsity"] == summary["sparsity"] == 0.5
    assert layer["loss_db"] < layer["magnitude_db"] and summary["bytes"] > 0


def test_a_layer_that_fails_is_left_out(tmp_path, out, capsys):
    path = str(tmp_path / "bad.h5")
    H = np.eye(8)
    with ProblemWriter(path) as writer:
        writer.add("good", np.ones((2, 8)), H)
        H[0, 1] = H[1, 0] = 3
        writer.add("bad", np.ones((2, 8)), H)
    assert main(["prune", path, out]) == 3
    error = capsys.readouterr().err
    assert "--damp" in error and "1 of 2 layers FAILED" in error
    with ql.open_result(out) as result:
        assert result.names == ("good",)


@pytest.mark.parametrize(
    "flags", (["--pattern", "2:1000000000"], ["--method", "obs", "--pattern", "block:2000"])
)
def test_a_pattern_of_no_layers_size_costs_neither_memory_nor_time(problem, out, flags, capsys):
    """The kernels are compiled by a call of another size."""
    assert main(["prune", problem, out, *flags]) == 1
    assert capsys.readouterr().err.count("pattern must divide the columns") == 2


def test_what_is_refused(problem, out, capsys):
    for flags, text in (
        (["--pattern", "5:4"], "pattern must be"),
        (["--pattern", "block:4"], "pattern must be"),
        (["--sparsity", "2"], "sparsity must be"),
        (["--pattern", "2:4", "--sparsity", "0.3"], "sparsity must be 0.5"),
        (["--loss-budget", "0.1"], "--loss-budget is for --method obs or columns"),
        (["--method", "columns", "--pattern", "2:4"], "--pattern is for"),
        (["--method", "columns", "--bits", "4"], "--bits is for"),
        (["--method", "obs", "--order", "act"], "--order is for --method sparsegpt"),
        (["--method", "obs", "--bits", "4", "--loss-budget", "0.1"], "--loss-budget must not"),
        (["--group-size", "8"], "without --bits"),
        (["--bits", "9"], "bits must be"),
        (["--threads", "0"], "must be"),
        (["--percdamp", "0.1"], "did you mean --damp"),
        (["--method", "wanda"], "invalid choice"),
    ):
        assert main(["prune", problem, out, *flags]) == 2, flags
        assert text in capsys.readouterr().err, flags
    assert main(["prune", problem, problem]) == 2


def test_magnitude_is_the_smallest_weights_in_the_pattern():
    W = np.array([[3.0, 1.0, 2.0, 4.0], [0.5, 5.0, 0.1, 0.2]])
    H, mask = np.eye(4), np.array([[1, 1, 0, 0], [0, 0, 1, 1]], bool)
    assert magnitude_loss(W, H, "unstructured", mask) == pytest.approx(0.01 + 0.04 + 0.25 + 1)
    assert magnitude_loss(W, H, "2:4", mask) == pytest.approx(1 + 4 + 0.01 + 0.04)
    assert magnitude_loss(W, H, "block:2", mask) == pytest.approx(0.05 + 10)
    columns = np.array([[1, 0, 0, 0]] * 2, bool)
    assert magnitude_loss(W, H, "columns", columns) == pytest.approx(4.01)
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits=3)
    assert magnitude_loss(W, H, "2:4", mask, grid) == pytest.approx(1 + 4 + 0.01 + 0.04 + 0.25)
