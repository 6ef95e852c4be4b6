"""The closed forms against sampling, enumeration and the algorithms themselves."""

from __future__ import annotations

import inspect
import itertools

import numpy as np
import pytest
import test_house
from hypothesis import given
from hypothesis import strategies as st
from strategies import HESSIANS, hessians, make_hessian, make_order

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError

EPS = np.finfo(float).eps
REGULAR = ("well", "power", "outlier", "diagonal")
DOCUMENTED = [(n, getattr(ql.theory, n)) for n in ql.theory.__all__]


@pytest.mark.parametrize("name,value", DOCUMENTED, ids=[n for n, _ in DOCUMENTED])
def test_public_functions_are_documented(name, value):
    assert inspect.isfunction(value) or inspect.isclass(value)
    test_house.test_docstrings_agree_with_signatures(name, value)


def unbounded(scale):
    scale = np.asarray(scale, float)
    index = None if scale.shape[1] == 1 else np.arange(scale.shape[1], dtype=np.int32)
    return ql.UniformGrid(scale, np.zeros_like(scale), None, index)


def losses_of(q, W, H):
    E = np.asarray(q, float) - W
    return ((E @ H) * E).sum(axis=1)


# ------------------------------------------------------------------------------------- pivots


@given(H=hessians(max_n=12), seed=st.integers(0, 99), kind=st.sampled_from(("natural", "random")))
def test_pivots_are_those_of_the_factor_in_any_order(H, seed, kind):
    order = make_order(kind, H, seed)
    D = ql.theory.pivots(H, order)
    expected = reference.udu(H[np.ix_(order, order)])[1]
    condition = np.linalg.cond(H)
    assert (np.abs(D[order] - expected) <= 8 * len(H) * EPS * condition * np.diag(H)[order]).all()


@given(n=st.integers(1, 10), rank=st.integers(1, 10), seed=st.integers(0, 2**32 - 1))
def test_pivots_of_singular_matrices_are_distances_to_spans(n, rank, seed):
    """D_k = min over a of ||x_k - X_F a||^2, F the columns after k."""
    X = np.random.default_rng(seed).standard_normal((min(rank, n), n))
    D = ql.theory.pivots(X.T @ X)
    for k in range(n):
        F, x = X[:, k + 1 :], X[:, k]
        a = np.linalg.lstsq(F, x, rcond=None)[0]
        distance = np.square(x - F @ a).sum()
        # eigenvalues of X^T X below 8 n eps lambda_max count as 0, and what they held is lost;
        # a span that depends on a nearly lost direction magnifies it
        total, lengths = np.square(X).sum(), np.square(np.linalg.svd(F, compute_uv=False))
        live = lengths[lengths > 1e-24 * total]
        magnified = total / live.min() if live.size else 1.0
        assert abs(D[k] - distance) <= 100 * n * EPS * total * magnified


def test_pivots_of_singular_matrices_in_any_units():
    """D of S H S is s^2 D: what counts as zero must not depend on the units of the columns."""
    rng = np.random.default_rng(0)
    X, s = rng.standard_normal((4, 6)), 10.0 ** np.array([0, 6, -7, 3, -6, 7.0])
    H = X.T @ X
    D = ql.theory.pivots(H)
    assert np.count_nonzero(D) == 4
    assert (np.abs(ql.theory.pivots(H * s * s[:, None]) / s**2 - D) <= 1e-11 * H.diagonal()).all()


@pytest.mark.parametrize("kind", HESSIANS)
@pytest.mark.parametrize("block", [1, 2, 4, 8])
def test_block_pivots(kind, block):
    """H = T D T^T with T unit block upper triangular; the blocks are Schur complements."""
    n = 16
    H = make_hessian(kind, n, 3)
    D = ql.theory.block_pivots(H, block)
    for b, i in enumerate(range(0, n, block)):
        inside, after = np.arange(i, i + block), np.arange(i + block, n)
        schur = H[np.ix_(inside, inside)]
        if after.size:
            cross = H[np.ix_(inside, after)]
            schur = schur - cross @ np.linalg.solve(H[np.ix_(after, after)], cross.T)
        size = np.linalg.cond(H) * np.trace(H)
        assert np.abs(D[b] - schur).max() <= 8 * n * EPS * size
    traces = [np.einsum("bii->", ql.theory.block_pivots(H, k)) for k in (1, 2, 4, 8, 16)]
    assert all(a <= b * (1 + 1e-12) for a, b in itertools.pairwise(traces))
    assert abs(traces[0] - ql.theory.pivots(H).sum()) <= 1e-12 * traces[0]
    assert abs(traces[-1] - np.trace(H)) <= 1e-12 * traces[-1]


