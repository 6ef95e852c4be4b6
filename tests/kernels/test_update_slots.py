"""The slots of the updates against their definition and their twins, n = 0 .. 65."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import make_hessian

from quiplinalg.kernels.record import select

CPU, GENERIC = select("cpu"), select("generic")
DTYPES = (np.float32, np.float64)


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def embedded(rng, b, n, dtype, lead, step):
    """A flat memory with b matrices of n rows in it, and the matrices."""
    memory = rng.standard_normal(b * step + 3).astype(dtype)
    return memory, [np.array(inside(memory, n, lead, step, m)) for m in range(b)]


def inside(memory, n, lead, step, m):
    rows = memory[m * step : m * step + n * lead].reshape(n, lead) if n else np.empty((0, lead))
    return rows[:, :n]


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_rows(dtype):
    for n in range(66):
        rng = np.random.default_rng(n)
        k, lead = n % 4, n + n % 3
        step = n * lead + 2
        memory, A = embedded(rng, 2, n, dtype, lead, step)
        U = rng.standard_normal((2, k, n)).astype(dtype)
        results = []
        for kernels in (CPU, GENERIC):
            W = np.full((2, k, n), 7, dtype)
            c0 = n // 3
            where = (frozen(memory), (n, lead, step), frozen(U), W)
            kernels.multiply_rows(*where, (1, 2), (c0, n))
            assert (W[0] == 7).all() and (W[1, :, :c0] == 7).all()
            kernels.multiply_rows(*where, (0, 2), (0, n))
            results.append(W)
            tol = (n + 1) * np.finfo(dtype).eps * n * 16  # sums of n products of at most 4 x 4
            for m in range(2):
                exact = U[m].astype(float) @ A[m].astype(float)
                assert np.abs(W[m] - exact).max(initial=0) <= tol
        assert (results[0] == results[1]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rank_update_keeps_drops_and_makes_room(dtype):
    for n in range(66):
        rng = np.random.default_rng(n)
        kept = np.sort(rng.permutation(n)[: n - n // 3])
        room = np.insert(np.arange(n), n // 2, -1)
        for keep in (np.arange(n), kept, room):
            size, k = len(keep), n % 3
            lead, wide = n + 2, size + n % 2
            memory, A = embedded(rng, 2, n, dtype, lead, n * lead + 1)
            V = rng.standard_normal((2, k, size)).astype(dtype)
            maps = np.tile(keep, (2, 1))
            results = []
            for kernels in (CPU, GENERIC):
                out = np.full(2 * size * wide, 7, dtype)
                layouts = (n, lead, n * lead + 1), (size, wide, size * wide)
                rest = (frozen(V), -1, frozen(maps), out, layouts[1])
                for r in range(0, 2 * size, 7):  # any rows, each on its own
                    span = (r, min(r + 7, 2 * size))
                    kernels.rank_update(frozen(memory), layouts[0], *rest, span)
                results.append(out)
                for m in range(2):
                    larger = np.pad(A[m].astype(float), ((0, 1), (0, 1)))  # -1 is the zero row
                    exact = larger[np.ix_(keep, keep)] - V[m].T.astype(float) @ V[m]
                    found = inside(out, size, wide, size * wide, m)
                    assert np.abs(found - exact).max(initial=0) <= 64 * np.finfo(dtype).eps
            assert (results[0] == results[1]).all(), (n, size)


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
@pytest.mark.parametrize("n", (1, 2, 9, 40))
def test_rank_update_in_place_shrinks_and_grows(kernels, n):
    rng = np.random.default_rng(n)
    for change in (-1, 1):
        larger = n + (change > 0)
        memory = rng.standard_normal(larger * larger)
        A = inside(memory, n, larger, larger**2, 0).copy()
        at = n // 2
        keep = np.delete(np.arange(n), at) if change < 0 else np.insert(np.arange(n), at, -1)
        V = rng.standard_normal((1, 1, len(keep)))
        view = memory.view()
        view.flags.writeable = False
        layouts = (n, larger, larger**2), (len(keep), larger, larger**2)
        kernels.rank_update(
            view, layouts[0], frozen(V), 1, frozen(keep[None]), memory, layouts[1], (0, len(keep))
        )
        padded = np.pad(A, ((0, 1), (0, 1)))
        exact = padded[np.ix_(keep, keep)] + V[0].T @ V[0]
        found = inside(memory, len(keep), larger, larger**2, 0)
        assert np.abs(found - exact).max(initial=0) <= 1e-14


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unit", (False, True), ids=("cholesky", "ldl"))
def test_update_factor(dtype, unit):
    eps = np.finfo(dtype).eps
    for n in (*range(12), 31, 32, 33, 63, 64, 65):
        rng = np.random.default_rng(n)
        k, lead = n % 4, n + n % 3
        H = make_hessian("well", n, n)
        X = rng.standard_normal((2, k, n)).astype(dtype) / 4
        for sign in (1, -1):
            start = np.array([0, min(n, 3)])
            R, D, sums = [], np.zeros((2, n if unit else 0), dtype), []
            for m in range(2):
                X[m, :, : start[m]] = 0
                C = np.linalg.cholesky(H + (X[m].T.astype(float) @ X[m]) * (sign < 0))
                d = C.diagonal() if unit else np.ones(n)
                R.append((C / d).T.astype(dtype))
                if unit:
                    D[m] = d**2
                weight = D[m].astype(float) if unit else np.ones(n)
                A = (R[m].T.astype(float) * weight) @ R[m].astype(float)
                sums.append(A + sign * X[m].T.astype(float) @ X[m].astype(float))
            by_rows, by_columns = (np.stack([f(r) for r in R]) if n else np.empty((2, 0, 0), dtype)
                                   for f in (np.array, lambda r: r.T))  # fmt: skip
            results = []
            for kernels in (CPU, GENERIC):
                for source, origin in (
                    (by_rows, (n, 1, n * n)),
                    (by_columns, (1, n, n * n)),
                    (None, (0, 0, 0)),
                ):
                    out = np.full(2 * n * lead, 7, dtype)
                    target, pivots, x = (n, lead, n * lead, 0, 2), D.copy(), X.copy()
                    if source is None:
                        for m in range(2):
                            np.copyto(inside(out, n, lead, n * lead, m), R[m],
                                      where=np.triu(np.ones((n, n), bool)))  # fmt: skip
                    memory = out.view() if source is None else source.reshape(-1).copy()
                    memory.flags.writeable = False
                    found = (start, np.zeros(2, np.int64), np.zeros(2))
                    kernels.update_factor(memory, origin, out, target, pivots, x, sign, found)
                    if n and (max(origin) > 0 or source is None):
                        assert (found[1] == -1).all()
                    for m in range(2):
                        turned = inside(out, n, lead, n * lead, m)
                        assert (turned[np.tril_indices(n, -1)] == 7).all()
                        U = np.triu(turned).astype(float)
                        made = (U.T * (pivots[m].astype(float) if unit else 1)) @ U
                        tol = 8 * (n + 1) * (k + 1) * eps
                        assert np.abs(made - sums[m]).max(initial=0) <= tol, (n, sign, origin)
                    results.append(out)
            for other in results[1:]:
                gap = np.abs(other - results[0]).max(initial=0)
                assert gap <= 16 * (n + 1) * (k + 1) * eps


@pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
def test_update_factor_says_what_failed(kernels):
    n = 70
    for bad in (0, 5, 31, 32, 69):
        for unit in (False, True):
            R, D = np.eye(n), np.ones((1, n if unit else 0))
            X = np.zeros((1, 2, n))
            X[0, 0, bad], X[0, 1, bad] = 0.8, 0.8
            found = (np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1))
            memory = R.reshape(-1)
            view = memory.view()
            view.flags.writeable = False
            kernels.update_factor(view, (0, 0, 0), memory, (n, n, n * n, 0, 1), D, X, -1, found)
            assert found[1][0] == bad and abs(found[2][0] + 0.28) <= 1e-15
