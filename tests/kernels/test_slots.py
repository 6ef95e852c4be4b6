"""Every kernel slot against its generic twin, n = 0 .. 65, inputs read-only."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from quiplinalg import reference
from quiplinalg.kernels.record import select
from quiplinalg.rounding.plan import panels

CPU, GENERIC = select("cpu"), select("generic")
DTYPES = (np.float32, np.float64)


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def spd(n, seed, dtype=np.float64):
    X = np.random.default_rng(seed).standard_normal((n + 5, n))
    return (X.T @ X / (n + 5)).astype(dtype)


def packed(kernels, n, N, dtype, seed=0):
    """A packed feedback of n columns in N work columns, padding at the end, and its dense U."""
    A = np.zeros((n, n))
    order = frozen(np.arange(n))
    kernels.reverse_rows(frozen(spd(n, seed)), order, frozen(np.full(n, 0.1)), A, 0, n)
    for j0 in range(0, n, 16):
        j1 = min(j0 + 16, n)
        kernels.update_tile(A.T, j0, j1, j0, j1, 0, j0)
        kernels.update_tile(A.T, j1, n, j0, j1, 0, j0)
        assert kernels.factor_tile(A.T, j0, j1) == 0
        kernels.solve_tile(A.T, j1, n, j0, j1)
    place = np.full(N, -1)
    place[:n] = np.arange(n)
    count = N // 4
    U = np.full(8 * count * (count + 1), np.nan, dtype)
    kernels.pack_feedback(frozen(A), frozen(place), U, 0, count)
    return U, A


def test_the_cpu_backend_has_its_compiled_extension():
    """With a C compiler at hand a run would else silently test SciPy's path only."""
    if any(shutil.which(compiler) for compiler in ("cc", "gcc", "clang")):
        assert CPU.tiles_from == "cython", CPU.tiles_from
    else:
        assert CPU.tiles_from.startswith("scipy (the compiled extension is missing")


