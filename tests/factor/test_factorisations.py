"""cholesky, ldl and udu: LAPACK's test ratios, solves, failures, independence of the blocking."""

from __future__ import annotations

import numpy as np
import pytest
from families import SIZES, residual_ratio, spd_families

import quiplinalg as ql
from quiplinalg import reference

UNIT = {np.float64: 2.0**-53, np.float32: 2.0**-24}
BACKENDS = ("cpu", "generic")
FACTOR = {"cholesky": ql.cholesky, "ldl": ql.ldl, "udu": ql.udu}


def longdouble_product(factor):
    """L D L^T of a result in longdouble, so that only the factor's own error is measured."""
    wide = {k: getattr(factor, k).astype(np.longdouble) for k in "LTD" if hasattr(factor, k)}
    R = wide.get("L", wide.get("T"))
    return (R * wide.get("D", 1)) @ R.T


@pytest.mark.parametrize("name", FACTOR)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", SIZES)
def test_residual_ratio_on_every_family(name, backend, n):
    for family, A in spd_families(n).items():
        for dtype, unit in UNIT.items():
            if dtype is np.float32 and ("flow" in family or "spectrum" in family or n > 30):
                continue  # beyond float32's range, or not positive definite once rounded to it
            A_in = A.astype(dtype)
            for block in (None, 1, 3, 20):
                try:
                    factor = FACTOR[name](A_in, block=block, backend=backend)
                except ql.NotPositiveDefiniteError:
                    assert not must_factor(A_in, unit), (family, dtype, block)
                    continue
                R = factor.T if name == "udu" else factor.L
                assert R.dtype == dtype and R.shape == (n, n)
                ratio = residual_ratio(longdouble_product(factor), A_in, unit)
                assert ratio <= 30, (family, dtype, block, ratio)
                assert not np.tril(R, -1).any() if name == "udu" else not np.triu(R, 1).any()
                if name != "cholesky":
                    assert (R.diagonal() == 1).all() and (factor.D > 0).all()


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("n", (257, 640, 1300))
def test_residual_ratio_of_several_tiles(n, dtype):
    """The sizes at which the default block recurses and cuts its products into tiles."""
    X = np.random.default_rng(n).standard_normal((n + 50, n))
    A = (X.T @ X / n).astype(dtype)
    L, T = ql.cholesky(A).L.astype(np.float64), ql.udu(A)
    R = T.T.astype(np.float64) * np.sqrt(T.D.astype(np.float64))
    for factor in (L, R):
        assert residual_ratio(factor @ factor.T, A, UNIT[dtype]) <= 30


def must_factor(A, unit):
    """Whether Cholesky succeeds in any order: Higham's theorem 10.7, on A of unit diagonal."""
    n = A.shape[0]
    scale = np.sqrt(A.diagonal().astype(np.float64))
    least = np.linalg.eigvalsh(A / np.outer(scale, scale))[0]
    gamma = (n + 1) * unit / (1 - (n + 1) * unit)
    return least > n * gamma / (1 - gamma) + n * 2.0**-53  # eigvalsh's own error


@pytest.mark.parametrize("n", (1, 2, 7, 40))
def test_componentwise_error(n):
    """|LDL^T - A| <= (n + 1) u |L| D |L^T|: Higham's theorem 10.3, with room for the square."""
    for family, A in spd_families(n, seed=3).items():
        if "underflow" in family:
            continue  # D = L_kk**2 of the Cholesky factor leaves the range there
        factor = ql.ldl(A)
        L, D = factor.L.astype(np.longdouble), factor.D.astype(np.longdouble)
        bound = (n + 1) * UNIT[np.float64] * ((np.abs(L) * D) @ np.abs(L).T)
        ratio = (np.abs((L * D) @ L.T - A) / np.maximum(bound, np.finfo(float).tiny)).max()
        assert ratio <= 4, (family, float(ratio))


