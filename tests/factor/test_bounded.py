"""bounded_feedback: the constraint, the certificate, the twin, and where it must be LDLQ's own."""

from __future__ import annotations

import numpy as np
import pytest
from families import spd_families
from strategies import HESSIANS, clamped_counterexample, make_hessian

import quiplinalg as ql
from quiplinalg import reference

EPS = 2.0**-52
BOUNDS = (0.0, 1e-6, 1e-2, 0.3, 1.0, 10.0)


def lengths(R):
    return (np.triu(R, 1) ** 2).sum(axis=0)


def dual(H, mu, c):
    """g(mu), from LDLQ's factor of H + diag(mu)."""
    return ql.udu(H + np.diag(mu)).D.sum() - (1 + c) * mu.sum()


def check(found, H, c):
    """What must hold of every solution; H is with its damping."""
    n = len(H)
    R, T = found.R, found.T
    for factor in (R, T):
        assert (factor == np.triu(factor)).all() and (factor.diagonal() == 1).all()
    assert (lengths(R) <= c + 1e-9 * (1 + c)).all(), lengths(R).max()
    gap = np.abs(R @ T - np.eye(n)).max(initial=0)
    assert gap <= 10 * n * EPS * np.abs(R).max(initial=1) * np.abs(T).max(initial=1) * n
    assert (found.U == T - np.eye(n)).all()
    # as computed it is the difference of sums of D and of mu (1 + ||X e_j||^2)
    slack = 10 * n * EPS * (np.trace(H) + found.multipliers.sum() * (1 + c))
    value = ((R @ H) * R).sum()
    assert abs(found.objective - value) <= slack
    D = ql.udu(H).D
    assert D.sum() - slack <= value <= np.trace(H) + slack
    assert (found.multipliers >= 0).all()
    assert found.lower_bound <= found.objective
    if c > 0:
        assert found.gap <= 1e-6
        assert abs(dual(H, found.multipliers, c) - found.lower_bound) <= 4 * slack
        # complementary: no multiplier without its column at the bound
        reached = lengths(R) >= c * (1 - 1e-3)
        assert reached[found.multipliers > 0].all()


@pytest.mark.parametrize("kind", (*HESSIANS, "counterexample"))
@pytest.mark.parametrize("n", (1, 2, 3, 9, 33, 70))
def test_constraint_certificate_and_monotony(kind, n):
    H = clamped_counterexample(n)[1] if kind == "counterexample" else make_hessian(kind, n, n)
    if n == 1:
        H = np.eye(1)
    values = []
    for c in BOUNDS:
        found = ql.bounded_feedback(H, c)
        check(found, H, c)
        values.append(found.objective)
    assert abs(values[0] / np.trace(H) - 1) <= n * EPS
    assert (np.diff(values) <= 1e-8 * values[0]).all(), values


@pytest.mark.parametrize("c", (1e-6, 0.1, 1.0, 10.0))
@pytest.mark.parametrize("n", (2, 5, 10, 50))
def test_every_family(n, c):
    """Near-singular matrices too: condition numbers to 1e8 and 1e13 (Hilbert), near overflow."""
    for family, H in spd_families(n).items():
        found = ql.bounded_feedback(H, c)
        assert (lengths(found.R) <= c + 1e-9 * (1 + c)).all(), family
        assert found.gap <= 1e-6, family
        value = ((found.R @ H) * found.R).sum()
        slack = 10 * n * EPS * (np.trace(H) + found.multipliers.sum() * (1 + c))
        assert abs(found.objective - value) <= slack, family


@pytest.mark.parametrize("kind", HESSIANS)
@pytest.mark.parametrize("n", (2, 3, 7, 16))
def test_agrees_with_the_projected_gradients(kind, n):
    H = make_hessian(kind, n, 5)
    for c in (0.01, 0.3, 1.0):
        found = ql.bounded_feedback(H, c)
        value = reference.bounded(H, c, 3000)[1]
        assert abs(found.objective / value - 1) <= 1e-6


def test_very_small_and_very_large_bounds():
    H = make_hessian("outlier", 20, 0)
    for c in (1e-30, 1e-16, 1e300):
        found = ql.bounded_feedback(H, c)
        assert lengths(found.R).max() <= c * (1 + 1e-12) and found.gap <= 1e-6
    assert (lengths(ql.bounded_feedback(H, 1e-30).R)[1:] >= 0.99e-30).any()


