"""The min-pivot factorisation: LAPACK's test ratios, the choice of every pivot, ties, failures."""

from __future__ import annotations

import numpy as np
import pytest
from families import SIZES, residual_ratio, spd_families
from strategies import make_hessian

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.factor.min_pivot import factor_min_pivot
from quiplinalg.factor.orders import ORDERS, factor_in_order
from quiplinalg.factor.recursive import REMEDY, factor_reversed
from quiplinalg.kernels.record import select

UNIT = 2.0**-53
CPU, GENERIC = select("cpu"), select("generic")
BACKENDS, IDS = (CPU, GENERIC), ("cpu", "generic")
BLOCKS = (1, 3, 20, 96)


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


def factor(H, shift=None, kernels=CPU, **options):
    """A and the order, of an H that nobody may write to."""
    shift = np.zeros(len(H)) if shift is None else shift
    return factor_min_pivot(frozen(H), frozen(shift), kernels, **options)


def assert_least(A, order, H):
    """Every pivot is the least remaining Schur diagonal, up to the rounding errors of both.

    A diagonal is the end of a chain of at most n subtractions from H_ii of squares, each with an
    error of at most 2 u H_ii.
    """
    n = len(H)
    h = H.diagonal()[order[::-1]].astype(np.longdouble)
    squares = np.square(A.astype(np.longdouble))
    schur = h - np.cumsum(squares, axis=0) + squares  # row j: before step j
    room = 2 * (n + 2) * UNIT * (h + h[:, None])
    excess = schur.diagonal()[:, None] - schur - room
    assert (np.triu(excess) <= 0).all(), np.triu(excess / room).max()


@pytest.mark.parametrize("n", (*SIZES, 65, 130, 200))
def test_families(n):
    for name, H in spd_families(n).items():
        runs = ((CPU, 96), (CPU, 3), (GENERIC, 96)) if n <= 65 else ((CPU, 96),)
        for kernels, block in runs:
            A, order = factor(H, kernels=kernels, block=block)
            assert (
                A.dtype == np.float64
                and (n == 0 or A.strides[1] == A.itemsize)
                and order.dtype == np.int64
            )
            assert sorted(order) == list(range(n))
            assert not np.tril(A, -1).any()
            R = A[::-1, ::-1].T.astype(np.longdouble)  # T sqrt(D), in the order of rounding
            ratio = residual_ratio(R @ R.T, H[np.ix_(order, order)], UNIT)
            assert ratio <= 30, (name, kernels.name, block, ratio)
            assert_least(A, order, H)


@pytest.mark.parametrize("kernels", BACKENDS, ids=IDS)
@pytest.mark.parametrize("n", (1, 2, 5, 65, 130, 200))
def test_it_is_the_plain_factor_of_the_twins_order(kernels, n):
    """Random problems: no two pivots come within rounding errors of each other."""
    for kind in ("well", "power", "outlier"):
        H = make_hessian(kind, n, n)
        shift = np.random.default_rng(n).uniform(0, 0.1, n)
        shifted = H + np.diag(shift)
        expected, T, D = reference.min_pivot(shifted)
        for block in BLOCKS:
            A, order = factor(H, shift, kernels, block=block)
            assert (order == expected).all(), (kind, block)
        plain = factor_reversed(H, order, shift, kernels)
        # a factor is known to n u cond, relative to the root of the diagonal of H
        size = np.sqrt(shifted.diagonal().max())
        tol = 30 * n * UNIT * np.linalg.cond(shifted) * size
        assert np.abs(A - plain).max() <= tol
        assert np.abs(A[::-1, ::-1].T - T * np.sqrt(D)).max() <= tol


def test_float32_is_factored_in_float32():
    H = make_hessian("well", 200, 0).astype(np.float32)
    A, order = factor(H, dtype=np.float32)
    assert A.dtype == np.float32
    R = A[::-1, ::-1].T.astype(np.float64)
    assert residual_ratio(R @ R.T, H[np.ix_(order, order)], 2.0**-24) <= 30
    A, order = factor(H)  # float32 in, float64 throughout
    R = A[::-1, ::-1].T
    assert residual_ratio(R @ R.T, H[np.ix_(order, order)], UNIT) <= 30


