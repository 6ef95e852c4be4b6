"""Certificates: never above the best codes, where these are known by trying them all."""

from __future__ import annotations

import dataclasses
import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import from_spectrum, make_hessian, make_weights

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import DTypeError, InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.theory import dual_newton
from quiplinalg.theory.dual_bound import dual_bound, row_bound
from quiplinalg.theory.dual_newton import Dual, maximise
from quiplinalg.theory.dual_value import verified_value

EPS = np.finfo(float).eps
LONG = np.longdouble
KINDS = ("well", "power", "outlier", "graded", "ill", "singular", "dead")


def hessian(kind, n, seed):
    rng = np.random.default_rng([seed, 9])
    if kind == "ill":
        return from_spectrum(10.0 ** -rng.uniform(0, 12, n), rng)
    if kind == "singular":
        X = rng.standard_normal((max(n - 1, 1), n))
        return X.T @ X / n
    if kind == "graded":
        s = 10.0 ** rng.uniform(-4, 4, n)
        return s[:, None] * make_hessian("well", n, seed) * s
    if kind == "dead":
        return make_hessian("power", n, seed, dead=1)
    return make_hessian(kind, n, seed)


def optimum(W, H, scale, zero, maxq, index=None):
    """The least loss of each row in longdouble, and how far that may be off."""
    codes, loss = reference.exhaustive(
        W.astype(LONG), H.astype(LONG), scale.astype(LONG), zero.astype(LONG), maxq,
        group_index=index,
    )  # fmt: skip
    points = reference.dequantise(codes, scale, zero, group_index=index)
    E = np.abs(points) + np.abs(W)
    doubt = 16 * len(H) * np.finfo(LONG).eps * ((E @ np.abs(H)) * E).sum(axis=1)
    return loss, doubt


def nearest_points(w, H):
    """The least loss over all integers, by a search tree over the pivots: H positive definite."""
    T, D = reference.udu(H)
    U = T - np.eye(len(w))
    best = np.inf

    def go(k, E, spent):  # E = W_hat - W so far
        nonlocal best
        if k == len(w):
            best = min(best, spent)
            return
        z = w[k] - sum(E[j] * U[j, k] for j in range(k))
        for step in itertools.count():
            moved = False
            for c in {np.rint(z) + step, np.rint(z) - step}:
                cost = spent + D[k] * (c - z) ** 2
                if cost < best:
                    moved = True
                    go(k + 1, [*E, c - w[k]], cost)
            if not moved:
                return

    go(0, [], 0.0)
    return best


def careless(rng):
    """A stand-in for `maximise` that gives random multipliers, up to the size of H's diagonal."""

    def multipliers(dual, least):
        y = rng.uniform(0, 1, (dual.kinds, dual.x.size)) * dual.H.diagonal()
        y *= 10.0 ** rng.uniform(-6, 0, (dual.kinds, 1))
        return -y if dual.equal and rng.random() < 0.5 else y

    return multipliers


@pytest.mark.parametrize("bits", [1, 2])
def test_the_dual_bound_is_below_the_best_codes_of_every_problem(bits, monkeypatch):
    """7000 rows: all kinds of H, scales, groups, weights inside, at and beyond the ends."""
    monkeypatch.setattr(dual_newton, "_TIGHT", 0.05)  # any multipliers certify: half the time
    rows, tried, tight = 20, 0, []
    module = importlib.import_module("quiplinalg.theory.dual_bound")  # the name is the function's
    best_multipliers = module.maximise
    for seed in range(175):
        kind = KINDS[seed % len(KINDS)]
        rng = np.random.default_rng([seed, bits])
        n = int(rng.integers(1, 6))
        H = hessian(kind, n, seed) * 2.0 ** int(rng.integers(-40, 40))
        index = np.arange(n) % 2 if seed % 3 == 0 else np.zeros(n, int)
        scale = 10.0 ** rng.uniform(-3, 3, (rows, index.max() + 1))
        zero = rng.integers(0, 4, scale.shape) + rng.choice([0.0, 0.5])
        maxq = 2.0**bits - 1
        W = scale[:, index] * (rng.uniform(-1.5, maxq + 1.5, (rows, n)) - zero[:, index])
        W[::7] = scale[::7, index] * (np.rint(W[::7] / scale[::7, index]))  # on the grid, or a tie
        grid = ql.UniformGrid(scale, zero, bits, index.astype(np.int32))
        # every other problem with multipliers out of the air, feasible or not
        monkeypatch.setattr(module, "maximise", best_multipliers if seed % 2 else careless(rng))
        with ql.num_threads(1):  # tasks this small only wait for each other
            bound = dual_bound(W, H, grid)
        best, doubt = optimum(W, H, scale, zero, maxq, index)
        excess = bound.astype(LONG) - best
        assert (excess <= doubt).all(), (seed, kind, n, float(excess.max()))
        assert (bound >= 0).all()
        tried += rows
        if kind in ("well", "power") and seed % 2:
            least = best.astype(float)
            some = least > 1e-9 * np.square(scale).sum(axis=1) * np.trace(H)
            tight += list(bound[some] / least[some])
    assert tried == 3500
    assert np.median(tight) >= 0.8  # a bound of 0 would pass the rest


