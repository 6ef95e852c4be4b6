"""The slots of the pivoted factorisation against their definition, both backends, n = 0 .. 65."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import make_hessian

from quiplinalg.kernels.record import select

BACKENDS = [select("cpu"), select("generic")]
IDS = ("cpu", "generic")
DTYPES = (np.float32, np.float64)


@pytest.mark.parametrize("kernels", BACKENDS, ids=IDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_update_tile_subtracts_a_product_of_some_columns(kernels, dtype):
    for n in range(66):
        rng = np.random.default_rng(n)
        A = np.asfortranarray(rng.uniform(-1, 1, (n, n)).astype(dtype))
        i0, i1, j0, j1, k0, k1 = (min(x, n) for x in (n // 2, n, n // 4, n // 2, n // 9, n // 5))
        before = A.copy(order="F")
        wide = before.astype(np.float64)
        kernels.update_tile(A, i0, i1, j0, j1, k0, k1)
        expected = wide.copy()
        if i0 > j0:
            expected[i0:i1, j0:j1] -= wide[i0:i1, k0:k1] @ wide[j0:j1, k0:k1].T
        # k1 - k0 products of at most 1, and one subtraction
        tol = (k1 - k0 + 1) * np.finfo(dtype).eps
        assert np.abs(A - expected).max(initial=0) <= tol * max(k1 - k0, 1)

        A = before.copy(order="F")  # on the diagonal only the lower half
        kernels.update_tile(A, j0, n, j0, n, 0, j0)
        lower = np.tril(wide[j0:, :j0] @ wide[j0:, :j0].T)
        expected = wide.copy()
        expected[j0:, j0:] -= lower
        assert np.abs(A - expected).max(initial=0) <= (j0 + 1) * np.finfo(dtype).eps * max(j0, 1)
        above = np.triu_indices(n, 1)
        assert (A[above] == before[above]).all()

        A = before.copy(order="F")  # no columns
        kernels.update_tile(A, i0, i1, j0, j1, k1, k1)
        assert (A == before).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_pivot_panel_eliminates_the_least_diagonals(dtype):
    """The rows it leaves reproduce H; it reads neither the lower triangle nor A's diagonal."""
    unit = np.finfo(dtype).eps / 2
    for n in range(66):
        H = make_hessian("well", n, n).astype(dtype)
        orders = []
        for kernels in BACKENDS:
            A = np.where(np.triu(np.ones((n, n)), 1) > 0, H, dtype(np.nan))
            order, diagonal = np.arange(n) + 100, H.diagonal().astype(np.float64)
            assert kernels.pivot_panel(A, 0, n, order, diagonal) == -1
            assert np.isnan(A[np.tril_indices(n, -1)]).all()
            R = np.triu(A).astype(np.longdouble)
            permuted = H[np.ix_(order - 100, order - 100)]
            # backward error of a Cholesky factorisation of n rows
            assert np.abs(R.T @ R - permuted).max(initial=0) <= 4 * (n + 1) * unit * 2
            assert np.abs(R.diagonal() ** 2 - diagonal).max(initial=0) <= 8 * unit
            orders.append(order)
        if dtype == np.float64:  # in float32 pivots come close enough to part
            assert (orders[0] == orders[1]).all(), n


@pytest.mark.parametrize("kernels", BACKENDS, ids=IDS)
@pytest.mark.parametrize("n, j0", ((7, 1), (20, 5), (65, 33)))
def test_pivot_panel_works_on_what_remains(kernels, n, j0):
    """From row j0 on it does what it does to the trailing matrix alone, and stops at j1."""
    H = make_hessian("power", n, 3)
    j1 = j0 + (n - j0) // 2
    A = np.full((n, n), 7.0)
    A[j0:, j0:] = np.where(np.triu(np.ones((n - j0, n - j0))) > 0, H[j0:, j0:], np.nan)
    order, diagonal = np.arange(n), H.diagonal().copy()
    diagonal[:j0] = -1  # done: not looked at
    assert kernels.pivot_panel(A, j0, j1, order, diagonal) == -1
    assert (A[:j0] == 7).all() and (A[j0:, :j0] == 7).all()
    assert (order[:j0] == np.arange(j0)).all() and sorted(order) == list(range(n))
    B = np.triu(H[j0:, j0:])
    alone, rest = np.arange(j0, n), H.diagonal()[j0:].copy()
    assert kernels.pivot_panel(B, 0, j1 - j0, alone, rest) == -1
    assert (order[j0:] == alone).all() and (diagonal[j0:] == rest).all()
    assert (A[j0:j1, j0:][np.triu_indices(j1 - j0, 0, n - j0)]
            == B[: j1 - j0][np.triu_indices(j1 - j0, 0, n - j0)]).all()  # fmt: skip
    # what is left of A is H in the new order, not yet updated; the Schur diagonal is
    left = order[j1:]
    upper = np.triu_indices(n - j1, 1)
    assert (A[j1:, j1:][upper] == H[np.ix_(left, left)][upper]).all()
    schur = H.diagonal()[left] - np.square(A[j0:j1, j1:]).sum(axis=0)
    assert np.abs(schur - diagonal[j1:]).max() <= n * np.finfo(float).eps * H.max()


@pytest.mark.parametrize("kernels", BACKENDS, ids=IDS)
def test_pivot_panel_says_what_failed(kernels):
    for bad in (0.0, -2.0, -np.inf):
        order, diagonal = np.array([9, 8, 7]), np.array([1.0, bad, 3.0])
        assert kernels.pivot_panel(np.eye(3), 0, 3, order, diagonal) == 0
        assert order[0] == 8 and diagonal[0] == bad
    for bad in (np.nan, np.inf):  # nothing better is left
        order, diagonal = np.array([9, 8, 7]), np.array([1.0, bad, 4.0])
        assert kernels.pivot_panel(np.eye(3), 0, 3, order, diagonal) == 2
        assert order[2] == 8 and (diagonal[:2] == [1, 4]).all()