# ------------------------------------------------------------------------------------- losses


def steps_of(kind, m, n, seed=0):
    rng = np.random.default_rng(seed)
    if kind == "one":
        return 0.7, np.full((1, 1), 0.7)
    shape = (m, 1) if kind == "rows" else (1, n)
    scale = rng.uniform(0.5, 2, shape)
    return scale, scale


@pytest.mark.parametrize("steps", ["one", "rows", "columns"])
@pytest.mark.parametrize("order", ["natural", "act", "min-pivot"])
def test_averages_are_those_of_the_algorithms(steps, order):
    """Means over uniform weights within 5 standard errors; LDLQ's with its known variance."""
    n, m = 10, 20_000
    H = make_hessian("outlier", n, 5)
    scale, stored = steps_of(steps, m, n)
    W = np.random.default_rng(1).uniform(0, 1, (m, n)) * stored + 5 * stored
    grid = unbounded(stored)
    run = {"grid": grid, "order": order, "damp": 0.0}
    for name, q in {
        "nearest_average": ql.nearest(W, grid=grid),
        "stochastic_average": ql.nearest(W, grid=grid, rounding="stochastic", seed=3),
        "ldlq_average": ql.ldlq(W, H, **run),
        "ldlq_stochastic_average": ql.ldlq(W, H, rounding="stochastic", seed=4, **run),
    }.items():
        feedback = {"order": order} if name.startswith("ldlq") else {}
        expected = getattr(ql.theory, name)(H, m, scale, **feedback)
        found = losses_of(q, W, H)
        sigma = found.std() * np.sqrt(m)
        if name == "ldlq_average":
            known = np.sqrt(ql.theory.ldlq_variance(H, m, scale, order))
            # rows of unlike steps differ in their means too
            assert steps == "rows" or abs(sigma / known - 1) <= 0.05
            sigma = known
        assert abs(found.sum() - expected) <= 5 * sigma, name


@given(
    H=hessians(min_n=1, max_n=10, kinds=REGULAR),
    order=st.sampled_from(("natural", "act", "min-pivot")),
    seed=st.integers(0, 2**32 - 1),
)
def test_ldlqs_worst_case_holds_pointwise_and_is_reached(H, order, seed):
    """sum_k s_k^2 D_k / 4 for steps by column, by the inverse map W = Z - eta T^-1."""
    n = len(H)
    rng = np.random.default_rng(seed)
    s = rng.uniform(0.5, 2, (1, n))
    worst = ql.theory.ldlq_worst(H, 1, s, order)
    run = {"grid": unbounded(s), "order": order, "damp": 0.0}
    W = rng.uniform(-4, 4, (40, n))
    assert losses_of(ql.ldlq(W, H, **run), W, H).max() <= worst * (1 + 1e-9)
    P = ql.ldlq(W, H, **run).permutation
    P = np.arange(n) if P is None else P
    T = reference.udu(H[np.ix_(P, P)])[0]
    eta = (0.5 - 1e-6) * rng.choice([-1.0, 1.0], n) * s[0, P]
    Z = rng.integers(-3, 4, n) * s[0, P]
    near = np.empty((1, n))
    near[0, P] = Z - np.linalg.solve(T.T, eta)
    E = np.zeros((1, n))
    E[0, P] = Z
    E -= near
    assert float(((E @ H) * E).sum()) >= worst * (1 - 1e-4)


@given(H=hessians(min_n=1, max_n=8, kinds=REGULAR), seed=st.integers(0, 2**32 - 1))
def test_worst_cases_of_nearest(H, seed):
    n = len(H)
    s = np.random.default_rng(seed).uniform(0.5, 2, (3, n))
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
    expected = sum((((signs * r) @ H) * (signs * r)).sum(axis=1).max() for r in s) / 4
    exact, bound = ql.theory.nearest_worst(H, 3, s), ql.theory.nearest_worst_bound(H, 3, s)
    assert abs(exact - expected) <= 1e-12 * n * expected
    assert exact <= bound * (1 + 1e-12)
    assert ql.theory.nearest_average(H, 3, s) * 3 <= exact * (1 + 1e-12)  # tr H / 4 is a mean
    positive = np.abs(H)  # the sum of its elements, for all signs equal
    assert abs(ql.theory.nearest_worst_bound(positive) / ql.theory.nearest_worst(positive) - 1) <= (
        1e-12 * n
    )
    W = np.random.default_rng(seed).uniform(-3, 3, (20, n))
    assert losses_of(ql.nearest(W, grid=unbounded(np.ones((1, 1)))), W, H).max() <= (
        ql.theory.nearest_worst(H) * (1 + 1e-12)
    )