def test_the_dual_bound_is_below_the_nearest_points_of_unbounded_grids(monkeypatch):
    """3000 rows, regular H, per-column steps."""
    monkeypatch.setattr(dual_newton, "_TIGHT", 0.05)
    rows, ratios = 20, []
    for seed in range(150):
        rng = np.random.default_rng([seed, 3])
        n = int(rng.integers(1, 5))
        H = make_hessian(("well", "power", "outlier")[seed % 3], n, seed)
        s = 10.0 ** rng.uniform(-1, 1, n)
        x = rng.uniform(-3, 3, (rows, n))
        grid = ql.UniformGrid(s[None], np.zeros((1, n)), None, np.arange(n, dtype=np.int32))
        with ql.num_threads(1):
            bound = dual_bound(x * s, H, grid)
        best = np.array([nearest_points(r, H * s * s[:, None]) for r in x])
        # LDL and the sum of squares: relative errors of n eps cond(H), all terms are positive
        assert (bound <= best * (1 + 1e-12)).all(), seed
        ratios += list(bound / best)
    assert 0.7 <= np.mean(ratios) <= 1


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 5), bits=st.sampled_from((1, 2)))
def test_pruned_weights(seed, n, bits):
    """Where the mask is, w_hat is 0, on the grid or not; the other codes are the best for that."""
    rng = np.random.default_rng(seed)
    H = hessian(KINDS[seed % len(KINDS)], n, seed)
    maxq, zero = 2**bits - 1, float(rng.uniform(0, 3))
    w, mask = rng.uniform(-2, 2, n), rng.random(n) < 0.4
    grid = ql.UniformGrid(np.full((1, 1), 0.7), np.full((1, 1), zero), bits)
    bound = dual_bound(w[None], H, grid, mask=mask[None])[0]
    codes = np.array(list(itertools.product(range(maxq + 1), repeat=n)), LONG)
    points = np.where(mask, 0, LONG(0.7) * (codes - LONG(zero)))
    E = points - w.astype(LONG)
    best = ((E @ H.astype(LONG)) * E).sum(axis=1).min()
    assert bound <= best + 1e-17 * float((np.abs(w) + 3).sum() ** 2 * np.abs(H).max())
    if mask.all():
        assert bound >= best * (1 - 1e-9) - 1e-12 * np.trace(H)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 8))
