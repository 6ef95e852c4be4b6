"""Every update on every matrix family, by LAPACK's test ratios, measured in longdouble."""

from __future__ import annotations

import numpy as np
import pytest
from families import SIZES, spd_families

import quiplinalg as ql
from quiplinalg import reference

UNIT = {np.float64: 2.0**-53, np.float32: 2.0**-24}
KINDS = pytest.mark.parametrize("dtype", UNIT, ids=lambda d: d.__name__)
FAIL = 30  # LAPACK's threshold; 1.5 to 6 is what is seen


def wide(a):
    return np.asarray(a).astype(np.longdouble)


def norm(A):
    return float(np.abs(A).sum(axis=0).max(initial=0))


def families(n, dtype):
    for name, A in spd_families(n, seed=1).items():
        if dtype is np.float64 or "flow" not in name:  # beyond the range of float32
            yield name, A


def factors(n, dtype):
    """(name, L of that dtype, its L L^T in longdouble): any such L is the exact factor of that."""
    for name, A in families(n, dtype):
        L = np.asfortranarray(np.linalg.cholesky(A).astype(dtype))
        if (L.diagonal() > 0).all():
            yield name, L, wide(L) @ wide(L).T


def columns(A, k, size, dtype, seed=2):
    """k columns on the scale of A."""
    X = np.random.default_rng(seed).standard_normal((len(A), k))
    return (size * X * np.sqrt(np.diag(A).astype(float))[:, None]).astype(dtype)


def ratio(product, exact, scale, unit):
    return norm(wide(product) - exact) / (len(exact) * scale * unit) if len(exact) else 0.0