def test_nearests_worst_is_not_the_trace():
    assert ql.theory.nearest_worst(np.ones((4, 4))) == 4.0  # tr H / 4 is 1
    with pytest.raises(InvalidArgumentError, match="nearest_worst_bound"):
        ql.theory.nearest_worst(np.eye(23))
    assert ql.theory.nearest_worst_bound(np.eye(23)) >= 23 / 4


def test_stochastic_worst_is_reached_half_way():
    """At half-way weights each error is +-1/2 by a fair coin: the mean loss is tr H / 4."""
    n, m = 6, 40_000
    H = make_hessian("power", n, 1)
    q = ql.nearest(
        np.full((m, n), 0.5), grid=unbounded(np.ones((1, 1))), rounding="stochastic", seed=0
    )
    found = losses_of(q, np.full((m, n), 0.5), H)
    assert abs(found.mean() - ql.theory.stochastic_worst(H)) <= 5 * found.std() / np.sqrt(m)
    assert found.max() <= 4 * ql.theory.nearest_worst(H)


def test_stochastic_ldlq_stays_below_its_worst_mean():
    n, m = 8, 20_000
    H = make_hessian("power", n, 2)
    for fraction in (0.1, 0.5, 0.83):
        W = np.full((m, n), fraction)
        q = ql.ldlq(W, H, grid=unbounded(np.ones((1, 1))), order="natural", damp=0.0,
                    rounding="stochastic", seed=1)  # fmt: skip
        found = losses_of(q, W, H)
        bound = ql.theory.ldlq_stochastic_worst(H)
        assert found.mean() <= bound + 5 * found.std() / np.sqrt(m)
        assert found.max() <= 4 * bound


@given(H=hessians(max_n=10), seed=st.integers(0, 2**32 - 1))
def test_theorem_4_no_gain_for_diagonal_h_only(H, seed):
    n = len(H)
    gain = ql.theory.ldlq_gain(H)
    diagonal = np.count_nonzero(H - np.diag(np.diag(H))) == 0
    assert gain <= 1 and (gain >= 1 - 4 * n * EPS if diagonal else gain < 1 or n == 1)
    assert abs(ql.theory.ldlq_gain(np.diag(np.diag(H))) - 1) <= 4 * n * EPS


@pytest.mark.parametrize("block", [2, 4, 8])
def test_block_ldlq(block):
    """Blocks rounded with feedback from those before: average, worst case, both by running it."""
    n, m = 16, 20_000
    H = make_hessian("power", n, 7)
    rng = np.random.default_rng(0)
    W = rng.uniform(-3, 3, (m, n))
    E = np.zeros((m, n))
    for i in range(0, n, block):
        inside, before = slice(i, i + block), slice(0, i)
        # the best the later columns can do for real numbers: z = w - E_< H_<F [H_FF^-1]_:b
        F = slice(i, n)
        pull = np.linalg.solve(H[F, F], H[F, before])[:block]
        z = W[:, inside] - E[:, before] @ pull.T
        E[:, inside] = np.rint(z) - W[:, inside]
    found = ((E @ H) * E).sum(axis=1)
    expected = ql.theory.block_ldlq_average(H, block)
    assert abs(found.mean() - expected) <= 5 * found.std() / np.sqrt(m)
    worst = ql.theory.block_ldlq_worst(H, block)
    assert found.max() <= worst and 3 * expected <= worst * (1 + 1e-12)
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=block)))
    D = ql.theory.block_pivots(H, block)
    assert abs(worst - sum(((signs @ d) * signs).sum(1).max() for d in D) / 4) <= 1e-12 * worst
    assert ql.theory.block_ldlq_worst(H, 1) == pytest.approx(ql.theory.ldlq_worst(H), rel=1e-12)


# ------------------------------------------------------------------------------------- bounds


@given(H=hessians(max_n=10), order=st.sampled_from(("natural", "act", "min-pivot")))
def test_lemma_2_in_any_order(H, order):
    terms = ql.theory.lemma2(H, order)
    for low, high in itertools.pairwise(terms.chain):
        assert low <= high * (1 + 1e-12 * len(H)), terms
    assert terms.trace_D <= terms.trace_H * (1 + 1e-13 * len(H))
    assert terms.rank == len(H)


