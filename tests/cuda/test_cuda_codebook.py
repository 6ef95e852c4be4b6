"""Codebooks on a device: every kernel gives the bits of the CPU's, which has the same sums."""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg import reference
from quiplinalg.kernels.cuda import codebook
from quiplinalg.kernels.record import select

CPU, GENERIC = select("cpu"), select("generic")
DTYPES = (np.float32, np.float64)
SIZES = (*range(18), 31, 32, 33, 65, 130, 257)
ROWS = (1, 2, 3, 4, 5, 33, 130)
LEVELS = (2, 4, 16, 256)


def shapes(n):
    """Rows and levels that take turns, so that every size has some of each."""
    return [(ROWS[n % 5], LEVELS[n % 3]), (ROWS[(n + 3) % 5], 4), *((33, 8),) * (n in (7, 65))]


def layer(n, m, count, dtype):
    rng = np.random.default_rng(n)
    X = rng.standard_normal((n + 5, n))
    H = X.T @ X / (n + 5)
    if n > 2:
        H[1] = H[:, 1] = 0  # dead
    W = rng.standard_normal((m, n)).astype(dtype)
    levels = np.sort(rng.standard_normal((m, count)), axis=1)
    levels[:, 1] = levels[:, 0]  # equal ones may repeat
    codes = rng.integers(0, count, (m, n)).astype(np.uint8)
    return ((H + H.T) / 2).astype(dtype), W, levels, codes


def both(cuda, kernel, inputs, outputs, *last):
    """What a kernel leaves in its outputs, on the CPU and on the device."""
    xp = cuda.xp
    given = [xp.asarray(a) for a in (*inputs, *outputs)]
    getattr(CPU, kernel)(*inputs, *outputs, *last)
    getattr(codebook, kernel)(*given, *last)
    return [(a.get(), theirs) for a, theirs in zip(given[len(inputs) :], outputs, strict=True)]


