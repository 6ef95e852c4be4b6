"""The CUDA slots of rounding with feedback: equal, bit for bit, to those of the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest

from quiplinalg.grids.apply import code_ends
from quiplinalg.kernels.cuda import rounding
from quiplinalg.kernels.record import PANEL, select
from quiplinalg.rounding.plan import layout, panels, tiled

KEY, FIRST = 0x9E3779B9, 1000  # of Philox; the row of the layer that the rows start with


@dataclass
class Problem:
    """Layers of one shape, in rounding order, with any feedback."""

    W: np.ndarray  # (b, m, n)
    columns: np.ndarray  # (b, N)
    U: np.ndarray  # (b, N, N)
    scale: np.ndarray  # (b, m, groups)
    zero: np.ndarray
    group: np.ndarray  # (b, N)
    D: np.ndarray
    damping: np.ndarray
    spans: list
    bits: int | None
    key: int | None

    @property
    def codes(self):
        return np.int32 if self.bits is None else np.uint8


def problem(m, n, dtype, members=1, bits=4, key=None, size=None, block=128, groups=1, seed=0):
    rng = np.random.default_rng([m, n, members, seed])
    place, spans = layout(n, size or PANEL, block)
    N, real = place.shape[0], place >= 0
    columns = np.full((members, N), -1, np.int64)
    for b in range(members):
        columns[b, real] = rng.permutation(n)[place[real]]
    U = np.triu(rng.standard_normal((members, N, N)) * 0.2, 1) * np.outer(real, real)
    scale = rng.uniform(0.2, 0.5, (members, m, groups))
    whole = rng.integers(0, 9, (members, m, groups))
    zero = np.where(rng.random(whole.shape) < 0.5, whole, whole + rng.random(whole.shape))
    group = np.where(real, columns % groups, 0).astype(np.int32)
    weights = [rng.random((members, N)) * real for _ in range(2)]
    W = rng.standard_normal((members, m, n))
    U, W, scale, zero = (a.astype(dtype) for a in (U, W, scale, zero))
    return Problem(W, columns, U, scale, zero, group, *weights, spans, bits, key)


def packed(U):
    """Return the packed panels of a dense U."""
    N = U.shape[0]
    each = [U[: p + PANEL, p : p + PANEL].ravel() for p in range(0, N, PANEL)]
    return np.concatenate(each) if each else np.empty(0, U.dtype)


def rows_of(tiles, m):
    """Return a copy of (tiles, N, lanes) as (m, N)."""
    count, N, lanes = tiles.shape
    return tiles.transpose(0, 2, 1).reshape(count * lanes, N)[:m].copy()


def on_cpu(p, b, spans=None, kernels=None):
    """Return codes, E, stats, and the targets before each span with its compensated weights."""
    cpu = kernels or select("cpu")
    m, n = p.W.shape[1:]
    N, dtype = p.columns.shape[1], p.W.dtype
    lanes = cpu.lanes(dtype)
    tiles = -(-m // lanes)
    spans = p.spans if spans is None else spans
    Z = np.empty((tiles, N, lanes), dtype)
    C = np.empty(Z.shape, p.codes)
    F = np.empty((tiles, max((b - a for a, b in spans), default=0), lanes), dtype)
    stats = np.zeros((tiles, 4, lanes))
    stats[:, 2] = 0.5
    grid = [tiled(p.scale[b], tiles, lanes, 1), tiled(p.zero[b], tiles, lanes, 0), p.group[b]]
    grid += [dtype.type(end) for end in code_ends(p.bits)]
    U = packed(p.U[b])
    targets, weights = [], []
    cpu.load(p.W[b], 0, p.columns[b], Z)
    for c0, c1 in spans:
        u = panels(U, c0, c1)
        cpu.accumulate(F, Z, u, c0, c1)
        targets.append(rows_of(F[:, : c1 - c0], m))
        X = np.empty((m, (p.columns[b, c0:c1] >= 0).sum()), dtype)
        cpu.compensate(F, u, p.columns[b], c0, c1, Z, X)
        weights.append(X)
        noise = np.empty((0, 0, 0) if p.key is None else (tiles, c1 - c0, lanes), np.float32)
        if p.key is not None:
            cpu.philox(p.key, FIRST, p.columns[b, c0:c1], noise)
        plan = (p.columns[b], p.D[b], p.damping[b])
        cpu.round_block(F, Z, C, u, (*grid, noise), plan, (c0, c1), stats)
    codes = np.full((m, n), 77, p.codes)
    cpu.store(C, 0, p.columns[b], codes)
    return codes, rows_of(Z, m), rows_of(stats, m), targets, weights


def on_device(xp, p, spans=None, compensates=True):
    """Return the same as `on_cpu`, each with a member axis."""
    members, m, n = p.W.shape
    N, dtype = p.columns.shape[1], p.W.dtype
    lanes = rounding.lanes(dtype)
    tiles = -(-m // lanes)
    shape = (members, tiles, N, lanes)
    Z, F, C = xp.empty(shape, dtype), xp.empty(shape, dtype), xp.empty(shape, p.codes)
    stats = np.zeros((members, tiles, 4, lanes))
    stats[:, :, 2] = 0.5
    stats = xp.asarray(stats)
    U, columns = xp.asarray(p.U), xp.asarray(p.columns)

    def in_tiles(a, fill):
        return xp.asarray(np.stack([tiled(each, tiles, lanes, fill) for each in a]))

    grid = (in_tiles(p.scale, 1), in_tiles(p.zero, 0), xp.asarray(p.group), *code_ends(p.bits))
    plan = (columns, xp.asarray(p.D), xp.asarray(p.damping), FIRST)

    def rows(a):
        return np.stack([rows_of(each, m) for each in a.get()])

    targets, weights = [], []
    rounding.load(xp.asarray(p.W), columns, Z, F)
    for c0, c1 in p.spans if spans is None else spans:
        targets.append(rows(F)[:, :, c0:c1])
        if compensates:
            X = xp.empty((members, m, int((p.columns[0, c0:c1] >= 0).sum())), dtype)
            rounding.compensate(F, Z, U, columns, (c0, c1), X)
            weights.append(X.get())
        rounding.round_block(F, Z, C, U, (*grid, p.key), plan, (c0, c1), stats)
        rounding.update(F, Z, U, (c0, c1))
    codes = xp.full((members, m, n), 77, p.codes)
    rounding.store(C, columns, codes)
    return codes.get(), rows(Z), rows(stats), targets, weights


def same(a, b):
    assert a.dtype == b.dtype and a.shape == b.shape
    if a.tobytes() != b.tobytes():
        np.testing.assert_array_equal(a, b)
        raise AssertionError("only the signs of zeros differ")


def check(xp, p):
    codes, E, stats, targets, weights = on_device(xp, p)
    for b in range(p.W.shape[0]):
        wanted = on_cpu(p, b)
        for got, want in zip((codes, E, stats), wanted[:3], strict=True):
            same(got[b], want)
        for all_got, all_wanted in ((targets, wanted[3]), (weights, wanted[4])):
            for got, want in zip(all_got, all_wanted, strict=True):
                same(got[b], want)


KINDS = pytest.mark.parametrize("dtype", [np.float32, np.float64])
CODES = pytest.mark.parametrize("bits", [4, None])
WAYS = pytest.mark.parametrize("key", [None, KEY], ids=["nearest", "stochastic"])


@KINDS
@CODES
@WAYS
def test_every_small_shape(cuda, dtype, bits, key):
    shapes = [(1 + 5 * n % 17, n) for n in range(18)] + [(m, 9) for m in range(1, 18)]
    for m, n in shapes:
        for members in (1, 3):
            check(cuda.xp, problem(m, n, dtype, members, bits, key, groups=3))


@KINDS
@pytest.mark.parametrize(
    "m,n,members,bits,key",
    [
        (64, 65, 3, 3, None),
        (65, 128, 1, None, KEY),
        (128, 129, 1, 8, None),
        (130, 130, 3, 4, KEY),
        (17, 260, 1, 2, None),
        (257, 257, 1, None, None),
    ],
)
def test_larger_shapes(cuda, dtype, m, n, members, bits, key):
    check(cuda.xp, problem(m, n, dtype, members, bits, key, groups=2))


@KINDS
@pytest.mark.parametrize("size", [1, 6, 13, 30, 126])
def test_padding_between_pieces(cuda, dtype, size):
    check(cuda.xp, problem(19, 150, dtype, 3, size=size, groups=4))


@KINDS
@WAYS
def test_codes_do_not_depend_on_spans(cuda, dtype, key):
    p = problem(70, 259, dtype, key=key, groups=5)
    want = on_cpu(p, 0)[:3]
    rng = np.random.default_rng(0)
    for _ in range(4):
        ends = [0]
        while ends[-1] < 260:
            ends.append(min(ends[-1] + 4 * int(rng.integers(1, 33)), 260))
        spans = list(pairwise(ends))
        for got, wanted in zip(on_device(cuda.xp, p, spans, False)[:3], want, strict=True):
            same(got[0], wanted)


@KINDS
def test_any_order_of_threads(cuda, dtype):
    p = problem(66, 140, dtype, 2, groups=2)
    want = on_device(cuda.xp, p)
    for way in ("reverse", 2, 3):
        with cuda.order(way):
            got = on_device(cuda.xp, p)
        for a, b in zip([*got[:3], *got[3], *got[4]], [*want[:3], *want[3], *want[4]], strict=True):
            same(a, b)


@KINDS
def test_wide_spans_of_update_and_compensate(cuda, dtype):
    """Both take any width; groups fitted while rounding are as wide as they are."""
    xp, m = cuda.xp, 37
    p = problem(m, 420, dtype, size=210, block=420)  # padded to 212 twice
    lanes, cpu = rounding.lanes(dtype), select("cpu")
    Z = xp.empty((1, 1, 424, lanes), dtype)
    F, U, columns = xp.empty(Z.shape, dtype), xp.asarray(p.U), xp.asarray(p.columns)
    rounding.load(xp.asarray(p.W), columns, Z, F)
    height = cpu.lanes(np.dtype(dtype))
    want_Z = np.empty((-(-m // height), 424, height), dtype)
    want_F = np.empty_like(want_Z)
    cpu.load(p.W[0], 0, p.columns[0], want_Z)
    for c0, c1 in ((0, 140), (140, 424)):
        cpu.accumulate(want_F, want_Z, panels(packed(p.U[0]), c0, c1), c0, c1)
        same(rows_of(F.get()[0], m)[:, c0:c1], rows_of(want_F[:, : c1 - c0], m))
        want = np.empty((m, int((p.columns[0, c0:c1] >= 0).sum())), dtype)
        u = panels(packed(p.U[0]), c0, c1)
        cpu.compensate(want_F, u, p.columns[0], c0, c1, want_Z, want)
        X = xp.empty((1, *want.shape), dtype)
        rounding.compensate(F, Z, U, columns, (c0, c1), X)
        same(X.get()[0], want)
        rounding.update(F, Z, U, (c0, c1))


@KINDS
def test_the_generic_slots_agree_where_nothing_is_near_a_tie(cuda, dtype):
    p = problem(40, 60, dtype, groups=2)
    codes, E, stats, _, weights = on_device(cuda.xp, p)
    want = on_cpu(p, 0, kernels=select("generic"))
    clear = want[2][:, 2] > 1e-3 if dtype == np.float32 else np.ones(40, bool)
    assert clear.sum() > 20
    tolerance = 200 * np.finfo(dtype).eps
    assert np.array_equal(codes[0][clear], want[0][clear])
    assert np.abs(E[0] - want[1])[clear].max() < tolerance
    assert np.abs(stats[0] - want[2])[clear, :2].max() < 50 * tolerance
    assert np.abs(weights[0][0] - want[4][0]).max() < 50 * tolerance * np.abs(want[4][0]).max()


def test_nothing_to_do(cuda):
    xp = cuda.xp
    Z = xp.zeros((1, 1, 8, 128), np.float32)
    F, U = xp.ones(Z.shape, np.float32), xp.ones((1, 8, 8), np.float32)
    rounding.update(F, Z, U, (4, 4))
    rounding.update(F, Z, U, (0, 8))
    assert (F.get() == 1).all()
    columns, none = xp.zeros((1, 8), np.int64), xp.empty((1, 0, 8, 128), np.float32)
    rounding.load(xp.empty((1, 0, 5), np.float32), columns, none, none)
    rounding.update(none, none, U, (0, 4))
    rounding.compensate(none, none, U, columns, (0, 4), xp.empty((1, 0, 4), np.float32))
    C = xp.empty(none.shape, np.uint8)
    rounding.store(C, columns, xp.empty((1, 0, 5), np.uint8))
    empty, weights = xp.empty((1, 0, 1, 128), np.float32), xp.zeros((1, 8), np.float64)
    grid = (empty, empty, xp.zeros((1, 8), np.int32), 0, 15, None)
    stats = xp.empty((1, 0, 4, 128), np.float64)
    rounding.round_block(none, none, C, U, grid, (columns, weights, weights, 0), (0, 8), stats)
