"""``quantize --method lnq``, --refit and --rank: the library's results, and what is refused."""

import json

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.cli.main import main


@pytest.fixture
def problem(tmp_path):
    rng = np.random.default_rng(0)
    with ql.ProblemWriter(tmp_path / "in.h5") as writer:
        X = rng.standard_normal((64, 24)) * np.exp(rng.standard_normal(24))
        writer.add("a", rng.standard_t(4, (8, 24)).astype(np.float32), X.T @ X / 64)
        writer.add("b", rng.standard_t(4, (6, 24)).astype(np.float32), shared_hessian_of="a")
    return str(tmp_path / "in.h5")


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.h5")


@pytest.mark.parametrize(
    "flags, call",
    [
        ("--method lnq --bits 3", lambda W, H: ql.lnq(W, H, 3)),
        ("--method lnq --order natural --damp 0.1 --clip minmax --rank 2",
         lambda W, H: ql.low_rank_correction(
             W, H, ql.lnq(W, H, order="natural", damp=0.1, clip="minmax"), 2)),
        ("--method lnq --rounds 1 --level-dtype float32",
         lambda W, H: ql.lnq(W, H, rounds=1, level_dtype="float32")),
        ("--refit scale", lambda W, H: ql.refit(W, H, ql.ldlq(W, H))),
        ("--method gptq --bits 3 --group-size 8 --refit both --rank 1",
         lambda W, H: ql.low_rank_correction(
             W, H, ql.refit(W, H, ql.gptq(W, H, 3, group_size=8), fit="both"), 1)),
        ("--refine all --refit scale",
         lambda W, H: ql.refit(W, H, ql.descend(W, H, ql.ldlq(W, H)))),
        ("--method nearest --bits 3 --rank 3",
         lambda W, H: ql.low_rank_correction(W, H, ql.nearest(W, H, bits=3), 3)),
    ],
)  # fmt: skip
def test_the_result_is_the_librarys_and_verifies(problem, out, flags, call, capsys):
    assert main(["quantize", problem, out, *flags.split()]) == 0
    with ql.open_problem(problem) as source, ql.open_result(out) as result:
        for name in result.names:
            q, expected = result.layer(name), call(source.weight(name), source.hessian(name))
            assert (q.__array__() == expected.__array__()).all()
            assert (q.loss, q.refit) == (expected.loss, expected.refit)
            assert q.bits_per_weight == expected.bits_per_weight
    capsys.readouterr()
    assert main(["verify", problem, out]) == 0
    assert ("loss, fit" in capsys.readouterr().out) == (expected.refit is not None)
    assert main(["inspect", out, "--json"]) == 0
    layer = json.loads(capsys.readouterr().out.splitlines()[0])
    rank = 0 if expected.correction is None else expected.correction.rank
    assert (layer["refit"], layer["rank"]) == (expected.refit, rank)


def test_rotated_layers_are_fitted_and_corrected_too(problem, out, capsys):
    flags = ["--method", "quip", "--rotation", "hadamard", "--refit", "scale", "--rank", "2"]
    assert main(["quantize", problem, out, *flags]) == 0
    assert main(["verify", problem, out]) == 0
    with ql.open_result(out) as result:
        q = result.layer("a")
        assert q.processing is not None and q.refit == "scale" and q.correction.rank == 2
    capsys.readouterr()
    assert main(["inspect", out]) == 0
    assert "refit  rank" in capsys.readouterr().out


def test_there_are_no_certificates_of_levels_and_corrections(problem, out, tmp_path, capsys):
    assert main(["quantize", problem, out, "--method", "lnq"]) == 0
    capsys.readouterr()
    path = str(tmp_path / "c.json")
    assert main(["verify", problem, out, "--certificate", path, "--rows", "1"]) == 0
    assert "no certificate for 2 layers" in capsys.readouterr().out
    with open(path) as file:
        assert json.load(file)["layers"] == {}


@pytest.mark.parametrize("flags", (["--method", "lnq"], ["--rank", "1"]))
def test_exports_that_know_only_codes_name_the_alternative(problem, out, tmp_path, flags, capsys):
    assert main(["quantize", problem, out, *flags]) == 0
    from quiplinalg.export.codes import integer_codes

    with ql.open_result(out) as result, pytest.raises(ql.InvalidArgumentError, match="to='dense'"):
        integer_codes(result.layer("a"))
    target = tmp_path / "w.npz"
    assert main(["export", out, str(target), "--to", "dense"]) == 0
    with ql.open_result(out) as result:
        assert (np.load(target)["a"] == result.layer("a").__array__(np.float32)).all()


@pytest.mark.parametrize(
    "flags, text",
    [
        (["--method", "lnq", "--refit", "scale"], "--refit is for --method"),
        (["--method", "lnq", "--refine", "1"], "--refine is for --method"),
        (["--method", "lnq", "--group-size", "8"], "--group-size is for --method"),
        (["--refit", "zeros"], "invalid choice: 'zeros'"),
        (["--rank", "-1"], "rank must be a whole number of at least 0"),
        (["--rank", "x"], "must be a whole number"),
    ],
)
def test_what_is_refused(problem, out, flags, text, capsys):
    assert main(["quantize", problem, out, *flags]) == 2
    assert text in capsys.readouterr().err


def test_a_rank_that_a_layer_has_not_fails_that_layer_alone(problem, out, capsys):
    assert main(["quantize", problem, out, "--rank", "7"]) == 3
    assert "layer 'b': rank must be a whole number from 0 to 6" in capsys.readouterr().err
