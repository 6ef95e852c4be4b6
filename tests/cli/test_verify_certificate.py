"""``quiplinalg verify --certificate``: the figures, their file, and what is left alone."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.cli.main import main


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    problem, result = str(tmp_path / "in.h5"), str(tmp_path / "out.h5")
    with ql.ProblemWriter(problem) as writer:
        for name, n in (("block/q", 16), ("head", 12)):
            X = rng.standard_normal((4 * n, n))
            W = rng.standard_normal((6, n)).astype(np.float32)
            writer.add(name, W, (X.T @ X / len(X)).astype(np.float32))
    assert main(["quantize", problem, result, "--bits", "2"]) == 0
    return problem, result


def test_the_figures_are_those_of_certify(files, tmp_path, capsys):
    problem, result = files
    before = open(result, "rb").read()
    capsys.readouterr()
    assert main(["verify", problem, result, "--certificate", "--rows", "3", "--seed", "5"]) == 0
    text = capsys.readouterr().out
    path = str(tmp_path / "out.certificate.json")
    assert "dual gap dB" in text and "not a bound for others" in text and path in text
    assert "all pass" in text and open(result, "rb").read() == before
    assert sorted(os.listdir(tmp_path)) == ["in.h5", "out.certificate.json", "out.h5"]
    stored = json.load(open(path))
    assert (stored["seed"], stored["result"]) == (5, "out.h5")
    with ql.open_problem(problem) as source, ql.open_result(result) as read:
        assert set(stored["layers"]) == {"block/q", "head"}
        for name, figures in stored["layers"].items():
            found = ql.certify(
                source.weight(name), source.hessian(name), read.layer(name), rows=3, seed=5
            )
            for key, value in vars(found).items():
                wanted = list(value) if isinstance(value, tuple) else value
                assert figures[key] == wanted, key
            assert f"{found.dual_gap_db:.2f}" in text and f"{found.rest_db:.2f}" in text


def test_as_json(files, tmp_path, capsys):
    problem, result = files
    path = str(tmp_path / "mine.json")
    capsys.readouterr()
    assert main(["verify", problem, result, "--certificate", path, "--rows", "0", "--json"]) == 0
    *layers, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert summary["certificate"] == path and summary["ok"]
    stored = json.load(open(path))["layers"]
    assert all(event["certificate"] == stored[event["layer"]] for event in layers)
    # no rows, no dual bound: NaN is null
    assert stored["head"]["rows"] == [] and stored["head"]["dual_gap_db"] is None


def test_nothing_is_overwritten_without_being_asked(files, tmp_path, capsys):
    problem, result = files
    path = tmp_path / "out.certificate.json"
    path.write_text("precious")
    assert main(["verify", problem, result, "--certificate"]) == 2
    assert "--overwrite" in capsys.readouterr().err and path.read_text() == "precious"
    assert main(["verify", problem, result, "--certificate", "--overwrite", "--rows", "1"]) == 0
    assert all(len(c["rows"]) == 1 for c in json.loads(path.read_text())["layers"].values())
    before = open(result, "rb").read()
    for target in (problem, result):
        run = ["verify", problem, result, "--certificate", target, "--overwrite"]
        assert main(run) == 2
        assert "a file of its own" in capsys.readouterr().err
    assert open(result, "rb").read() == before


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--rows", "3"], "needs --certificate"),
        (["--rows", "0"], "needs --certificate"),
        (["--seed", "0"], "needs --certificate"),
        (["--certificate", "other.h5"], "a JSON file"),
        (["--overwrite"], "needs --certificate"),
        (["--certificate", "no/such/folder.json"], "existing directory"),
        (["--certificate", "--rows", "-1"], "rows"),
        (["--certificate", "--rows", "many"], "--rows"),
        (["--certificate", "--seed", "-1"], "seed"),
    ],
)
def test_usage_errors(files, flags, said, tmp_path, capsys):
    assert main(["verify", *files, *flags]) == 2
    assert said in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["in.h5", "out.h5"]


def test_a_layer_that_fails_has_its_certificate_all_the_same(files, tmp_path, capsys):
    """The bounds are of the grid, whatever the codes."""
    problem, result = files
    broken = str(tmp_path / "broken.h5")
    with ql.open_result(result) as read, ql.ResultWriter(broken) as writer:
        q = read.layer("head")
        q.codes[0, 0] ^= 3
        writer.add("head", q)
    assert main(["verify", problem, broken, "--certificate", "--rows", "2"]) == 1
    figures = json.load(open(tmp_path / "broken.certificate.json"))["layers"]["head"]
    assert all(low <= high for low, high in zip(figures["row_bounds"], figures["row_losses"],
                                                strict=True))  # fmt: skip


def test_pruned_layers_are_named_as_having_none(files, tmp_path, capsys):
    problem, _ = files
    result, path = str(tmp_path / "pruned.h5"), tmp_path / "c.json"
    assert main(["prune", problem, result, "--sparsity", "0.5"]) == 0
    capsys.readouterr()
    assert main(["verify", problem, result, "--certificate", str(path)]) == 0
    assert "no certificate for 2 pruned layers" in capsys.readouterr().out
    assert json.loads(path.read_text())["layers"] == {}


def test_a_write_that_fails_leaves_nothing(files, tmp_path, monkeypatch):
    import quiplinalg.files.atomic as atomic

    def full(*arguments):
        raise OSError("No space left on device")

    monkeypatch.setattr(atomic, "commit", full)
    assert main(["verify", *files, "--certificate", "--rows", "0"]) == 1
    assert sorted(os.listdir(tmp_path)) == ["in.h5", "out.h5"]


def test_wide_layers_get_fewer_rows_unless_they_are_asked_for():
    from quiplinalg.cli.certificates import Draw

    draw = Draw("x.json", None, 0)
    assert [draw.rows_of(n) for n in (64, 256, 257, 512, 513, 4096)] == [16, 16, 4, 4, 0, 0]
    assert Draw("x.json", 2, 0).rows_of(4096) == 2
