"""The reference factorisations against identities and NumPy's LAPACK."""

import numpy as np
import pytest
from hypothesis import given
from strategies import hessians, make_hessian

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.reference import cholesky, ldl, udu

UNIT = np.finfo(np.float64).eps / 2
KINDS = ("well", "power", "lowrank", "outlier", "diagonal")


def ratio(product, A, unit=UNIT):
    """LAPACK's residual ratio of a factorisation; the standard loops stay below 2."""
    norm = np.abs(A).sum(axis=0).max()
    return float(np.abs(product - A).sum(axis=0).max() / (len(A) * norm * unit))


def products(A):
    """What each factorisation says A is."""
    L = cholesky(A)
    M, D = ldl(A)
    T, E = udu(A)
    return {"cholesky": L @ L.T, "ldl": (M * D) @ M.T, "udu": (T * E) @ T.T}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 40])
def test_factors_reconstruct(kind, n):
    H = make_hessian(kind, n, seed=n)
    for name, product in products(H).items():
        assert ratio(product, H) <= 30, (name, ratio(product, H))


def test_empty_matrix():
    empty = np.zeros((0, 0))
    assert cholesky(empty).shape == (0, 0)
    assert [a.shape for a in udu(empty)] == [a.shape for a in ldl(empty)] == [(0, 0), (0,)]


@pytest.mark.parametrize("kind", KINDS)
def test_factors_in_longdouble_are_more_accurate(kind):
    H = make_hessian(kind, 12, seed=5).astype(np.longdouble)
    unit = np.finfo(np.longdouble).eps / 2
    for name, product in products(H).items():
        assert product.dtype == np.longdouble
        assert ratio(product, H, unit) <= 30, name


@given(hessians())
def test_udu_is_unit_upper_and_ldl_is_its_flip(H):
    T, D = udu(H)
    L, E = ldl(H[::-1, ::-1])
    assert np.array_equal(np.triu(T), T) and (np.diag(T) == 1).all()
    assert np.array_equal(np.tril(L), L) and (np.diag(L) == 1).all()
    # each entry: n products, amplified by at most the condition number (H is damped by 1e-2)
    tol = 30 * len(H) * np.linalg.cond(H) * UNIT
    assert np.abs(T - L[::-1, ::-1]).max() <= tol
    assert np.abs(D - E[::-1]).max() <= tol * D.max()


@given(hessians())
def test_pivots_are_the_schur_complements(H):
    T, D = udu(H)
    n, tol = len(H), 30 * len(H) * np.linalg.cond(H) * UNIT
    schur = [1 / np.linalg.inv(H[k:, k:])[0, 0] for k in range(n)]
    assert np.abs(D / schur - 1).max() <= tol
    assert (D <= np.diag(H)).all()
    U_c = np.linalg.cholesky(np.linalg.inv(H)).T  # the factor that GPTQ uses: inv(H) = U_c^T U_c
    assert np.abs(np.diag(U_c) ** -2.0 / D - 1).max() <= tol
    assert np.abs(U_c / np.diag(U_c)[:, None] @ T - np.eye(n)).max() <= tol
    assert abs(np.log(D).sum() - np.linalg.slogdet(H)[1]) <= tol * n


@given(hessians(kinds=("diagonal",)))
def test_diagonal_h_has_no_feedback(H):
    T, D = udu(H)
    assert np.array_equal(T, np.eye(len(H))) and np.array_equal(D, np.diag(H))


@given(hessians(min_n=2, kinds=("well", "power", "outlier")))
def test_trace_of_pivots_is_the_least_over_unit_upper(H):
    n = len(H)
    _, D = udu(H)
    R = np.eye(n) + np.triu(np.random.default_rng(n).standard_normal((n, n)), 1)
    assert D.sum() <= np.trace(R @ H @ R.T)
    assert D.sum() < np.trace(H)
    # Lemma 2's chain; the slack covers n roundings of each side
    values, Q = np.linalg.eigh(H)
    root = (Q * np.sqrt(values)) @ Q.T
    middle = np.diag(root).max() * np.trace(root)
    slack = 1 + 100 * n * UNIT * np.linalg.cond(H)
    assert n * np.exp(np.log(values).mean()) <= D.sum() * slack
    assert D.sum() <= middle * slack
    assert middle <= n * np.abs(Q).max() ** 2 * np.trace(root) ** 2 / n * slack


@pytest.mark.parametrize("factor", [cholesky, ldl, udu])
@pytest.mark.parametrize("value", [-3.0, 0.0, np.nan, np.inf])
@pytest.mark.parametrize("index", [0, 2, 4])
def test_the_bad_pivot_is_named(factor, value, index):
    A = np.diag([1.0, 2.0, 3.0, 4.0, 5.0])
    A[index, index] = value
    with pytest.raises(NotPositiveDefiniteError) as caught:
        factor(A)
    assert caught.value.index == index
    assert np.array_equal(caught.value.pivot, value, equal_nan=True)


@pytest.mark.parametrize("factor", [cholesky, ldl, udu])
def test_inputs_are_left_alone(factor):
    H = make_hessian("power", 6, seed=1)
    H.flags.writeable = False
    factor(H)
