"""A matrix read in pieces: its checks are those of one in memory, its parts are itself."""

from __future__ import annotations

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.factor.source import ArraySource
from quiplinalg.kernels.record import select
from quiplinalg.symmetric import symmetric_matrix

SIZES = (1, 2, 31, 32, 33, 70)
MEMORY = 4 * 4 * 32 * 32  # tiles of 32


def spd(n, seed=0):
    X = np.random.default_rng([seed, n]).standard_normal((n + 9, n))
    return X.T @ X / (n + 9)


def outcome(call):
    """What a check says: the type and the text of its error, or nothing."""
    try:
        call()
    except ql.QuipLinalgError as error:
        return type(error), str(error)
    return None


def spoilt(n, rng):
    """Matrices that are no second moments, each in its own way."""
    for value in (np.nan, np.inf, -np.inf):
        H = spd(n)
        H[rng.integers(n), rng.integers(n)] = value
        yield H
        H[rng.integers(n), rng.integers(n)] = value
        H[rng.integers(n), :] = value
        yield H
    H = spd(n)
    H[rng.integers(n), rng.integers(n)] += 1.0
    yield H
    H = spd(n)
    i = rng.integers(n)
    H[i, i] = -1.0
    yield H
    H = spd(n)
    H[i, i] = 0.0
    yield H
    H[i], H[:, i] = 0.0, 0.0  # dead, which is no error
    yield H
    yield np.zeros((n, n))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
def test_it_is_checked_as_in_memory(n, dtype):
    rng = np.random.default_rng(n)
    for H in (spd(n), *(H for _ in range(3) for H in spoilt(n, rng))):
        H = H.astype(dtype)
        source = ArraySource(H)
        expected = outcome(lambda H=H: symmetric_matrix(H, "H", select()))
        assert outcome(lambda source=source: source.check(MEMORY)) == expected
        if expected is None:
            assert source.mirrored == bool((H == H.T).all())


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("exact", (True, False))
def test_its_parts_are_those_of_the_matrix(n, exact):
    rng = np.random.default_rng(n)
    H = spd(n).astype(np.float32)
    H = np.maximum(H, H.T) if exact else H + np.float32(1e-6) * np.triu(np.ones((n, n)), 1)
    source = ArraySource(H.astype(np.float32))
    source.check(MEMORY)
    assert source.mirrored == (exact or n == 1)
    whole = source.block(slice(0, n), slice(0, n))
    assert (source.diagonal() == whole.diagonal()).all()
    for _ in range(5):
        rows = rng.permutation(n)[: rng.integers(1, n + 1)]
        columns = rng.permutation(n)[: rng.integers(1, n + 1)]
        out = np.full((len(columns), len(rows)), np.nan, order="F")
        source.fill(out, rows, columns)
        assert (out == whole[np.ix_(rows, columns)].T).all()
    for memory in (1, 12 * n * 7, 1 << 20):
        parts = list(source.column_blocks(np.dtype(np.float64), memory))
        assert (np.concatenate([part for _, part in parts], axis=1) == whole).all()
        assert all(part.dtype == np.float64 for _, part in parts)
        assert all((part == whole[:, columns]).all() for columns, part in parts)
        assert memory < 12 * n or all(12 * n * part.shape[1] <= memory for _, part in parts)


def test_an_empty_matrix():
    source = ArraySource(np.zeros((0, 0)))
    source.check(MEMORY)
    assert source.diagonal().shape == (0,)
    assert list(source.column_blocks(np.dtype(float), 100)) == []


def test_what_is_no_square_matrix():
    with pytest.raises(ql.InvalidArgumentError, match="H must be a square matrix"):
        ArraySource(np.zeros((2, 3)))
