"""The reference grids, rounding to them, and the random numbers of stochastic rounding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import WEIGHTS, make_weights, seeds

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference import (
    dequantise,
    minmax_grid,
    mse_grid,
    nearest,
    per_column,
    philox2x32,
    quantise,
    rms_grid,
    stochastic,
    uniforms,
)

ONE = np.ones((1, 1))


def gptq_range(row, bits, sym):
    """The grid of one row, number by number."""
    low, high, maxq = min(min(row), 0.0), max(max(row), 0.0), 2**bits - 1
    if sym:
        high = max(abs(low), high)
        low = -high if low < 0 else low
    if low == 0 and high == 0:
        low, high = -1.0, 1.0
    scale = (high - low) / maxq
    return low, high, scale, (maxq + 1) / 2 if sym else float(round(-low / scale))


@given(seeds, st.integers(1, 4), st.integers(1, 9), st.sampled_from([1, 2, 3, 4, 8]), st.booleans())
def test_minmax_is_gptqs(seed, m, n, bits, sym):
    W = make_weights("heavy", m, n, seed)
    scale, zero = minmax_grid(W, bits, sym)
    for r in range(m):
        assert (scale[r, 0], zero[r, 0]) == gptq_range(W[r].tolist(), bits, sym)[2:]
    if not sym:
        # both ends are at most half a step (the rounding of zero) outside the grid
        error = dequantise(quantise(W, scale, zero, 2**bits - 1), scale, zero) - W
        assert (np.abs(error) <= scale * (1 + 1e-12)).all()


@pytest.mark.parametrize("sym", [False, True])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("kind", WEIGHTS)
def test_mse_is_the_best_shrink(kind, bits, sym):
    W, maxq = make_weights(kind, 3, 20, seed=bits), 2**bits - 1
    scale, zero = mse_grid(W, bits, sym)
    for r, row in enumerate(W):
        low, high, _, middle = gptq_range(row.tolist(), bits, sym)
        tried = []
        for i in range(80):
            p = 1 - i / 100
            s = (p * high - p * low) / maxq
            o = middle if sym else float(round(-p * low / s))
            x = [s * (min(max(round(w / s) + o, 0), maxq) - o) - w for w in row]
            tried.append((sum(abs(e) ** 2.4 for e in x), i, s, o))
        assert (scale[r, 0], zero[r, 0]) == min(tried)[2:]


@pytest.mark.parametrize("find", [minmax_grid, mse_grid])
def test_zero_rows_and_one_sided_rows(find):
    W = np.array([[0.0, 0.0], [1.0, 3.0], [-1.0, -3.0]])
    scale, zero = find(W, 2)
    assert (scale[0, 0], zero[0, 0]) == (2 / 3, 2.0)
    assert zero[1, 0] == 0 and zero[2, 0] == 3
    scale, zero = minmax_grid(W, 2, sym=True)
    assert zero.tolist() == [[2.0], [2.0], [2.0]]
    assert scale[:, 0].tolist() == [2 / 3, 1.0, 2.0]


@pytest.mark.parametrize("find", [minmax_grid, mse_grid])
def test_groups_are_grids_of_their_columns(find):
    W = make_weights("heavy", 3, 11, seed=0)
    scale, zero = find(W, 3, group_size=4)
    assert scale.shape == zero.shape == (3, 3)
    for g in range(3):
        s, o = find(W[:, 4 * g : 4 * g + 4], 3)
        assert np.array_equal(scale[:, g], s[:, 0]) and np.array_equal(zero[:, g], o[:, 0])
    group = np.arange(11) // 4
    assert np.array_equal(per_column(scale, 11, group), np.repeat(scale, 4, axis=1)[:, :11])
    codes = quantise(W, scale, zero, 7, group_index=group)
    for g in range(3):
        part = slice(4 * g, 4 * g + 4)
        assert np.array_equal(
            codes[:, part], quantise(W[:, part], scale[:, g : g + 1], zero[:, g : g + 1], 7)
        )
    with pytest.raises(InvalidArgumentError, match="group_index"):
        quantise(W, scale, zero, 7)


def test_float32_grids_stay_float32():
    W = make_weights("normal", 2, 8, seed=0).astype(np.float32)
    for grid in (minmax_grid(W, 3), mse_grid(W, 3), rms_grid(W, 3, 2.0)):
        assert grid[0].dtype == grid[1].dtype == np.float32
    assert minmax_grid(W.astype(np.float16), 3)[0].dtype == np.float64
    assert rms_grid(W.astype(np.longdouble), 3, 2.0)[0].dtype == np.longdouble


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_rms_levels(bits):
    W, maxq = make_weights("normal", 4, 30, seed=1), 2**bits - 1
    for per_row in (True, False):
        scale, zero = rms_grid(W, bits, 1.7, per_row=per_row)
        rms = np.sqrt((W**2).mean(axis=1 if per_row else None, keepdims=True))
        levels = 1.7 * rms * (2 * np.arange(maxq + 1) / maxq - 1)
        # three roundings on each side
        assert np.abs(dequantise(np.arange(maxq + 1)[None], scale, zero) - levels).max() <= 1e-14
    assert rms_grid(np.zeros((1, 3)), bits, 1.0)[0] == 2.0**-126
    two = rms_grid(np.array([[0.0, 0.0], [1.0, -1.0]]), bits, 1.0)[0]
    assert abs(two[0, 0] / two[1, 0] - 2.0**-20) <= 1e-15


def test_ties_go_to_even_before_zero_is_added():
    w = np.array([[-1.5, -0.5, 0.5, 1.5, 2.5]])
    assert quantise(w, ONE, 0 * ONE, np.inf).tolist() == [[-2, 0, 0, 2, 2]]
    assert quantise(w, ONE, 3 * ONE, np.inf).tolist() == [[1, 3, 3, 5, 5]]
    # a half-integer zero: the levels are half-integers, the ties whole numbers, t = w + 1/2
    assert quantise(np.array([[-1.0, 0.0, 1.0]]), ONE, 1.5 * ONE, np.inf).tolist() == [[1, 1, 3]]
    assert quantise(w, ONE, ONE, 2).tolist() == [[0, 1, 1, 2, 2]]


@given(seeds, st.sampled_from([1, 2, 4, None]), st.sampled_from(WEIGHTS), st.booleans())
def test_nearest_is_nearest(seed, bits, kind, rms):
    W, maxq = make_weights(kind, 3, 7, seed), np.inf if bits is None else 2**bits - 1
    scale, zero = rms_grid(W, bits or 3, 2.0) if rms else minmax_grid(W, bits or 3)
    codes = nearest(W, scale, zero, maxq)
    levels = np.arange(-400, 401) if bits is None else np.arange(maxq + 1)
    errors = np.abs(W[:, :, None] - (scale * (levels - zero))[:, None, :])
    mine = np.abs(dequantise(codes, scale, zero) - W)
    # a step of 1 and levels of up to 400: a few roundings of 400
    assert (mine <= errors.min(axis=2) + 1e-12).all()
    assert np.array_equal(nearest(dequantise(codes, scale, zero), scale, zero, maxq), codes)


def test_stochastic_is_floor_of_t_plus_u():
    W, u = np.full((1, 3), 0.25), np.array([[0.0, 0.7, 0.8]])
    assert stochastic(W, ONE, ONE, 3, u).tolist() == [[1, 1, 2]]
    assert stochastic(W - 5, ONE, ONE, 3, u).tolist() == [[0, 0, 0]]
    assert stochastic(W - 5, ONE, ONE, np.inf, u).tolist() == [[-4, -4, -3]]
    # half-integer zero: level k is k - 3/2, so 0.25 is 3/4 of the way from -0.5 to 0.5
    assert stochastic(W, ONE, 1.5 * ONE, 3, np.array([[0.2, 0.3, 0.0]])).tolist() == [[1, 2, 1]]


def test_stochastic_is_unbiased():
    m, n = 400, 100
    u = uniforms(7, m, n)
    W = np.broadcast_to(np.linspace(-1, 1, n), (m, n))
    for zero in (2 * ONE, 1.5 * ONE):
        error = dequantise(stochastic(W, ONE, zero, np.inf, u), ONE, zero) - W
        # the variance of one error is f (1 - f) <= 1/4
        assert abs(error.mean()) <= 5 * 0.5 / np.sqrt(m * n)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ((0, 0), 0, (0xFF1DAE59, 0x6CD10DF2)),
        ((0xFFFFFFFF, 0xFFFFFFFF), 0xFFFFFFFF, (0x2C3F628B, 0xAB4FD7AD)),
        ((0x243F6A88, 0x85A308D3), 0x13198A2E, (0xDD7CE038, 0xF62A4C12)),
    ],
)
def test_philox_known_answers(counter, key, words):
    assert tuple(int(w) for w in philox2x32(*counter, key)) == words
    assert philox2x32(*counter, key)[0].dtype == np.uint32


def philox_in_integers(c0, c1, key):
    """The first word of Philox in Python's integers."""
    for _ in range(10):
        product = 0xD256D193 * c0
        c0, c1 = (product >> 32) ^ key ^ c1, product & 0xFFFFFFFF
        key = (key + 0x9E3779B9) % 2**32
    return c0


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**20), st.integers(0, 2**20))
def test_uniforms_depend_on_seed_row_and_column_alone(seed, row, column):
    u = uniforms(seed, np.array([row, 0]), np.array([3, column]))
    assert u.dtype == np.float32 and (u >= 0).all() and (u < 1).all()
    word = philox_in_integers(row, column, (seed & 0xFFFFFFFF) ^ (seed >> 32))
    assert float(u[0, 1]) == (word >> 8) / 2**24
    assert u[0, 1] == uniforms(seed, np.array([row]), np.array([column]))[0, 0]


def test_uniforms_are_uniform():
    u = uniforms(3, 300, 200).astype(float)
    sigma = 1 / np.sqrt(12 * u.size)
    assert abs(u.mean() - 0.5) <= 5 * sigma
    assert len(np.unique(u)) >= 0.99 * u.size  # 60000 of 2**24 values: 107 collisions expected
    assert np.abs(np.corrcoef(u)[0, 1:]).max() <= 5 / np.sqrt(200)
    assert not np.array_equal(u, uniforms(4, 300, 200))
