"""The flags of ``quantize``: each option has one, and a file with rules goes through the policy."""

import numpy as np
import pytest

from quiplinalg import ProblemWriter, open_result
from quiplinalg.cli.common import Parser, UsageError
from quiplinalg.cli.main import main
from quiplinalg.cli.settings import add_settings, layer_policy
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.model.choices import OPTIONS, SETTINGS
from quiplinalg.model.options import resolve


def policy(arguments, config=None):
    parser = Parser(prog="test")
    add_settings(parser)
    options = parser.parse(arguments)
    options.config = config
    return layer_policy(options)


def test_every_option_has_a_flag():
    parser = Parser(prog="test")
    add_settings(parser)
    flags = {action.dest for action in parser._actions} - {"help"}
    assert flags == {*OPTIONS, *SETTINGS}


def test_flags():
    flags = "--method gptq --bits 3 --group-size row --refine all --no-sym --damp 0.1".split()
    assert policy(flags).for_layer("x") == resolve(
        {"method": "gptq", "bits": 3, "refine": "all", "damp": 0.1}
    )
    settings = "--jobs 2 --max-memory 8GB --include a --include b --overwrite".split()
    assert policy(settings).settings == {
        "jobs": 2, "max_memory": 8 * 10**9, "include": ["a", "b"], "overwrite": True,
    }  # fmt: skip
    assert policy([]).settings == {} and policy([]).for_layer("x") == resolve({})


def test_flags_come_before_rules(tmp_path):
    config = tmp_path / "c.toml"
    config.write_text("sym = true\nthreads = 2\n[[rules]]\nmatch = '.*q'\nbits = 3\n")
    found = policy([], config)
    assert found.for_layer("a.q") == resolve({"bits": 3, "sym": True})
    assert found.for_layer("a.v") == resolve({"bits": 2, "sym": True})
    found = policy(["--bits", "4", "--threads", "1"], config)
    assert found.for_layer("a.q") == resolve({"bits": 4, "sym": True})
    assert found.settings == {"threads": 1}
    assert found.overridden()[0].startswith("--bits 4 comes before bits = 3 of ")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--bits", "two"], "--bits: must be a whole number, or several"),
        (["--damp", "much"], "--damp: must be a number or \"auto\"; got 'much'"),
        (["--max-memory", "8 cows"], "--max-memory: must be a number of bytes"),
        (["--clip", "none"], "--clip"),
        (["--k", "2"], "--k is for --method kbest; got it with ldlq"),
        (["--bits", "9"], "bits must be a whole number from 1 to 8"),
    ],
)
def test_usage_errors(arguments, said):
    with pytest.raises((UsageError, InvalidArgumentError)) as caught:
        policy(arguments)
    assert said in str(caught.value)


@pytest.fixture
def problem(tmp_path):
    rng = np.random.default_rng(0)
    with ProblemWriter(tmp_path / "in.h5") as writer:
        for name in ("0/q", "0/up", "head"):
            writer.add(name, rng.standard_normal((4, 8)).astype(np.float32), np.eye(8))
    return str(tmp_path / "in.h5")


def test_rules_reach_the_layers(problem, tmp_path, capsys):
    config, out = tmp_path / "c.toml", str(tmp_path / "out.h5")
    config.write_text(
        "bits = 3\n[[rules]]\nmatch = '.*q'\nmethod = 'nearest'\nbits = 5\n"
        "[[rules]]\nmatch = 'head'\nskip = true\n[[rules]]\nmatch = 'up'\nsym = true\n"
    )
    assert main(["quantize", problem, out, "--config", str(config), "--sym"]) == 0
    with open_result(out) as result:
        found = {name: result.layer(name) for name in result.names}
    assert {name: (q.method, q.grid.bits, q.grid.kind) for name, q in found.items()} == {
        "0/q": ("nearest", 5, "sym"), "0/up": ("ldlq", 3, "sym"),
    }  # fmt: skip
    said = capsys.readouterr().err
    assert "rule 3 (match = 'up') matches no layer; it must match the whole name" in said


def test_a_wrong_rule_is_a_usage_error(problem, tmp_path, capsys):
    config, out = tmp_path / "c.toml", tmp_path / "out.h5"
    config.write_text("[[rules]]\nmatch = '.*q'\nk = 3\n")
    assert main(["quantize", problem, str(out), "--config", str(config)]) == 2
    said = capsys.readouterr().err
    assert "c.toml, rule 1 (match = '.*q'): k is for --method kbest; got it with ldlq" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.toml", "in.h5"]