def test_the_value_is_the_one_of_the_definition(seed, n):
    """sum(lambda)/4 - f^T (Lambda^-1 - H^-1)^-1 f, rounded down by little."""
    rng = np.random.default_rng(seed)
    H = make_hessian("well", n, seed)
    lam = rng.uniform(0.05, 0.9, n) * np.linalg.eigvalsh(H)[0]
    x = rng.uniform(-3, 3, n)
    dual = Dual(H=H, x=x, maxq=np.inf, pull=np.zeros(n), constant=0.0)
    value = verified_value(dual, lam[None], np.zeros(n), np.zeros(n))
    expected = reference.dual_value(x - np.floor(x) - 0.5, H, lam)
    size = lam.sum() + np.trace(H)
    assert value <= expected + 1e-13 * n * size and value >= expected - 1e-11 * n * size


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), bits=st.sampled_from((1, 2, 3)))
def test_any_multipliers_bound_the_lagrangian_everywhere(seed, n, bits):
    """value(y) <= t^T H t - 2 pull t + constant - sum y constraint(x + t), for every real t."""
    rng = np.random.default_rng(seed)
    H = hessian(KINDS[seed % 6], n, seed)  # no dead columns: they are taken out before
    H /= np.trace(H)
    maxq = 2.0**bits - 1
    pull = rng.standard_normal(n) * rng.integers(0, 2) * 1e-2
    dual = Dual(H=H, x=rng.uniform(-2, maxq + 2, n), maxq=maxq, pull=pull, constant=0.3)
    y = rng.uniform(0, 0.3, (dual.kinds, n)) * H.diagonal()
    if dual.equal:
        y = -y
    value = verified_value(dual, y, np.zeros(n), np.zeros(n))
    t = np.concatenate([rng.standard_normal((50, n)), np.zeros((1, n))])
    if value > -np.inf:
        for point in t:
            constraints, _ = dual.constraints(dual.x + point)
            lagrangian = point @ H @ point - 2 * pull @ point + 0.3 - (y * constraints).sum()
            # the value may be of multipliers drawn back towards 0: at codes that is still a bound
            code = np.clip(np.rint(dual.x + point), 0, maxq)
            miss = code - dual.x
            assert value <= miss @ H @ miss - 2 * pull @ miss + 0.3 + 1e-12
            if np.linalg.eigvalsh(H - np.diag(y[0] - (y[1] if len(y) > 1 else 0)))[0] > 1e-9:
                assert value <= lagrangian + 1e-10


def test_infeasible_multipliers_certify_nothing_above_zero():
    dual = Dual(H=np.eye(2), x=np.full(2, 0.5), maxq=np.inf, pull=np.zeros(2), constant=0.0)
    exact = verified_value(dual, np.full((1, 2), 1 - 1e-9), np.zeros(2), np.zeros(2))
    assert 0.499 < exact <= 0.5
    beyond = verified_value(dual, np.full((1, 2), 1.5), np.zeros(2), np.zeros(2))
    assert beyond <= 0.5  # drawn back, or -inf
    doubtful = verified_value(dual, np.full((1, 2), 0.9), np.zeros(2), np.full(2, 0.3))
    assert doubtful <= 0.9 * 0.5  # an H known to 0.3 only
    best = maximise(dual, 1.0)
    assert best is not None and (best < 1).all() and best.min() > 0.99


def test_the_bound_scales_to_the_bit():
    """H -> 4 H and (W, s) -> 2 (W, s) are exact, and so is what they do to the bound."""
    W, H = make_weights("normal", 3, 8, 1), make_hessian("power", 8, 1)
    grid = ql.rms_grid(W, 2, rho=1.5)
    bound = dual_bound(W, H, grid)
    assert (dual_bound(W, 2.0**600 * H, grid) == 2.0**600 * bound).all()
    wide = dataclasses.replace(grid, scale=2 * grid.scale)
    assert (dual_bound(2 * W, H, wide) == 4 * bound).all()
    assert (bound > 0).all()
    rows = []
    for r in range(3):
        own = dataclasses.replace(grid, scale=grid.scale[r : r + 1], zero=grid.zero[r : r + 1])
        rows.append(dual_bound(W[r : r + 1], H, own)[0])
    assert (np.array(rows) == bound).all()
    with ql.num_threads(1):
        assert (dual_bound(W, H, grid) == bound).all()