def test_two_columns_in_closed_form():
    for seed in range(10):
        H = make_hessian("power", 2, seed)
        for c in BOUNDS:
            x = np.clip(-H[0, 1] / H[1, 1], -np.sqrt(c), np.sqrt(c))
            # inside by at most the 1e-9 of c that the solver leaves
            assert abs(ql.bounded_feedback(H, c).R[0, 1] - x) <= 1e-9 * abs(x)


@pytest.mark.parametrize("kind", ("well", "power", "outlier"))
def test_weak_duality_at_any_multipliers(kind):
    """No multipliers give more than the solution's objective: the bound is one."""
    H = make_hessian(kind, 20, 2)
    rng = np.random.default_rng(0)
    for c in (0.05, 1.0):
        found = ql.bounded_feedback(H, c)
        for size in (1e-3, 0.1, 1.0):
            for mu in (
                rng.exponential(size, 20),
                np.maximum(found.multipliers * (1 + size * rng.standard_normal(20)), 0),
            ):
                assert dual(H, mu, c) <= found.objective * (1 + 1e-9)


def test_no_feasible_point_is_better():
    H = make_hessian("lowrank", 15, 0)
    found = ql.bounded_feedback(H, 0.2)
    rng = np.random.default_rng(1)
    for size in (1e-4, 1e-2, 1.0):
        for _ in range(50):
            X = np.triu(found.R + size * rng.standard_normal((15, 15)), 1)
            X *= np.minimum(1, np.sqrt(0.2 / np.maximum(lengths(X), 1e-300)))
            R = np.eye(15) + X
            assert ((R @ H) * R).sum() >= found.lower_bound


def test_within_the_bound_it_is_ldlqs_own_factor():
    for kind in HESSIANS:
        H = make_hessian(kind, 40, 3)
        T = ql.udu(H).T
        largest = lengths(np.linalg.inv(T)).max()
        for c in (1.001 * largest + 1e-9, 1e6):
            found = ql.bounded_feedback(H, c)
            assert found.T.tobytes() == T.tobytes() and found.iterations == 0
            assert not found.multipliers.any() and found.gap == 0
        if largest > 0:
            assert ql.bounded_feedback(H, 0.999 * largest).multipliers.any()