def same(pairs):
    return all(np.array_equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("resident", (True, False), ids=("shared", "global"))
def test_k_means_has_the_bits_of_the_cpus(cuda, monkeypatch, n, resident):
    if not resident:
        monkeypatch.setattr(codebook, "resident_bytes", lambda: -1)
    for dtype in DTYPES:
        for m, count in shapes(n):
            _, W, levels, _ = layer(n, m, count, dtype)
            X = np.sort(W, axis=1)
            for passes in (0, 1, 2, 3, 40):
                assert same(both(cuda, "lloyd", (X,), (levels.copy(),), passes))


@pytest.mark.parametrize("order", ("reverse", 3, 4))
def test_k_means_is_the_reference_one_in_any_order_of_threads(cuda, monkeypatch, order):
    monkeypatch.setattr(codebook, "_AT_ONCE", 2)  # blocks: each does a row after another
    _, W, levels, _ = layer(300, 5, 16, np.float64)
    X = np.sort(W, axis=1)
    with cuda.order(order):
        ((ours, theirs),) = both(cuda, "lloyd", (X,), (levels.copy(),), 60)
    assert np.array_equal(ours, theirs)
    for x, start, mine in zip(X, levels, ours, strict=True):
        np.testing.assert_allclose(mine, reference.kmeans(x, start, 60), rtol=1e-12, atol=1e-12)


def test_k_means_of_more_than_48_kib_a_row_has_the_bits_of_the_cpus(cuda):
    rng = np.random.default_rng(0)
    X = np.sort(rng.standard_normal((2, 13000)).astype(np.float32), axis=1)
    levels = np.sort(rng.standard_normal((2, 8)), axis=1)
    assert same(both(cuda, "lloyd", (X,), (levels,), 5))


def test_k_means_of_points_far_from_zero_has_the_bits_of_the_cpus(cuda):
    """Differences of large sums put means in another order: nothing is counted twice."""
    rng = np.random.default_rng(0)
    X = np.sort(1e9 + rng.integers(0, 9, (4, 90)) * 1e-6, axis=1)
    levels = np.ascontiguousarray(np.sort(X[:, rng.integers(0, 90, 16)], axis=1))
    assert same(both(cuda, "lloyd", (X,), (levels,), 30))
    assert (np.diff(levels) < 0).any()


@pytest.mark.parametrize("n", (*SIZES, 128, 129, 300))
def test_a_block_is_rounded_with_the_bits_of_the_cpus(cuda, n):
    rng = np.random.default_rng(n + 100)
    for dtype in DTYPES:
        for m, count in (*shapes(n), *(((9, 256), (9, 64)) if n in (17, 130) else ())):
            _, W, levels, _ = layer(n, m, count, dtype)
            U = np.triu(rng.standard_normal((n, n)) / (n + 1), 1).astype(dtype)
            F = rng.standard_normal((m, n)).astype(dtype) / 4
            codes, E = np.empty((m, n), np.uint8), np.empty((m, n), dtype)
            found = both(cuda, "round_levels", (W, F.copy(), U, levels), (codes, E))
            assert same(found)
            twin = np.empty_like(codes)
            GENERIC.round_levels(W, F.copy(), U, levels, twin, np.empty_like(E))
            assert np.array_equal(twin, codes)


def test_a_tie_between_levels_goes_to_the_lower_one(cuda):
    levels = np.array([[-1.0, -1.0, 0.0, 1.0]])
    W = np.array([[-9.0, -0.5, 0.0, 0.5, 0.75, 9.0]])
    none, U = np.zeros_like(W), np.zeros((6, 6))
    found = both(
        cuda, "round_levels", (W, none.copy(), U, levels), (np.empty(W.shape, np.uint8), none)
    )
    assert same(found) and found[0][0].tolist() == [[0, 1, 2, 2, 3, 3]]


@pytest.mark.parametrize("n", SIZES)
def test_sums_by_code_have_the_bits_of_the_cpus(cuda, n):
    for dtype in DTYPES:
        for m, count in (*shapes(n), *(((3, 128), (2, 256)) if n in (5, 130) else ())):
            H, _, _, codes = layer(n, m, count, dtype)
            H = np.random.default_rng(n).standard_normal(H.shape).astype(dtype)  # its rows
            assert same(both(cuda, "level_sums", (H, codes), (np.zeros((m, count, n), dtype),)))


def descended(cuda, n, m, count, dtype):
    """A pass over some rows of both, with everything that it keeps up to date."""
    H, W, levels, codes = layer(n, m, count, dtype)
    rows = np.unique(np.random.default_rng(m).integers(0, m, m))
    T = np.zeros((m, count, n), dtype)
    CPU.level_sums(H, codes, T)
    G = ((np.take_along_axis(levels, codes.astype(int), 1) - W) @ H).astype(dtype)
    found = np.full(m, -1.0), np.full(m, -1)
    xp, least = cuda.xp, 16 * float(np.finfo(dtype).eps)
    g, q, t, *there = (xp.asarray(a) for a in (G, codes, T, *found))
    CPU.descend_levels(G, codes, T, H, levels, rows, least, found)
    codebook.descend_levels(
        g, q, t, xp.asarray(H), xp.asarray(levels), xp.asarray(rows, np.int32), least, tuple(there)
    )
    device = (a.get() for a in (g, q, t, *there))
    return list(zip(device, (G, codes, T, *found), strict=True))


@pytest.mark.parametrize("resident", (True, False), ids=("shared", "global"))
@pytest.mark.parametrize("n", SIZES)
def test_a_pass_of_descent_has_the_bits_of_the_cpus(cuda, monkeypatch, n, resident):
    if not resident:
        monkeypatch.setattr(codebook, "resident_bytes", lambda: -1)
    for dtype in DTYPES:
        for m, count in shapes(n):
            assert same(descended(cuda, n, m, count, dtype))


@pytest.mark.parametrize("order", ("reverse", 3, 4))
def test_a_pass_of_descent_in_any_order_of_threads(cuda, order):
    with cuda.order(order):
        pairs = descended(cuda, 300, 4, 8, np.float32)
    assert same(pairs) and pairs[4][1].max() > 100
