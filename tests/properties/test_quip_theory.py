"""QuIP's statements that are not tested beside the code they are about, one test each.

Theorem 1's averages and bounds, the inverse map, theorem 6 and the clamped counterexample are in
tests/rounding and tests/reference; theorem 7 in tests/rounding/test_safe.py; the invariance of the
loss under processing in tests/incoherence.
"""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import HESSIANS, clamped_counterexample, hessians, make_hessian, make_order

import quiplinalg as ql
from quiplinalg import reference

REGULAR = ("well", "power", "outlier", "diagonal")


def unit_upper(n, seed, scale=1.0):
    R = np.triu(scale * np.random.default_rng(seed).standard_normal((n, n)), 1)
    return R + np.eye(n)


def nearest_unit(W):
    return np.rint(W) - W


@given(H=hessians(max_n=12), seed=st.integers(0, 2**32 - 1))
def test_no_unit_upper_r_has_a_smaller_trace(H, seed):
    """tr(R H R^T) >= tr D for every unit upper R, with equality at R = T^-1 (theorem 1)."""
    factor = ql.udu(H)
    least, size = factor.D.sum(), np.trace(H)
    for scale in (0.0, 0.1, 1.0):
        R = unit_upper(len(H), seed, scale)
        assert np.trace(R @ H @ R.T) >= least - 1e-13 * len(H) * size
    R = np.linalg.inv(factor.T)
    tolerance = 1e-13 * len(H) * size * max(1.0, np.square(R).sum())
    assert abs(np.trace(R @ H @ R.T) - least) <= tolerance


@given(H=hessians(max_n=12))
def test_pivots_are_below_the_diagonal_and_equal_for_a_diagonal_h_only(H):
    """D_k <= H_kk; D = diag(H) if and only if H is diagonal (theorem 4: no gain then)."""
    D, d = ql.udu(H).D, np.diag(H)
    assert (D <= d * (1 + 1e-14 * len(H))).all()
    # D_k = H_kk - |U's part|: an off-diagonal r costs the trace r^2 / H_jj at least
    off = np.triu(H, 1) ** 2 / d
    assert D.sum() <= d.sum() - off.max(initial=0) + 1e-13 * len(H) * d.sum()
    only = ql.udu(np.diag(d)).D  # square roots are squared again
    assert (np.abs(only - d) <= 2 * np.finfo(float).eps * d).all()


@given(H=hessians(min_n=1, max_n=10, kinds=REGULAR))
def test_lemma_2s_chain(H):
    """n det(H)^(1/n) <= tr D <= max_i (H^1/2)_ii tr(H^1/2) <= (mu^2/n) tr(H^1/2)^2."""
    n = len(H)
    values, Q = np.linalg.eigh(H)
    root = (Q * np.sqrt(values)) @ Q.T
    mu = np.sqrt(n) * np.abs(Q).max()  # of this basis, whatever the gaps: the bound holds for it
    chain = [
        n * np.exp(np.log(values).mean()),
        ql.udu(H).D.sum(),
        np.diag(root).max() * np.trace(root),
        mu**2 / n * np.trace(root) ** 2,
    ]
    for low, high in itertools.pairwise(chain):
        assert low <= high * (1 + 1e-12 * n), chain


@given(n=st.integers(2, 12), rank=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_lemma_2_at_low_rank(n, rank, seed):
    """tr D <= (mu^2 k / n) tr H at rank k (H damped by next to nothing, so that it factors)."""
    k = min(rank, n)
    X = np.random.default_rng(seed).standard_normal((k, n))
    H = X.T @ X / k
    _, Q = np.linalg.eigh(H)
    mu = np.sqrt(n) * np.abs(Q[:, n - k :]).max()
    shift = 1e-7 * np.trace(H) / n
    trace_D = ql.udu(H + shift * np.eye(n)).D.sum()
    # the lemma holds for the damped H, whose root has n - k more eigenvalues sqrt(d): relative to
    # tr(H^1/2) they are at most 12 sqrt(1e-7), and count twice
    assert trace_D <= mu**2 * k / n * np.trace(H) * (1 + 1e-2)


@given(H=hessians(max_n=8, kinds=REGULAR), seed=st.integers(0, 2**32 - 1))
def test_worst_case_of_nearest(H, seed):
    """Nearest's worst loss is (1/4) max over signs s of s^T H s, not (1/4) tr H."""
    n = len(H)
    W = np.random.default_rng(seed).uniform(-3, 3, (20, n))
    E = nearest_unit(W)
    losses = ((E @ H) * E).sum(axis=1)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    worst = ((signs @ H) * signs).sum(axis=1).max() / 4
    assert losses.max() <= worst * (1 + 1e-12)
    # it is attained, up to ties: at half a step in the direction of the worst signs
    s = signs[((signs @ H) * signs).sum(axis=1).argmax()]
    near = 0.5 * (1 - 1e-9) * s
    assert (nearest_unit(near) == -near).all()
    assert near @ H @ near >= worst * (1 - 1e-8)


def test_averages_without_feedback():
    """(1/12) tr H for nearest and (1/6) tr H for stochastic rounding of uniform weights."""
    n, m = 8, 40_000
    H = make_hessian("outlier", n, 3)
    W = np.random.default_rng(0).uniform(0, 1, (m, n))
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)
    for keywords, expected in (
        ({}, np.trace(H) / 12),
        ({"rounding": "stochastic", "seed": 5}, np.trace(H) / 6),
    ):
        E = ql.nearest(W, grid=grid, **keywords).__array__(np.float64) - W
        losses = ((E @ H) * E).sum(axis=1)
        sigma = losses.std() / np.sqrt(m)
        assert abs(losses.mean() - expected) <= 5 * sigma


