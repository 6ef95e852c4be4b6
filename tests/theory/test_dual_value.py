"""The verified value of the dual, against rational arithmetic: never above the exact one."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.theory.dual_newton import Dual
from quiplinalg.theory.dual_value import verified_value


def exact_value(dual, y, pull, doubt):
    """min over real t of t^T A t - 2 p^T t + constant - y . constraints(x), A = H - diag(doubt) -
    Lambda, by elimination without a rounding error; None where A is not positive definite."""
    n = len(dual.x)
    x, b = [Fraction(v) for v in dual.x], [Fraction(v) for v in dual.base]
    gap = [Fraction(v) for v in y[0]]
    box = [Fraction(v) for v in y[1]] if dual.kinds == 2 else [Fraction(0)] * n
    top = Fraction(dual.maxq) if dual.kinds == 2 else Fraction(0)
    half = Fraction(1, 2)
    value, p = Fraction(dual.constant), []
    for k in range(n):
        value -= gap[k] * (x[k] - b[k]) * (x[k] - b[k] - 1) + box[k] * x[k] * (top - x[k])
        p.append(gap[k] * (x[k] - b[k] - half) + box[k] * (top / 2 - x[k]) + Fraction(pull[k]))
    A = [[Fraction(v) for v in row] for row in dual.H]
    for k in range(n):
        A[k][k] -= Fraction(doubt[k]) + gap[k] - box[k]
    for k in range(n):  # value -= p^T A^-1 p, pivot by pivot
        if A[k][k] <= 0:
            return None
        value -= p[k] * p[k] / A[k][k]
        for i in range(k + 1, n):
            factor = A[i][k] / A[k][k]
            p[i] -= factor * p[k]
            for j in range(k + 1, n):
                A[i][j] -= factor * A[k][j]
    return value


@pytest.mark.parametrize("maxq", (1.0, 3.0, np.inf))
@pytest.mark.parametrize("share", (0.3, 0.97, 1 - 1e-13))
def test_it_is_below_the_exact_value_of_everything_in_doubt(maxq, share):
    """Multipliers at ``share`` of what A can bear; H and the pull at their worst within doubt."""
    rng = np.random.default_rng([int(share * 100), int(min(maxq, 9))])
    useful = 0
    for trial in range(60):
        n = int(rng.integers(1, 5))
        X = rng.standard_normal((n + 1, n))
        H = X.T @ X
        H = (H + H.T) / 2
        big = 10.0 ** rng.integers(0, 17)  # of the constant: all its last digits are lost
        dual = Dual(
            H=H, x=rng.uniform(-2, 5, n), maxq=maxq, pull=rng.uniform(-1, 1, n) * (trial % 2),
            constant=float(big * rng.uniform()),
        )  # fmt: skip
        least = float(np.linalg.eigvalsh(H)[0])
        doubt = rng.uniform(0, 0.1) * (trial % 3) * np.full(n, (1 - share) * least)
        pull_doubt = rng.uniform(0, 0.1, n) * (trial % 3 > 1)
        y = rng.uniform(0, 0.3, (dual.kinds, n))
        y[0] = share * least + (y[1] if dual.kinds == 2 else 0)
        found = verified_value(dual, y, pull_doubt, doubt)
        worst = []
        for signs in np.ndindex(*(2,) * n):
            pull = dual.pull + np.where(signs, pull_doubt, -pull_doubt)
            worst.append(exact_value(dual, y, pull, doubt))
        if None in worst:
            continue  # drawn back, to a value that is not this one's
        if found > -np.inf and share < 0.99:
            assert Fraction(found) <= min(worst), trial
            gap = float(min(worst) - Fraction(found))
            useful += gap <= 1e-9 * (1 + abs(found)) or bool(pull_doubt.any())
        elif (
            found > -np.inf
        ):  # nearly singular: it may have been drawn back, but not above the best
            codes = np.array(list(np.ndindex(*(int(maxq) + 1,) * n)) if maxq < 9 else [])
            for c in codes:
                t = c - dual.x
                loss = t @ H @ t - 2 * dual.pull @ t + dual.constant
                assert found <= loss * (1 + 1e-12) + 1e-12
    assert share > 0.99 or useful >= 30, useful  # tight too where nothing is in doubt


def test_a_sum_whose_last_digits_are_lost_is_rounded_down():
    """2^53 + 1.5 - 1/8 is none of float64's numbers; the one above it would be no bound."""
    dual = Dual(H=np.eye(1), x=np.array([0.5]), maxq=np.inf, pull=np.zeros(1), constant=2.0**53 + 2)
    for y in (0.125, 0.25, 0.5, 0.75):
        exact = exact_value(dual, np.array([[y]]), dual.pull, np.zeros(1))
        found = verified_value(dual, np.array([[y]]), np.zeros(1), np.zeros(1))
        assert Fraction(found) <= exact < 2**53 + 3
    far = Dual(H=np.eye(1), x=np.array([1e8 + 0.3]), maxq=3.0, pull=np.zeros(1), constant=0.0)
    y = np.array([[0.05], [0.06]])
    exact = exact_value(far, y, far.pull, np.zeros(1))
    assert Fraction(verified_value(far, y, np.zeros(1), np.zeros(1))) <= exact


def test_what_is_infeasible_is_drawn_back_and_still_certifies():
    dual = Dual(H=np.eye(2), x=np.full(2, 0.5), maxq=np.inf, pull=np.zeros(2), constant=0.0)
    nothing = np.zeros(2)
    for beyond, least in ((1 + 1e-9, 0.499), (1 + 1e-5, 0.499), (1.005, 0.49), (1.8, 0.4)):
        found = verified_value(dual, np.full((1, 2), beyond), nothing, nothing)
        assert least <= found <= 0.5, beyond
    assert verified_value(dual, np.full((1, 2), 3.0), nothing, nothing) == -np.inf
    # H is known to 0.3 only: multipliers of 0.9 are not, those of 0.45 are
    doubtful = verified_value(dual, np.full((1, 2), 0.9), nothing, np.full(2, 0.3))
    assert 0.2 < doubtful <= 0.45 / 2


def test_a_target_is_known_to_the_rounding_of_w_over_s():
    """w = 5 (2^46 + 2/5): w / 5 is rounded to 26/64 beyond 2^46, where 2/5 is the truth."""
    w = np.array([[5.0 * 2**46 + 2]])
    grid = ql.UniformGrid(np.full((1, 1), 5.0), np.zeros((1, 1)), None)
    bound = ql.theory.dual_bound(w, np.eye(1), grid)
    assert 0 < bound[0] <= 4  # (2/5 of a step of 5)^2; 4.12 if w / s counted as exact
