"""The reference roundings against enumeration, each other, and the theorems on LDLQ."""

import numpy as np
import pytest
from comparing import assert_same_rounding
from hypothesis import given
from hypothesis import strategies as st
from strategies import (
    HESSIANS,
    clamped_counterexample,
    make_hessian,
    make_problem,
    make_weights,
    problems,
    seeds,
)

from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.reference import (
    babai,
    dequantise,
    exhaustive,
    gptq,
    ldlq,
    minmax_grid,
    mse_grid,
    nearest,
    obq_fixed,
    proxy_loss,
    rms_grid,
    row_losses,
    stochastic,
    udu,
    uniforms,
)

EPS = np.finfo(np.float64).eps
ONE, ZERO = np.ones((1, 1)), np.zeros((1, 1))
METHODS = (ldlq, gptq, obq_fixed, babai)


def grid_of(p):
    """A grid for a problem: min-max, MSE or RMS, by its seed."""
    bits = p.bits or 3
    kind = p.seed % 3
    if kind == 0:
        return minmax_grid(p.W, bits)
    return mse_grid(p.W, bits, sym=True) if kind == 1 else rms_grid(p.W, bits, 1.8)


def tolerance(p):
    """Relative error of a quantity that needs H^-1: n operations times the condition number."""
    return 50 * max(p.n, 2) * EPS * np.linalg.cond(p.H)


def slack(p, W_hat, loss):
    """Rounding error of the losses of rows: E, and with it sqrt(loss), is known to eps * |W|."""
    size = np.abs(p.W).max(axis=1) + np.abs(W_hat).max(axis=1)
    trace, c = np.trace(p.H), tolerance(p)
    return c * (loss + np.sqrt(loss * trace) * size) + (c * size) ** 2 * trace


# ---- the identity, for any Q


@given(problems(), st.booleans())
def test_identity_and_loss(p, random):
    scale, zero = grid_of(p)
    u = uniforms(p.seed, p.m, p.n) if random else None
    result = ldlq(p.W, p.H, scale, zero, p.maxq, order=p.order, uniforms=u)
    T, D = udu(p.H[np.ix_(p.order, p.order)])
    E, eta = result.E[:, p.order], result.eta[:, p.order]
    size = np.abs(E) @ np.abs(T) + np.abs(p.W[:, p.order])
    assert (np.abs(E @ T - eta) <= 10 * (p.n + 2) * EPS * (size + np.abs(scale))).all()
    loss = (D * eta**2).sum(axis=1)
    assert (np.abs(result.loss - loss) <= slack(p, result.W_hat, loss)).all()
    assert np.allclose(result.costs.sum(axis=1), loss, rtol=100 * p.n * EPS, atol=0)
    assert np.array_equal(result.loss, row_losses(result.W_hat, p.W, p.H))
    assert proxy_loss(result.W_hat, p.W, p.H) == result.loss.sum()
    assert np.array_equal(result.W_hat, dequantise(result.codes, scale, zero))
    if p.bits is not None:
        assert ((result.codes >= 0) & (result.codes <= p.maxq)).all()


@given(problems(bits=(None,)))
def test_eta_is_at_most_half_a_step_on_the_unbounded_grid(p):
    scale, zero = grid_of(p)
    result = ldlq(p.W, p.H, scale, zero, p.maxq, order=p.order)
    _, D = udu(p.H[np.ix_(p.order, p.order)])
    size = np.abs(p.W).max() + np.abs(result.W_hat).max()
    assert (np.abs(result.eta) <= scale / 2 + tolerance(p) * size).all()
    bound = D.sum() / 4 * scale[:, 0] ** 2
    assert (result.loss <= bound + slack(p, result.W_hat, bound)).all()


@given(problems(), st.sampled_from(METHODS))
def test_costs_telescope(p, method):
    scale, zero = grid_of(p)
    result = method(p.W, p.H, scale, zero, p.maxq, order=p.order)
    gap = np.abs(result.costs.sum(axis=1) - result.loss)
    assert (gap <= slack(p, result.W_hat, result.loss)).all()