@given(
    n=st.integers(1, 16),
    kind=st.sampled_from(HESSIANS),
    ordering=st.sampled_from(("natural", "act", "random")),
    damp=st.floats(1e-3, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_loss_under_the_undamped_h_is_free(n, kind, ordering, damp, seed):
    """tr(E H E^T) = sum D eta^2 - d ||E||_F^2 where H + d I was factored, for any rounding."""
    H = make_hessian(kind, n, seed)
    perm = make_order(ordering, H, seed)
    rng = np.random.default_rng(seed)
    W, W_hat = rng.standard_normal((3, n)), rng.integers(-2, 3, (3, n)).astype(float)
    E = (W_hat - W)[:, perm]
    factor = ql.udu(H[np.ix_(perm, perm)] + damp * np.eye(n))
    eta = E @ factor.T
    free = (factor.D * eta**2).sum() - damp * (E**2).sum()
    direct = ql.proxy_loss(W_hat, W, H)
    size = (factor.D * eta**2).sum() + (E**2).sum() * np.trace(H)
    assert abs(free - direct) <= 1e-13 * n * size


@given(n=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_hadamard_incoherence_bound_of_weights(n, seed):
    """QuIP#, lemma 3.1: mu_W <= 2 log(4 m n / delta) with probability 1 - delta, both sides.

    At delta = 1e-9 a miss in the few thousand runs of this test is a fault, not bad luck.
    """
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 40))
    W = np.zeros((m, n))
    W[rng.integers(m), rng.integers(n)] = 1.0  # the worst there is: mu = sqrt(m n)
    W2, _, _ = ql.incoherence_process(W, np.eye(n), sides="both", rescale=False, seed=seed)
    assert ql.mu_weight(W2) <= 2 * np.log(4 * m * n / 1e-9)


def test_hadamard_incoherence_bound_of_hessians():
    """QuIP#, lemma 3.1: mu_H <= sqrt(2 log(2 n^2 / delta)) with probability 1 - delta."""
    n, delta = 64, 1e-9
    H = np.diag(np.arange(1.0, n + 1))  # eigenvectors e_i: mu = sqrt(n) = 8
    for seed in range(50):
        _, H2, _ = ql.incoherence_process(np.ones((1, n)), H, rescale=False, seed=seed)
        found = ql.mu_hessian(H2)
        assert found.degenerate == 0 and found.upper <= np.sqrt(2 * np.log(2 * n**2 / delta))


def test_the_rho_of_gaussian_weights():
    """Least MSE of levels s (2k / maxq - 1) on N(0, 1): rho 0.80, 1.49, 2.05, 2.52 at 1 to 4 bits.

    The known minima are .363, .1187, .0374 and .0115.
    """
    W = np.random.default_rng(0).standard_normal((1, 1_000_000))
    for bits, rho, mse in (
        (1, 0.80, 0.363),
        (2, 1.49, 0.1187),
        (3, 2.05, 0.0374),
        (4, 2.52, 0.0115),
    ):
        errors = {}
        for factor in (0.9, 1.0, 1.1):
            grid = ql.rms_grid(W, bits, rho=rho * factor)
            errors[factor] = float(np.square(np.asarray(ql.nearest(W, grid=grid)) - W).mean())
        assert min(errors, key=errors.get) == 1.0
        assert abs(errors[1.0] / mse - 1) <= 0.01  # two or three known digits


@given(
    n=st.integers(2, 10), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(("well", "power"))
)
def test_row_and_column_permutations_change_nothing(n, seed, kind):
    """Rows are independent, and a permutation of the columns is an order."""
    H = make_hessian(kind, n, seed)
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((5, n))
    grid = ql.UniformGrid(np.full((1, 1), 0.7), np.full((1, 1), 1.5), 2)
    q = ql.ldlq(W, H, grid=grid, order="natural", damp=0.0)
    rows = rng.permutation(5)
    assert (ql.ldlq(W[rows], H, grid=grid, order="natural", damp=0.0).codes == q.codes[rows]).all()
    perm = rng.permutation(n)
    twin = reference.ldlq(W, H, grid.scale, grid.zero, 3.0, order=perm)
    P = np.ix_(perm, perm)
    other = ql.ldlq(W[:, perm], H[P], grid=grid, order="natural", damp=0.0)
    assert abs(other.loss - twin.loss.sum()) <= 1e-9 * max(twin.loss.sum(), 1e-12)


def test_the_counterexample_is_one_of_the_clamp():
    """Section 5.2: clamped LDLQ loses to nearest by far; without the clamp it does not."""
    W, H = clamped_counterexample(64)
    clamped = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), 2)
    free = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)
    run = {"order": "natural", "damp": 0.0}
    bad, good = (ql.ldlq(W, H, grid=g, **run).loss for g in (clamped, free))
    nearest = ql.nearest(W, H, grid=clamped).loss
    assert bad > 50 * nearest and good < nearest
    assert ql.safe(W, H, 2, grid=clamped, damp=0.0).loss < 3 * nearest
