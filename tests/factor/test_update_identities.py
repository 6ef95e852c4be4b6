"""What updates must be to one another: inverse to each other, groups to single steps, stacks."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import hessians, make_hessian

import quiplinalg as ql
from quiplinalg import reference

EPS = np.finfo(float).eps
BACKENDS = ("cpu", "generic")


def close(a, b, scale=1.0):
    """|a - b| <= 100 eps scale max |b|; scale is a condition number."""
    return np.abs(a - b).max(initial=0) <= 100 * EPS * scale * np.abs(b).max(initial=1e-300)


def cond(*matrices):
    return max((np.linalg.cond(A) for A in matrices if A.size), default=1.0)


def lower(A):
    return np.asfortranarray(np.linalg.cholesky(A))


@given(hessians(max_n=12), st.data())
def test_a_removed_row_comes_back(H, data):
    n = len(H)
    q = data.draw(st.integers(0, n - 1))
    F = np.delete(np.arange(n), q)
    Hinv = reference.inverse(H)
    less = ql.inverse_remove(Hinv, q)
    assert close(less @ H[np.ix_(F, F)], np.eye(n - 1), n * cond(H))
    again = ql.inverse_adjoin(less, H[F, q], H[q, q], q)
    # what the removal loses is amplified by H_qq [H^-1]_qq
    assert close(again, Hinv, n * cond(H) * H[q, q] * Hinv[q, q])
    L = lower(H)
    less = ql.cholesky_delete(L, q)
    assert close(less, reference.cholesky_delete(L, q), n * cond(H))
    again = ql.cholesky_insert(less, q, H[F, q], H[q, q])
    assert close(again @ again.T, H, n)


@given(hessians(max_n=12), st.data())
def test_a_group_is_one_after_the_other(H, data):
    n = len(H)
    Hinv = reference.inverse(H)
    S = data.draw(st.sets(st.integers(0, n - 1)))
    one = Hinv
    for q in sorted(S, reverse=True):
        one = ql.inverse_remove(one, q)
    group = ql.inverse_remove(Hinv, S)
    assert group.shape == (n - len(S), n - len(S))
    assert close(group, one, n * cond(H)) and close(group, reference.inverse_remove(Hinv, list(S)),
                                                    n * cond(H))  # fmt: skip


@given(hessians(max_n=12), st.integers(0, 5), st.integers(0, 2**32 - 1))
def test_k_columns_are_k_single_ones_and_come_off_again(H, k, seed):
    n = len(H)
    X = np.random.default_rng(seed).standard_normal((n, k))
    larger, L, Hinv = H + X @ X.T, lower(H), reference.inverse(H)
    scale = n * cond(H, larger)
    one, two = L, Hinv
    M, E = reference.ldl(H)
    P, D = M, E
    for x in X.T:
        one, two = ql.cholesky_update(one, x), ql.sherman_morrison(two, x)
        P, D = ql.ldl_update(P, D, x)
    up, wood = ql.cholesky_update(L, X), ql.woodbury(Hinv, X)
    assert close(up @ up.T, one @ one.T, n) and close(up @ up.T, larger, n)
    assert close(wood, two, scale * (1 + np.linalg.norm(X) ** 2))
    M, E = ql.ldl_update(M, E, X)
    assert close((M * E) @ M.T, (P * D) @ P.T, n) and close((M * E) @ M.T, larger, n)
    down = ql.cholesky_downdate(up, X)
    assert np.abs(down @ down.T - H).max() <= 100 * n * EPS * np.abs(larger).max()
    M, E = ql.ldl_update(M, E, X, -1.0)
    assert np.abs((M * E) @ M.T - H).max() <= 100 * n * EPS * np.abs(larger).max()


def test_same_as_the_reference_twins():
    H = make_hessian("well", 9, 3)
    rng = np.random.default_rng(0)
    L, Hinv, X = lower(H), reference.inverse(H), rng.standard_normal((9, 2))
    a, s = 0.1 * rng.standard_normal(9), 3.0
    M, D = reference.ldl(H)
    pairs = (
        (ql.sherman_morrison(Hinv, X[:, 0], 0.3), reference.sherman_morrison(Hinv, X[:, 0], 0.3)),
        (ql.woodbury(Hinv, X), reference.woodbury(Hinv, X)),
        (ql.inverse_remove(Hinv, [2, 7]), reference.inverse_remove(Hinv, [2, 7])),
        (ql.inverse_adjoin(Hinv, a, s, 4), reference.inverse_adjoin(Hinv, a, s, 4)),
        (ql.inverse_adjoin(Hinv, a, s), reference.inverse_adjoin(Hinv, a, s, 9)),
        (ql.cholesky_update(L, X), reference.cholesky_update(L, X)),
        (ql.cholesky_downdate(L, X / 9), reference.cholesky_downdate(L, X / 9)),
        (ql.cholesky_delete(L, 4), reference.cholesky_delete(L, 4)),
        (ql.cholesky_insert(L, 4, a, s), reference.cholesky_insert(L, 4, a, s)),
        (ql.ldl_update(M, D, X)[0], reference.ldl_update(M, D, X)[0]),
        (ql.ldl_update(M, D, X / 9, -1.0)[1], reference.ldl_update(M, D, X / 9, -1.0)[1]),
    )
    for number, (ours, twin) in enumerate(pairs):
        assert close(ours, twin, 10 * cond(H)), number


def calls(b, n, dtype, seed=0):
    """(name, function, arguments with a leading axis of members) of every update."""
    rng = np.random.default_rng(seed)
    H = np.stack([make_hessian("well", n, seed + m) for m in range(b)])
    Hinv = np.stack([reference.inverse(A) for A in H]).astype(dtype)
    L = np.stack([np.linalg.cholesky(A) for A in H]).astype(dtype)
    D = np.square(L.diagonal(axis1=1, axis2=2))
    M = np.tril(L / L.diagonal(axis1=1, axis2=2)[:, None, :])
    X, x = rng.standard_normal((2, b, n, 3)).astype(dtype)
    x = x[..., 0] / 30  # small enough to be taken off
    q = rng.integers(0, n, b)
    S = np.stack([rng.permutation(n)[:2] for _ in range(b)])
    a, s = (0.05 * rng.standard_normal((b, n))).astype(dtype), np.full(b, 4.0)
    return (
        ("sherman_morrison", ql.sherman_morrison, (Hinv, x)),
        ("woodbury", ql.woodbury, (Hinv, X)),
        ("inverse_remove", ql.inverse_remove, (Hinv, q)),
        ("inverse_remove group", ql.inverse_remove, (Hinv, S)),
        ("inverse_adjoin", ql.inverse_adjoin, (Hinv, a, s, q)),
        ("cholesky_update", ql.cholesky_update, (L, X)),
        ("cholesky_downdate", ql.cholesky_downdate, (L, x)),
        ("cholesky_delete", ql.cholesky_delete, (L, q)),
        ("cholesky_insert", ql.cholesky_insert, (L, q, a, s)),
        ("ldl_update", ql.ldl_update, (M, D, X)),
        ("ldl_downdate", partial(ql.ldl_update, sigma=-1e-3), (M, D, X)),
    )


def parts(result):
    return result if isinstance(result, tuple) else (result,)


@pytest.mark.parametrize("dtype", (np.float64, np.float32))
@pytest.mark.parametrize("n", (2, 7, 40))
def test_a_stack_is_its_members_bit_for_bit_and_threads_do_not_matter(n, dtype):
    for name, function, arguments in calls(5, n, dtype):
        with ql.num_threads(1):
            together = parts(function(*arguments))
            alone = [parts(function(*(a[m] for a in arguments))) for m in range(5)]
        with ql.num_threads(2):
            threads = parts(function(*arguments))
        for i, whole in enumerate(together):
            assert whole.dtype == dtype, name
            assert (whole == threads[i]).all(), name
            for m in range(5):
                assert (whole[m] == alone[m][i]).all(), (name, m)


def test_one_large_matrix_for_any_number_of_threads():
    """More columns and rows than one task takes, and more than a strip and a block."""
    n = 2100
    H = np.eye(n) + np.ones((n, n)) / n
    Hinv = np.eye(n) - np.ones((n, n)) / (2 * n)
    U = np.random.default_rng(0).standard_normal((n, 2))
    results = []
    for threads in (1, 2):
        with ql.num_threads(threads):
            results.append((ql.woodbury(Hinv, U), ql.inverse_remove(Hinv, [3, 999])))
    assert all((a == b).all() for a, b in zip(*results, strict=True))
    z = np.random.default_rng(1).standard_normal(n)
    assert np.abs(results[0][0] @ (H @ z + U @ (U.T @ z)) - z).max() <= 1e-11
    F = np.delete(np.arange(n), [3, 999])
    assert np.abs(results[0][1] @ (H[np.ix_(F, F)] @ z[F]) - z[F]).max() <= 1e-12


@pytest.mark.parametrize("dtype", (np.float64, np.float32))
def test_generic_is_cpu(dtype):
    """The same operations in the same order: they part by a rounding of a square root at most."""
    for n in (1, 2, 33, 70):
        for name, function, arguments in calls(2, max(n, 2), dtype, seed=n):
            ours = parts(function(*arguments, backend="cpu"))
            twin = parts(function(*arguments, backend="generic"))
            for a, b in zip(ours, twin, strict=True):
                gap = np.abs(a - b).max(initial=0)
                assert gap <= 50 * n * np.finfo(dtype).eps * np.abs(b).max(initial=0), (
                    name,
                    n,
                    gap,
                )


def wrong_removals(H, Hinv, q):
    """Popular write-ups: what they would leave of Hinv after q."""
    F = np.delete(np.arange(len(H)), q)
    column, block = Hinv[F, q], Hinv[np.ix_(F, F)]
    return {
        "divided by H_qq": block - np.outer(column, column) / H[q, q],
        "a column of H": block - np.outer(H[F, q], H[F, q]) / Hinv[q, q],
        "the full inverse after q is frozen": block,
        "the update added": block + np.outer(column, column) / Hinv[q, q],
    }


def test_popular_errors_are_found():
    """theory: H_qq for 1 / [H^-1]_qq, a column of H, the full inverse; D_k for H_kk."""
    H = make_hessian("power", 12, 0)
    n, q, e = 12, 4, 0.3
    Hinv, F = reference.inverse(H), np.delete(np.arange(12), 4)
    limit = 30 * n * np.linalg.cond(H) * EPS / 2

    def residual(less):
        return np.abs(less @ H[np.ix_(F, F)] - np.eye(n - 1)).sum(axis=0).max()

    assert residual(ql.inverse_remove(Hinv, q)) <= limit
    for name, less in wrong_removals(H, Hinv, q).items():
        assert residual(less) > 1e3 * limit, name
    # the step of OBS: delta_q = -e, and the least cost of all that do so
    right = -e / Hinv[q, q] * Hinv[:, q]
    best = e**2 / Hinv[q, q]
    assert abs(right[q] + e) <= 1e-15 and abs(right @ H @ right - best) <= 1e-12 * best
    assert abs((-e / H[q, q] * Hinv[:, q])[q] + e) > 0.1 * e, "divided by H_qq"
    by_column = -e / H[q, q] * H[:, q]
    assert by_column @ H @ by_column > 1.1 * best, "a column of H"
    assert abs(e**2 * H[q, q] - best) > 0.1 * best, "saliency with H_qq"
    # after others are frozen the cost is that of the inverse of what is left
    less = ql.inverse_remove(Hinv, list(range(q)))
    D = reference.udu(H)[1]
    assert abs(D[q] * less[0, 0] - 1) <= 1e-12
    assert abs(D[q] / H[q, q] - 1) > 0.05 and abs(D[q] * Hinv[q, q] - 1) > 0.05
