"""The pruning slots of both backends against their definitions, n = 0 .. 65, inputs read-only."""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg import reference
from quiplinalg.kernels.record import select
from quiplinalg.rounding.plan import layout, pack, panels

CPU, GENERIC = select("cpu"), select("generic")
DTYPES = (np.float32, np.float64)


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def spd(n, seed=0):
    X = np.random.default_rng([seed, n]).standard_normal((n + 5, n))
    return X.T @ X / (n + 5) + 0.1 * np.eye(n)


def laid_out(n, size, block, dtype, lanes, kernels):
    """Weights of 2 tiles less 3 rows, the packed feedback of spd(n), and what goes with them."""
    T, D = reference.udu(spd(n)) if n else (np.eye(0), np.zeros(0))
    R = (T * np.sqrt(D))[::-1, ::-1].T  # A[n-1-k, n-1-i] = T[i, k] sqrt(D_k)
    place, spans = layout(n, size, block)
    N = place.shape[0]
    U = pack(frozen(np.ascontiguousarray(R)), frozen(place), np.dtype(dtype), kernels)
    W = np.random.default_rng(n).standard_normal((2 * lanes - 3, n)).astype(dtype)
    Z = np.full((2, N, lanes), np.nan, dtype)
    kernels.load(frozen(W), 0, frozen(place), Z)
    full_D = np.zeros(N)
    full_D[place >= 0] = D[place[place >= 0]]
    stats = np.zeros((2, 4, lanes))
    stats[:, 2] = 0.5
    return T, D, place, spans, U, W, Z, full_D, stats


