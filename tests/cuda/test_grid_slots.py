"""The CUDA slots of grids: codes and values equal bit for bit to those of the CPU, scales in all
but near-ties.
"""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg.grids.apply import code_ends, dequantize, round_to_grid, tie_tolerance
from quiplinalg.grids.codebook import CodebookGrid
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.cuda import grid as slots
from quiplinalg.kernels.record import select

CPU = select("cpu")
DTYPES = (np.float32, np.float64)
SIZES = (*range(18), 31, 32, 33, 65, 130, 257)
NEAR = 1e-5  # sums that are as near to one another as this are both the least
SHORT = 4e-4  # what the polynomials may differ by where few elements average it


def rows_of(m, n, dtype, seed=0):
    """Rows with heavy tails, and of zeros, one sign, a constant, and one element that is large."""
    X = np.random.default_rng([m, n, seed]).standard_t(4, (m, n)).astype(dtype)
    special = [np.zeros_like, np.abs, lambda x: -np.abs(x), lambda x: 0 * x + dtype(0.25)]
    for i, change in enumerate(special[: m - 1]):
        X[i] = change(X[i])
    if m > 5 and n:
        X[5, n // 2] = 30
    return X


def cpu_fit(X, *rule):
    scale, zero = (np.empty(X.shape[0], X.dtype) for _ in range(2))
    CPU.fit(X, *rule, scale, zero)
    return scale, zero


def error(x, scale, zero, maxq, norm):
    """Sum |error|^norm of a row, and its rounding error."""
    x, scale, zero = (np.asarray(a, np.float64) for a in (x, scale, zero))
    off = np.abs(scale * (np.clip(np.rint(x / scale) + zero, 0, maxq) - zero) - x)
    return (off**norm).sum(), (np.maximum(off, 1e-6 * np.abs(x)) ** norm - off**norm).sum()


def assert_same_choice(X, found, rule):
    """The device's grid is the CPU's, or as good."""
    maxq, _, clip, norm, _ = rule
    expected = cpu_fit(X, *rule)
    same = (found[0] == expected[0]) & (found[1] == expected[1])
    if not clip:
        assert same.all()
    for i in np.flatnonzero(~same):
        ours, slack = error(X[i], found[0][i], found[1][i], maxq, norm)
        best, other = error(X[i], expected[0][i], expected[1][i], maxq, norm)
        near = NEAR if X.shape[1] >= 256 else SHORT
        assert abs(ours - best) <= near * best + slack + other, (i, ours, best, found, expected)


def device_fit(cuda, X, rule, whole=None):
    xp = cuda.xp
    device = xp.asarray(X if whole is None else whole)
    scale, zero = (xp.empty(X.shape[0], X.dtype) for _ in range(2))
    slots.fit(device[:, : X.shape[1]] if whole is not None else device, *rule, scale, zero)
    return scale.get(), zero.get()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("clip", (False, True), ids=("minmax", "mse"))
def test_fit_is_that_of_the_cpu(cuda, n, dtype, clip):
    X = rows_of(9, n, dtype)
    for bits in (2, 3, 4) if n % 2 else (1, 2, 8):
        for symmetric in (False, True):
            for significant in (0, 11):
                rule = (dtype(2**bits - 1), symmetric, clip, 2.4, significant)
                assert_same_choice(X, device_fit(cuda, X, rule), rule)


@pytest.mark.parametrize("bits", range(1, 9))
def test_fit_of_every_width(cuda, bits):
    X = rows_of(16, 257, np.float32, bits)
    for symmetric in (False, True):
        rule = (np.float32(2**bits - 1), symmetric, True, 2.4, 0)
        assert_same_choice(X, device_fit(cuda, X, rule), rule)


@pytest.mark.parametrize("norm", (0.5, 2.0, 4.0, 8.0))
@pytest.mark.parametrize("n", (1, 33, 300))
def test_fit_with_another_norm(cuda, n, norm):
    X = rows_of(9, n, np.float32)[1:]
    for symmetric in (False, True):
        rule = (np.float32(7), symmetric, True, norm, 0)
        assert_same_choice(X, device_fit(cuda, X, rule), rule)


def test_fit_of_zeros_is_the_whole_range_for_any_norm(cuda):
    X = np.zeros((2, 40), np.float32)
    for norm in (0.5, 2.0, 2.4, 3.0):
        scale, zero = device_fit(cuda, X, (np.float32(3), True, True, norm, 0))
        assert (scale == np.float32(2) / np.float32(3)).all() and (zero == 2).all()


def test_fit_of_rows_apart_from_one_another(cuda):
    whole = rows_of(9, 77, np.float32)
    X = np.ascontiguousarray(whole[:, :50])
    rule = (np.float32(7), False, True, 2.4, 0)
    found = device_fit(cuda, X, rule, whole)
    for a, b in zip(found, device_fit(cuda, X, rule), strict=True):
        assert (a == b).all()
    assert_same_choice(X, found, rule)


def test_fit_of_scales_that_float16_can_hardly_hold(cuda):
    """Steps near float16's least, which rounding moves by much: the range may not be held."""
    rng = np.random.default_rng(0)
    for size in (1e-6, 1e-5, 1e-4):
        X = (size * rng.standard_normal((20, 300))).astype(np.float32)
        rule = (np.float32(7), False, True, 2.4, 11)
        scale, zero = device_fit(cuda, X, rule)
        assert (scale.astype(np.float16) == scale).all()
        expected = cpu_fit(X, *rule)
        for i in range(20):
            if not scale[i] > 0:
                assert scale[i] == expected[0][i] == 0
                continue
            ours = error(X[i], scale[i], zero[i], 7, 2.4)[0]
            assert ours <= error(X[i], expected[0][i], expected[1][i], 7, 2.4)[0] * (1 + NEAR)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("warps", (1, 2, 4, 8))
def test_fit_by_several_warps_of_a_row(cuda, dtype, warps, monkeypatch):
    monkeypatch.setattr(slots, "_ALONE", -(-300 // warps))
    X = rows_of(7, 300, dtype)
    for clip in (False, True):
        rule = (dtype(15), False, clip, 2.4, 0)
        assert_same_choice(X, device_fit(cuda, X, rule), rule)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (70, 257, 2000))
def test_fit_by_several_blocks_of_a_row(cuda, dtype, n, monkeypatch):
    monkeypatch.setattr(slots, "_LONG", 1)
    monkeypatch.setattr(slots, "_PIECE", 48)
    monkeypatch.setattr(slots, "_PIECES", 36)
    X = rows_of(7, n, dtype)
    for symmetric, clip in ((False, False), (True, False), (False, True), (True, True)):
        rule = (dtype(7), symmetric, clip, 2.4, 0)
        assert_same_choice(X, device_fit(cuda, X, rule), rule)


@pytest.mark.parametrize("members", (None, 1, 3))
@pytest.mark.parametrize("n,size", ((0, 4), (1, 4), (17, 5), (130, 32), (257, 128), (40, 1000)))
def test_fit_groups(cuda, n, size, members):
    m = 5
    X = rows_of(m * (members or 1), n, np.float32)
    rule = (np.float32(15), False, True, 2.4, 0)
    shape = (m, n) if members is None else (members, m, n)
    device = cuda.xp.asarray(X.reshape(shape))
    scale, zero = (a.get() for a in slots.fit_groups(device, size, *rule))
    groups = max(1, -(-n // size))
    assert scale.shape == zero.shape == (*shape[:-1], groups)
    scale, zero = (a.reshape(-1, groups) for a in (scale, zero))
    for g in range(groups):
        part = np.ascontiguousarray(X[:, g * size : (g + 1) * size])
        assert_same_choice(part, (scale[:, g], zero[:, g]), rule)


def test_fit_is_the_same_in_any_order_of_threads(cuda):
    X = rows_of(9, 700, np.float32)
    found = []
    for way in ("forward", "reverse", 5):
        with cuda.order(way):
            found.append(device_fit(cuda, X, (np.float32(7), False, True, 2.4, 0)))
    for other in found[1:]:
        assert all((a == b).all() for a, b in zip(found[0], other, strict=True))


def grid_of(m, n, bits, groups, dtype, shared, seed=0):
    rng = np.random.default_rng([m, n, seed])
    shape = (1 if shared else m, groups)
    zero = rng.integers(0, 9, shape) + np.where(rng.random(shape) < 0.5, 0.0, rng.random(shape))
    zero = zero if bits is not None else zero * 1000
    index = rng.integers(0, groups, n).astype(np.int32) if groups > 1 else None
    scale = rng.uniform(0.1, 0.4, shape)
    return UniformGrid(scale.astype(dtype), zero.astype(dtype), bits, index)


def device_grid(cuda, grid, n, dtype):
    """Scale and zero in a dtype, and the group of each column."""
    parts = (grid.scale.astype(dtype), grid.zero.astype(dtype), grid.columns(n))
    return [cuda.xp.asarray(a) for a in parts]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (*SIZES, 1023, 1025, 2100))
@pytest.mark.parametrize("bits,key", ((3, None), (4, 123), (None, None), (None, 0xFFFFFFFF)))
def test_nearest_is_round_to_grid(cuda, n, dtype, bits, key):
    m, xp = 9, cuda.xp
    for groups, shared, stored in ((1, False, dtype), (3, False, np.float16), (2, True, dtype)):
        grid = grid_of(m, n, bits, groups, stored, shared)
        W = rows_of(m, n, dtype)
        if n:  # on ties and next to them
            s, o = (a.astype(dtype)[:, grid.columns(n)] for a in (grid.scale, grid.zero))
            ties = s * (dtype(0.5) - (o - np.floor(o))) * np.ones((m, 1), dtype)
            W[6:8] = ties[6:8]
            W[7] = np.nextafter(W[7], dtype(9))
        codes = xp.empty((m, n), grid.code_dtype)
        tied, clipped = xp.zeros(m, np.int32), xp.zeros(1, np.int64)
        rule = (*code_ends(bits), tie_tolerance(n, dtype), key)
        if bits is None:
            rule = (-np.inf, np.inf, *rule[2:])
        args = device_grid(cuda, grid, n, dtype)
        slots.nearest(xp.asarray(W), *args, rule, codes, (tied, clipped))
        expected, near, beyond = round_to_grid(W, grid, CPU, key)
        assert (codes.get() == expected).all()
        assert int(tied.sum()) == near and int(clipped[0]) == beyond
        assert set(tied.get().tolist()) <= {0, 1}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (*SIZES, 1025))
@pytest.mark.parametrize("bits", (4, 8, None))
def test_dequantize(cuda, n, dtype, bits):
    m = 5
    rng = np.random.default_rng(n)
    for groups, shared, stored in ((1, False, dtype), (3, False, np.float16), (2, True, dtype)):
        grid = grid_of(m, n, bits, groups, stored, shared)
        ends = (0, 2**bits) if bits is not None else (-(2**30), 2**30)
        codes = rng.integers(*ends, (m, n)).astype(grid.code_dtype)
        out = cuda.xp.empty((m, n), dtype)
        slots.dequantize(cuda.xp.asarray(codes), *device_grid(cuda, grid, n, dtype), out)
        assert (out.get() == dequantize(codes, grid, dtype)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (0, 1, 33, 1025))
def test_gather_levels(cuda, n, dtype):
    m = 4
    rng = np.random.default_rng(n)
    for bits in (1, 3, 8):
        grid = CodebookGrid(np.sort(rng.standard_normal((m, 2**bits)), axis=1))
        codes = rng.integers(0, 2**bits, (m, n)).astype(np.uint8)
        out = cuda.xp.empty((m, n), dtype)
        levels = cuda.xp.asarray(grid.levels.astype(dtype))
        slots.gather_levels(cuda.xp.asarray(codes), levels, out)
        assert (out.get() == grid.values(codes, dtype)).all()
