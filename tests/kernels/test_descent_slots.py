"""The kernels of coordinate descent against their generic twins, n = 0 .. 65, inputs read-only."""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg.kernels.record import select

CPU, GENERIC = select("cpu"), select("generic")
BOTH = pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
DTYPES = (np.float32, np.float64)
SIZES = (0, 1, 2, 3, 4, 5, 17, 31, 32, 33, 64, 65)
STEPS = 12


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def spd(n, dtype):
    X = np.random.default_rng(n).standard_normal((n + 5, n))
    H = X.T @ X / (n + 5)
    return ((H + H.T) / 2).astype(dtype)


def packed(kernels, H, step=3):
    n = H.shape[0]
    panels = -(-n // 4)
    P = np.full((-(-panels * 4 // STEPS), panels, STEPS, 4), np.nan, H.dtype)
    for p in range(0, panels, step):
        kernels.pack_square(frozen(H), P, p, min(p + step, panels))
    return P


def layer(n, m, dtype, groups=2):
    rng = np.random.default_rng(n)
    W = rng.standard_normal((m, n)).astype(dtype)
    codes = rng.integers(0, 4, (m, n)).astype(np.uint8)
    scale = rng.uniform(0.3, 0.8, (m, groups)).astype(dtype)
    zero = (rng.integers(0, 4, (m, groups)) + 0.5).astype(dtype)
    group = rng.integers(0, groups, n).astype(np.int32)
    return tuple(frozen(a) for a in (W, codes, scale, zero, group))


@BOTH
@pytest.mark.parametrize("n", SIZES)
def test_panels_hold_every_element_once_and_zeros(kernels, n):
    for dtype in DTYPES:
        H = spd(n, dtype)
        P = packed(kernels, H)
        dense = P.transpose(0, 2, 1, 3).reshape(P.shape[0] * STEPS, P.shape[1] * 4)
        assert (dense[:n, :n] == H).all()
        assert not dense[n:].any() and not dense[:, n:].any()


@BOTH
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("groups", (1, 2))
def test_errors_are_loaded_as_tiles(kernels, n, groups):
    N = -(-n // 4) * 4
    for dtype in DTYPES:
        lanes = kernels.lanes(np.dtype(dtype))
        for m, first, tiles in ((1, 0, 1), (lanes, 0, 1), (2 * lanes + 3, lanes, 2)):
            W, codes, scale, zero, group = layer(n, m, dtype, groups)
            Z = np.full((tiles, N, lanes), np.nan, dtype)
            kernels.load_errors(W, codes, (scale, zero, group), first, Z)
            flat = Z.transpose(0, 2, 1).reshape(tiles * lanes, N)
            E = scale[:, group] * (codes.astype(dtype) - zero[:, group]) - W
            assert (flat[: m - first, :n] == E[first:]).all()  # the same operations, exactly
            assert not flat[m - first :].any() and not flat[:, n:].any()


@BOTH
@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("width", (4, 12, 68))
def test_residual_is_the_product(kernels, n, width):
    rng = np.random.default_rng(n)
    N = -(-n // 4) * 4
    for dtype in DTYPES:
        lanes = kernels.lanes(np.dtype(dtype))
        H = spd(n, dtype)
        for rows in (1, lanes, lanes + 2, 2 * lanes):
            tiles = -(-rows // lanes)
            flat = np.zeros((tiles * lanes, N), dtype)
            flat[:rows, :n] = rng.standard_normal((rows, n))
            Z = np.ascontiguousarray(flat.reshape(tiles, lanes, N).transpose(0, 2, 1))
            F = np.full((tiles, width, lanes), np.nan, dtype)
            G, loss = np.full((rows, n), np.nan, dtype), np.full((tiles, lanes), np.nan)
            kernels.residual(frozen(Z), frozen(packed(kernels, H)), F, G, loss)
            E, H64 = flat[:rows, :n].astype(float), H.astype(float)
            # n products, each rounded: n eps of the sum of their absolute values
            bound = (n + 2) * np.finfo(dtype).eps * (np.abs(E) @ np.abs(H64))
            assert (np.abs(G - E @ H64) <= bound).all()
            error = np.abs(loss.reshape(-1)[:rows] - (E * (E @ H64)).sum(axis=1))
            assert (error <= (np.abs(E) * bound).sum(axis=1)).all()
            assert not loss.reshape(-1)[rows:].any()


def one_pass(kernels, n, m, dtype, groups, width, rows, high=3.0):
    W, codes, scale, zero, group = layer(n, m, dtype, groups)
    H = spd(n, dtype)
    if n > 2:
        H[1], H[:, 1] = 0, 0
    codes = codes.astype(np.int32) if np.isinf(high) else codes.copy()
    G = ((scale[:, group] * (codes.astype(dtype) - zero[:, group]) - W) @ H).astype(dtype)
    diagonal = H.diagonal()
    bound = np.where(diagonal > 0, diagonal * dtype(0.5), np.inf).astype(dtype)
    low, high = (0.0, high) if np.isfinite(high) else (-(2.0**31 - 1), 2.0**31 - 1)
    grid = (scale, group, frozen(bound), low, high, 1e-6, 16 * float(np.finfo(dtype).eps))
    found = np.full(m, -1.0), np.full(m, -1), np.zeros(m, bool)
    kernels.descend(G, codes, frozen(H), grid, frozen(rows), width, found)
    return W, H, codes, G, found


@pytest.mark.parametrize("n", SIZES[1:])
@pytest.mark.parametrize("groups", (1, 2))
@pytest.mark.parametrize("high", (3.0, np.inf))
def test_a_pass_is_the_generic_one_whatever_the_width(n, groups, high):
    m = 11
    rows = np.array([0, 2, 3, 7, 10])
    for dtype in DTYPES:
        _, _, codes, G, found = one_pass(GENERIC, n, m, dtype, groups, 8, rows, high)
        for width in (1, 5, 64, 512):
            _, _, ours, g, (gain, changed, ties) = one_pass(
                CPU, n, m, dtype, groups, width, rows, high
            )
            assert (ours == codes).all() and ours.dtype == codes.dtype
            assert (g == G).all()  # one update after another, in the order of the columns
            assert (changed == found[1]).all() and (ties == found[2]).all()
            assert np.allclose(gain, found[0], rtol=1e-12, atol=0)


@BOTH
def test_a_pass_leaves_what_it_says(kernels):
    """G is E H of the new codes, the gain is what the loss fell by, other rows are untouched."""
    n, m, rows = 40, 9, np.array([1, 4, 8])
    _, start, scale, zero, group = layer(n, m, np.float64)
    W, H, codes, G, (gain, changed, _) = one_pass(kernels, n, m, np.float64, 2, 16, rows)
    before = scale[:, group] * (start - zero[:, group]) - W
    after = scale[:, group] * (codes - zero[:, group]) - W
    assert np.abs(G - after @ H).max() <= 1e-12
    fall = ((before @ H) * before).sum(axis=1) - ((after @ H) * after).sum(axis=1)
    assert np.abs(fall[rows] - gain[rows]).max() <= 1e-11 and (gain[rows] > 0).all()
    others = np.setdiff1d(np.arange(m), rows)
    assert (codes[others] == start[others]).all() and (gain[others] == -1).all()
    assert ((codes != start).sum(axis=1)[rows] == changed[rows]).all()
    assert (codes[:, 1] == start[:, 1]).all()  # H_11 is 0
