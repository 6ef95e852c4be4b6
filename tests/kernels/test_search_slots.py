"""The kernels of K-best rounding and of the exact search against their generic twins."""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg.kernels.record import select

CPU, GENERIC = select("cpu"), select("generic")
DTYPES = (np.float32, np.float64)
SIZES = (0, 1, 2, 3, 4, 5, 17, 31, 32, 33, 64, 65)


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def feedback(n, seed=0):
    """U (strictly upper) and D of a well-conditioned H: no two candidates cost nearly the same."""
    rng = np.random.default_rng([n, seed])
    return np.triu(rng.standard_normal((n, n)) * 0.3, 1), rng.uniform(0.5, 2, n)


def panels(U, N, dtype):
    packed = np.zeros(8 * (N // 4) * (N // 4 + 1), dtype)
    for p in range(N // 4):
        panel = packed[8 * p * (p + 1) :][: 16 * (p + 1)].reshape(-1, 4)
        block = U[: 4 * p + 4, 4 * p : 4 * p + 4]
        panel[: block.shape[0], : block.shape[1]] = block
    return packed


class Tiles:
    """Rows laid out for the slots of one backend: two tiles, the second one not full."""

    def __init__(self, kernels, n, K, dtype, bits, width, spoilt=False):
        lanes, N = kernels.lanes(np.dtype(dtype)), -(-n // 4) * 4 + 4
        rows = CPU.lanes(np.dtype(dtype)) + 2
        tiles = -(-rows // lanes)
        rng = np.random.default_rng([n, K])
        U, D = feedback(n)
        W = rng.standard_normal((rows, n)).astype(dtype)
        self.scale = rng.uniform(0.3, 0.9, (rows, 2)).astype(dtype)
        self.zero = rng.integers(0, 3, (rows, 2)).astype(dtype) + dtype(0.5)
        group = np.zeros(N, np.int32)
        group[: n // 2] = 1
        self.columns = np.full(N, -1)
        self.columns[:n] = np.arange(n)
        plan = (frozen(self.columns), *(np.zeros(N) for _ in range(2)))
        plan[1][:n], plan[2][:n] = D, 0.01
        high = dtype(np.inf if bits is None else 2**bits - 1)
        low = dtype(-np.inf if bits is None else 0)
        code = np.int32 if bits is None else np.uint8
        Z = np.empty((tiles, N, lanes), dtype)
        kernels.load(W, 0, self.columns, Z)

        def tiled(a, fill):
            flat = np.full((tiles * lanes, 2), fill, dtype)
            flat[:rows] = a
            return frozen(flat.reshape(tiles, lanes, 2).transpose(0, 2, 1))

        grid = (tiled(self.scale, 1), tiled(self.zero, 0), frozen(group), low, high)
        kind = np.nan if spoilt else 0
        X = np.full((tiles, K, N, lanes), kind, dtype)
        F = np.full((tiles, K, width, lanes), kind, dtype)
        P, Q = (np.full((tiles, N, K, lanes), 7, kind) for kind in (np.uint16, code))
        self.stats, shared = np.zeros((tiles, 3, K, lanes)), np.zeros(tiles, np.int64)
        packed, self.alive = frozen(panels(U, N, dtype)), [1]
        for c0 in range(0, N, width):
            span = (c0, min(c0 + width, N))
            state = (self.alive[-1], rows, shared)
            self.alive.append(
                kernels.kbest_block(
                    frozen(Z), X, F, P, Q, packed, grid, plan, span, state, self.stats
                )
            )
            assert (shared >= 0).all() and (shared <= c0).all()
        C = np.full((tiles, N, lanes), 7, code)
        kernels.kbest_trace(frozen(P), frozen(Q), C)
        self.codes = np.full((rows, n), 9, code)
        kernels.store(C, 0, self.columns, self.codes)
        self.sums = self.stats.transpose(0, 3, 2, 1).reshape(tiles * lanes, K, 3)[:rows]
        self.W, self.U, self.D, self.group, self.n = W, U, D, group[:n], n

    def loss(self):
        """sum D eta^2, sum damping e^2 of the codes, from their definition."""
        s, o = (a.astype(float)[:, self.group] for a in (self.scale, self.zero))
        E = s * (self.codes - o) - self.W.astype(float)
        eta = E + E @ self.U
        return (self.D * eta**2).sum(axis=1), 0.01 * (E**2).sum(axis=1)


@pytest.mark.parametrize("n", (0, 1, 3, 4, 5, 17, 33, 65))
@pytest.mark.parametrize("bits", (1, 2, None))
@pytest.mark.parametrize("K", (1, 3, 8))
def test_kbest_is_the_generic_one_whatever_the_block(n, bits, K):
    for dtype in DTYPES:
        twin = Tiles(GENERIC, n, K, dtype, bits, 8)
        for width in (4, 20, 72):
            ours = Tiles(CPU, n, K, dtype, bits, width, spoilt=True)
            assert ours.alive[-1] == twin.alive[-1]
            # costs are sums of n rounded terms of targets with n rounded terms
            tau = 64 * (n + 1) * np.finfo(dtype).eps
            same = (ours.codes == twin.codes).all(axis=1)
            assert same.mean() >= (1.0 if dtype == np.float64 else 0.95)
            loss, damped = ours.loss()
            assert (np.abs(ours.sums[:, 0, 0] - loss) <= tau * (1 + loss)).all()
            assert (np.abs(ours.sums[:, 0, 1] - damped) <= tau * (1 + damped)).all()
            if n and same.any():
                alive = ours.alive[-1]
                a, b = ours.sums[same, :alive], twin.sums[same, :alive]
                assert (np.diff(ours.sums[:, :alive, 0], axis=1) >= 0).all()
                assert (np.abs(a[:, 0, 0] - b[:, 0, 0]) <= tau * (1 + loss[same])).all()
                assert (a[:, 0, 2] == b[:, 0, 2]).mean() >= 0.95


@pytest.mark.parametrize("bits", (1, 2, None))
def test_more_paths_than_lanes_and_at_first_than_candidates(bits):
    for dtype in DTYPES:
        ours, twin = (Tiles(k, 7, 60, dtype, bits, 4) for k in (CPU, GENERIC))
        # 1 bit: 2, 4, 8, .. of them
        assert ours.alive == twin.alive and ours.alive[-1] == 60
        assert (ours.codes == twin.codes).mean() >= 0.99


@pytest.mark.parametrize("n", SIZES[:8])
@pytest.mark.parametrize("bits", (1, 2, None))
@pytest.mark.parametrize("budget", (1, 17, 10**6))
def test_the_search_is_the_generic_one(n, bits, budget):
    rng = np.random.default_rng(n)
    rows = 3
    U, D = feedback(n)
    W = frozen(rng.standard_normal((rows, n)))
    s, o = (frozen(rng.uniform(0.3, 0.9, (rows, n))) for _ in range(2))
    ends = (-np.inf, np.inf) if bits is None else (0.0, 2.0**bits - 1)
    start = rng.integers(0, 2, (rows, n))
    results = []
    for kernels in (CPU, GENERIC):
        codes, loss = start.copy(), np.full(rows, np.nan)
        nodes, proven = np.full(rows, -1), np.zeros(rows, bool)
        limit = min(budget, 1000) if n > 5 else budget
        kernels.exact_rows(
            W, frozen(U), frozen(D), (s, o, *ends), limit, codes, loss, nodes, proven
        )
        E = s * (codes - o) - W
        direct = (D * (E + E @ U) ** 2).sum(axis=1)
        assert (np.abs(loss - direct) <= 64 * (n + 1) * np.finfo(float).eps * (1 + direct)).all()
        assert (nodes <= limit).all() and (proven | (nodes == limit)).all()
        results.append((codes, nodes, proven))
    for a, b in zip(*results, strict=True):
        assert (a == b).all()