def run(kernels, n, size, block, dtype, drop, given=None, quantise=False):
    lanes = kernels.lanes(np.dtype(dtype))
    T, D, place, spans, U, W, Z, full_D, stats = laid_out(n, size, block, dtype, lanes, kernels)
    m, N = W.shape[0], place.shape[0]
    mask = np.zeros((m, n), bool) if given is None else given[:m].copy()
    scale, zero = np.empty((2, 0, lanes), dtype), np.empty((2, 0, lanes), dtype)
    low, high = dtype(-np.inf), dtype(np.inf)
    if quantise:
        rng = np.random.default_rng(1)
        scale = rng.uniform(0.3, 0.8, (2, 2, lanes)).astype(dtype)
        zero = np.stack([np.full((2, lanes), 3.0), np.full((2, lanes), 1.5)], 1).astype(dtype)
        low, high = dtype(0), dtype(7)
    group = (np.arange(N) // 5 % 2).astype(np.int32)
    salience, damping = np.sqrt(full_D), 0.3 * (full_D > 0)
    width = -(-size // 4) * 4 if drop >= 0 else 4
    values = np.full((m, n), 99, np.uint8 if quantise else dtype)
    for c0, c1 in spans:
        F = np.full((2, c1 - c0, lanes), np.nan, dtype)
        C = np.zeros(F.shape, values.dtype)
        kernels.accumulate(F, Z, panels(U, c0, c1), c0, c1)
        grid = (frozen(scale), frozen(zero), frozen(group), low, high)
        plan = tuple(frozen(a) for a in (place, full_D, damping, salience))
        kernels.prune_block(F, Z, C, U, grid, plan, (c0, c1), (mask, 0, drop, width), stats)
        kernels.store(C, 0, frozen(place[c0:c1]), values)
    flat = stats.transpose(0, 2, 1).reshape(-1, 4)[:m]
    if quantise:
        index = np.empty(n, int)
        index[place[place >= 0]] = group[place >= 0]
        steps, zeros = (a.transpose(0, 2, 1).reshape(-1, 2)[:m, index] for a in (scale, zero))
        return W, T, D, mask, values, flat, steps.astype(float), zeros.astype(float)
    return W, T, D, mask, values, flat


SIZES = (1, 2, 3, 4, 5, 8, 31, 64, 65)


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
@pytest.mark.parametrize("n", (0, *SIZES))
def test_a_given_mask_is_kept_and_compensated(kernels, n):
    given = np.random.default_rng(n).random((200, n)) < 0.4
    for dtype in DTYPES:
        W, T, D, mask, values, stats = run(kernels, n, 8, 1, dtype, -1, given)
        tau = 8 * (n + 4) * np.finfo(dtype).eps  # sums of n products of numbers of order 1
        assert (mask == given[: len(mask)]).all() and not values[mask].any()
        eta = (values.astype(float) - W) @ T
        assert np.abs(eta[~mask]).max(initial=0) <= tau
        loss = (D * eta**2).sum(axis=1)
        assert np.abs(stats[:, 0] - loss).max(initial=0) <= tau * max(loss.max(initial=0), 1)
        kept = 0.3 * ((values.astype(float) - W) ** 2).sum(axis=1)
        assert np.abs(stats[:, 1] - kept).max(initial=0) <= tau * max(kept.max(initial=0), 1)


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("keep,size", ((2, 4), (4, 8), (1, 2), (1, 3), (3, 5), (0, 4), (4, 4)))
def test_groups_lose_their_least_compensated_weights(kernels, n, keep, size):
    """In float64, where the scores of the oracle are those of the kernel but for rounding."""
    W, _, _, mask, values, _ = run(kernels, n, size, 16, np.float64, size - keep)
    expected, chosen = reference.sparsegpt(W, spd(n), keep=keep, size=size)
    assert (mask == chosen).all()
    assert np.abs(values - expected).max() <= 1e-11 * (n + 4)
    counts = [mask[:, a : a + size].sum(axis=1) for a in range(0, n, size)]
    least = [min(size - keep, n - a) for a in range(0, n, size)]
    assert all((c == k).all() for c, k in zip(counts, least, strict=True))


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
@pytest.mark.parametrize("n", SIZES)
def test_kept_weights_are_rounded_to_the_grid(kernels, n):
    given = np.random.default_rng(n).random((200, n)) < 0.4
    for dtype in DTYPES:
        W, T, D, mask, codes, stats, s, o = run(kernels, n, 8, 1, dtype, -1, given, True)
        tau = 32 * (n + 4) * np.finfo(dtype).eps
        none = np.where(o == 3, 3, 0)  # the code of zero where there is one
        assert (codes[mask] == none[mask]).all()
        W_hat = np.where(mask, 0, s * (codes - o))
        z = W_hat - (W_hat - W) @ T
        y = z / s + (o - np.floor(o))
        right = np.clip(np.rint(y) + np.floor(o), 0, 7)
        off = np.abs(y + np.floor(o) - codes) - np.abs(y + np.floor(o) - right)
        assert off[~mask].max(initial=0) <= tau
        loss = (D * (W_hat - z) ** 2).sum(axis=1)
        assert np.abs(stats[:, 0] - loss).max(initial=0) <= tau * max(loss.max(initial=0), 1)
        k = np.rint(y) + np.floor(o)
        clipped = ((k < 0) | (k > 7)) & ~mask
        assert (stats[:, 3] == clipped.sum(axis=1)).all()
        inside = ~mask & (y + np.floor(o) >= 0) & (y + np.floor(o) < 7)
        ties = np.where(inside, 0.5 - np.abs(y - np.rint(y)), 0.5).min(axis=1, initial=0.5)
        assert np.abs(stats[:, 2] - ties).max(initial=0) <= tau


@pytest.mark.parametrize("n", (0, *SIZES))
@pytest.mark.parametrize("size", (1, 2, 4, 5))
def test_blocks_are_eliminated_as_by_the_oracle(n, size):
    n -= n % size
    rng = np.random.default_rng(n)
    H = spd(n)
    Hinv = np.linalg.inv(H)
    Hinv = (Hinv + Hinv.T) / 2
    W = rng.standard_normal((3, n))
    for kernels in (CPU, GENERIC):
        order, costs = np.full((3, n // size), -1, np.int32), np.full((3, n // size), np.nan)
        work = np.full((n + size + 1, n), np.nan)
        assert kernels.eliminate_blocks(frozen(W), frozen(Hinv), size, work, order, costs) == -1
        for w, steps, spent in zip(W, order, costs, strict=True):
            _, expected, price = reference.obs_blocks(w, H, size, n // size)
            assert (steps == expected).all()
            assert np.abs(spent - price).max(initial=0) <= 1e-11 * max(price.max(initial=0), 1)


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
def test_blocks_of_an_indefinite_inverse_are_refused(kernels):
    Hinv = np.diag([1.0, 1, 1, 1, -1, 1])
    order, costs = np.empty((2, 3), np.int32), np.empty((2, 3))
    W = np.ones((2, 6))
    assert kernels.eliminate_blocks(W, Hinv, 2, np.empty((9, 6)), order, costs) == 0
