"""The kernels of codebooks against their twins, n = 0 .. 65, and more columns than a block."""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg import reference
from quiplinalg.kernels.record import select

CPU, GENERIC = select("cpu"), select("generic")
BOTH = pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
DTYPES = (np.float32, np.float64)
SIZES = (0, 1, 2, 3, 5, 17, 64, 65, 300)
ROWS, COUNT = 5, 4


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def layer(n, dtype):
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n + 5, n))
    H = X.T @ X / (n + 5)
    W = rng.standard_normal((ROWS, n))
    levels = np.sort(rng.standard_normal((ROWS, COUNT)), axis=1)
    codes = rng.integers(0, COUNT, (ROWS, n)).astype(np.uint8)
    return frozen(((H + H.T) / 2).astype(dtype)), frozen(W.astype(dtype)), levels, codes


@BOTH
@pytest.mark.parametrize("n", SIZES)
def test_sums_by_code_are_those_of_the_rows_of_h(kernels, n):
    for dtype in DTYPES:
        H, _, _, codes = layer(n, dtype)
        T = np.full((ROWS, COUNT, n), np.nan, dtype)
        kernels.level_sums(H, frozen(codes), T)
        for i in range(ROWS):
            for c in range(COUNT):
                expected = H[codes[i] == c].astype(float).sum(axis=0)
                np.testing.assert_allclose(T[i, c], expected, atol=1e-5 * max(n, 1))


@BOTH
@pytest.mark.parametrize("n", SIZES[1:])
def test_k_means_is_the_reference_one(kernels, n):
    for dtype in DTYPES:
        _, W, levels, _ = layer(n, dtype)
        X = np.sort(W, axis=1)
        for passes in (0, 1, 40):
            found = levels.copy()
            kernels.lloyd(frozen(X), found, passes)
            for x, start, mine in zip(X.astype(float), levels, found, strict=True):
                expected = reference.kmeans(x, start, passes)
                np.testing.assert_allclose(mine, expected, rtol=1e-12, atol=1e-12)
                assert (np.diff(mine) >= 0).all()


@BOTH
@pytest.mark.parametrize("n", SIZES)
def test_a_block_is_rounded_column_by_column(kernels, n):
    rng = np.random.default_rng(n + 100)
    for dtype in DTYPES:
        _, W, levels, _ = layer(n, dtype)
        U = frozen(np.triu(rng.standard_normal((n, n)) / (n + 1), 1).astype(dtype))
        before = rng.standard_normal((ROWS, n)).astype(dtype) / 4
        codes, E = np.empty((ROWS, n), np.uint8), np.empty((ROWS, n), dtype)
        kernels.round_levels(W, before.copy(), U, levels, codes, E)
        targets = W + before + E.astype(float) @ U
        wrong = np.abs(levels[np.arange(ROWS)[:, None], codes] - targets)
        best = np.abs(levels[:, None, :] - targets[:, :, None]).min(axis=2)
        assert (wrong <= best + 1e-4 * (dtype == np.float32) + 1e-12).all()
        np.testing.assert_allclose(
            E, W - np.take_along_axis(levels, codes.astype(int), 1), atol=1e-6
        )


@pytest.mark.parametrize("n", SIZES)
def test_a_pass_of_descent_is_the_twins_and_keeps_everything_up_to_date(n):
    for dtype in DTYPES:
        H, W, levels, start = layer(n, dtype)
        if n > 2:
            H = np.array(H)
            H[1] = H[:, 1] = 0  # dead
        found = []
        for kernels in (CPU, GENERIC):
            codes, T = start.copy(), np.empty((ROWS, COUNT, n), dtype)
            kernels.level_sums(H, codes, T)
            E = np.take_along_axis(levels, codes.astype(int), 1) - W
            G = (E @ H).astype(dtype)
            gain, changed = np.full(ROWS, -1.0), np.full(ROWS, -1)
            rows = np.array([0, 2, 3, 4])
            kernels.descend_levels(G, codes, T, H, levels, rows, 1e-12, (gain, changed))
            assert (gain[1], changed[1]) == (-1, -1) and (codes[1] == start[1]).all()
            assert (changed[rows] == (codes != start).sum(axis=1)[rows]).all()
            after = np.take_along_axis(levels, codes.astype(int), 1) - W
            size = 1e-4 if dtype == np.float32 else 1e-10
            np.testing.assert_allclose(G, after @ H, atol=size * (n + 1))
            fresh = np.empty_like(T)
            kernels.level_sums(H, codes, fresh)
            np.testing.assert_allclose(T, fresh, atol=size * (n + 1))
            fell = ((E @ H) * E).sum(axis=1) - ((after @ H) * after).sum(axis=1)
            np.testing.assert_allclose(gain[rows], fell[rows], atol=size * (n + 1) ** 2)
            assert (gain[rows] >= 0).all()
            found.append(codes)
        if dtype == np.float64:
            assert (found[0] == found[1]).all()
        assert n < 3 or (found[0][:, 1] == start[:, 1]).all()