@pytest.mark.parametrize("n", (1, 5, 33))
def test_same_as_the_reference_twin(n):
    A = spd_families(n)["few samples, damped"]
    np.testing.assert_allclose(ql.cholesky(A).L, reference.cholesky(A), rtol=0, atol=n * 1e-13)
    L, D = reference.ldl(A)
    np.testing.assert_allclose(ql.ldl(A).L, L, rtol=0, atol=n * 1e-12)
    np.testing.assert_allclose(ql.ldl(A).D, D, rtol=n * 1e-13)
    T, D = reference.udu(A)
    np.testing.assert_allclose(ql.udu(A).T, T, rtol=0, atol=n * 1e-12)
    np.testing.assert_allclose(ql.udu(A).D, D, rtol=n * 1e-13)


@pytest.mark.parametrize("name", FACTOR)
def test_solve(name):
    """||b - A x|| / (||A|| ||x|| n u) <= 30, LAPACK's potrs test."""
    for n in (0, 1, 3, 50):
        rng = np.random.default_rng(n)
        for family, A in spd_families(n).items():
            if "flow" in family:
                continue
            for b in (rng.standard_normal(n), rng.standard_normal((n, 3))):
                x = FACTOR[name](A).solve(b)
                assert x.shape == b.shape
                if n:
                    wide = A.astype(np.longdouble)
                    gap = np.abs(b - wide @ x).sum(axis=0).max()
                    size = np.abs(A).sum(axis=0).max() * np.abs(x).sum(axis=0).max()
                    ratio = float(gap / (size * n * UNIT[np.float64]))
                    assert ratio <= 30, (family, ratio)


def test_solve_rejects_a_right_hand_side_of_another_length():
    with pytest.raises(ql.InvalidArgumentError, match=r"b must be \(3,\)"):
        ql.cholesky(np.eye(3)).solve(np.ones(4))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("block", (None, 1, 7, 64))
def test_the_reported_pivot_is_the_one_that_fails(backend, block):
    """One zeroed or negated row: its own global index, and the Schur complement there."""
    n = 150
    rng = np.random.default_rng(5)
    X = rng.standard_normal((n + 20, n))
    for bad in (0, 1, 63, 64, 100, n - 1):
        A = X.T @ X / n + 4  # correlated: the diagonal stays positive where a pivot does not
        before, after = slice(0, bad), slice(bad + 1, n)
        schur = A[bad, before] @ np.linalg.solve(A[before, before], A[before, bad])
        B = A.copy()
        B[bad, bad] = schur - 0.25  # the leading minors before it stay positive
        with pytest.raises(ql.NotPositiveDefiniteError) as caught:
            ql.cholesky(B, block=block, backend=backend)
        assert caught.value.index == bad
        assert abs(caught.value.pivot + 0.25) <= 1e-10
        assert caught.value.remedy and f"row {bad}" in str(caught.value)
        schur = A[bad, after] @ np.linalg.solve(A[after, after], A[after, bad])
        B = A.copy()
        B[bad, bad] = schur - 0.5  # udu eliminates from the last row
        with pytest.raises(ql.NotPositiveDefiniteError) as caught:
            ql.udu(B, block=block, backend=backend)
        assert caught.value.index == bad
        assert abs(caught.value.pivot + 0.5) <= 1e-10


def test_a_zero_row_is_reported_as_itself():
    for zero in (0, 3, 9):
        A = spd_families(10)["minij"].copy()
        A[zero] = A[:, zero] = 0
        for factorise in FACTOR.values():
            with pytest.raises(ql.NotPositiveDefiniteError) as caught:
                factorise(A)
            assert caught.value.index == zero and caught.value.pivot == 0


def test_schur_complements_are_inverse_diagonals():
    """D_k = 1 / [(H_FF)^-1]_kk with F = {k, .., n-1}, and D_k <= H_kk."""
    A = spd_families(12)["Kac-Murdock-Szego"]
    D = ql.udu(A).D
    for k in range(12):
        # F of the upper form: what is rounded after k
        F = slice(k, 12)
        assert abs(D[k] * np.linalg.inv(A[F, F])[0, 0] - 1) <= 1e-12
    assert (D <= A.diagonal() * (1 + 1e-15)).all()


