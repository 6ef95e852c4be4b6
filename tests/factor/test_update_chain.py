"""ActiveInverse: the error stays within its bound through chains, or B is computed anew."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from families import spd_families
from strategies import make_hessian

import quiplinalg as ql
from quiplinalg import reference


def true_error(chain):
    """||L^T B L - I||_2 with H_F = L L^T in longdouble, and ||B H_F - I||_2."""
    H = chain.hessian().astype(np.longdouble)
    if len(H) == 0:
        return 0.0, 0.0
    L = reference.cholesky(H)
    B = chain.inverse.astype(np.longdouble)
    M, R = (A - np.eye(len(H)) for A in (L.T @ B @ L, B @ H))
    return float(np.linalg.norm(M.astype(float), 2)), float(np.linalg.norm(R.astype(float), 2))


def assert_within(chain, *where):
    energy, plain = true_error(chain)
    assert energy <= chain.bound, (*where, energy, chain.bound)
    if len(chain.active):
        root = np.sqrt(np.linalg.cond(chain.hessian()))
        assert plain <= chain.bound * root, (*where, plain, chain.bound, root)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ql.ConditioningWarning)
        yield


@pytest.mark.parametrize("n", (1, 5, 40))
def test_n_removals_on_every_family(n):
    for name, A in spd_families(n).items():
        chain = ql.ActiveInverse(A)
        assert_within(chain, name, "fresh")
        for step, q in enumerate(np.random.default_rng(n).permutation(n)):
            chain.remove(int(q))
            if step % max(1, n // 4) == 0:
                assert_within(chain, name, step)
        assert len(chain.active) == 0 and chain.inverse.shape == (0, 0)


def test_long_chains_with_and_without_refreshing():
    n = 250
    for kind, tolerance, refreshes in (("power", 1e-5, False), ("lowrank", 1e-11, True)):
        H = make_hessian(kind, n, 1)
        chain = ql.ActiveInverse(H, tolerance=tolerance)
        for q in np.random.default_rng(0).permutation(n)[: n - 30]:
            chain.remove(int(q))
        assert_within(chain, kind)
        assert (chain.refreshes > 0) == refreshes, (kind, chain.refreshes, chain.bound)
        # or four times what it is right after, where the tolerance is below that
        assert chain.bound <= max(tolerance, 4 * chain._base)


def test_mixed_chains_on_every_family():
    n = 20
    for name, A in spd_families(n).items():
        if name == "Moler":
            continue  # not positive definite any more once data come off
        rng = np.random.default_rng(4)
        chain = ql.ActiveInverse(A)
        for step in range(32):
            active = chain.active
            away = np.setdiff1d(np.arange(n), active)
            scale = np.sqrt(np.diag(A))
            action = step % 4
            if action == 0:
                chain.remove(rng.permutation(active)[:2].tolist())
            elif action == 1 and away.size:
                chain.adjoin(int(rng.choice(away)))
            elif action == 2:
                chain.update(rng.standard_normal((n, 2)) * scale[:, None])
            else:
                x = rng.standard_normal(n) * scale
                chain.update(x, 0.5)
                chain.update(x, -0.4)
            if step % 5 == 0:
                assert_within(chain, name, step, action)
        assert_within(chain, name)


def test_it_is_the_inverse_of_what_it_says():
    H = make_hessian("well", 8, 0)
    chain = ql.ActiveInverse(H, damp=0.1, active={1, 2, 5, 7})
    damped = H + 0.1 * np.diag(H).mean() * np.eye(8)
    assert chain.damp == pytest.approx(0.1 * np.diag(H).mean())
    assert chain.active.tolist() == [1, 2, 5, 7]
    chain.adjoin([0, 6])
    chain.remove([5])
    x = np.arange(8.0)
    chain.update(x, 0.5)
    F = chain.active
    assert F.tolist() == [0, 1, 2, 6, 7]
    exact = (damped + 0.5 * np.outer(x, x))[np.ix_(F, F)]
    assert np.abs(chain.hessian() - exact).max() <= 1e-14
    assert np.abs(chain.inverse @ exact - np.eye(5)).max() <= 1e-12
    assert chain.residual() <= chain.bound <= 1e-12
    with pytest.raises(ValueError, match="read-only"):
        chain.inverse[0, 0] = 1


def test_refresh_by_hand_brings_the_bound_down():
    chain = ql.ActiveInverse(make_hessian("lowrank", 60, 0))
    start = chain.bound
    for q in range(40):
        chain.remove(q)
    assert chain.bound > start and chain.refreshes == 0
    chain.refresh()
    assert chain.refreshes == 1 and chain.bound <= 2 * start
    assert_within(chain)


def test_what_is_not_positive_definite_is_said_and_changes_nothing():
    H = np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
    bad = H.copy()
    bad[0, 2] = bad[2, 0] = 5.0
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        ql.ActiveInverse(bad)
    assert caught.value.index in (0, 2)
    chain = ql.ActiveInverse(bad, active=[0, 1])
    before = chain.inverse.copy()
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        chain.adjoin(2)
    assert caught.value.index == 2 and caught.value.pivot < 0
    with pytest.raises(ql.NotPositiveDefiniteError):
        chain.update(np.array([3.0, 0.0, 0.0]), -1.0)
    assert (chain.inverse == before).all() and chain.active.tolist() == [0, 1]
    with pytest.raises(ql.InvalidArgumentError, match="which is not"):
        chain.remove(2)
    with pytest.raises(ql.InvalidArgumentError, match="which is"):
        chain.adjoin(1)
    with pytest.raises(ql.InvalidArgumentError, match="tolerance"):
        ql.ActiveInverse(H, tolerance=0)


def test_ill_conditioned_beyond_the_tolerance_is_warned_about_once():
    with pytest.warns(ql.ConditioningWarning, match="Raise damp") as caught:
        chain = ql.ActiveInverse(spd_families(10)["Hilbert"])
        chain.refresh()
    assert len(caught) == 1
    assert_within(chain)


def test_float32_in_is_float64_inside_and_nothing_of_the_callers_is_kept():
    H = make_hessian("well", 6, 0).astype(np.float32)
    before = H.copy()
    chain = ql.ActiveInverse(H)
    chain.remove(3)
    chain.update(np.ones(6, np.float32))
    assert chain.inverse.dtype == np.float64 and chain.bound < 1e-12
    assert (H == before).all() and not np.shares_memory(chain._H, H)


def test_the_same_bits_for_any_number_of_threads():
    H = make_hessian("outlier", 300, 0)
    results = []
    for threads in (1, 2):
        with ql.num_threads(threads):
            chain = ql.ActiveInverse(H, tolerance=1e-9)
            chain.remove(range(0, 300, 7))
            chain.adjoin([0, 7])
            chain.update(np.ones((300, 3)), 0.1)
            results.append((chain.inverse.copy(), chain.bound))
    assert (results[0][0] == results[1][0]).all() and results[0][1] == results[1][1]


def disturbed(H, active, error, tolerance=0.9):
    """A chain whose B is off by a factor of 1 + error, and says so."""
    chain = ql.ActiveInverse(H, active=active, tolerance=tolerance)
    chain._store *= 1 + error
    chain.bound = 1.001 * error
    return chain


def test_an_error_grows_as_the_bound_says():
    """By H_qq / r where a row comes in, by 1 / lambda_min where data go out, never by removals."""
    n, error = 6, 1e-7
    H = make_hessian("well", n, 0)
    H[5], H[:, 5] = H[4], H[:, 4]  # nearly a duplicate
    H[5, 5] = H[4, 4] * (1 + 1e-4)
    chain = disturbed(H, range(5), error)
    chain.adjoin(5)
    energy, _ = true_error(chain)
    assert 100 * error <= energy <= chain.bound <= 3 * energy  # both are near H_qq / r error
    chain.remove(5)
    assert true_error(chain)[0] <= 1.01 * error

    chain = disturbed(H, range(5), error)
    chain.update(np.append(H[4, :5], 0), -0.999 / H[4, 4])  # what row 4 shares, but for 1 / 1000
    energy, _ = true_error(chain)
    assert 100 * error <= energy <= chain.bound <= 3 * energy

    chain = disturbed(H, range(5), error)
    chain.update(3 * np.ones(6))
    assert true_error(chain)[0] <= chain.bound <= 1.1 * error
    for q in range(4):
        chain.remove(q)
        assert true_error(chain)[0] <= chain.bound <= 1.1 * error


def test_a_disturbed_inverse_is_noticed_by_residual_and_put_right_by_refresh():
    chain = disturbed(make_hessian("power", 20, 0), range(20), 1e-3)
    assert chain.residual() == pytest.approx(1e-3, rel=1e-6)
    chain.refresh()
    assert chain.residual() <= chain.bound <= 1e-10


def test_data_that_overflows_h_changes_nothing():
    chain = ql.ActiveInverse(np.eye(3), active=[1, 2])
    before = chain.inverse.copy()
    for z in ([1e200, 0.0, 0.0], [0.0, 1e200, 0.0]):  # of an inactive row too
        with pytest.raises(ql.InvalidArgumentError, match="range of float64"):
            chain.update(np.array(z))
    chain.adjoin(0)
    assert (chain.inverse == np.eye(3)).all() and (before == np.eye(2)).all()
