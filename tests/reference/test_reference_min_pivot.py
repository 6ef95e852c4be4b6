"""The naive min-pivot elimination against its definition, by solving for every candidate."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from strategies import hessians, make_hessian

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.reference import min_pivot, udu

UNIT = np.finfo(np.float64).eps / 2


@given(hessians(max_n=6))
def test_each_step_takes_the_least_schur_diagonal(H):
    """By H_kk - H_kS H_SS^-1 H_Sk and by 1 / [(H_FF)^-1]_kk, F = S and k, of every candidate."""
    n, tol = len(H), 30 * len(H) * np.linalg.cond(H) * UNIT
    order, _, D = min_pivot(H)
    assert sorted(order) == list(range(n))
    for k in range(n - 1, -1, -1):
        S = list(order[k + 1 :])
        left = [q for q in range(n) if q not in S]
        schur, inverse = {}, {}
        for q in left:
            F = [q, *S]
            schur[q] = H[q, q] - H[q, S] @ np.linalg.solve(H[np.ix_(S, S)], H[S, q])
            inverse[q] = 1 / np.linalg.inv(H[np.ix_(F, F)])[0, 0]
        assert abs(D[k] / schur[order[k]] - 1) <= tol
        assert abs(D[k] / inverse[order[k]] - 1) <= tol
        assert D[k] <= min(schur.values()) * (1 + tol)


@given(hessians())
def test_it_is_the_upper_factorisation_of_that_order(H):
    n, tol = len(H), 30 * len(H) * np.linalg.cond(H) * UNIT
    order, T, D = min_pivot(H)
    permuted = H[np.ix_(order, order)]
    expected, pivots = udu(permuted)
    assert np.array_equal(np.triu(T), T) and (np.diag(T) == 1).all()
    assert np.abs(D / pivots - 1).max() <= tol
    # T = R diag(R)^-1 with |R|^2 <= max H and R_kk^2 >= its least eigenvalue
    assert np.abs(T - expected).max() <= tol * np.sqrt(np.linalg.cond(H))
    norm = np.abs(H).sum(axis=0).max()
    assert np.abs((T * D) @ T.T - permuted).sum(axis=0).max() <= 30 * n * norm * UNIT


def test_longdouble_and_empty():
    H = make_hessian("power", 8, 0)
    order, T, D = min_pivot(H.astype(np.longdouble))
    assert T.dtype == D.dtype == np.longdouble
    assert (order == min_pivot(H)[0]).all()
    product = (T * D) @ T.T
    assert np.abs(product - H[np.ix_(order, order)]).max() <= 30 * 8 * np.finfo(np.longdouble).eps
    assert [a.shape for a in min_pivot(np.zeros((0, 0)))] == [(0,), (0, 0), (0,)]


def test_ties_go_to_the_lowest_index():
    assert min_pivot(np.eye(5))[0].tolist() == [4, 3, 2, 1, 0]
    H = np.diag([2.0, 1.0, 2.0, 1.0, 3.0])
    assert min_pivot(H)[0].tolist() == [4, 2, 0, 3, 1]
    H = np.kron(np.eye(2), [[4.0, 2.0], [2.0, 5.0]])  # every pivot is 4
    assert min_pivot(H)[0].tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize("value", (-3.0, 0.0))
def test_the_bad_pivot_is_named(value):
    H = np.diag([1.0, 2.0, value, 4.0])
    with pytest.raises(NotPositiveDefiniteError) as caught:
        min_pivot(H)
    assert caught.value.index == 2 and caught.value.pivot == value
    with pytest.raises(NotPositiveDefiniteError) as caught:
        min_pivot(np.array([[1.0, 2.0], [2.0, 3.0]]))
    assert caught.value.index == 1 and caught.value.pivot == -1
    with pytest.raises(NotPositiveDefiniteError):
        min_pivot(np.full((2, 2), np.nan))


def test_inputs_are_left_alone():
    H = make_hessian("power", 6, seed=1)
    H.flags.writeable = False
    min_pivot(H)