@given(seeds, st.integers(1, 10), st.sampled_from(HESSIANS))
def test_inverse_map(seed, n, kind):
    """W := Z - eta T^-1 is rounded to Z exactly, for |eta| < 1/2."""
    rng = np.random.default_rng(seed)
    H = make_hessian(kind, n, seed)
    order = rng.permutation(n)
    T, _ = udu(H[np.ix_(order, order)])
    Z = rng.integers(-8, 9, (4, n))
    eta = rng.uniform(-0.49, 0.49, (4, n))  # 0.01 from a tie, far above the rounding errors
    W = np.empty((4, n))
    W[:, order] = Z[:, order] - np.linalg.solve(T.T, eta.T).T
    for method in METHODS:
        result = method(W, H, ONE, ZERO, np.inf, order=order)
        assert np.array_equal(result.codes, Z), method.__name__
        assert np.abs(result.eta[:, order] - eta).max() <= 1e-8, method.__name__


# ---- equal codes


def check_all_the_same(p):
    scale, zero = grid_of(p)
    first = ldlq(p.W, p.H, scale, zero, p.maxq, order=p.order)
    # the targets are known to about cond * eps * their size; ties nearer than that may part
    tau = 1e3 * EPS * np.linalg.cond(p.H) * max(1.0, float(np.abs(p.W / scale).max()))
    near = 0
    for method in METHODS[1:]:
        other = method(p.W, p.H, scale, zero, p.maxq, order=p.order)
        near = assert_same_rounding(
            first.codes, other.codes, p.W, p.H, scale, zero, p.maxq, p.order, tau
        )
        if near == 0:
            assert np.array_equal(first.codes, other.codes)
    return near


@given(problems())
def test_ldlq_gptq_obq_and_babai_agree(p):
    check_all_the_same(p)


def test_ldlq_gptq_obq_and_babai_agree_on_thousands():
    rng, rows, near = np.random.default_rng(0), 0, 0
    for seed in range(350):
        p = make_problem(
            12,
            int(rng.integers(1, 7)),
            seed,
            [1, 2, 3, 4, None][seed % 5],
            HESSIANS[seed % 4],
            ordering=("natural", "act", "random")[seed % 3],
        )
        near += check_all_the_same(p)
        rows += 12
    # a symmetric 1-bit grid puts its own extreme weight on a tie; the rest is not vacuous
    assert near <= rows / 100


@given(seeds, st.integers(1, 6))
def test_methods_agree_on_a_given_group_grid(seed, n):
    p = make_problem(3, n, seed, 2, "power", "heavy", "random")
    scale, zero = minmax_grid(p.W, 2, group_size=2)
    group = np.arange(n) // 2
    first = ldlq(p.W, p.H, scale, zero, 3, order=p.order, group_index=group)
    for method in METHODS[1:]:
        other = method(p.W, p.H, scale, zero, 3, order=p.order, group_index=group)
        assert_same_rounding(
            first.codes, other.codes, p.W, p.H, scale, zero, 3, p.order, 1e-9, group_index=group
        )


@given(problems())
def test_order_is_a_permutation_of_the_problem(p):
    scale, zero = grid_of(p)
    u = uniforms(p.seed, p.m, p.n)
    direct = ldlq(p.W, p.H, scale, zero, p.maxq, order=p.order, uniforms=u)
    W, H = p.W[:, p.order], p.H[np.ix_(p.order, p.order)]
    moved = ldlq(W, H, scale, zero, p.maxq, uniforms=u[:, p.order])
    assert np.array_equal(direct.codes[:, p.order], moved.codes)


def test_longdouble_agrees():
    p = make_problem(40, 6, 3, 3, "outlier", "heavy", "act")
    scale, zero = minmax_grid(p.W, 3)
    wide = ldlq(p.W.astype(np.longdouble), p.H, scale, zero, 7, order=p.order)
    assert wide.loss.dtype == np.longdouble
    plain = ldlq(p.W, p.H, scale, zero, 7, order=p.order)
    assert_same_rounding(wide.codes, plain.codes, p.W, p.H, scale, zero, 7, p.order, 1e-9)


# ---- enumeration


