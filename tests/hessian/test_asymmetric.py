"""Cross moments and the shifted target: least squares, and what rounding it gains."""

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import (
    ConditioningWarning,
    DTypeError,
    InvalidArgumentError,
    NonFiniteError,
    NotPositiveDefiniteError,
)
from quiplinalg.factor.damping import AbsoluteDamp

EPS = np.finfo(float).eps


def inputs(tokens, n, noise, seed):
    """Correlated inputs of the original network, and the disturbed ones of the quantised one."""
    rng = np.random.default_rng([seed, n])
    X = rng.standard_normal((tokens, n)) @ rng.standard_normal((n, n)) / np.sqrt(n)
    return X, X + noise * rng.standard_normal(X.shape)


def moments(X, X_tilde):
    both = ql.CrossMoment(X.shape[1])
    both.add(X, X_tilde)
    return both.mean(), both.hessian().mean()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_cross_moments_of_integers_are_exact(dtype):
    rng = np.random.default_rng(0)
    for n in (0, 1, 2, 65, 130):
        X, Y = (rng.integers(-4, 5, (1100, n)).astype(dtype) for _ in range(2))
        w = rng.integers(0, 3, 1100)
        both = ql.CrossMoment(n)
        both.add(X[:9], Y[:9], weights=w[:9])
        both.add(X[9:].reshape(1091, 1, n), Y[9:].reshape(1091, 1, n), weights=w[9:, None])
        x, y = X.astype(int), Y.astype(int)
        assert (both.sum() == x.T @ (w[:, None] * y)).all()
        assert (both.hessian().sum() == y.T @ (w[:, None] * y)).all()
        assert both.weight == both.hessian().weight == w.sum()
        assert both.count == both.hessian().count == np.count_nonzero(w)


def test_cross_moments_are_the_definition_and_their_bits_are_fixed():
    X, Y = inputs(1500, 7, 0.5, 0)
    exact = reference.cross_moment(X, Y)
    size = np.abs(X).T @ np.abs(Y)
    both = ql.CrossMoment(7)
    both.add(X, Y)
    assert (np.abs(both.sum() - exact) <= 1502 * EPS * size).all()
    for threads in (1, 2):
        with ql.num_threads(threads):
            other = ql.CrossMoment(7)
            for i in range(0, 1500, 71):
                other.add(X[i : i + 71], Y[i : i + 71])
            assert (other.sum() == both.sum()).all()
            assert (other.hessian().sum() == both.hessian().sum()).all()
    halves = [ql.CrossMoment(7), ql.CrossMoment(7)]
    halves[0].add(X[:700], Y[:700])
    halves[1].add(X[700:], Y[700:])
    total = ql.merge_statistics(halves)
    assert (total.sum() == halves[0].sum() + halves[1].sum()).all() and total.count == 1500
    assert (total.hessian().sum() == sum(h.hessian().sum() for h in halves)).all()


def test_bad_pairs_add_nothing():
    both = ql.CrossMoment(3)
    with pytest.raises(InvalidArgumentError, match="same tokens as X"):
        both.add(np.ones((4, 3)), np.ones((5, 3)))
    with pytest.raises(NonFiniteError, match=r"X_tilde\[1, 2\]"):
        both.add(np.ones((2, 3)), np.where(np.arange(6).reshape(2, 3) == 5, np.nan, 1.0))
    assert both.count == 0 and not both.sum().any()
    with pytest.raises(InvalidArgumentError, match="count=0"):
        both.mean()


def test_it_is_the_least_squares_solution():
    for seed, n in enumerate((1, 2, 5, 20, 64)):
        X, X_tilde = inputs(6 * n, n, 0.3, seed)
        W = np.random.default_rng(seed).standard_normal((300, n))  # more rows than a block
        G, H = moments(X, X_tilde)
        V = ql.shift_target(W, G, H, damp=0)
        # normal equations V H = W G: a solve with a Cholesky factor has a residual of a few n eps
        scale = np.abs(V) @ np.abs(H) + np.abs(W) @ np.abs(G)
        ratio = np.abs(V @ H - W @ G).max() / (n * EPS * scale.max())
        assert ratio <= 30, ratio
        expected = reference.shift_target(W, X, X_tilde)
        error = np.abs(V - expected).max() / np.abs(expected).max()
        assert error <= 30 * n * EPS * np.linalg.cond(H), error
        # no other weight has less error, and the loss splits as promised
        rng = np.random.default_rng(seed)
        E = 0.1 * rng.standard_normal(W.shape)
        at, beside = (np.square(X @ W.T - X_tilde @ U.T).sum() for U in (V, V + E))
        assert abs(beside - at - ql.proxy_loss(V + E, V, H) * len(X)) <= 1e-12 * beside


@pytest.mark.parametrize("damp", [0.0, 0.01, "auto", AbsoluteDamp(2.0)])
def test_the_same_inputs_leave_the_weight_as_it_is(damp):
    X, _ = inputs(90, 12, 0, 1)
    G, H = moments(X, X)
    W = np.random.default_rng(0).standard_normal((5, 12))
    # H comes from one triangle and G from both, so they part in the last bits
    cond = np.linalg.cond(H)
    error = np.abs(ql.shift_target(W, G, H, damp=damp) - W).max() / np.abs(W).max()
    assert error <= 12 * EPS * cond


