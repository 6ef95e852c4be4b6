"""``quiplinalg plan``, and several bits for ``quantize``: what is printed, and exit codes."""

import json
import os

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.cli.main import main


@pytest.fixture
def model(tmp_path):
    rng = np.random.default_rng(0)
    path = str(tmp_path / "model.h5")
    with ql.ProblemWriter(path) as file:
        for k, name in enumerate(("small", "large")):
            W = (10**k * rng.standard_normal((16, 32))).astype(np.float32)
            file.add(name, W, np.eye(32, dtype=np.float32), sensitivity=2.0 - k)
        file.add("diagonal", W, np.ones(32, np.float32), storage="diagonal")
    return path


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.h5")


FLAGS = ("--bits", "2,3,4", "--exclude", "diagonal")


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_plan_and_then_the_run(model, out, capsys):
    assert main(["plan", model, out, *FLAGS, "--budget", "4.2"]) == 0
    text = capsys.readouterr().out
    assert "sensitivity  2-bit dB  3-bit dB  4-bit dB  chosen" in text
    assert "every layer 3 bits" in text and "#" in text
    assert "no other choice of these widths has less loss" in text
    assert f"6 roundings are kept in {out}.run" in text and os.path.isdir(out + ".run")
    assert main(["plan", model, out, *FLAGS, "--budget", "4.2", "--resume", "--json"]) == 0
    events = lines(capsys)
    assert [e["event"] for e in events] == [
        "start", "rates", "rates", "curve", "uniform", "summary",
    ]  # fmt: skip
    assert events[0]["resumed"] == events[0]["roundings"] == 6
    planned = events[-1]
    flags = ["--budget", "4.2", "--resume", "--json"]
    assert main(["quantize", model, out, *FLAGS, *flags]) == 0
    events = lines(capsys)
    assert [e["event"] for e in events] == ["start", "summary"] and events[-1]["resumed"] == 6
    for key in ("bits", "budget", "stored_bits", "weighted_loss", "optimal", "bound_db"):
        assert events[-1][key] == planned[key]
    with ql.open_result(out) as result:
        assert {n: result.layer(n).grid.bits for n in result.names} == planned["bits"]
    assert planned["stored_bits"] <= 4.2 * 2 * 16 * 32


def test_rates_in_json(model, capsys):
    assert main(["plan", model, *FLAGS, "--json"]) == 0
    events = lines(capsys)
    assert sorted(e["bits"] for e in events if e["event"] == "layer") == [2, 2, 3, 3, 4, 4]
    large, small = (e for e in events if e["event"] == "rates")
    assert (large["layer"], large["sensitivity"], small["sensitivity"]) == ("large", 1.0, 2.0)
    assert large["chosen"] is None and "budget" not in events[-1]
    curve = next(e for e in events if e["event"] == "curve")["points"]
    uniform = next(e for e in events if e["event"] == "uniform")["points"]
    assert [point["bits"] for point in uniform] == [2, 3, 4]
    # the ends of the curve are every layer at its narrowest and at its widest
    ends = (uniform[0], uniform[-1])
    for point, end in zip((curve[0], curve[-1]), ends, strict=True):
        assert point["stored_bits"] == end["stored_bits"]
        assert point["weighted_loss"] == pytest.approx(end["weighted_loss"])
    weighted = large["losses"][0] + 2 * small["losses"][0]
    assert curve[0]["weighted_loss"] == pytest.approx(weighted)


def test_without_an_output_nothing_is_left(model, tmp_path, capsys):
    before = sorted(os.listdir(tmp_path))
    assert main(["plan", model, *FLAGS, "--budget", "4.2"]) == 0
    assert "kept" not in capsys.readouterr().out and sorted(os.listdir(tmp_path)) == before


def test_the_summary_of_a_run(model, out, capsys):
    assert main(["quantize", model, out, *FLAGS, "--budget", "600 B"]) == 0
    text = capsys.readouterr().out
    assert "budget 600 bytes: " in text and "used, no other choice" in text
    assert main(["quantize", model, out + "2", *FLAGS, "--budget", "4.2", "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "2 layers, 1024 weights" in text and text.count("\nlarge ") == 3


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--bits", "2,3"], "only the diagonal of its Hessian"),
        ([*FLAGS[2:], "--bits", "3"], "bits must be several"),
        ([*FLAGS, "--budget", "1"], "more than 2 bits a weight"),
        ([*FLAGS, "--budget", "3"], "the least that these widths take, to"),
        ([*FLAGS, "--budget", "3 cows"], "must be bits a weight, 64 at most, as 2.5, or bytes"),
        ([*FLAGS, "--budget", "300"], "64 at most"),
        (["--bits", "2,x"], "must be a whole number, or several"),
        ([*FLAGS, "--resume", "--restart"], "--restart throws a run away"),
    ],
)
def test_usage_errors(model, out, arguments, said, capsys):
    assert main(["plan", model, out, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_several_bits_need_a_budget(model, out, capsys):
    for extra in ([], ["--dry-run"]):
        assert main(["quantize", model, out, *FLAGS, *extra]) == 2
        assert "budget must say how large" in capsys.readouterr().err


def test_only_nearest_for_a_diagonal(model, out, capsys):
    assert main(["quantize", model, out, "--method", "nearest", "--bits", "3"]) == 0
    assert main(["verify", model, out]) == 0
    assert main(["inspect", model]) == 0
    assert "diagonal" in capsys.readouterr().out