@given(n=st.integers(2, 12), rank=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_lemma_2_at_low_rank(n, rank, seed):
    k = min(rank, n)
    X = np.random.default_rng(seed).standard_normal((k, n))
    terms = ql.theory.lemma2(X.T @ X)
    assert terms.rank <= k and (k == n or terms.determinant == 0)
    # eigenvalues that count as 0, up to 8 n eps lambda_max, have roots that count as well
    slack = n**2 * np.sqrt(8 * n * EPS) * terms.trace_H
    for low, high in itertools.pairwise(terms.chain):
        assert low <= high * (1 + 1e-12 * n) + slack, terms


def test_hadamard_bounds_and_margins_are_their_formulas():
    assert ql.theory.hadamard_mu_hessian(64, 0.1) == pytest.approx(
        np.sqrt(2 * np.log(2 * 64**2 / 0.1)), rel=1e-14
    )
    assert ql.theory.hadamard_mu_weight(3, 64, 0.1) == pytest.approx(
        2 * np.log(4 * 3 * 64 / 0.1), rel=1e-14
    )
    assert ql.theory.safe_margin(3, 64, 0.5, 0.1) == pytest.approx(
        np.sqrt(0.5 * np.log(2 * 3 * 64 / 0.1) / 2), rel=1e-14
    )
    s = np.array([[1.0], [2.0]])
    assert ql.theory.safe_loss(3.0, 2, 64, 0.1, s) == pytest.approx(
        np.log(4 * 2 * 64 / 0.1) / 2 * 3.0 * 5, rel=1e-14
    )


def test_hadamard_rotations_keep_their_bounds():
    """A miss at delta = 1e-9 in some 60 rotations is a fault, not bad luck."""
    m, n, delta = 16, 64, 1e-9
    W, H = np.zeros((m, n)), np.diag(np.arange(1.0, n + 1))
    W[3, 5] = 1.0
    for seed in range(30):
        W2, H2, _ = ql.incoherence_process(W, H, sides="both", rescale=False, seed=seed)
        assert ql.mu_weight(W2) <= ql.theory.hadamard_mu_weight(m, n, delta)
        assert ql.mu_hessian(H2).upper <= ql.theory.hadamard_mu_hessian(n, delta)


def test_theorem_7_nothing_is_clamped_inside_the_margin():
    m, n, c, delta = 30, 20, 0.5, 1e-6
    H = make_hessian("outlier", n, 1)
    t = ql.theory.safe_margin(m, n, c, delta / 2)
    W = np.random.default_rng(0).uniform(t, 255 - t, (m, n))
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), 8)
    for seed in range(20):
        q = ql.safe(W, H, grid=grid, c=c, seed=seed)
        assert q.clipped == 0 and q.loss <= ql.theory.safe_loss(q.trace_D, m, n, delta)


# ------------------------------------------------------------------------- model bound, rates


@given(n=st.integers(1, 12), spread=st.floats(0, 3), seed=st.integers(0, 2**32 - 1))
def test_the_majorants_slopes(n, spread, seed):
    D = np.exp(spread * np.random.default_rng(seed).standard_normal((3, n)))
    found = ql.theory.concave_pivots(D)
    for row, slopes in zip(D, found, strict=True):
        expected = reference.concave_pivots(row)
        assert (np.abs(slopes / expected - 1) <= 1e-12 * n).all()
        assert (np.diff(slopes) <= 1e-12 * slopes[:-1]).all()
        assert abs(np.log(slopes).sum() - np.log(row).sum()) <= 1e-12 * n
        assert slopes.sum() <= row.sum() * (1 + 1e-12)
    falling = np.sort(D)[:, ::-1]
    assert (np.abs(ql.theory.concave_pivots(falling) / falling - 1) <= 4 * EPS).all()


def test_a_zero_pivot_ends_the_majorant():
    assert ql.theory.concave_pivots([1.0, 4.0, 0.0, 9.0]).tolist() == [2.0, 2.0, 0.0, 0.0]
    assert ql.theory.concave_pivots([0.0, 4.0]).tolist() == [0.0, 0.0]
    assert ql.theory.concave_pivots(np.zeros((2, 0))).shape == (2, 0)
    assert ql.theory.model_bound(np.ones((3, 3))) == 0.0


@given(H=hessians(max_n=10), order=st.sampled_from(("natural", "act", "min-pivot")))
def test_the_model_bound_is_below_ldlqs_average(H, order):
    """By 2 pi e / 12 times sum D / sum D_bar, which is at least 1; steps by column too."""
    n = len(H)
    bound = ql.theory.model_bound(H, 2, 0.5, order)
    cubes = 2 * np.pi * np.e / 12
    assert bound * cubes <= ql.theory.ldlq_average(H, 2, 0.5, order) * (1 + 1e-12 * n)
    s = np.random.default_rng(n).uniform(0.5, 2, (2, n))
    by_column = ql.theory.model_bound(H, 2, s, np.arange(n))
    parts = [ql.theory.model_bound(r[:, None] * H * r, order=np.arange(n)) for r in s]
    assert abs(by_column - sum(parts)) <= 1e-9 * by_column


