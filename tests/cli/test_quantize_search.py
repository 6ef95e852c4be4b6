"""``quiplinalg quantize --method obq | kbest``: the library's results, options, and refusals."""

import numpy as np
import pytest

from quiplinalg import kbest, obq, open_problem, open_result
from quiplinalg.cli.main import main
from quiplinalg.files import ProblemWriter


@pytest.fixture
def problem(tmp_path):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((64, 24)) * np.exp(rng.standard_normal(24))
    with ProblemWriter(tmp_path / "in.h5") as writer:
        for name in ("a", "b"):
            writer.add(name, rng.standard_normal((6, 24)).astype(np.float32), X.T @ X / 64)
    return str(tmp_path / "in.h5")


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.h5")


@pytest.mark.parametrize(
    "method, flags, keywords",
    [
        (obq, [], {}),
        (obq, ["--bits", "2", "--outliers-first"], {"bits": 2, "outliers_first": True}),
        (obq, ["--group-size", "8", "--sym", "--damp", "0.1"],
         {"group_size": 8, "sym": True, "damp": 0.1}),
        (obq, ["--order", "act", "--clip", "minmax"], {"order": "act", "clip": "minmax"}),
        (kbest, [], {}),
        (kbest, ["--k", "3", "--bits", "3", "--group-size", "8"],
         {"k": 3, "bits": 3, "group_size": 8}),
        (kbest, ["--order", "natural", "--sym"], {"order": "natural", "sym": True}),
    ],
)  # fmt: skip
def test_the_library_with_its_own_defaults(problem, out, method, flags, keywords, capsys):
    assert main(["quantize", problem, out, "--method", method.__name__, *flags]) == 0
    with open_problem(problem) as source, open_result(out) as result:
        for name in result.names:
            q = result.layer(name)
            expected = method(source.weight(name), source.hessian(name), **keywords)
            np.testing.assert_array_equal(q.codes, expected.codes)
            assert q.method == method.__name__ and q.order == expected.order
            assert q.loss == expected.loss
    assert main(["verify", problem, out]) == 0


def test_what_is_refused(problem, out, capsys):
    for flags, text in (
        (["--method", "obq", "--seed", "1"], "--seed is for --method"),
        (["--method", "kbest", "--rounding", "stochastic"], "--rounding is for --method"),
        (["--method", "ldlq", "--k", "2"], "--k is for --method kbest"),
        (["--method", "gptq", "--outliers-first"], "--outliers-first is for --method obq"),
        (["--method", "ldlq", "--order", "greedy"], "order must be one of natural"),
        (["--method", "obq", "--static-groups"], "--static-groups is for"),
        (["--method", "kbest", "--k", "0"], "k must be a whole number"),
        (["--method", "obq", "--clip", "best"], "clip must be 'mse' or 'minmax'"),
    ):
        assert main(["quantize", problem, out, *flags]) in (2, 4), flags
        assert text in capsys.readouterr().err