@pytest.mark.parametrize("n", (0, 1, 2, 3, 4, 5, 17, 31, 32, 33, 64, 65))
def test_factor_and_pack(n):
    N = -(-n // 4) * 4 + 4
    for dtype in DTYPES:
        ours, A = packed(CPU, n, N, dtype)
        twin, B = packed(GENERIC, n, N, dtype)
        assert np.abs(A - B).max(initial=0) <= 1e-13
        assert np.abs(ours - twin).max(initial=0) <= 2 * np.finfo(dtype).eps * max(n, 1)
        if n:
            T, _ = reference.udu(spd(n, 0) + 0.1 * np.eye(n))
            for p in range(N // 4):
                panel = ours[8 * p * (p + 1) :][: 16 * (p + 1)].reshape(-1, 4)
                dense = np.zeros((4 * p + 4, 4))
                columns = [c for c in range(4 * p, 4 * p + 4) if c < n]
                for c in columns:
                    rows = min(c, n)
                    dense[:rows, c - 4 * p] = T[:rows, c]
                assert np.abs(panel - dense).max() <= 1e-5


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
@pytest.mark.parametrize("n", (1, 2, 63, 64, 65, 130))
def test_asymmetry_sees_every_pair(kernels, n):
    rng = np.random.default_rng(n)
    for dtype in DTYPES:
        H = spd(n, n, dtype)
        H = (H + H.T) / 2
        assert kernels.asymmetry(frozen(H), 0, n) == (0, True)
        for _ in range(5):
            i, j = rng.integers(n, size=2)
            B = H.copy()
            B[i, j] += 0.5
            found = [kernels.asymmetry(frozen(B), a, min(a + 64, n))[0] for a in range(0, n, 64)]
            expected = abs(B[i, j] - B[j, i])
            assert max(found) == pytest.approx(expected, rel=1e-6)
            for bad in (np.nan, np.inf):
                B = H.copy()
                B[i, j] = bad
                parts = [(a, min(a + 64, n)) for a in range(0, n, 64)]
                finite = [kernels.asymmetry(frozen(B), a, b)[1] for a, b in parts]
                assert not all(finite)


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
@pytest.mark.parametrize("m,n", ((1, 1), (3, 5), (24, 4), (25, 9), (65, 33)))
def test_load_and_store_are_a_permutation(kernels, m, n):
    rng = np.random.default_rng(0)
    for dtype in DTYPES:
        lanes = kernels.lanes(np.dtype(dtype))
        tiles = -(-m // lanes)
        N = -(-n // 4) * 4
        columns = np.full(N, -1)
        columns[:n] = rng.permutation(n)
        W = rng.standard_normal((m, n)).astype(dtype)
        Z = np.full((tiles, N, lanes), np.nan, dtype)
        kernels.load(frozen(W), 0, frozen(columns), Z)
        flat = Z.transpose(0, 2, 1).reshape(-1, N)
        assert (flat[:m, :n] == W[:, columns[:n]]).all()
        assert not flat[m:].any() and not flat[:, n:].any()
        codes = np.full((m, n), 9, np.uint8)
        C = rng.integers(0, 4, Z.shape).astype(np.uint8)
        kernels.store(frozen(C), 0, frozen(columns), codes)
        assert (codes[:, columns[:n]] == C.transpose(0, 2, 1).reshape(-1, N)[:m, :n]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (1, 3, 4, 5, 8, 31, 64, 65, 130))
def test_accumulate_and_round_follow_the_definition(dtype, n):
    """Against z = W + E U and the grid, from what the kernel left behind, both backends."""
    rng = np.random.default_rng(n)
    N = -(-n // 4) * 4
    columns = np.full(N, -1)
    columns[:n] = np.arange(n)
    for kernels in (CPU, GENERIC):
        lanes = kernels.lanes(np.dtype(dtype))
        U, _ = packed(kernels, n, N, dtype)
        T, _ = reference.udu(spd(n, 0) + 0.1 * np.eye(n))
        W = rng.standard_normal((2 * lanes, n)).astype(dtype)
        Z = np.empty((2, N, lanes), dtype)
        kernels.load(W, 0, columns, Z)
        scale = rng.uniform(0.3, 0.8, (2, 2, lanes)).astype(dtype)
        zero = rng.integers(0, 4, (2, 2, lanes)).astype(dtype)
        zero[:, 1] += dtype(0.5)
        group = (np.arange(N) // 3 % 2).astype(np.int32)
        D, damping = rng.uniform(0.5, 2, N), rng.uniform(0, 1, N)
        for high, noisy in ((3, False), (3, True), (np.inf, False)):
            low = 0 if high == 3 else -np.inf
            C = np.zeros(Z.shape, np.uint8 if high == 3 else np.int32)
            E = Z.copy()
            stats = np.zeros((2, 4, lanes))
            stats[:, 2] = 0.5
            noise_all = rng.random(Z.shape, dtype=np.float32)
            for c0 in range(0, N, 8):
                c1 = min(c0 + 8, N)
                F = np.full((2, 8, lanes), np.nan, dtype)
                own = panels(U, c0, c1)
                kernels.accumulate(F, E, own, c0, c1)
                noise = noise_all[:, c0:c1].copy() if noisy else np.empty((0, 0, 0), np.float32)
                grid = (scale, zero, group, dtype(low), dtype(high), noise)
                kernels.round_block(F, E, C, own, grid, (columns, D, damping), (c0, c1), stats)
            tau = 64 * n * float(np.finfo(dtype).eps)
            for tile in range(2):
                s, o = scale[tile, group[:n]].T.astype(float), zero[tile, group[:n]].T.astype(float)
                w, q = Z[tile, :n].T.astype(float), C[tile, :n].T.astype(float)
                W_hat = s * (q - o)
                z = w + (w - W_hat) @ (T - np.eye(n))
                y = z / s + (o - np.floor(o))
                k = np.floor(o)
                if noisy:
                    y = y + noise_all[tile, :n].T
                    off = np.minimum(y - (q - k), (q - k) + 1 - y)
                    off = np.where(q == 0, np.maximum(off, (q - k) + 1 - y), off)
                    off = np.where(q == high, np.maximum(off, y - (q - k)), off)
                    assert (off >= -tau).all()
                else:
                    error = np.abs(y + k - np.clip(np.rint(y) + k, low, high))
                    missed = np.abs(y + k - q) - error
                    assert (missed <= tau).all(), missed.max()
                assert np.abs(E[tile, :n].T - (w - W_hat)).max(initial=0) <= tau * 4
                eta = W_hat - z
                loss = (D[:n] * eta**2).sum(axis=1)
                assert np.allclose(stats[tile, 0], loss, rtol=tau * 10, atol=tau)
                damped = (damping[:n] * (w - W_hat) ** 2).sum(axis=1)
                assert np.allclose(stats[tile, 1], damped, rtol=tau * 10, atol=tau)


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
def test_philox_is_the_reference_stream(kernels):
    columns = np.array([3, 0, 7, 1000])
    noise = np.empty((2, 4, 8), np.float32)
    kernels.philox(12345, 40, frozen(columns), noise)
    expected = reference.uniforms(12345, np.arange(40, 56), columns)
    assert (noise.transpose(0, 2, 1).reshape(16, 4) == expected).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (1, 5, 64, 300))
@pytest.mark.parametrize("bits", (1, 2, 3, 4, 8))
@pytest.mark.parametrize("sym", (False, True))
def test_fit_is_the_reference_grid(dtype, n, bits, sym):
    rng = np.random.default_rng(bits)
    X = rng.standard_t(4, (12, n)).astype(dtype)
    X[0] = 0
    X[1] = np.abs(X[1])
    X[2] = -np.abs(X[2])
    X[3] = 0.25
    for clip, twin in ((False, reference.minmax_grid), (True, reference.mse_grid)):
        expected_scale, expected_zero = (a[:, 0] for a in twin(X, bits, sym))
        for kernels in (CPU, GENERIC):
            scale, zero = np.empty(12, dtype), np.empty(12, dtype)
            kernels.fit(frozen(X), dtype(2**bits - 1), sym, clip, 2.4, 0, scale, zero)
            same = np.isclose(scale, expected_scale, rtol=8 * np.finfo(dtype).eps)
            if not clip:
                assert same.all() and (zero == expected_zero).all()
                continue
            # two ranges whose sums agree to the accuracy of the search are both right
            for i in np.flatnonzero(~(same & (zero == expected_zero))):
                ours = power_error(X[i], scale[i], zero[i], bits)
                best = power_error(X[i], expected_scale[i], expected_zero[i], bits)
                assert ours <= best * (1 + 4e-4) + 1e-30, (kernels.name, i, ours, best)


def power_error(x, scale, zero, bits):
    x, scale, zero = (np.asarray(a, float) for a in (x, scale, zero))
    q = np.clip(np.rint(x / scale) + zero, 0, 2**bits - 1)
    return (np.abs(scale * (q - zero) - x) ** 2.4).sum()


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
@pytest.mark.parametrize("n", (0, 1, 2, 3, 4, 5, 64, 65))
@pytest.mark.parametrize("step", (1, 7, 100))
def test_unit_rows_reverse_and_scale(kernels, n, step):
    for dtype in DTYPES:
        A = np.triu(np.random.default_rng(n).uniform(1, 2, (n, n))).astype(dtype)
        expected = (A / A.diagonal()[:, None])[::-1, ::-1]
        half = (n + 1) // 2
        for j in range(0, half, step):
            kernels.unit_rows(A, j, min(j + step, half))
        assert (A == expected).all()