@given(
    n=st.integers(1, 12),
    bits=st.floats(0, 6),
    variance=st.floats(0.01, 100),
    decay=st.floats(0, 4),
    dead=st.integers(0, 3),
)
def test_reverse_water_filling(n, bits, variance, decay, dead):
    values = np.arange(1, n + 1) ** -decay
    values[: min(dead, n)] = 0
    expected = reference.rate_distortion(values, variance, bits)
    found = ql.theory.rate_distortion(np.diag(values), variance, bits)
    # theta is known to the rounding errors of the sum of logarithms
    assert abs(found - expected) <= 1e-12 * n * max(bits, 1) * expected


# ------------------------------------------------------------------------------------- errors


def test_bad_arguments():
    H = np.eye(3)
    for call in (
        lambda: ql.theory.nearest_average(H, m=-1),
        lambda: ql.theory.nearest_average(H, m=1.5),
        lambda: ql.theory.nearest_average(H, scale=0.0),
        lambda: ql.theory.nearest_average(H, 2, np.ones((3, 1))),
        lambda: ql.theory.nearest_average(H, 2, np.ones(3)),
        lambda: ql.theory.ldlq_average(H, order="greedy"),
        lambda: ql.theory.ldlq_average(H, order=[0, 1, 1]),
        lambda: ql.theory.ldlq_average(H, order=3),
        lambda: ql.theory.ldlq_variance(H, scale=-1.0),
        lambda: ql.theory.ldlq_variance(H, scale=None),
        lambda: ql.theory.ldlq_variance(H, 3, [1.0, 1.0, 1.0]),
        lambda: ql.theory.block_pivots(H, 2),
        lambda: ql.theory.block_ldlq_average(H, 3, variance=-1.0),
        lambda: ql.theory.hadamard_mu_hessian(0, 0.1),
        lambda: ql.theory.hadamard_mu_weight(4, 4, 1.0),
        lambda: ql.theory.safe_margin(4, 4, -1.0, 0.1),
        lambda: ql.theory.safe_loss(float("nan"), 4, 4, 0.1),
        lambda: ql.theory.rate_distortion(H, -1.0),
        lambda: ql.theory.rate_distortion(H, bits=float("inf")),
        lambda: ql.theory.concave_pivots([-1.0]),
    ):
        with pytest.raises(InvalidArgumentError, match="got"):
            call()
    for call in (ql.theory.pivots, ql.theory.rate_distortion):
        with pytest.raises(NotPositiveDefiniteError):
            call(np.array([[1.0, 2.0], [2.0, 1.0]]))


@pytest.mark.filterwarnings("error")
def test_units_near_over_and_underflow():
    H = 1e308 * np.eye(2)
    assert (ql.theory.pivots(H) == 1e308).all()
    assert ql.theory.nearest_average(np.eye(2), scale=1e200) == np.inf
    assert ql.theory.ldlq_variance(np.eye(2), scale=1e-170) == 0.0
    assert ql.theory.pivots(2.0**-1074 * np.eye(2)).min() == 2.0**-1074


def test_the_hadamard_bound_says_nothing_for_few_columns():
    """mu is at most sqrt(n): with delta = 0.01 the bound is below that from n = 24 on."""
    assert ql.theory.hadamard_mu_hessian(23, 0.01) > np.sqrt(23)
    assert all(ql.theory.hadamard_mu_hessian(n, 0.01) < np.sqrt(n) for n in range(24, 99))


def test_empty_matrices_have_no_loss():
    empty = np.zeros((0, 0))
    for name in ("nearest_average", "nearest_worst", "nearest_worst_bound", "stochastic_worst",
                 "ldlq_average", "ldlq_worst", "ldlq_variance", "model_bound"):  # fmt: skip
        assert getattr(ql.theory, name)(empty, 4) == 0.0, name
        assert getattr(ql.theory, name)(np.eye(2), 0) == 0.0, name
        for shape in ((0, 1), (0, 2)):
            assert getattr(ql.theory, name)(np.eye(2), 0, np.ones(shape)) == 0.0, name
    assert ql.theory.block_ldlq_average(empty, 4) == ql.theory.block_ldlq_worst(empty, 4) == 0.0
    assert ql.theory.lemma2(empty).chain == (0.0,) * 5
    assert ql.theory.rate_distortion(empty) == 0.0