@pytest.mark.parametrize("dtype", UNIT)
def test_the_same_bits_for_any_number_of_threads(dtype):
    rng = np.random.default_rng(1)
    X = rng.standard_normal((1500, 1300))
    A = (X.T @ X / 1500).astype(dtype)
    with ql.num_threads(1):
        one = ql.udu(A)
    with ql.num_threads(2):
        two = ql.udu(A)
    assert (one.T == two.T).all() and (one.D == two.D).all()


def test_damping_and_dead_columns():
    A = spd_families(8)["identity"] * 2
    A[3] = A[:, 3] = 0
    factor = ql.udu(A, damp=0.1)
    assert factor.damp == pytest.approx(0.2) and factor.dead.tolist() == [3]
    np.testing.assert_allclose(factor.reconstruct(), A + 0.2 * np.eye(8), atol=1e-15)
    absolute = ql.udu(A, damp=ql.AbsoluteDamp(0.5))
    assert absolute.damp == 0.5
    np.testing.assert_allclose(absolute.reconstruct(), A + 0.5 * np.eye(8), atol=1e-15)


def test_auto_damping_escalates_and_says_so():
    A = np.eye(4)
    A[0, 1] = A[1, 0] = 1.1  # smallest eigenvalue -0.1
    with pytest.warns(ql.DampingWarning, match="damp=0.16"):
        factor = ql.udu(A, damp="auto")
    assert factor.damp == pytest.approx(0.16)
    with pytest.raises(ql.NotPositiveDefiniteError):
        ql.udu(A, damp=0.01)
    A[0, 1] = A[1, 0] = 5.0
    with pytest.raises(ql.NotPositiveDefiniteError):
        ql.udu(A, damp="auto")


@pytest.mark.parametrize("damp", (-0.1, 1.0, 1, 2.5, float("nan"), "large", None, True, [0.1]))
def test_bad_damping_is_refused(damp):
    with pytest.raises(ql.InvalidArgumentError, match="damp must be"):
        ql.udu(np.eye(2), damp=damp)


@pytest.mark.parametrize("block", (0, -1, 2.5, "64"))
def test_bad_block_is_refused(block):
    with pytest.raises(ql.InvalidArgumentError, match="block must be"):
        ql.cholesky(np.eye(2), block=block)


@pytest.mark.parametrize("damp", (0.0, 0.5, ql.AbsoluteDamp(0.0)))
def test_udu_factors_exactly_what_it_says(damp):
    """H + damp I also where that is singular: no other value goes in for a dead column."""
    for dead in (np.zeros((2, 2)), np.diag([2.0, 0.0])):
        if damp == 0.5 and dead.any():
            assert np.allclose(ql.udu(dead, damp=damp).reconstruct(), dead + np.eye(2))
            continue
        with pytest.raises(ql.NotPositiveDefiniteError):
            ql.udu(dead, damp=damp)


def test_the_freed_factor_is_not_held_by_its_diagonal():
    import tracemalloc

    n = 1500
    W, H = np.ones((8, n), np.float32), np.eye(n, dtype=np.float32)
    ql.ldlq(W[:, :8], H[:8, :8])
    held = []

    def store(*arguments):
        held.append(tracemalloc.get_traced_memory()[0])
        return original(*arguments)

    from dataclasses import replace

    from quiplinalg.kernels.record import select
    from quiplinalg.rounding import driver

    original = select("cpu").store
    patched = replace(select("cpu"), store=store)
    before, driver.select = driver.select, lambda backend, **_: patched
    tracemalloc.start()
    try:
        ql.ldlq(W, H, clip="minmax")
    finally:
        tracemalloc.stop()
        driver.select = before
    assert max(held) <= 6 * n * n, max(held) / n**2  # packed U is 2 n^2 bytes, the factor 8


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("n", (1, 7, 8, 64, 128, 300))
def test_columns_are_an_odd_number_of_cache_lines_apart(n, dtype):
    """So that no n puts all elements of a row into one set of the caches."""
    A = np.eye(n, dtype=dtype)
    for M in (ql.cholesky(A).L, ql.ldl(A).L, ql.udu(A).T):
        assert M.strides[0] == M.itemsize
        lines, rest = divmod(M.strides[1], 64)
        assert rest == 0 and lines % 2 == 1 and n <= lines * 64 // M.itemsize <= n + 32