def hardly_definite(A, scale, unit):
    """Whether rounding at this scale may make A indefinite: only then may a downdate fail."""
    least = np.linalg.eigvalsh((A / scale).astype(float)).min()
    return least <= FAIL * len(A) * unit


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_cholesky_update_and_downdate(n, dtype):
    unit, done = UNIT[dtype], 0
    for name, L, A in factors(n, dtype):
        for k, size in ((1, 1.0), (1, 30.0), (3, 0.1)):
            X = columns(A, k, size, dtype)
            x = X[:, 0] if k == 1 else X
            larger = A + wide(X) @ wide(X).T
            up = ql.cholesky_update(L, x)
            assert up.dtype == dtype and not np.triu(up, 1).any()
            found = ratio(wide(up) @ wide(up).T, larger, norm(larger), unit)
            assert found <= FAIL, (name, k, size, found)
            # off again what is in it: relative to the norm of what it is taken from
            B = wide(up) @ wide(up).T
            smaller = B - wide(X) @ wide(X).T
            try:
                down = ql.cholesky_downdate(up, x)
            except ql.NotPositiveDefiniteError:
                assert hardly_definite(smaller, norm(B), unit), (name, k, size)
                continue
            found = ratio(wide(down) @ wide(down).T, smaller, norm(B), unit)
            assert found <= FAIL, (name, k, size, found)
            done += 1
    assert done >= 20, "few downdates are to fail"


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_ldl_update_of_either_sign(n, dtype):
    unit, done = UNIT[dtype], 0
    for name, C, _ in factors(n, dtype):
        d = C.diagonal().astype(float)
        L, D = np.tril((C / d).astype(dtype)), (d**2).astype(dtype)
        np.fill_diagonal(L, 1)
        if not (D > np.finfo(dtype).tiny).all():
            continue
        A = (wide(L) * wide(D)) @ wide(L).T
        for k, sigma in ((1, 0.5), (1, 1e6), (3, 2.0)):  # d_new / d_old far beyond 4 too
            X = columns(A, k, 1.0, dtype)
            x = X[:, 0] if k == 1 else X
            larger = A + sigma * wide(X) @ wide(X).T
            M, E = ql.ldl_update(L, D, x, sigma)
            assert M.dtype == E.dtype == dtype and (M.diagonal() == 1).all() and (E > 0).all()
            assert not np.triu(M, 1).any()
            B = (wide(M) * wide(E)) @ wide(M).T
            found = ratio(B, larger, norm(larger), unit)
            assert found <= FAIL, (name, k, sigma, found)
            smaller = B - sigma * wide(X) @ wide(X).T
            try:
                M, E = ql.ldl_update(M, E, x, -sigma)
            except ql.NotPositiveDefiniteError:
                assert hardly_definite(smaller, norm(B), unit), (name, k, sigma)
                continue
            found = ratio((wide(M) * wide(E)) @ wide(M).T, smaller, norm(B), unit)
            assert found <= FAIL, (name, k, sigma, found)
            done += 1
    assert done >= 15


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_cholesky_delete_and_insert(n, dtype):
    unit = UNIT[dtype]
    for name, L, A in factors(n, dtype):
        for q in sorted({0, n // 2, n - 1} & set(range(n))):
            F = np.delete(np.arange(n), q)
            less = ql.cholesky_delete(L, q)
            exact = A[np.ix_(F, F)]
            found = ratio(wide(less) @ wide(less).T, exact, norm(A), unit)
            assert found <= FAIL, (name, q, found)
            a, s = A[F, q].astype(dtype), dtype(A[q, q])
            whole = wide(np.zeros((n, n)))
            whole[np.ix_(F, F)] = wide(less) @ wide(less).T
            whole[F, q] = whole[q, F] = wide(a)
            whole[q, q] = wide(s)
            try:
                more = ql.cholesky_insert(less, q, a, s)
            except ql.NotPositiveDefiniteError:
                assert hardly_definite(whole, norm(A), unit), (name, q)
                continue
            found = ratio(wide(more) @ wide(more).T, whole, norm(A), unit)
            assert found <= FAIL, (name, q, found)


def inverses(n, dtype):
    """(name, H in longdouble, its inverse rounded, cond) where an inverse means something."""
    for name, A in families(n, dtype):
        H = wide(A)
        cond = float(np.linalg.cond(A, 1)) if n else 1.0
        if n * UNIT[dtype] * cond < 0.1:
            yield name, H, reference.inverse(H).astype(dtype), cond


def off(Hinv, H, cond, unit):
    """||Hinv H - I||_1 / (n cond u)."""
    n = len(H)
    return norm(wide(Hinv) @ H - np.eye(n)) / (n * cond * unit) if n else 0.0


def amplified(P, B, after):
    """What the rounding of B alone does to the result: ||P dB P^T|| ||after||, over u."""
    return norm(P) * norm(P.T) * norm(wide(B)) * norm(after)


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_removal_and_adjunction(n, dtype):
    unit, count = UNIT[dtype], 0
    rng = np.random.default_rng(n)
    for name, H, Hinv, cond in inverses(n, dtype):
        count += 1
        for S in ([], [0], [n - 1], sorted(rng.permutation(n)[: n // 2]), list(range(n))):
            S = [int(i) for i in S if 0 <= i < n]
            F = np.delete(np.arange(n), S)
            less = ql.inverse_remove(Hinv, S)
            assert less.dtype == dtype and (less == less.T).all()
            found = off(less, H[np.ix_(F, F)], cond, unit)
            assert found <= FAIL, (name, S, found)
            if len(S) == 1:
                q, child = S[0], reference.inverse(H[np.ix_(F, F)])
                a, s = H[F, q].astype(dtype), dtype(H[q, q])
                # to first order an error dB of the child becomes Q dB Q^T
                u = child @ H[F, q]
                Q = np.vstack([np.eye(n - 1), -H[F, q]])
                Q[:-1] += np.outer(u, H[F, q]) / (H[q, q] - u @ H[F, q])
                Q[-1] /= H[q, q] - u @ H[F, q]
                scale = max(cond, amplified(Q, child, H))
                if n * unit * scale >= 0.1:
                    continue
                more = ql.inverse_adjoin(child.astype(dtype), a, s, q)
                assert (more == more.T).all()
                found = off(more, H, scale, unit)
                assert found <= FAIL, (name, S, found)
    assert count >= (5 if n > 5 else 8)


@KINDS
@pytest.mark.parametrize("n", SIZES)
def test_sherman_morrison_and_woodbury(n, dtype):
    unit = UNIT[dtype]
    for name, H, Hinv, cond in inverses(n, dtype):
        for k, sigma in ((1, 1.0), (1, 100.0), (3, 0.2)):
            X = columns(H, k, 1.0, dtype)
            larger = H + sigma * wide(X) @ wide(X).T
            new = reference.inverse(larger)
            worst = max(cond, norm(new) * norm(larger))
            if n * unit * worst >= 0.1:
                continue
            function, x = (ql.sherman_morrison, X[:, 0]) if k == 1 else (ql.woodbury, X)
            up = function(Hinv, x, sigma)
            assert up.dtype == dtype and (up == up.T).all()
            # to first order an error dB becomes P dB P^T, P = (H + sigma X X^T)^-1 H
            found = off(up, larger, max(worst, amplified(new @ H, Hinv, larger)), unit)
            assert found <= FAIL, (name, k, sigma, found)
            scale = max(worst, amplified(reference.inverse(H) @ larger, new, H))
            if n * unit * scale >= 0.1:
                continue
            found = off(function(new.astype(dtype), x, -sigma), H, scale, unit)
            assert found <= FAIL, (name, k, sigma, found)


def test_the_ratio_catches_float32_and_the_naive_ldl_recurrence():
    """What the limit of 30 is worth: a float32 intermediate, and the form without the switch."""
    L, D = np.eye(40), np.ones(40)
    x = np.random.default_rng(0).standard_normal(40)
    exact = np.eye(40) + np.outer(wide(x), wide(x))
    M, E = ql.ldl_update(L.astype(np.float32), D.astype(np.float32), x.astype(np.float32))
    assert ratio((wide(M) * wide(E)) @ wide(M).T, exact, norm(exact), UNIT[np.float64]) > FAIL
    worst = {True: 0.0, False: 0.0}
    for seed in range(50):
        rng = np.random.default_rng(seed)
        L = np.tril(rng.standard_normal((6, 6)), -1) + np.eye(6)
        D, x = np.ones(6), rng.standard_normal(6)
        L[1:, 0] *= 1e6  # below a tiny pivot: d_new / d_old is 1e12
        D[0] = 1e-12
        exact = (wide(L) * wide(D)) @ wide(L).T + np.outer(wide(x), wide(x))
        for ours, (M, E) in ((True, ql.ldl_update(L, D, x)), (False, naive_ldl_update(L, D, x))):
            found = ratio((wide(M) * wide(E)) @ wide(M).T, exact, norm(exact), UNIT[np.float64])
            worst[ours] = max(worst[ours], found)
    assert worst[True] <= 4 and worst[False] > FAIL, worst


def naive_ldl_update(L, D, x):
    """w -= x_j l_j, l_j += beta w, for any ratio of the pivots."""
    L, D, x, t = L.copy(), D.copy(), x.copy(), 1.0
    for j in range(len(D)):
        v, d = x[j], D[j]
        D[j] = d + v * v / t
        beta = v / (t * D[j])
        t *= D[j] / d
        x[j + 1 :] -= v * L[j + 1 :, j]
        L[j + 1 :, j] += beta * x[j + 1 :]
    return L, D