@pytest.mark.parametrize("kind", ["well", "power", "outlier"])
def test_a_grid_that_ends_has_at_least_the_bound_of_one_that_does_not(kind):
    """At any width: its codes are some of the unbounded grid's.  Both maxima are found to 1e-3."""
    n, m = 40, 2
    W, H = make_weights("heavy", m, n, 3), make_hessian(kind, n, 3)
    for bits in (2, 4, 6, 8):
        grid = ql.mse_grid(W, bits)
        ended, endless = (
            dual_bound(W, H, dataclasses.replace(grid, bits=b, scale=grid.scale.astype(float),
                                                 zero=grid.zero.astype(float)))
            for b in (bits, None)
        )  # fmt: skip
        assert (ended >= endless * (1 - 3e-3)).all() and (endless > 0).all(), bits


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bits", [1, 2, 8, None])
def test_units_near_over_and_underflow_change_nothing_but_the_power(bits):
    W, H = make_weights("normal", 2, 5, 4), make_hessian("power", 5, 4)
    grid = ql.UniformGrid(np.full((2, 1), 0.7), np.full((2, 1), 1.5), bits)
    bound = dual_bound(W, H, grid)
    assert (bound > 0).all()
    for h, s in ((2.0**1000, 1.0), (2.0**-1000, 1.0), (1.0, 2.0**500), (2.0**900, 2.0**-500)):
        other = dataclasses.replace(grid, scale=grid.scale * s)
        assert (dual_bound(W * s, H * h, other) == bound * s * s * h).all()
    # subnormal and infinite results are rounded down, to what is surely not above the optimum
    tiny = dual_bound(np.full((1, 3), 0.5), 2.0**-1074 * np.eye(3), ql.UniformGrid(
        np.ones((1, 1)), np.zeros((1, 1)), bits))  # fmt: skip
    assert tiny[0] == 0  # 3/4 of the least number there is
    huge = dataclasses.replace(grid, scale=grid.scale * 2.0**200)
    assert np.isfinite(dual_bound(W * 2.0**200, H * 2.0**1000, huge)).all()
    # columns so unlike that digits are lost to underflow: nothing, rather than something wrong
    wide = np.diag([1e300, 1e-10, 1.0, 1.0, 1.0])
    assert (dual_bound(W, wide, grid) == 0).all()


@given(seed=st.integers(0, 2**32 - 1), bits=st.sampled_from((1, 2)))
def test_weights_that_are_known_only_nearly(seed, bits):
    """The bound of w' holds for every w within ``w_error`` of it."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 5))
    H, w = make_hessian("well", n, seed), rng.uniform(-0.5, 2.0**bits - 0.5, n)
    error = 10.0 ** rng.uniform(-6, 0)
    shift = rng.standard_normal(n)
    near = w + shift / np.linalg.norm(shift) * error
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits)
    bound = row_bound(H, near, grid, None, 1.0, w_error=error * (1 + 1e-12))
    best, doubt = optimum(w[None], H, np.ones((1, 1)), np.zeros((1, 1)), 2.0**bits - 1)
    assert bound <= best[0] + doubt[0]


def test_a_row_that_the_output_rotation_cancels_certifies_nothing():
    """U makes of two equal rows a zero one: what is left of it are rounding errors of the other."""
    W, H = np.tile(make_weights("normal", 1, 4, 0), (2, 1)), make_hessian("power", 4, 0)
    q = ql.quip(W, H, 2, rotation="hadamard", sides="both")
    sizes = np.abs(q.processing.weight(W)).max(axis=1)
    small = int(sizes.argmin())
    assert sizes[small] <= 1e-15 * sizes.max()
    scale = np.full((2, 1), 0.5)
    scale[small] = 1e-20
    grid = ql.UniformGrid(scale, np.full((2, 1), 1.5), 2)
    found = ql.certify(W, H, dataclasses.replace(q, grid=grid))
    assert found.row_bounds[small] == 0 < found.row_bounds[1 - small]


def test_the_model_bound_is_below_the_mean_of_the_best():
    """Uniform fractional parts, an unbounded grid: never above within 5 standard errors."""
    for seed, kind in enumerate(("well", "power", "outlier")):
        n, m = 4, 300
        H = make_hessian(kind, n, seed)
        W = np.random.default_rng(seed).uniform(0, 1, (m, n))
        best = np.array([nearest_points(w, H) for w in W])
        bounds = [ql.theory.model_bound(H, order=o) for o in ("natural", "act", "min-pivot")]
        assert max(bounds) <= best.mean() + 5 * best.std() / np.sqrt(m)
        assert max(bounds) >= 0.5 * best.mean()


# ------------------------------------------------------------------------------------ certify


def layer(n=24, m=12, kind="power", seed=0):
    return make_weights("heavy", m, n, seed), make_hessian(kind, n, seed)


METHODS = {
    "nearest": lambda W, H: ql.nearest(W, bits=2),
    "nearest in groups": lambda W, H: ql.nearest(W, bits=3, group_size=8),
    "gptq in groups": lambda W, H: ql.gptq(W, H, 2, group_size=8),
    "ldlq, act": lambda W, H: ql.ldlq(W, H, 2),
    "descent": lambda W, H: ql.descend(W, H, ql.ldlq(W, H, 2, clip="best")),
    "one step for all": lambda W, H: ql.quip(W, H, 2, per_tensor=True, rotation="kronecker"),
    "quip": lambda W, H: ql.quip(W, H, 2, rotation="hadamard", refine=2),
    "quip, both sides": lambda W, H: ql.quip(W, H, 2, rotation="hadamard", sides="both"),
    "float32": lambda W, H: ql.quip(W.astype(np.float32), H.astype(np.float32), 3),
    "as the authors": lambda W, H: ql.quip_authors(W, H, 2),
}


@pytest.mark.parametrize("name", METHODS)
def test_certificates_of_every_method(name):
    W, H = layer()
    q = METHODS[name](W, H)
    if name == "float32":
        W, H = W.astype(np.float32), H.astype(np.float32)
    found = ql.certify(W, H, q, rows=5, seed=3)
    assert found.shape == W.shape and found.bits == q.grid.bits and found.method == q.method
    # the stored loss is of float32 sums less damping where W is float32
    assert abs(found.loss - ql.proxy_loss(q, W, H)) <= 1e-5 * found.loss
    assert len(found.rows) == 5 and len(set(found.rows)) == 5
    for low, high in zip(found.row_bounds, found.row_losses, strict=True):
        assert 0 < low <= high
    assert found.dual_gap_db >= 0
    parts = found.cubes_db + found.order_db + found.rest_db
    assert abs(parts - found.model_gap_db) <= 1e-9 and 1.5329 < found.cubes_db < 1.5330
    assert found.model_order in ("stored", "natural", "act", "min-pivot")
    assert found.order_db >= -1e-9  # the stored order is one of those tried
    assert found.rate_distortion > 0 and not found.notes
    assert ql.certify(W, H, q, rows=5, seed=3) == found
    with ql.num_threads(1):
        assert ql.certify(W, H, q, rows=5, seed=3) == found
    assert ql.certify(W, H, q, rows=99).rows == tuple(range(12))
    text = repr(found)
    assert "dual bound" in text and "not a bound for others" in text and "model bound" in text


def test_in_the_rotated_basis_the_bound_is_of_the_loss_in_the_original_one():
    """All codes of a row, taken back to the caller's basis: none is better than its bound."""
    for seed in range(6):
        W, H = make_weights("normal", 2, 4, seed), make_hessian("power", 4, seed)
        q = ql.quip(W, H, 2, rotation="hadamard", seed=seed)
        found = ql.certify(W, H, q)
        for r in range(2):
            best = np.inf
            for codes in itertools.product(range(4), repeat=4):
                trial = q.codes.copy()
                trial[r] = codes
                E = dataclasses.replace(q, codes=trial).__array__(np.dtype(float))[r] - W[r]
                best = min(best, float(E @ H @ E))
            # the roundings of W_hat in float64: relative to the size of the weights
            assert found.row_bounds[r] <= best + 1e-12 * np.trace(H) * np.square(W).sum()
            assert found.row_bounds[r] >= 0.3 * best


