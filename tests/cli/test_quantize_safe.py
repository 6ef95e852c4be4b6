"""``quiplinalg quantize --method safe``: its defaults, its bound, and what it refuses."""

import numpy as np
import pytest

from quiplinalg import open_problem, open_result, safe
from quiplinalg.cli.main import main
from quiplinalg.files import ProblemWriter
from quiplinalg.model.options import layer_seed


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
    "flags, keywords",
    [
        ([], {}),
        (["--c", "0.05", "--group-size", "8"], {"c": 0.05, "group_size": 8}),
        (["--c", "0", "--clip", "mse", "--order", "act"], {"c": 0, "clip": "mse", "order": "act"}),
        (["--rounding", "nearest", "--bits", "3"], {"rounding": "nearest", "bits": 3}),
    ],
)
def test_the_library_with_its_own_defaults(problem, out, flags, keywords, capsys):
    assert main(["quantize", problem, out, "--method", "safe", *flags]) == 0
    with open_problem(problem) as source, open_result(out) as result:
        for name in result.names:
            W, H, q = source.weight(name), source.hessian(name), result.layer(name)
            expected = safe(W, H, seed=layer_seed(0, name), **keywords)
            np.testing.assert_array_equal(q.codes, expected.codes)
            assert q.method == "safe" and q.feedback_bound == keywords.get("c", 1.0)
            assert (q.loss, q.seed) == (expected.loss, expected.seed)
    assert main(["verify", problem, out]) == 0


def test_the_bound_from_a_file(problem, out, tmp_path, capsys):
    config = tmp_path / "c.toml"
    config.write_text('method = "safe"\nc = 0.25\nseed = 3\n')
    assert main(["quantize", problem, out, "--config", str(config)]) == 0
    with open_result(out) as result:
        q = result.layer("a")
        assert q.feedback_bound == 0.25 and q.seed == layer_seed(3, "a")
    config.write_text('method = "safe"\nc = "much"\n')
    assert main(["quantize", problem, out, "--config", str(config), "--overwrite"]) == 2
    assert "c must be a number" in capsys.readouterr().err


def test_what_is_refused(problem, out, capsys):
    for flags, text in (
        (["--method", "safe", "--c", "-1"], "c must be"),
        (["--method", "safe", "--c", "nan"], "c must be"),
        (["--method", "ldlq", "--c", "1"], "--c is for --method safe"),
        (["--method", "safe", "--static-groups"], "--static-groups is for"),
    ):
        assert main(["quantize", problem, out, *flags]) == 2
        assert text in capsys.readouterr().err