@given(problems(max_m=3, max_n=4, bits=(1, 2)))
def test_exhaustive_is_a_lower_bound(p):
    scale, zero = grid_of(p)
    codes, loss = exhaustive(p.W, p.H, scale, zero, p.maxq)
    u = uniforms(p.seed, p.m, p.n)
    rivals = [method(p.W, p.H, scale, zero, p.maxq, order=p.order).codes for method in METHODS]
    rivals.append(ldlq(p.W, p.H, scale, zero, p.maxq, order=p.order, uniforms=u).codes)
    rivals.append(nearest(p.W, scale, zero, p.maxq))
    rivals.append(stochastic(p.W, scale, zero, p.maxq, u))
    for rival in rivals:
        W_hat = dequantise(rival, scale, zero)
        theirs = row_losses(W_hat, p.W, p.H)
        assert (loss <= theirs + slack(p, W_hat, theirs)).all()
    W_hat = dequantise(codes, scale, zero)
    assert (np.abs(row_losses(W_hat, p.W, p.H) - loss) <= slack(p, W_hat, loss)).all()


@given(problems(max_n=1, bits=(1, 2, 4)))
def test_one_column_is_solved_exactly(p):
    scale, zero = grid_of(p)
    _, loss = exhaustive(p.W, p.H, scale, zero, p.maxq)
    result = ldlq(p.W, p.H, scale, zero, p.maxq)
    assert np.array_equal(result.codes, nearest(p.W, scale, zero, p.maxq))
    assert (result.loss <= loss + slack(p, result.W_hat, loss)).all()


@given(problems(max_m=3, max_n=4, bits=(1, 2), hessian_kinds=("diagonal",)))
def test_diagonal_h_gives_nearest_which_is_best(p):
    scale, zero = grid_of(p)
    codes = nearest(p.W, scale, zero, p.maxq)
    for method in METHODS[:3]:  # babai's eigenvectors make rounding errors of their own
        result = method(p.W, p.H, scale, zero, p.maxq, order=p.order)
        assert np.array_equal(result.codes, codes), method.__name__
    _, loss = exhaustive(p.W, p.H, scale, zero, p.maxq)
    assert (result.loss <= loss + slack(p, result.W_hat, loss)).all()


def test_exhaustive_refuses_what_it_cannot_enumerate():
    with pytest.raises(InvalidArgumentError, match="65536"):
        exhaustive(np.zeros((1, 20)), np.eye(20), ONE, ZERO, 3)
    with pytest.raises(InvalidArgumentError, match="65536"):
        exhaustive(np.zeros((1, 2)), np.eye(2), ONE, ZERO, np.inf)


@pytest.mark.parametrize("zero", [0.0, 1.0, 1.5])
def test_exact_ties_go_to_even(zero):
    """Dyadic numbers, so every target is exact: LDLQ's ties are half-even like nearest's."""
    H = np.array([[1.0, 0.5], [0.5, 1.0]])  # T = [[1, 1/2], [0, 1]]
    W = np.array([[1.0, 0.5], [2.0, 0.5], [0.5, 0.25], [1.5, 0.75]]) - zero % 1
    result = ldlq(W, H, ONE, zero * ONE, np.inf)
    # z_1 = w_1 + (w_0 - w_hat_0) / 2 by hand: 1/2, 1/2, 1/4 + 1/4, 3/4 - 1/4
    expected = np.array([[1, 0], [2, 0], [0, 0], [2, 0]]) + int(np.floor(zero))
    assert np.array_equal(result.codes, expected)


# ---- averages


def sample(n, m, seed, kind="power"):
    return np.random.default_rng(seed).uniform(0, 1, (m, n)), make_hessian(kind, n, seed)


@pytest.mark.parametrize("kind", ["well", "power", "outlier", "lowrank"])
@pytest.mark.parametrize("random", [False, True])
def test_average_loss_is_theorem_1s(kind, random):
    n, m = 6, 20000
    W, H = sample(n, m, 11, kind)
    u = np.random.default_rng(5).uniform(0, 1, (m, n)) if random else None
    _, D = udu(H)
    loss = ldlq(W, H, ONE, ZERO, np.inf, uniforms=u).loss
    # eta ~ U[-1/2, 1/2]: mean 1/12, variance of eta^2 1/180; stochastic: 1/6 and 7/180
    mean, variance = (D.sum() / 6, 7 / 180) if random else (D.sum() / 12, 1 / 180)
    sigma = np.sqrt(variance * (D**2).sum() / m)
    assert abs(loss.mean() - mean) <= 5 * sigma, (loss.mean() - mean) / sigma


