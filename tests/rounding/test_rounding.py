"""ldlq, gptq and nearest: against the twins, against the theory, against bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from comparing import assert_same_rounding
from hypothesis import given
from hypothesis import strategies as st
from strategies import clamped_counterexample, make_problem, problems

import quiplinalg as ql
from quiplinalg import reference

BACKENDS = ("cpu", "generic")


def damped(H, q):
    """The matrix that was factored."""
    shift = np.full(len(H), q.damp)
    live = H.diagonal()[H.diagonal() > 0]
    if q.damp == 0 and live.size:
        shift[H.diagonal() == 0] = live.mean()
    elif q.damp == 0:
        shift[:] = 1
    return H + np.diag(shift)


def unit_grid(m, bits):
    return ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits)


def tau(dtype, n):
    return 64 * float(np.finfo(dtype).eps) * max(n, 1)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@given(problem=problems(max_n=33, max_m=9, bits=(1, 2, 3, 4, 8), max_dead=3), sym=st.booleans())
def test_codes_and_loss_are_the_reference_ones(backend, dtype, problem, sym):
    W, H = problem.W.astype(dtype), problem.H
    order = "act" if problem.ordering == "act" else "natural"
    q = ql.ldlq(W, H, problem.bits, sym=sym, clip="minmax", order=order, backend=backend)
    scale, zero, maxq = q.grid.scale, q.grid.zero, problem.maxq
    perm = np.arange(problem.n) if q.permutation is None else q.permutation
    Hd = damped(H, q)
    twin = reference.ldlq(W.astype(float), Hd, scale.astype(float), zero.astype(float), maxq,
                          order=perm)  # fmt: skip
    assert_same_rounding(q.codes, twin.codes, W, Hd, scale, zero, maxq, perm, tau(dtype, 64))
    W_hat = q.__array__(np.float64)
    direct = ql.proxy_loss(W_hat, W.astype(float), H)
    size = max(ql.proxy_loss(np.zeros_like(W_hat), W.astype(float), Hd), 1e-300)
    assert abs(q.loss - direct) <= 64 * problem.n * np.finfo(dtype).eps * size


@pytest.mark.parametrize("static", (False, True))
@pytest.mark.parametrize("clip", ("mse", "minmax"))
@given(
    problem=problems(
        max_n=33,
        max_m=6,
        bits=(2, 4),
        order_kinds=("natural", "act"),
        weight_kinds=("uniform", "normal", "heavy"),
    ),
    group=st.integers(1, 17),
    sym=st.booleans(),
)
def test_groups_follow_the_definition(static, clip, problem, group, sym):
    """Scales from the current weights are GPTQ's by its own recursion; the codes follow."""
    W, H, bits = problem.W, problem.H, problem.bits
    q = ql.ldlq(W, H, bits, group_size=group, static_groups=static, clip=clip, sym=sym,
                order=problem.ordering)  # fmt: skip
    perm = np.arange(problem.n) if q.permutation is None else q.permutation
    Hd = damped(H, q)
    index = q.grid.columns(problem.n)
    if static:
        assert (index == np.arange(problem.n) // group).all()
        make = ql.minmax_grid if clip == "minmax" else ql.mse_grid
        expected = make(W, bits, group_size=group, sym=sym)
        assert (q.grid.scale == expected.scale).all() and (q.grid.zero == expected.zero).all()
    else:
        assert (index[perm] == np.arange(problem.n) // group).all()
        make = ql.minmax_grid if clip == "minmax" else ql.mse_grid
        first = make(W[:, perm[:group]], bits, sym=sym)  # no feedback has reached it yet
        assert (q.grid.scale[:, :1] == first.scale).all()
        twin = reference.gptq(W, Hd, order=perm, group_size=group, bits=bits, sym=sym)
        if clip == "minmax" and (twin.codes == q.codes).all():  # else a tie parted them before
            assert np.allclose(q.grid.scale, twin.scale, rtol=1e-4)  # float32 scales fed back
    twin = reference.ldlq(W, Hd, q.grid.scale.astype(float), q.grid.zero.astype(float),
                          problem.maxq, order=perm, group_index=index)  # fmt: skip
    assert_same_rounding(q.codes, twin.codes, W, Hd, q.grid.scale, q.grid.zero, problem.maxq, perm,
                         1e-9, group_index=index)  # fmt: skip


def test_group_scales_come_from_the_current_weights():
    """Never stale: away from ties, codes and scales are those of GPTQ's own recursion."""
    agree = total = 0
    for seed in range(40):
        p = make_problem(4, 24, seed, 3, "power", "normal")
        for group in (5, 8):
            q = ql.gptq(p.W, p.H, 3, group_size=group, clip="minmax", order="natural")
            twin = reference.gptq(p.W, damped(p.H, q), group_size=group, bits=3)
            same = (q.codes == twin.codes).all(axis=1)
            assert np.allclose(q.grid.scale[same], twin.scale[same], rtol=1e-5)
            agree, total = agree + same.sum(), total + 4
            static = ql.gptq(p.W, p.H, 3, group_size=group, clip="minmax", order="natural",
                             static_groups=True)  # fmt: skip
            assert (static.grid.scale != q.grid.scale).any()
    # scales are rounded to float32 as stored, which moves a target over a tie now and then
    assert agree >= 0.98 * total, (agree, total)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@given(problem=problems(max_n=24, max_m=8, bits=(2, 3, None)), seed=st.integers(0, 2**63 - 1))
def test_stochastic_rounding_uses_the_documented_stream(dtype, problem, seed):
    W, H = problem.W.astype(dtype), problem.H
    grid = ql.UniformGrid(np.full((1, 1), 0.5), np.full((1, 1), 1.0), problem.bits)
    q = ql.ldlq(W, H, grid=grid, order="natural", rounding="stochastic", seed=seed)
    u = reference.uniforms(seed, problem.m, problem.n).astype(float)
    Hd = damped(H, q)
    twin = reference.ldlq(W.astype(float), Hd, grid.scale, grid.zero, problem.maxq, uniforms=u)
    assert_same_rounding(q.codes, twin.codes, W, Hd, grid.scale, grid.zero, problem.maxq, None,
                         tau(np.float64, 64), uniforms=u)  # fmt: skip
    assert (ql.ldlq(W, H, grid=grid, order="natural", rounding="stochastic", seed=seed).codes
            == q.codes).all()  # fmt: skip


@given(problem=problems(max_n=16, max_m=4, bits=(None,)))
def test_unbounded_bounds_and_identity(problem):
    """l <= tr D / 4 per row; the loss is the direct one; codes may be any integer."""
    q = ql.ldlq(problem.W * 10, problem.H, grid=unit_grid(problem.m, None), damp=0.0,
                order="natural")  # fmt: skip
    assert q.codes.dtype == np.int32 and q.clipped == 0
    E = q.codes - problem.W * 10
    rows = np.einsum("ij,jk,ik->i", E, problem.H, E)
    room = 1 + 1e-9
    assert (rows <= q.trace_D / 4 * room + 1e-9).all(), rows / (q.trace_D / 4)
    assert abs(q.loss - rows.sum()) <= 1e-9 * max(rows.sum(), 1e-9)


@given(problem=problems(max_n=16, max_m=4, bits=(None,)), seed=st.integers(0, 10**6))
def test_inverse_map(problem, seed):
    """W := Z - eta T^-1 with |eta| < 1/2 rounds to Z exactly."""
    rng = np.random.default_rng(seed)
    Z = rng.integers(-9, 9, (problem.m, problem.n))
    T = ql.udu(problem.H).T
    eta = rng.uniform(-0.499, 0.499, Z.shape)
    W = Z - np.linalg.solve(T.T, eta.T).T
    q = ql.ldlq(W, problem.H, grid=unit_grid(problem.m, None), damp=0.0, order="natural")
    assert (q.codes == Z).all()


def test_exact_dyadic_ties_go_to_even():
    """H diagonal, W at k + 1/2 exactly: half to even, in every precision and lane."""
    W = np.tile(np.arange(-8, 8) + 0.5, (30, 1))
    for dtype in (np.float32, np.float64):
        for backend in BACKENDS:
            q = ql.ldlq(W.astype(dtype), np.eye(16), grid=unit_grid(30, None), backend=backend)
            assert (q.codes == np.rint(W)).all()
            assert q.near_tie_rows == 30
            assert (ql.nearest(W.astype(dtype), grid=unit_grid(30, None)).codes == q.codes).all()


def test_float64_weights_are_rounded_in_float64():
    """Targets 1e-9 beside a tie: float32 feedback would lose the side."""
    p = make_problem(200, 24, 1, None, "power")
    T = ql.udu(p.H).T
    rng = np.random.default_rng(0)
    Z = rng.integers(-9, 9, (200, 24))
    eta = np.where(rng.random(Z.shape) < 0.5, -0.5 + 1e-9, 0.5 - 1e-9)
    W = Z - np.linalg.solve(T.T, eta.T).T
    for backend in BACKENDS:
        q = ql.ldlq(W, p.H, grid=unit_grid(200, None), damp=0.0, order="natural", backend=backend)
        assert (q.codes == Z).all()


def test_ldlq_beats_nearest_by_the_expected_factor():
    """On a non-diagonal H: mean losses tr D / 12 and tr H / 12, so this is no nearest in disguise.

    The variance of a loss is sum D^2 / 180 a row; 6 standard deviations.
    """
    p = make_problem(20000, 16, 0, None, "power", "uniform")
    W = p.W * 7
    q = ql.ldlq(W, p.H, grid=unit_grid(20000, None), damp=0.0, order="natural")
    D = ql.udu(p.H).D
    sigma = np.sqrt((D**2).sum() / 180 * 20000)
    assert abs(q.loss - 20000 * D.sum() / 12) <= 6 * sigma
    ratio = q.nearest_loss(W, p.H) / q.loss
    assert abs(ratio / (np.trace(p.H) / D.sum()) - 1) <= 0.05
    assert ratio > 1.9


def test_stochastic_average():
    p = make_problem(20000, 8, 3, None, "power", "uniform")
    q = ql.ldlq(p.W * 7, p.H, grid=unit_grid(20000, None), damp=0.0, order="natural",
                rounding="stochastic", seed=1)  # fmt: skip
    D = ql.udu(p.H).D
    sigma = np.sqrt(7 * (D**2).sum() / 180 * 20000)
    assert abs(q.loss - 20000 * D.sum() / 6) <= 6 * sigma


def test_clamping_voids_the_bound():
    """Section 5.2 of QuIP: 915 against nearest's 15.7, and the result can say so."""
    W, H = clamped_counterexample(64)
    q = ql.ldlq(W, H, grid=unit_grid(1, 2), damp=0.0, order="natural")
    nearest = q.nearest_loss(W, H)
    assert abs(nearest - 15.7) <= 0.05 and abs(q.loss - 915) <= 0.5
    free = ql.ldlq(W, H, grid=unit_grid(1, None), damp=0.0, order="natural")
    assert abs(free.loss - 15.4) <= 0.05


@pytest.mark.parametrize("kwargs", (
    {}, dict(order="natural", clip="minmax"), dict(group_size=48, static_groups=True),
    dict(rounding="stochastic", seed=3),
), ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_the_same_codes_for_any_block_and_threads(kwargs, dtype):
    p = make_problem(130, 301, 0, 2, "outlier", "heavy")
    W = p.W.astype(dtype)
    with ql.num_threads(1):
        q = ql.ldlq(W, p.H, **kwargs)
    for block in (1, 4, 30, 300, 1000):
        for threads in (1, 2, 3):
            with ql.num_threads(threads):
                other = ql.ldlq(W, p.H, block=block, **kwargs)
            assert (other.codes == q.codes).all(), (block, threads)
            assert other.near_tie_rows == q.near_tie_rows and other.clipped == q.clipped
            assert abs(other.loss / q.loss - 1) <= 1e-13


def test_a_row_alone_is_the_row_in_the_batch():
    p = make_problem(70, 40, 0, 2, "power")
    q = ql.ldlq(p.W, p.H, group_size=8)
    for i in (0, 23, 24, 69):
        assert (ql.ldlq(p.W[i : i + 1], p.H, group_size=8).codes[0] == q.codes[i]).all()
    order = np.random.default_rng(0).permutation(70)
    assert (ql.ldlq(p.W[order], p.H, group_size=8).codes == q.codes[order]).all()


@pytest.mark.parametrize("power", (-20, 8, 30))
def test_units_of_h_do_not_matter(power):
    p = make_problem(30, 40, 0, 2, "power")
    for dtype in (np.float32, np.float64):
        a = ql.ldlq(p.W.astype(dtype), p.H)
        b = ql.ldlq(p.W.astype(dtype), p.H * 2.0**power)
        assert (a.codes == b.codes).all() and b.loss == a.loss * 2.0**power


def test_gptq_is_ldlq():
    p = make_problem(30, 40, 0, 4, "outlier")
    for kwargs in ({}, dict(group_size=16), dict(sym=True, clip="minmax", order="natural")):
        a, b = ql.gptq(p.W, p.H, **kwargs), ql.ldlq(p.W, p.H, bits=4, **kwargs)
        assert (a.codes == b.codes).all() and (a.method, b.method) == ("gptq", "ldlq")


def test_codes_on_grid_points_are_kept():
    p = make_problem(20, 30, 0, 3, "power")
    q = ql.ldlq(p.W, p.H, bits=3)
    again = ql.ldlq(q.__array__(np.float64), p.H, grid=q.grid)
    assert (again.codes == q.codes).all()


@pytest.mark.parametrize("damp", (0.0, 0.01))
def test_dead_columns_are_rounded_to_nearest_and_counted(damp):
    p = make_problem(20, 30, 0, 4, "well", dead=4)
    q = ql.ldlq(p.W, p.H, bits=4, damp=damp)
    dead = np.flatnonzero(p.H.diagonal() == 0)
    assert q.dead.tolist() == dead.tolist() and len(dead) == 4
    assert (q.codes[:, dead] == ql.nearest(p.W, grid=q.grid).codes[:, dead]).all()
    direct = ql.proxy_loss(q.__array__(np.float64), p.W, p.H)
    assert abs(q.loss / direct - 1) <= 1e-9


def test_all_dead():
    q = ql.ldlq(np.ones((2, 3)), np.zeros((3, 3)))
    assert q.loss == 0 and q.dead.tolist() == [0, 1, 2]


def test_fewer_samples_than_columns():
    """The default damping suffices, although an eigenvalue is slightly negative."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((61, 153)).astype(np.float32)
    H = (X.T @ X / 61).astype(np.float32)
    H[0, 0] -= np.float32(1e-5)
    W = rng.standard_normal((9, 153)).astype(np.float32)
    q = ql.ldlq(W, H)
    assert q.loss < 0.9 * q.nearest_loss(W, H)
    with pytest.raises(ql.NotPositiveDefiniteError, match='damp="auto"'):
        ql.ldlq(W, H, damp=0.0)


def test_auto_damping_is_recorded():
    H = np.eye(4)
    H[0, 1] = H[1, 0] = 1.1
    with pytest.warns(ql.DampingWarning):
        q = ql.ldlq(np.ones((2, 4)), H, damp="auto")
    assert q.damp == pytest.approx(0.16)


def test_a_pruned_weight_is_zero_whatever_its_code():
    rng = np.random.default_rng(3)
    W, H, mask = rng.uniform(1, 2, (4, 6)), np.eye(6), rng.random((4, 6)) < 0.5
    q = ql.nearest(W, H, bits=3, sym=True)
    pruned = dataclasses.replace(q, mask=mask)
    values = np.asarray(pruned)
    assert (values[mask] == 0).all() and (values[~mask] == np.asarray(q)[~mask]).all()
    # the mask costs a bit a weight, unless it can be read from the codes
    assert pruned.bits_per_weight == q.bits_per_weight + 1
    codes = np.where(mask, 4, q.codes).astype(np.uint8)
    assert dataclasses.replace(pruned, codes=codes).bits_per_weight == q.bits_per_weight
    exact = np.where(mask, 0, np.asarray(q, np.float64))
    assert pruned.nearest_loss(W, H) == ql.proxy_loss(exact, W, H)
    assert f"{100 * mask.mean():.3g}% pruned" in repr(pruned)


def test_result_reports():
    p = make_problem(64, 48, 0, 2, "power")
    q = ql.ldlq(p.W, p.H, group_size=16)
    assert q.shape == (64, 48)
    # 2 bits a code, 3 groups of 32 + 2 bits a row, and 32 bits a column for the group index
    assert q.bits_per_weight == pytest.approx(2 + 3 * 34 / 48 + 32 / 64)
    natural = ql.ldlq(p.W, p.H, group_size=16, order="natural")
    assert natural.bits_per_weight == pytest.approx(2 + 3 * 34 / 48)
    text = repr(q)
    assert "64x48" in text and "2 bits" in text and "\n" not in text and "act order" in text
    assert np.asarray(q).dtype == np.float32 and q.dequantize().dtype == np.float64
    assert np.array_equal(np.asarray(q, np.float64), q.dequantize())
    codes = q.codes.astype(float)
    index = q.grid.group_index
    by_hand = q.grid.scale.astype(float)[:, index] * (codes - q.grid.zero[:, index])
    assert np.array_equal(by_hand, q.dequantize())
    assert q.nearest_loss(p.W, p.H) == ql.nearest(p.W, p.H, grid=q.grid).loss
    with pytest.raises(ValueError, match="copy"):
        np.asarray(q, copy=False)


@given(problem=problems(max_n=20, max_m=5, bits=(1, 2, 4, 8)), sym=st.booleans())
def test_nearest_is_the_reference(problem, sym):
    q = ql.nearest(problem.W, problem.H, problem.bits, sym=sym, clip="minmax")
    twin = reference.nearest(problem.W, q.grid.scale.astype(float), q.grid.zero.astype(float),
                             problem.maxq)  # fmt: skip
    assert (q.codes == twin).all()
    assert q.loss == pytest.approx(ql.proxy_loss(q.dequantize(), problem.W, problem.H))
    noisy = ql.nearest(problem.W, None, grid=q.grid, rounding="stochastic", seed=5)
    u = reference.uniforms(5, problem.m, problem.n).astype(float)
    twin = reference.stochastic(problem.W, q.grid.scale.astype(float), q.grid.zero.astype(float),
                                problem.maxq, u)  # fmt: skip
    assert (noisy.codes == twin).all() and np.isnan(noisy.loss)


def test_proxy_loss():
    p = make_problem(300, 20, 0)
    V = make_problem(300, 20, 1).W
    assert ql.proxy_loss(V, p.W, p.H) == pytest.approx(reference.proxy_loss(V, p.W, p.H), rel=1e-12)
    with pytest.raises(ql.InvalidArgumentError, match="W_hat and W must be"):
        ql.proxy_loss(V.T, p.W, p.H)


@pytest.mark.parametrize("kwargs", ({}, dict(group_size=8), dict(group_size=8, static_groups=True)),
                         ids=str)  # fmt: skip
def test_clip_best_keeps_the_better_of_each_row(kwargs):
    p = make_problem(40, 48, 0, 2, "outlier", "heavy")
    mse, minmax, best = (
        ql.ldlq(p.W, p.H, clip=clip, **kwargs) for clip in ("mse", "minmax", "best")
    )

    def rows(q):
        return np.array([ql.proxy_loss(q.dequantize()[i : i + 1], p.W[i : i + 1], p.H)
                         for i in range(40)])  # fmt: skip

    assert np.allclose(rows(best), np.minimum(rows(mse), rows(minmax)), rtol=1e-9)
    assert abs(best.loss / rows(best).sum() - 1) <= 1e-9
    taken = (best.grid.scale == mse.grid.scale).all(axis=1)
    assert 0 < taken.sum() < 40 and (best.codes[taken] == mse.codes[taken]).all()
    assert (best.codes[~taken] == minmax.codes[~taken]).all()
    with pytest.raises(ql.InvalidArgumentError, match="without feedback"):
        ql.nearest(p.W, p.H, clip="best")