def test_normal_matrices_pay_nothing():
    """c = 1 costs at most a part in 1000: the second moments of enough independent samples."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((512, 128)) @ (np.eye(128) + 0.05 * rng.standard_normal((128, 128)))
    for H in (make_hessian("well", 128, 0), X.T @ X / 512):
        found = ql.bounded_feedback(H, 1.0, damp=0.01)
        D = ql.udu(H, damp=0.01).D.sum()
        assert 1 - 1e-12 <= found.objective / D <= 1.001
        assert D < 0.95 * np.trace(H)  # and there was something to pay


@pytest.mark.parametrize("kind", HESSIANS)
def test_between_the_ends_of_a_segment(kind):
    """tr D + (1 - t)^2 (tr H - tr D): R on the way from I to T^-1, where that leaves the bound."""
    H = make_hessian(kind, 30, 7)
    D = ql.udu(H).D.sum()
    largest = lengths(np.linalg.inv(ql.udu(H).T)).max()
    for c in (0.01, 0.1, 1.0):
        t = min(1.0, np.sqrt(c / largest)) if largest else 1.0
        above = D + (1 - t) ** 2 * (np.trace(H) - D)
        assert ql.bounded_feedback(H, c).objective <= above * (1 + 1e-8)


def test_the_same_bits_for_any_number_of_threads():
    H = make_hessian("outlier", 300, 0)
    results = []
    for threads in (1, 2, 3):
        with ql.num_threads(threads):
            results.append(ql.bounded_feedback(H, 0.5))
    for other in results[1:]:
        assert other.T.tobytes() == results[0].T.tobytes()
        assert other.R.tobytes() == results[0].R.tobytes()
        assert other.objective == results[0].objective


def test_backends_and_units_agree():
    """Another factorisation moves T by eps cond(H), about 1e-12 here; a power of 4 by nothing."""
    H = make_hessian("outlier", 60, 1)
    a = ql.bounded_feedback(H, 0.5)
    b = ql.bounded_feedback(H, 0.5, backend="generic")
    assert np.abs(a.T - b.T).max() <= 1e-9 * np.abs(a.T).max()
    for power in (-300, -40, 20, 400):
        scaled = ql.bounded_feedback(H * 2.0**power, 0.5)
        assert scaled.T.tobytes() == a.T.tobytes()
        assert scaled.objective == a.objective * 2.0**power
        assert (scaled.multipliers == a.multipliers * 2.0**power).all()


def test_damping_is_part_of_the_matrix():
    H = make_hessian("power", 20, 0)
    found = ql.bounded_feedback(H, 0.3, damp=0.1)
    assert found.damp == pytest.approx(0.1 * np.trace(H) / 20)
    check(found, H + found.damp * np.eye(20), 0.3)
    other = ql.bounded_feedback(H, 0.3, damp=ql.AbsoluteDamp(found.damp))
    assert other.T.tobytes() == found.T.tobytes()


@pytest.mark.parametrize("damp", (0.0, 0.05))
def test_dead_columns_have_no_feedback(damp):
    H = make_hessian("power", 20, 0, dead=4)
    dead = np.flatnonzero(H.diagonal() == 0)
    live = np.flatnonzero(H.diagonal() > 0)
    found = ql.bounded_feedback(H, 0.3, damp=damp)
    alone = ql.bounded_feedback(H[np.ix_(live, live)], 0.3, damp=damp)
    assert (found.U[dead] == 0).all() and (found.U[:, dead] == 0).all()
    assert (found.multipliers[dead] == 0).all()
    assert np.abs(found.U[np.ix_(live, live)] - alone.U).max() <= 1e-9
    expected = alone.objective + 4 * found.damp
    assert abs(found.objective - expected) <= 1e-12 * expected


def test_no_columns_and_one():
    for c in (0.0, 1.0):
        empty = ql.bounded_feedback(np.zeros((0, 0)), c)
        assert empty.R.shape == empty.T.shape == empty.U.shape == (0, 0)
        assert empty.objective == 0 and empty.gap == 0
        one = ql.bounded_feedback(np.full((1, 1), 3.0, np.float32), c)
        assert one.R.tolist() == [[1.0]] and one.objective == pytest.approx(3.0, rel=1e-15)


def test_narrow_and_foreign_matrices():
    H = make_hessian("power", 12, 0).astype(np.float32)
    H.flags.writeable = False
    found = ql.bounded_feedback(H, 0.2)
    wide = ql.bounded_feedback(H.astype(np.float64).tolist(), 0.2)
    assert found.T.tobytes() == wide.T.tobytes() and found.R.dtype == np.float64


def test_bad_input():
    H = make_hessian("power", 8, 0)
    for c in (-1e-9, -1, 1e-31, np.nan, np.inf, "1", None, True, [1.0], 1j):
        with pytest.raises(ql.InvalidArgumentError, match=r"c must be a finite number.*got c="):
            ql.bounded_feedback(H, c)
    for tol in (0, -1, np.nan, "1e-6", np.inf):
        with pytest.raises(ql.InvalidArgumentError, match="tol must be"):
            ql.bounded_feedback(H, tol=tol)
    for count in (0, -1, 1.5, True, None):
        with pytest.raises(ql.InvalidArgumentError, match="max_iterations must be"):
            ql.bounded_feedback(H, max_iterations=count)
    with pytest.raises(ql.InvalidArgumentError, match="H must be"):
        ql.bounded_feedback(H[:, :5])
    with pytest.raises(ql.NonFiniteError, match="H must be finite"):
        ql.bounded_feedback(H * np.nan)
    with pytest.raises(ql.NotPositiveDefiniteError, match="row 3"):
        ql.bounded_feedback(H - 5 * np.diag(np.arange(8) == 3))


def test_what_is_not_solved_is_an_error():
    H = make_hessian("outlier", 30, 0)
    assert ql.bounded_feedback(H, 0.1).iterations > 2
    with pytest.raises(ql.ConvergenceError, match="beyond its bound after 1 steps"):
        ql.bounded_feedback(H, 0.1, max_iterations=1)
