"""Problem files that have only the diagonal of a Hessian, and sensitivities of layers."""

import h5py
import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.errors import DTypeError, FormatError, InvalidArgumentError, NonFiniteError
from quiplinalg.files import Limits, open_problem

W = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
D = np.array([4, 0, 0.25, 1, 9], np.float32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "problem.h5"


def write(path, diagonal=D, **keywords):
    with ql.ProblemWriter(path, overwrite=True) as writer:
        writer.add("a", W, diagonal, storage="diagonal", **keywords)
        writer.add("b", W.T, shared_hessian_of="a", orientation="in_out", sensitivity=2.5)
        writer.add("full", W, np.diag(D), storage="full")
        writer.add("c", W, diagonal.copy(), storage="diagonal", **keywords)
    return path


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_round_trip(path, dtype):
    with open_problem(write(path, D.astype(dtype), n_samples=7)) as problem:
        info = problem.info("a")
        assert (info.storage, info.sensitivity, info.n_samples) == ("diagonal", 1.0, 7)
        assert info.hessian_dtype == dtype and problem.info("b").sensitivity == 2.5
        assert problem.info("full").storage == "full"
        np.testing.assert_array_equal(problem.diagonal("a"), D)
        np.testing.assert_array_equal(problem.diagonal("full"), D)
        np.testing.assert_array_equal(problem.hessian("a"), np.diag(D))
        assert problem.hessian("a").dtype == dtype
        assert problem.shared() == [["a", "b", "c"], ["full"]]
        with pytest.raises(FormatError, match="got its diagonal"):
            problem.hessian_source("a")


@pytest.mark.parametrize("n", [0, 1, 2])
def test_the_shapes_of_a_triangle_and_a_diagonal_may_be_the_same(path, n):
    with ql.ProblemWriter(path) as writer:
        writer.add("diagonal", np.ones((2, n)), np.ones(n), storage="diagonal")
        writer.add("lower", np.ones((2, n)), np.eye(n), storage="lower")
    with open_problem(path) as problem:
        np.testing.assert_array_equal(problem.hessian("diagonal"), np.eye(n))
        np.testing.assert_array_equal(problem.hessian("lower"), np.eye(n))
        assert problem.info("diagonal").hessian_key != problem.info("lower").hessian_key


@pytest.mark.parametrize(
    "error, said, keywords",
    [
        (InvalidArgumentError, "its diagonal", {"hessian": np.diag(D), "storage": "diagonal"}),
        (InvalidArgumentError, "its diagonal", {"hessian": D[:3], "storage": "diagonal"}),
        (InvalidArgumentError, "hessian", {"hessian": D}),
        (InvalidArgumentError, "no negative", {"hessian": -D, "storage": "diagonal"}),
        (NonFiniteError, "hessian", {"hessian": D * np.float32(np.nan), "storage": "diagonal"}),
        (DTypeError, "hessian", {"hessian": D.astype(int), "storage": "diagonal"}),
        (InvalidArgumentError, "sensitivity", {"hessian": np.diag(D), "sensitivity": 0}),
        (InvalidArgumentError, "sensitivity", {"hessian": np.diag(D), "sensitivity": np.inf}),
        (InvalidArgumentError, "sensitivity", {"hessian": np.diag(D), "sensitivity": "2"}),
        (InvalidArgumentError, "sensitivity", {"hessian": np.diag(D), "sensitivity": True}),
    ],
)
def test_what_is_not_written(path, error, said, keywords):
    with ql.ProblemWriter(path) as writer, pytest.raises(error, match=said):
        writer.add("a", W, **keywords)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_diagonal_that_is_none_is_not_read(path, value):
    write(path)
    with h5py.File(path, "r+") as file:
        file["layers/a/hessian"][2] = value
    with open_problem(path) as problem, pytest.raises(FormatError, match="at least 0"):
        problem.diagonal("a")


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, "much"])
def test_a_sensitivity_that_is_none_is_not_read(path, value):
    write(path)
    with h5py.File(path, "r+") as file:
        file["layers/a"].attrs["sensitivity"] = value
    with open_problem(path) as problem, pytest.raises(FormatError, match="sensitivity"):
        problem.info("a")


def test_a_wrong_shape_or_storage_is_not_read(path):
    write(path)
    with h5py.File(path, "r+") as file:
        file["layers/full/hessian"].attrs["storage"] = "diagonal"
        file["layers/a/hessian"].attrs["storage"] = "lower"
    with open_problem(path) as problem:
        with pytest.raises(FormatError, match="1-D"):
            problem.info("full")
        with pytest.raises(FormatError, match=r"lower triangle as \(15,\)"):
            problem.info("a")


def test_only_what_is_asked_for_must_fit(path):
    with ql.ProblemWriter(path) as writer:
        writer.add("a", W[:2], D, storage="diagonal")
    with open_problem(path, limits=Limits(max_bytes=60)) as problem:
        assert problem.diagonal("a").shape == (5,)
        with pytest.raises(FormatError, match="at most 60 bytes"):
            problem.hessian("a")


def test_the_loss_of_a_diagonal(path):
    q = ql.nearest(W, D, bits=2)
    whole = ql.nearest(W, np.diag(D), bits=2)
    np.testing.assert_array_equal(q.codes, whole.codes)
    assert q.loss == pytest.approx(whole.loss, rel=1e-12) and q.loss > 0
    with pytest.raises(InvalidArgumentError, match=r"\(n, n\) or \(n,\)"):
        ql.nearest(W, D[:3])


def test_a_run_takes_nearest_only(path, tmp_path):
    out = tmp_path / "out.h5"
    write(path)
    for options in ({}, {"method": "gptq"}, {"method": "nearest", "refine": 1}):
        with pytest.raises(InvalidArgumentError, match="only the diagonal of its Hessian"):
            ql.quantize_model(path, out, **options)
    config = tmp_path / "rules.toml"
    config.write_text("[[rules]]\nmatch = '[abc]'\nmethod = 'nearest'\nbits = 3\n")
    run = ql.quantize_model(path, out, config=config, compare_rows=None)
    assert {facts["layer"]: facts["method"] for facts in run.done} == {
        "a": "nearest", "b": "nearest", "c": "nearest", "full": "ldlq",
    }  # fmt: skip
    a = run.done[0]
    assert a["loss"] == ql.nearest(W, D, bits=3).loss == a["nearest_loss"]
    assert a["weight_energy"] == pytest.approx(ql.proxy_loss(0 * W, W, D), rel=1e-5)
    mixed = ql.quantize_model(path, out, method="nearest", bits=(2, 3, 4), budget=18.0,
                              overwrite=True)  # fmt: skip
    assert [facts["bits"] for facts in mixed.done] != [2, 2, 2, 2]
    with open_problem(path) as problem, ql.open_result(out) as result:
        for name in result.names:
            assert ql.verify(problem.weight(name), problem.hessian(name), result.layer(name)).ok