@pytest.mark.parametrize("random", [False, True])
def test_average_loss_without_feedback(random):
    n, m = 6, 20000
    W, H = sample(n, m, 12)
    u = np.random.default_rng(6).uniform(0, 1, (m, n))
    codes = stochastic(W, ONE, ZERO, np.inf, u) if random else nearest(W, ONE, ZERO, np.inf)
    loss = row_losses(codes, W, H)
    mean = np.trace(H) / (6 if random else 12)
    assert abs(loss.mean() - mean) <= 5 * loss.std() / np.sqrt(m)


@pytest.mark.parametrize("kind", ["power", "outlier", "lowrank"])
def test_ldlq_is_better_than_nearest_by_tr_d_over_tr_h(kind):
    n, m = 12, 20000
    W, H = sample(n, m, 13, kind)
    _, D = udu(H)
    result = ldlq(W, H, ONE, ZERO, np.inf)
    codes = nearest(W, ONE, ZERO, np.inf)
    base = row_losses(codes, W, H)
    ratio, expected = result.loss.mean() / base.mean(), D.sum() / np.trace(H)
    noise = (result.loss.std() / result.loss.mean() + base.std() / base.mean()) / np.sqrt(m)
    assert expected <= 0.75
    assert abs(ratio / expected - 1) <= 5 * noise
    assert (codes != result.codes).mean() >= 0.1


def with_feedback(W, A):
    """Unbounded nearest rounding with z_k = W_k + (W - W_hat)_{<k} A_{<k,k}."""
    W_hat = np.zeros_like(W)
    for k in range(W.shape[1]):
        W_hat[:, k] = np.rint(W[:, k] + (W - W_hat)[:, :k] @ A[:k, k])
    return W_hat


def wrong_feedbacks(H):
    """Feedback matrices of well-known mistakes, by name."""
    n, P = len(H), np.linalg.inv(H)
    T, _ = udu(H)
    L = np.linalg.cholesky(H)
    return {
        "none": np.zeros((n, n)),
        "the other triangle": (L / np.diag(L)).T - np.eye(n),
        "a column of H, not of its inverse": np.triu(H / np.diag(H)[:, None], 1),
        "the inverse never downdated": np.triu(-P / np.diag(P)[:, None], 1),
        "the inverse of T": np.triu(np.linalg.inv(T), 1),
        "the sign": -np.triu(T, 1),
        "half": np.triu(T, 1) / 2,
    }


def test_right_feedback_is_told_from_wrong():
    n, m = 10, 8000
    W, H = sample(n, m, 14)
    T, D = udu(H)
    right = ldlq(W, H, ONE, ZERO, np.inf)
    same = with_feedback(W, np.triu(T, 1))
    assert (same == right.W_hat).all(axis=1).mean() >= 0.999  # one order of summation or another
    for name, A in wrong_feedbacks(H).items():
        W_hat = with_feedback(W, A)
        loss = row_losses(W_hat, W, H)
        R = np.linalg.inv(np.eye(n) + A)
        expected = np.trace(R @ H @ R.T) / 12  # any feedback has E (I + A) = eta
        assert expected >= 1.1 * D.sum() / 12, name
        assert abs(loss.mean() - expected) <= 5 * loss.std() / np.sqrt(m), name
        assert right.loss.mean() <= loss.mean() / 1.05, name
        assert (W_hat != right.W_hat).mean() >= 0.01, name


# ---- clipping


def test_clamped_counterexample():
    W, H = clamped_counterexample(64)
    codes = nearest(W, ONE, ZERO, 3)
    base = proxy_loss(codes, W, H)
    clamped = ldlq(W, H, ONE, ZERO, 3).loss[0]
    free = ldlq(W, H, ONE, ZERO, np.inf).loss[0]
    _, D = udu(H)
    assert abs(base - 15.7) <= 0.1
    assert abs(clamped - 915) <= 1
    assert clamped / base > 50
    assert free <= D.sum() / 4


