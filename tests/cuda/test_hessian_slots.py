"""The CUDA passes over H and its factor: equal, bit for bit, to those of the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg.kernels.cuda import hessian
from quiplinalg.kernels.record import PANEL, select

CPU = select("cpu")
DTYPES = (np.float32, np.float64)
SIZES = (*range(18), 31, 32, 33, 63, 64, 65, 130)
BAD = (np.nan, -np.nan, np.inf, -np.inf)


def square(n, members, dtype, seed=0):
    return np.random.default_rng([n, seed]).standard_normal((members, n, n)).astype(dtype)


def factors(n, members):
    """Reversed factors: upper triangular, positive diagonal, anything below."""
    A = square(n, members, np.float64, 1)
    A[:, np.arange(n), np.arange(n)] = np.random.default_rng(n).uniform(0.5, 2, (members, n))
    return A


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (*SIZES, 257))
def test_asymmetry_is_the_largest_difference(cuda, n, dtype):
    H = square(n, 3, dtype)
    found = hessian.asymmetry(cuda.xp.asarray(H)).get()
    expected = [CPU.asymmetry(h, 0, n) for h in H]
    assert found.dtype == dtype
    assert (found[:, 0] == [worst for worst, _ in expected]).all()
    assert (found[:, 1] == 1).all()
    H = (H + H.transpose(0, 2, 1)) / 2
    assert (hessian.asymmetry(cuda.xp.asarray(H)).get() == [0, 1]).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (1, 2, 17, 64, 65, 130))
def test_asymmetry_finds_every_element_that_is_not_finite(cuda, n, dtype):
    H = square(n, 1, dtype)
    H = (H + H.transpose(0, 2, 1)) / 2
    rng = np.random.default_rng(n)
    places = [(0, 0), (n - 1, n - 1), (0, n - 1), (n - 1, 0), *rng.integers(n, size=(4, 2))]
    for place, (i, j) in enumerate(places):
        B = np.repeat(H, 3, axis=0)
        B[1, i, j] = B[1, j, i] = BAD[place % 4]
        B[2, i, j] = BAD[(place + 1) % 4]
        found = hessian.asymmetry(cuda.xp.asarray(B)).get()
        assert not np.isfinite(found[1:, 0]).any()
        assert found[:, 1].tolist() == [1, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_counts(cuda, dtype):
    for shape in ((0,), (1,), (3, 5), (257,), (2, 3, 1000), (300_000,)):
        X = np.random.default_rng(0).standard_normal(shape).astype(dtype)
        assert int(hessian.finite(cuda.xp.asarray(X))) == 0
        for count in (1, min(X.size, 40), X.size):
            if not count:
                continue
            X.flat[np.random.default_rng(1).permutation(X.size)[:count]] = BAD[count % 4]
            found = int(hessian.finite(cuda.xp.asarray(X)))
            assert found == np.count_nonzero(~np.isfinite(X))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (*SIZES, 257))
@pytest.mark.parametrize("members", (1, 3))
def test_reverse_rows(cuda, n, members, dtype):
    rng = np.random.default_rng(n)
    left_out = n // 5  # rows of H that the order has not
    H = square(n + left_out, members, dtype)
    order = np.stack([rng.permutation(n + left_out)[:n] for _ in range(members)])
    shift = rng.uniform(0, 1, (members, n))
    A = cuda.xp.empty((members, n, n), np.float64)
    hessian.reverse_rows(*map(cuda.xp.asarray, (H, order, shift)), A)
    expected = np.zeros((members, n, n))
    for b in range(members):
        CPU.reverse_rows(H[b], order[b], shift[b], expected[b], 0, n)
    assert (A.get() == expected).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_reverse_rows_that_shared_memory_cannot_hold(cuda, dtype, monkeypatch):
    monkeypatch.setattr(hessian, "_SHARED", 64)
    test_reverse_rows(cuda, 130, 3, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("members", (1, 3))
def test_unit_rows(cuda, n, members, dtype):
    A = factors(n, members)
    T, D = cuda.xp.empty((members, n, n), dtype), cuda.xp.empty((members, n), np.float64)
    hessian.unit_rows(cuda.xp.asarray(A), T, D)
    for b in range(members):
        expected = np.triu(A[b])
        CPU.unit_rows(expected, 0, (n + 1) // 2)
        assert (T.get()[b] == expected.T.astype(dtype)).all()
        assert (D.get()[b] == A[b].diagonal()[::-1] ** 2).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("members", (1, 3))
def test_pack_feedback(cuda, n, members, dtype):
    A = factors(n, members)
    rng = np.random.default_rng(n)
    N = -(-(n + n // 7) // PANEL) * PANEL + PANEL
    place = np.full(N, -1)
    place[np.sort(rng.permutation(N)[:n])] = np.arange(n)
    U = cuda.xp.empty((members, N, N), dtype)
    hessian.pack_feedback(cuda.xp.asarray(A), cuda.xp.asarray(place), U)
    count = N // PANEL
    for b in range(members):
        packed = np.empty(8 * count * (count + 1), dtype)
        CPU.pack_feedback(A[b], place, packed, 0, count)
        expected = np.zeros((N, N), dtype)
        for p in range(count):
            panel = packed[8 * p * (p + 1) :][: 16 * (p + 1)].reshape(-1, PANEL)
            expected[: PANEL * (p + 1), PANEL * p : PANEL * (p + 1)] = panel
        assert (U.get()[b] == expected).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", (*SIZES, 257))
def test_mirror(cuda, n, dtype):
    A = square(n, 3, dtype)
    device = cuda.xp.asarray(A)
    for way in ("forward", "reverse", 7):
        with cuda.order(way):
            hessian.mirror(device)
        assert (device.get() == np.triu(A) + np.triu(A, 1).transpose(0, 2, 1)).all()


def test_the_order_of_threads_does_not_matter(cuda):
    n = 70
    H = square(n, 1, np.float64)
    order, shift = np.arange(n)[None], np.ones((1, n))
    results = []
    for way in ("forward", "reverse", 3):
        with cuda.order(way):
            A, T, U = (cuda.xp.empty((1, n, n), np.float64) for _ in range(3))
            D = cuda.xp.empty((1, n), np.float64)
            hessian.reverse_rows(*map(cuda.xp.asarray, (H, order, shift)), A)
            hessian.unit_rows(A, T, D)
            hessian.pack_feedback(A, cuda.xp.asarray(np.arange(n)), U)
            worst = hessian.asymmetry(cuda.xp.asarray(H))
            results.append([a.get() for a in (A, T, D, U, worst)])
    for other in results[1:]:
        assert all((a == b).all() for a, b in zip(results[0], other, strict=True))