def test_damping_pulls_to_the_weight():
    X, X_tilde = inputs(40, 8, 0.5, 2)
    G, H = moments(X, X_tilde)
    W = np.random.default_rng(0).standard_normal((3, 8))
    d = 0.7
    expected = np.linalg.solve(H + d * np.eye(8), (W @ G + d * W).T).T
    got = ql.shift_target(W, G, H, damp=AbsoluteDamp(d))
    assert np.abs(got - expected).max() <= 30 * 8 * EPS * np.linalg.cond(H) * np.abs(W).max()
    assert np.abs(ql.shift_target(W, G, H, damp=AbsoluteDamp(1e12)) - W).max() <= 1e-10


def test_rounding_the_target_lowers_the_error_of_the_outputs():
    gains = []
    for seed in range(12):
        X, X_tilde = inputs(400, 24, 0.5, seed)
        W = np.random.default_rng(seed).standard_normal((16, 24))
        G, H = moments(X, X_tilde)
        loss = [
            np.square(X @ W.T - X_tilde @ np.asarray(ql.ldlq(V, H, bits=4), float).T).sum()
            for V in (W, ql.shift_target(W, G, H))
        ]
        gains.append(loss[1] / loss[0])
    assert np.mean(gains) <= 0.9 and max(gains) < 1, gains


def qronos(W, X, X_tilde):
    """Round to integers by Qronos' two equations, each solved by least squares on the tokens."""
    m, n = W.shape
    Q = np.empty((m, n))
    for r, w in enumerate(W):
        rest = w.copy()
        for t in range(n):
            # the best value of coordinate t with what comes after it as it is now, rounded
            left = X @ w - X_tilde[:, :t] @ Q[r, :t] - X_tilde[:, t + 1 :] @ rest[t + 1 :]
            Q[r, t] = np.rint(X_tilde[:, t] @ left / (X_tilde[:, t] @ X_tilde[:, t]))
            # what comes after it, anew
            left = X @ w - X_tilde[:, : t + 1] @ Q[r, : t + 1]
            rest[t + 1 :] = np.linalg.lstsq(X_tilde[:, t + 1 :], left, rcond=None)[0]
    return Q


def test_rounding_the_target_is_qronos_after_its_first_column():
    codes = 0
    for seed in range(10):
        X, X_tilde = inputs(60, 9, 0.3, seed)
        W = 2 * np.random.default_rng(seed).standard_normal((6, 9))
        Q = qronos(W, X, X_tilde)
        G, H = moments(X, X_tilde)
        V = ql.shift_target(W, G, H, damp=0)
        # given Qronos' own first code, the loss is least at `rest`, and the same quadratic there
        rest = V[:, 1:] + (V[:, :1] - Q[:, :1]) * np.linalg.solve(H[1:, 1:], H[1:, 0])
        found = reference.ldlq(rest, H[1:, 1:], np.ones((1, 1)), np.zeros((1, 1)), np.inf)
        assert (found.codes == Q[:, 1:]).all()
        codes += Q[:, 1:].size
    assert codes == 480


def test_dead_inputs_and_bad_arguments():
    X, X_tilde = inputs(50, 6, 0.2, 3)
    X_tilde[:, 2] = 0
    G, H = moments(X, X_tilde)
    W = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
    V = ql.shift_target(W, G, H, damp=0)
    assert V.dtype == np.float32 and (V[:, 2] == W[:, 2]).all()
    expected = reference.shift_target(W.astype(float), X, X_tilde)  # of least norm: 0 there
    live = [0, 1, 3, 4, 5]
    error = np.abs(V - expected)[:, live].max()
    # W's own share of the dead input cannot be made up for by a weight on it
    assert error <= 4 * np.finfo(np.float32).eps * np.abs(expected).max()
    assert (ql.shift_target(np.zeros((0, 6)), G, H)).shape == (0, 6)
    assert (ql.shift_target(W, np.zeros((6, 6)), np.zeros((6, 6))) == W).all()
    other = G.copy()
    other[0, 2] = 1
    with pytest.raises(InvalidArgumentError, match="dead in H_tilde"):
        ql.shift_target(W, other, H)
    with pytest.raises(InvalidArgumentError, match=r"Pass W\.T"):
        ql.shift_target(W.T, G, H)
    with pytest.raises(NonFiniteError, match="G"):
        ql.shift_target(W, G * np.nan, H)
    few = X_tilde[:2].T @ X_tilde[:2]
    with pytest.raises(NotPositiveDefiniteError), np.errstate(all="ignore"):
        ql.shift_target(W, few, few - 1e-9 * np.diag(np.diag(few)), damp=0)
    near = np.ones((6, 6)) + 2 * EPS * np.eye(6)
    with pytest.warns(ConditioningWarning, match="singular"):
        ql.shift_target(W, near, near, damp=2 * EPS)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_target_beyond_the_dtype_of_the_weight_is_an_error(dtype):
    W = np.full((2, 2), 0.9 * float(np.finfo(dtype).max), dtype)
    with pytest.raises(InvalidArgumentError, match=r"W\* must fit into the dtype of W"):
        ql.shift_target(W, 4 * np.eye(2), np.eye(2))
    assert np.isfinite(ql.shift_target(W, np.eye(2), np.eye(2))).all()


def test_errors_name_h_tilde_and_the_keyword_that_is_meant():
    with pytest.raises(NotPositiveDefiniteError, match="H_tilde must be positive") as caught:
        ql.shift_target(np.ones((1, 3)), np.zeros((3, 3)), np.pad(np.ones((2, 2)), (1, 0)), damp=0)
    assert caught.value.index in (1, 2)  # counted in H_tilde, with its dead row
    with pytest.raises(DTypeError, match="did you mean damp"):
        ql.shift_target(np.ones((1, 2)), np.eye(2), np.eye(2), percdamp=0.1)