# ---- GPTQ's groups


@pytest.mark.parametrize("mse", [False, True])
@pytest.mark.parametrize("ordering", ["natural", "act"])
@pytest.mark.parametrize("size", [1, 3, 4, 50])
def test_group_grids_come_from_the_compensated_weights(size, ordering, mse):
    p = make_problem(5, 10, 21, 3, "power", "heavy", ordering)
    result = gptq(p.W, p.H, order=p.order, group_size=size, bits=3, mse=mse)
    step = np.argsort(p.order)
    assert np.array_equal(result.group_index, step // size)
    W, H, E = p.W[:, p.order], p.H[np.ix_(p.order, p.order)], result.E[:, p.order]
    for g, start in enumerate(range(0, 10, size)):
        F, S = np.s_[start:], np.s_[:start]
        current = W[:, F] - E[:, S] @ H[S, F] @ np.linalg.inv(H[F, F])
        find = mse_grid if mse else minmax_grid
        scale, zero = find(current[:, :size], 3)
        assert np.abs(result.scale[:, g] / scale[:, 0] - 1).max() <= 1e-9  # cond is about 30
        assert np.array_equal(result.zero[:, g], zero[:, 0])
    again = ldlq(
        p.W, p.H, result.scale, result.zero, 7, order=p.order, group_index=result.group_index
    )
    assert np.array_equal(again.codes, result.codes)
    assert np.abs(result.costs.sum(axis=1) - result.loss).max() <= 1e-10 * result.loss.max() + 1e-28


def test_group_size_of_all_columns_is_the_grid_of_w():
    p = make_problem(4, 7, 8, 2, "power", "heavy", "random")
    scale, zero = minmax_grid(p.W, 2, sym=True)
    whole = gptq(p.W, p.H, order=p.order, group_size=7, bits=2, sym=True)
    fixed = gptq(p.W, p.H, scale, zero, 3, order=p.order)
    assert np.array_equal(whole.scale, scale) and np.array_equal(whole.zero, zero)
    assert np.array_equal(whole.codes, fixed.codes)


# ---- manners


def test_inputs_are_left_alone_and_bad_h_is_named():
    p = make_problem(3, 5, 4, 2, "power", "heavy", "random")
    scale, zero = minmax_grid(p.W, 2)
    u = uniforms(1, 3, 5)
    for a in (p.W, p.H, scale, zero, u, p.order):
        a.flags.writeable = False
    for method in METHODS:
        method(p.W, p.H, scale, zero, 3, order=p.order)
    gptq(p.W, p.H, order=p.order, group_size=2, bits=2)
    ldlq(p.W, p.H, scale, zero, 3, uniforms=u)
    exhaustive(p.W[:, :4], p.H[:4, :4], scale, zero, 3)
    with pytest.raises(InvalidArgumentError, match="group_size"):
        gptq(p.W, p.H, group_size=2)
    with pytest.raises(NotPositiveDefiniteError):
        ldlq(p.W, -p.H, scale, zero, 3)


@given(problems(bits=(2, 3, None)), st.integers(-20, 20))
def test_powers_of_two_change_no_bit(p, k):
    scale, zero = minmax_grid(p.W, p.bits or 3)
    base = ldlq(p.W, p.H, scale, zero, p.maxq, order=p.order)
    other = ldlq(p.W, 2.0**k * p.H, scale, zero, p.maxq, order=p.order)
    assert np.array_equal(base.codes, other.codes) and np.array_equal(base.eta, other.eta)
    assert np.array_equal(2.0**k * base.loss, other.loss)


@given(problems(min_m=2))
def test_rows_are_independent(p):
    scale, zero = minmax_grid(make_weights("normal", p.m, p.n, 0), 3)
    base = ldlq(p.W, p.H, scale, zero, 7, order=p.order)
    alone = ldlq(p.W[1:2], p.H, scale[1:2], zero[1:2], 7, order=p.order)
    # the products of one row and of many may round differently
    assert_same_rounding(
        base.codes[1:2], alone.codes, p.W[1:2], p.H, scale[1:2], zero[1:2], 7, p.order, 1e-9
    )