def test_the_model_bound_adds_up_over_rows_and_columns():
    """One step a row, and the same step in groups: the same bound; dead columns count nothing."""
    W, H = layer()
    q = ql.gptq(W, H, 2)
    index = (np.arange(24) // 8).astype(np.int32)
    wide = ql.UniformGrid(
        np.repeat(q.grid.scale, 3, axis=1), np.repeat(q.grid.zero, 3, axis=1), 2, index
    )
    one, three = (ql.certify(W, H, dataclasses.replace(q, grid=g), rows=0) for g in (q.grid, wide))
    assert abs(one.model_bound / three.model_bound - 1) <= 1e-12
    assert abs(one.rest_db - three.rest_db) <= 1e-9 and one.rows == ()
    scale = q.grid.scale.astype(float)
    direct = ql.theory.model_bound(H, 12, scale, q.permutation)
    assert one.model_bound >= direct * (1 - 1e-12)
    dead = np.zeros((25, 25))
    dead[:24, :24] = H
    longer = ql.certify(
        np.column_stack([W, np.ones(12)]), dead,
        dataclasses.replace(
            q, codes=np.column_stack([q.codes, np.zeros(12, np.uint8)]),
            permutation=np.append(q.permutation, 24),
        ), rows=2,
    )  # fmt: skip
    assert abs(longer.model_bound / one.model_bound - 1) <= 1e-9
    assert longer.row_bounds[0] > 0


def test_a_singular_hessian_on_an_unbounded_grid_certifies_nothing():
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((6, 12)), rng.standard_normal((3, 12))
    H = X.T @ X
    grid = ql.UniformGrid(np.full((1, 1), 0.5), np.zeros((1, 1)), None)
    found = ql.certify(W, H, ql.ldlq(W, H, grid=grid))
    assert found.row_bounds == (0.0, 0.0, 0.0) and found.dual_gap_db == np.inf
    assert found.model_bound == 0 and found.model_gap_db == np.inf
    assert len(found.notes) == 3 and "no dual bound" in repr(found)
    # a grid that ends: the optimum is that of finitely many codes, and may be bounded
    small = ql.certify(W[:, :4], X[:2, :4].T @ X[:2, :4], ql.nearest(W[:, :4] * 9, bits=1))
    assert max(small.row_bounds) >= 0


def test_pruned_layers_have_a_dual_bound_only():
    W, H = layer()
    q = ql.nearest(W, bits=2)
    mask = np.random.default_rng(0).random(W.shape) < 0.5
    found = ql.certify(W, H, dataclasses.replace(q, mask=mask), rows=3)
    assert np.isnan(found.model_bound) and np.isnan(found.rate_distortion)
    assert all(0 < b <= e for b, e in zip(found.row_bounds, found.row_losses, strict=True))
    assert "pruned" in found.notes[0]


def test_the_rate_distortion_figure_is_below_gaussian_weights_at_every_rate():
    """Only for Gaussian weights: LDLQ at 1 to 4 bits stays above it, and it falls 6 dB a bit."""
    rng = np.random.default_rng(1)
    W, H = rng.standard_normal((64, 32)), make_hessian("power", 32, 1)
    for bits in (1, 2, 3, 4):
        found = ql.certify(W, H, ql.quip(W, H, bits), rows=0)
        assert found.rate_distortion_gap_db > 0
        variance = np.square(W).sum() / 32
        values = np.linalg.eigvalsh(H)
        if ql.quip(W, H, bits).processing is None:
            expected = reference.rate_distortion(values, variance, bits)
            assert abs(found.rate_distortion / expected - 1) <= 1e-9


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_layers(shape):
    W, H = np.zeros(shape), np.eye(shape[1])
    found = ql.certify(W, H, ql.nearest(W, bits=2))
    assert found.loss == 0 and found.model_bound == 0 and sum(found.row_bounds) == 0
    assert isinstance(repr(found), str)


def test_bad_input():
    W, H = layer()
    q = ql.nearest(W, bits=2)
    for call, error in (
        (lambda: ql.certify(W, H, q.codes), DTypeError),
        (lambda: ql.certify(W[:3], H, q), InvalidArgumentError),
        (lambda: ql.certify(W, H[:3, :3], q), InvalidArgumentError),
        (lambda: ql.certify(W, H, q, rows=-1), InvalidArgumentError),
        (lambda: ql.certify(W, H, q, rows=True), InvalidArgumentError),
        (lambda: ql.certify(W, H, q, seed=-1), InvalidArgumentError),
        (lambda: ql.certify(W, H - 0.5 * np.eye(24), q), NotPositiveDefiniteError),
        (lambda: ql.certify(W * np.nan, H, q), ql.NonFiniteError),
        (lambda: dual_bound(W, H[:3, :3], q.grid), InvalidArgumentError),
        (lambda: dual_bound(W, H, q.grid, mask=np.ones(3, bool)), InvalidArgumentError),
        (lambda: dual_bound(W, H, q.grid, mask=np.ones(W.shape)), DTypeError),
        (lambda: dual_bound(W, H, "mse"), DTypeError),
        (
            lambda: dual_bound(W[:, :9], H[:9, :9], ql.mse_grid(W, 2, group_size=8)),
            InvalidArgumentError,
        ),
    ):
        with pytest.raises(error, match=r"got|has|pivot"):
            call()


def test_the_arguments_are_not_changed():
    W, H = layer()
    q = ql.quip(W, H, 2)
    before = W.copy(), H.copy(), q.codes.copy()
    for array in (W, H):
        array.flags.writeable = False
    ql.certify(W, H, q, rows=2)
    assert all((a == b).all() for a, b in zip(before, (W, H, q.codes), strict=True))
