"""Refreshing an inverse: both routes, both normalisations, damping, errors."""

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import InvalidArgumentError, NonFiniteError, NotPositiveDefiniteError

EPS = np.finfo(float).eps


def spd(n, cond, rng):
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    A = (Q * np.geomspace(1, 1 / cond, n)) @ Q.T
    return (A + A.T) / 2


@pytest.mark.parametrize("count", [None, 17])
@pytest.mark.parametrize("cond", [10.0, 1e6])
@pytest.mark.parametrize("n", [1, 2, 3, 10, 50])
def test_it_is_the_inverse(n, cond, count):
    rng = np.random.default_rng([n, int(cond)])
    A = spd(n, cond, rng)
    Hinv = np.linalg.inv(A)
    Hinv = (Hinv + Hinv.T) / 2
    for k in sorted({0, 1, n // 2, n, 2 * n + 1}):
        X = rng.standard_normal((k, n))
        found = ql.refresh_inverse(Hinv, X, count=count)
        assert (found.inverse == found.inverse.T).all()
        new = A + X.T @ X if count is None else (count * A + X.T @ X) / (count + k)
        assert found.count == (None if count is None else 17 + k)
        # reliability.md's ratio for Sherman-Morrison: the larger condition, before and after
        worst = max(np.linalg.cond(A), np.linalg.cond(new))
        error = np.abs(found.inverse @ new - np.eye(n)).sum(axis=0).max()
        ratio = error / (n * worst * EPS)
        assert ratio <= 30, (k, ratio)
        expected = reference.refreshed_inverse(Hinv, X, count)
        difference = np.abs(found.inverse - expected).max() / np.abs(expected).max()
        assert difference <= 30 * n * worst * EPS


def test_new_data_of_an_accumulator_and_what_becomes_of_the_damping():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 12))
    old, whole = ql.Hessian(12), ql.Hessian(12)
    old.add(X[:60])
    whole.add(X)
    d = 0.05
    Hinv = np.linalg.inv(old.mean() + d * np.eye(12))
    found = ql.refresh_inverse(
        (Hinv + Hinv.T) / 2, X[60:].reshape(3, 10, 12), count=old.count, damp=d
    )
    assert found.count == 90 and abs(found.damp - d * 60 / 90) <= EPS
    new = whole.mean() + found.damp * np.eye(12)
    assert np.abs(found.inverse @ new - np.eye(12)).max() <= 30 * 12 * EPS * np.linalg.cond(new)
    # with the damping as it was it is not the inverse: damping is no update of low rank
    assert np.abs(found.inverse @ (whole.mean() + d * np.eye(12)) - np.eye(12)).max() > 1e-3


def test_the_same_bits_for_any_number_of_threads_and_no_change_to_the_arguments():
    rng = np.random.default_rng(1)
    for k in (5, 300):
        P, X = spd(300, 100, rng), rng.standard_normal((k, 300))
        P.setflags(write=False)
        X.setflags(write=False)
        results = []
        for threads in (1, 2):
            with ql.num_threads(threads):
                results.append(ql.refresh_inverse(P, X, count=9).inverse)
        assert (results[0] == results[1]).all()


def test_bad_arguments():
    X = np.ones((2, 3))
    for count in (0, -1, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="count"):
            ql.refresh_inverse(np.eye(3), X, count=count)
    for damp in (-1.0, np.nan, "auto"):
        with pytest.raises(InvalidArgumentError, match="damp"):
            ql.refresh_inverse(np.eye(3), X, damp=damp)
    with pytest.raises(InvalidArgumentError, match=r"X\.shape"):
        ql.refresh_inverse(np.eye(3), np.ones((2, 4)))
    with pytest.raises(NonFiniteError, match="Hinv"):
        ql.refresh_inverse(np.eye(3) * np.nan, X)
    indefinite = np.array([[1.0, 2.0], [2.0, 1.0]])
    for rows in ([[1.0, -1.0]], np.eye(2)):
        with pytest.raises(NotPositiveDefiniteError, match="Hinv must be positive definite"):
            ql.refresh_inverse(indefinite, 2 * np.asarray(rows))
    assert ql.refresh_inverse(np.zeros((0, 0)), np.zeros((4, 0))).inverse.shape == (0, 0)