@pytest.mark.parametrize("kernels", BACKENDS, ids=IDS)
@pytest.mark.parametrize("block", BLOCKS)
def test_exact_ties_go_to_the_lowest_index(kernels, block):
    """Whole numbers and pivots that are powers of 4: every operation is exact."""
    assert (factor(np.eye(130), kernels=kernels, block=block)[1] == np.arange(130)[::-1]).all()
    rng = np.random.default_rng(0)
    for _ in range(20):
        blocks = []
        for _ in range(rng.integers(1, 16)):
            L = np.tril(rng.integers(-2, 3, (5, 5)), -1) + np.eye(5)
            blocks.append(4.0 ** rng.integers(-1, 2) * L @ L.T)
        n = 5 * len(blocks)
        H = np.zeros((n, n))
        for k, B in enumerate(blocks):
            H[5 * k : 5 * k + 5, 5 * k : 5 * k + 5] = B
        shuffle = rng.permutation(n)
        H = H[np.ix_(shuffle, shuffle)]
        order, T, D = reference.min_pivot(H)
        assert (np.frexp(D)[0] == 0.5).all() and (np.frexp(D)[1] % 2 == 1).all()  # powers of 4
        A, ours = factor(H, kernels=kernels, block=block)
        assert (ours == order).all()
        assert (A[::-1, ::-1].T == T * np.sqrt(D)).all()


def test_a_diagonal_is_sorted():
    rng = np.random.default_rng(0)
    d = rng.uniform(1, 2, 300)
    A, order = factor(np.diag(d))
    assert (order == np.argsort(-d)).all()
    assert (A == np.diag(np.sqrt(np.sort(d)))).all()
    shift = rng.uniform(0, 1, 300)
    assert (factor(np.diag(d), shift)[1] == np.argsort(-(d + shift))).all()


def test_the_order_follows_a_permutation_of_h():
    H, p = make_hessian("outlier", 150, 0), np.random.default_rng(0).permutation(150)
    assert (p[factor(H[np.ix_(p, p)])[1]] == factor(H)[1]).all()


def test_the_same_bits_for_any_number_of_threads():
    X = np.random.default_rng(1).standard_normal((1400, 1300))
    H = X.T @ X / 1400
    with ql.num_threads(1):
        one, order = factor(H)
    for threads in (2, 3):
        with ql.num_threads(threads):
            other, same = factor(H)
        assert (other == one).all() and (same == order).all()
    R = one[::-1, ::-1].T  # several blocks and tiles
    assert residual_ratio(R @ R.T, H[np.ix_(order, order)], UNIT) <= 30
    assert_least(one, order, H)


@pytest.mark.parametrize("kernels", BACKENDS, ids=IDS)
@pytest.mark.parametrize("block", (3, 96))
def test_what_is_not_positive_definite_is_named(kernels, block):
    n = 150
    X = np.random.default_rng(5).standard_normal((n + 20, n))
    H = X.T @ X / n + 4
    for bad in (0, 63, n - 1):
        for pivot in (0.0, -1.0):
            B = H.copy()
            B[bad] = B[:, bad] = 0
            B[bad, bad] = pivot
            with pytest.raises(ql.NotPositiveDefiniteError) as caught:
                factor(B, kernels=kernels, block=block)
            assert (caught.value.index, caught.value.pivot) == (bad, pivot)
            assert caught.value.remedy == REMEDY and f"row {bad}" in str(caught.value)
        # the Schur complement of one row is negative: where it shows depends on the order
        rest = np.delete(np.arange(n), bad)
        B = H.copy()
        B[bad, bad] = H[bad, rest] @ np.linalg.solve(H[np.ix_(rest, rest)], H[rest, bad]) - 0.25
        with pytest.raises(ql.NotPositiveDefiniteError) as expected:
            reference.min_pivot(B)
        with pytest.raises(ql.NotPositiveDefiniteError) as caught:
            factor(B, kernels=kernels, block=block)
        assert caught.value.index == expected.value.index
        assert abs(caught.value.pivot - expected.value.pivot) <= 1e-9 * abs(expected.value.pivot)
    B = H.copy()
    B[[7, 5]] = B[:, [7, 5]] = 0
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        factor(B, kernels=kernels, block=block)
    assert caught.value.index == 5
    factor(B, np.full(n, 0.1), kernels, block=block)


@pytest.mark.parametrize("kernels", BACKENDS, ids=IDS)
def test_factor_in_order(kernels):
    H, shift = frozen(make_hessian("outlier", 70, 0)), frozen(np.full(70, 0.01))
    found = {name: factor_in_order(H, name, shift, kernels) for name in ORDERS}
    assert (found["natural"][1] == np.arange(70)).all()
    assert (found["act"][1] == np.argsort(-H.diagonal(), kind="stable")).all()
    assert (found["min-pivot"][1] == factor_min_pivot(H, shift, kernels)[1]).all()
    for A, order in found.values():
        R = A[::-1, ::-1].T
        assert residual_ratio(R @ R.T, (H + np.diag(shift))[np.ix_(order, order)], UNIT) <= 30
    trace = {name: np.square(A.diagonal()).sum() for name, (A, _) in found.items()}
    assert trace["min-pivot"] < trace["natural"]  # of this H; not of every one
    for wrong in ("desc_act", "min_pivot", None, 3):
        with pytest.raises(ql.InvalidArgumentError, match="natural, act, min-pivot; got order="):
            factor_in_order(H, wrong, shift, kernels)
