"""A Hessian read from its file in pieces is the Hessian read as a whole."""

from __future__ import annotations

import h5py
import ml_dtypes
import numpy as np
import pytest
from identical import assert_identical

import quiplinalg as ql
from quiplinalg.files import hessian_source as module
from quiplinalg.rounding.out_of_core import least_memory, round_out_of_core

DTYPES = (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
STORAGES = ("lower", "full")


def hessian(n, dtype=np.float32, seed=0):
    X = np.random.default_rng([seed, n]).standard_normal((n + 9, n))
    H = (X.T @ X / (n + 9)).astype(dtype)
    return np.tril(H) + np.tril(H, -1).T


def problem(path, W, H, storage):
    with ql.ProblemWriter(path) as file:
        file.add("layer", W, H, storage=storage)
    return ql.open_problem(path)


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (1, 2, 33, 70))
def test_its_parts_are_those_of_the_whole(tmp_path, monkeypatch, n, dtype, storage):
    monkeypatch.setattr(module, "_BUFFER", 600)  # several passes
    rng = np.random.default_rng(n)
    H = hessian(n, dtype)
    with problem(tmp_path / "p.h5", np.ones((2, n)), H, storage) as file:
        whole = file.hessian("layer").astype(np.float64 if dtype == np.float64 else np.float32)
        source = file.hessian_source("layer")
        assert (source.n, source.dtype) == (n, whole.dtype)
        for checked in (False, True):
            if checked:
                source.check(4 * 4 * 32 * 32)
                assert source.mirrored
            assert (source.diagonal() == whole.diagonal()).all()
            for _ in range(4):
                i, j = (sorted(rng.integers(0, n + 1, 2)) for _ in range(2))
                part = source.block(slice(*map(int, i)), slice(*map(int, j)))
                assert (part == whole[slice(*i), slice(*j)]).all() and part.dtype == whole.dtype
                rows = rng.permutation(n)[: rng.integers(1, n + 1)]
                columns = rng.permutation(n)[: rng.integers(1, n + 1)]
                out = np.full((len(columns), len(rows)), np.nan, order="F")
                source.fill(out, rows, columns)
                assert (out == whole[np.ix_(rows, columns)].T).all()
            blocks = list(source.column_blocks(np.dtype(np.float32), 8 * n * 9))
            narrow = whole.astype(np.float32)
            assert (np.concatenate([each for _, each in blocks], axis=1) == narrow).all()


def test_passes_over_a_triangle_are_bounded():
    class Long(module.HessianSource):
        def __init__(self, n):
            self.n, self.dtype = n, np.dtype(np.float32)

    for n in (1, 5, 3000, 53248):
        passes = Long(n)._passes()
        assert [a for a, _ in passes[1:]] == [b for _, b in passes[:-1]]
        assert passes[0][0] == 0 and passes[-1][1] == n
        sizes = [4 * (b * (b + 1) - a * (a + 1)) // 2 for a, b in passes]
        assert max(sizes) <= module._BUFFER
        assert len(sizes) <= 2 * sum(sizes) // module._BUFFER + 2


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("n", (5, 64, 257, 700))
@pytest.mark.parametrize("order", ("act", "natural"))
def test_codes_are_those_of_the_array(tmp_path, n, storage, order):
    W = np.random.default_rng(0).standard_normal((40, n)).astype(np.float16)
    with problem(tmp_path / "p.h5", W, hessian(n), storage) as file:
        q = round_out_of_core(
            file.weight("layer"),
            file.hessian_source("layer"),
            "ldlq",
            {"order": order, "group_size": 64},
            scratch=tmp_path,
            memory=least_memory(40, n, 4, ql.parallel.thread_count()),
        )
        expected = ql.ldlq(W, file.hessian("layer"), order=order, group_size=64)
    assert_identical(q, expected, ("loss", "trace_D"))
    assert q.loss == pytest.approx(expected.loss, rel=1e-11)


def test_a_full_matrix_that_is_not_quite_symmetric(tmp_path):
    n = 100
    H = hessian(n)
    H[np.triu_indices(n, 1)] *= np.float32(1 + 1e-6)
    W = np.random.default_rng(0).standard_normal((8, n))
    with problem(tmp_path / "p.h5", W, H, "full") as file:
        source = file.hessian_source("layer")
        memory = least_memory(8, n, 8, ql.parallel.thread_count())
        q = round_out_of_core(W, source, "ldlq", {}, scratch=tmp_path, memory=memory)
        assert not source.mirrored
    assert_identical(q, ql.ldlq(W, H), ("loss", "trace_D"))


@pytest.mark.parametrize("storage", STORAGES)
def test_it_is_checked_as_the_array_is(tmp_path, storage):
    n = 40
    for i, j, value in ((3, 5, np.nan), (7, 7, -1.0), (6, 6, 0.0), (30, 2, np.inf)):
        H = hessian(n)
        H[i, j] = H[j, i] = value
        path = tmp_path / f"{i}.h5"
        with ql.ProblemWriter(path) as file:
            file.add("layer", np.ones((2, n)), np.eye(n), storage=storage)
        with h5py.File(path, "r+") as raw:  # the writer refuses such values
            stored = raw["layers/layer/hessian"]
            lower = H[np.tril_indices(n)]
            stored[...] = H if storage == "full" else lower
        with ql.open_problem(path) as file:
            with pytest.raises(ql.QuipLinalgError) as whole:
                ql.ldlq(np.ones((2, n)), file.hessian("layer"))
            with pytest.raises(ql.QuipLinalgError) as pieces:
                file.hessian_source("layer").check(4 * 8 * 32 * 32)
        assert type(pieces.value) is type(whole.value)
        assert str(pieces.value) == str(whole.value)


def test_a_compressed_hessian_of_another_program(tmp_path):
    """It is read as well, and damage in a chunk is a format error."""
    n, path = 80, tmp_path / "p.h5"
    H = hessian(n)
    problem(path, np.ones((2, n)), H, "full").close()
    with h5py.File(path, "r+") as raw:
        attributes = dict(raw["layers/layer/hessian"].attrs)
        del raw["layers/layer/hessian"]
        data = raw["layers/layer"].create_dataset("hessian", data=H, chunks=(16, 80), compression=4)
        data.attrs.update(attributes)
        chunk = data.id.get_chunk_info(2)
    with ql.open_problem(path) as file:
        source = file.hessian_source("layer")
        assert (source.block(slice(10, 60), slice(5, 70)) == H[10:60, 5:70]).all()
    with open(path, "rb+") as raw:
        raw.seek(chunk.byte_offset + 20)
        raw.write(b"no zlib stream")
    with ql.open_problem(path) as file, pytest.raises(ql.FormatError):
        file.hessian_source("layer")
