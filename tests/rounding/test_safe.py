"""safe: the paper's counterexample, the guarantee by experiment, the codes by their definition."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from comparing import wrongness
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import clamped_counterexample, make_hessian, make_problem, problems

import quiplinalg as ql
from quiplinalg import reference

BACKENDS = ("cpu", "generic")


def unit_grid(bits, dtype=np.float64):
    return ql.UniformGrid(np.ones((1, 1), dtype), np.zeros((1, 1), dtype), bits)


def damped(H, q):
    """The matrix that was factored, in the order of rounding; and that order."""
    n = len(H)
    order = np.arange(n) if q.permutation is None else q.permutation
    shift = np.full(n, q.damp)
    if q.damp == 0:
        shift[H.diagonal() == 0] = H.diagonal()[H.diagonal() > 0].mean() if H.any() else 1
    return (H + np.diag(shift))[np.ix_(order, order)], order


def rows(q, W, H):
    E = q.__array__(np.float64) - W
    return ((E @ H) * E).sum(axis=1)


@pytest.mark.parametrize("rounding", ("stochastic", "nearest"))
@pytest.mark.parametrize("n,ldlq_loss,nearest_loss", ((64, 915, 15.7), (128, 3874, 31.6)))
def test_the_counterexample_of_the_paper(n, ldlq_loss, nearest_loss, rounding):
    W, H = clamped_counterexample(n, m=50)
    keywords = dict(grid=unit_grid(2), damp=0.0, order="natural")
    plain = ql.ldlq(W, H, **keywords)
    nearest = plain.nearest_loss(W, H) / 50
    assert abs(plain.loss / 50 - ldlq_loss) <= 1 and abs(nearest - nearest_loss) <= 0.1
    assert plain.loss / 50 > 50 * nearest
    q = ql.safe(W, H, c=1.0, rounding=rounding, **keywords)
    assert rows(q, W, H).max() < 3 * nearest and q.loss / 50 < 1.05 * nearest
    assert q.method == "safe" and q.feedback_bound == 1.0 and q.clipped < 0.002


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@settings(max_examples=25)
@given(
    problem=problems(max_n=33, max_m=9, bits=(1, 2, 4, None), order_kinds=("natural", "act")),
    c=st.sampled_from((0.0, 1e-4, 0.1, 1.0, 10.0)),
    seed=st.one_of(st.none(), st.integers(0, 2**63 - 1)),
)
def test_codes_and_loss_follow_the_definition(backend, dtype, problem, c, seed):
    """Each code is the rounding of z = W + (W - W_hat) U, U of `bounded_feedback`."""
    W, H = problem.W.astype(dtype), problem.H
    grid = ql.UniformGrid(np.full((1, 1), 0.5), np.full((1, 1), 1.0), problem.bits)
    grid = grid if problem.bits is None else None
    q = ql.safe(W, H, problem.bits or 2, c=c, grid=grid, order=problem.ordering,
                rounding="nearest" if seed is None else "stochastic", seed=seed,
                backend=backend)  # fmt: skip
    Hd, order = damped(H, q)
    found = ql.bounded_feedback(Hd, c)
    E = (W - q.__array__(np.float64))[:, order]
    z = W[:, order] + E @ found.U
    s, o = (a.astype(float)[:, [0]] for a in (q.grid.scale, q.grid.zero))
    u = None if seed is None else reference.uniforms(seed, *W.shape).astype(float)[:, order]
    # targets are sums of |E| |U|, and U is known to eps cond(H + damping), below 1e-12
    size = (np.abs(W[:, order]) + np.abs(E) @ np.abs(found.U)).max(initial=0) / s.min()
    tau = 64 * float(np.finfo(np.dtype(q.precision)).eps) * problem.n * (1 + size) + 1e-8
    assert wrongness(q.codes[:, order], z, s, o, problem.maxq, u).max(initial=0) <= tau
    assert abs(q.trace_D - found.objective) <= 1e-9 * found.objective
    direct = ql.proxy_loss(q.__array__(np.dtype(q.precision)), W, H)
    assert abs(q.loss - direct) <= 1e-12 * direct
    assert ql.verify(W, H, q).ok


def test_errors_are_eta_r():
    """E = eta R with every |eta| below a step: what the guarantee stands on."""
    p = make_problem(30, 40, 0, None, "outlier")
    q = ql.safe(5 * p.W, p.H, grid=unit_grid(None), c=0.3, damp=0.0)
    found = ql.bounded_feedback(p.H, 0.3)
    assert (found.multipliers > 0).any()
    E = q.codes - 5 * p.W
    eta = E @ found.T
    assert (np.abs(eta) < 1).all() and (np.abs(eta) > 0.5).any()
    assert np.abs(E - eta @ found.R).max() <= 1e-11
    z = q.codes - eta  # z = W + eta X
    assert np.abs(z - 5 * p.W - eta @ (found.R - np.eye(40))).max() <= 1e-11


def test_no_feedback_is_rounding_each_weight_by_itself():
    for dtype in (np.float32, np.float64):
        p = make_problem(40, 50, 0, 3, "outlier")
        W = p.W.astype(dtype)
        q = ql.safe(W, p.H, 3, c=0, seed=11)
        other = ql.nearest(W, p.H, grid=q.grid, rounding="stochastic", seed=11)
        assert (q.codes == other.codes).all() and q.loss == other.loss
        assert q.trace_D == pytest.approx(np.trace(p.H) + 50 * q.damp, rel=1e-12)
        q = ql.safe(W, p.H, 3, c=0, rounding="nearest")
        assert (q.codes == ql.nearest(W, grid=q.grid).codes).all() and q.seed is None


@pytest.mark.parametrize("order", ("natural", "act", "min-pivot"))
def test_a_bound_that_is_not_reached_is_ldlq(order):
    for dtype in (np.float32, np.float64):
        p = make_problem(40, 50, 0, 2, "outlier")
        W = p.W.astype(dtype)
        for kwargs in (dict(rounding="stochastic", seed=5), dict(rounding="nearest")):
            q = ql.safe(W, p.H, c=1e6, order=order, clip="best", **kwargs)
            other = ql.ldlq(W, p.H, 2, order=order, clip="best", **kwargs)
            assert (q.codes == other.codes).all() and q.trace_D == other.trace_D
            assert abs(q.loss / other.loss - 1) <= 1e-5  # by definition, not by the identity
        tight = ql.safe(W, p.H, c=0.05, order=order, clip="best", **kwargs)
        assert (tight.codes != other.codes).any() and tight.trace_D > other.trace_D


def test_normal_matrices_pay_nothing():
    p = make_problem(64, 96, 0, 2, "well")
    q, other = ql.safe(p.W, p.H, seed=3), ql.ldlq(p.W, p.H, clip="minmax", order="natural",
                                                  rounding="stochastic", seed=3)  # fmt: skip
    assert q.trace_D / other.trace_D <= 1.001
    assert (q.codes == other.codes).all()


def guaranteed_grid(W, c, delta, bits, extra=2):
    """A grid with the weights t steps inside, for ``log(extra m n / delta)``."""
    t = np.sqrt(c * np.log(extra * W.size / delta) / 2)
    maxq = 2**bits - 1
    assert maxq > 2 * t
    step = (W.max() - W.min()) / (maxq - 2 * t)
    return ql.UniformGrid(np.full((1, 1), step), np.full((1, 1), t - W.min() / step), bits), step


@pytest.mark.parametrize("kind", ("power", "outlier", "counterexample"))
def test_with_the_margin_nothing_is_clamped(kind):
    """At most delta of the runs, of which 5 sigma are allowed more; and the bound of the loss."""
    n, m, delta, runs, c = 24, 6, 0.2, 200, 0.5
    rng = np.random.default_rng(0)
    W = rng.choice((-1.0, 1.0), (m, n)) * rng.uniform(0.9, 1.0, (m, n))  # all near the ends
    H = clamped_counterexample(n)[1] if kind == "counterexample" else make_hessian(kind, n, 0)
    grid, step = guaranteed_grid(W, c, delta, 4, extra=4)
    bad = clamped = 0
    for seed in range(runs):
        q = ql.safe(W, H, grid=grid, c=c, damp=0.0, seed=seed)
        bound = 0.5 * np.log(4 * W.size / delta) * q.trace_D * m * step**2
        clamped += q.clipped > 0
        bad += q.clipped > 0 or q.loss > bound
    assert bad <= delta * runs + 5 * np.sqrt(runs * delta * (1 - delta)), bad
    # the test can fail: with the weights at the ends something is clamped nearly always
    step = np.ptp(W) / 15
    tight = ql.UniformGrid(np.full((1, 1), step), np.full((1, 1), -W.min() / step), 4)
    assert sum(ql.safe(W, H, grid=tight, c=c, damp=0.0, seed=s).clipped > 0 for s in range(20)) > 10


@pytest.mark.parametrize("kind", ("outlier", "lowrank"))
def test_targets_stray_as_azuma_and_hoeffding_say(kind):
    """P(|z - W| >= t) <= 2 exp(-2 t^2 / ||X e_j||^2) for each column, with 5 sigma for chance."""
    n, m = 24, 40000
    H = make_hessian(kind, n, 0)
    W = np.tile(np.random.default_rng(0).uniform(-1, 1, n), (m, 1))
    q = ql.safe(W, H, grid=unit_grid(None), c=0.7, damp=0.0, seed=1)
    found = ql.bounded_feedback(H, 0.7)
    X = found.R - np.eye(n)
    eta = (q.codes - W) @ found.T
    stray = np.abs(eta @ X)
    squares = (X**2).sum(axis=0)
    assert np.isclose(squares, 0.7, rtol=1e-6).sum() > 5
    for t in (0.3, 0.6, 0.9, 1.2, 1.5):
        allowed = np.minimum(2 * np.exp(-2 * t**2 / np.maximum(squares, 1e-300)), 1)
        share = (stray >= t).mean(axis=0)
        assert (share <= allowed + 5 * np.sqrt(allowed / m)).all(), (t, share / allowed)
    # it is no empty statement: the worst column comes within a factor of 20 of it at one step
    assert (stray >= 0.9).mean(axis=0).max() >= 2 * np.exp(-2 * 0.9**2 / 0.7) / 20
    # the single roundings have mean 0; their variance is at most 1/4
    assert (np.abs(eta.mean(axis=0)) <= 5 * 0.5 / np.sqrt(m)).all()


@pytest.mark.parametrize("c", (0.0, 0.2, 1.0))
@pytest.mark.parametrize("kind", ("power", "outlier"))
def test_mean_loss_on_the_unbounded_grid(kind, c):
    """W uniform over whole steps: eta are independent and triangular on (-1, 1).

    Then E eta^2 = 1/6, E eta^4 = 1/15, and with G = R H R^T the loss of a row has mean tr G / 6 and
    variance ||G||_F^2 / 18 - sum G_kk^2 / 60.
    """
    n, m = 12, 20000
    H = make_hessian(kind, n, 1)
    W = np.random.default_rng(2).uniform(-8, 8, (m, n))
    q = ql.safe(W, H, grid=unit_grid(None), c=c, damp=0.0, seed=9)
    R = ql.bounded_feedback(H, c).R
    G = R @ H @ R.T
    sigma = np.sqrt(m * ((G**2).sum() / 18 - (G.diagonal() ** 2).sum() / 60))
    assert abs(q.loss - m * q.trace_D / 6) <= 5 * sigma
    assert q.loss <= m * q.trace_D / 4
    if c == 0:  # without feedback it is not the least mean, and the experiment can see it
        assert abs(q.loss - m * ql.udu(H).D.sum() / 6) > 5 * sigma


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("kwargs", ({}, dict(group_size=48), dict(order="act", sym=True)), ids=str)
def test_the_same_codes_for_any_block_and_threads(kwargs, dtype):
    p = make_problem(70, 201, 0, 2, "outlier", "heavy")
    W = p.W.astype(dtype)
    with ql.num_threads(1):
        q = ql.safe(W, p.H, c=0.2, **kwargs)
    for block in (1, 30, 1000):
        for threads in (1, 2, 3):
            with ql.num_threads(threads):
                other = ql.safe(W, p.H, c=0.2, block=block, **kwargs)
            assert (other.codes == q.codes).all() and other.loss == q.loss
            assert other.trace_D == q.trace_D and other.clipped == q.clipped


def test_groups_are_of_the_original_weights():
    p = make_problem(20, 50, 0, 2, "power")
    q = ql.safe(p.W, p.H, group_size=16, order="act", c=0.1)
    expected = ql.minmax_grid(p.W, 2, group_size=16)
    assert (q.grid.scale == expected.scale).all() and (q.grid.zero == expected.zero).all()
    assert (q.grid.columns(50) == np.arange(50) // 16).all()
    assert ql.verify(p.W, p.H, q).ok


@pytest.mark.parametrize("rounding", ("stochastic", "nearest"))
def test_clip_best_keeps_the_better_of_each_row(rounding):
    """By the loss that the damping of each column leaves: float64, so it is the definition's."""
    p = make_problem(40, 48, 0, 2, "outlier", "heavy")
    mse, minmax, best = (ql.safe(p.W, p.H, c=0.1, clip=clip, rounding=rounding)
                         for clip in ("mse", "minmax", "best"))  # fmt: skip
    least = np.minimum(rows(mse, p.W, p.H), rows(minmax, p.W, p.H))
    assert np.allclose(rows(best, p.W, p.H), least, rtol=1e-9)
    assert abs(best.loss / least.sum() - 1) <= 1e-9
    with pytest.raises(ql.InvalidArgumentError, match="clip must be 'minmax' or 'mse' with c=0"):
        ql.safe(p.W, p.H, c=0, clip="best")


@pytest.mark.parametrize("damp", (0.0, 0.01))
def test_dead_columns(damp):
    p = make_problem(20, 30, 0, 4, "power", dead=4)
    q = ql.safe(p.W, p.H, 4, c=0.1, damp=damp, rounding="nearest")
    dead = np.flatnonzero(p.H.diagonal() == 0)
    assert q.dead.tolist() == dead.tolist()
    assert (q.codes[:, dead] == ql.nearest(p.W, grid=q.grid).codes[:, dead]).all()
    assert ql.verify(p.W, p.H, q).ok
    assert ql.safe(np.ones((2, 3)), np.zeros((3, 3))).loss == 0


@pytest.mark.parametrize("shape", ((0, 0), (0, 5), (5, 0), (1, 1), (1, 70), (70, 1)))
def test_every_shape(shape):
    n = shape[1]
    for kwargs in ({}, dict(c=0), dict(c=0.01, order="act"), dict(group_size=3)):
        for dtype in (np.float16, np.float32, np.float64):
            W = np.random.default_rng(0).standard_normal(shape).astype(dtype)
            H = (np.eye(n) + 0.5).astype(dtype)
            q = ql.safe(W, H, **kwargs)
            assert q.codes.shape == shape and q.dequantize().dtype == dtype
            assert "safe" in repr(q) and ql.verify(W, H, q).ok


def test_bad_input():
    p = make_problem(6, 8, 0, 2, "well")
    for kwargs, match in (
        (dict(c=-0.5), "c must be a finite number of at least 0.* got c=-0.5"),
        (dict(c=np.nan), "c must be"),
        (dict(c=np.inf), "c must be"),
        (dict(c="1"), "c must be"),
        (dict(c=None), "c must be"),
        (dict(c=True), "c must be"),
        (dict(seed=None), "seed must be"),
        (dict(seed=-1), "seed must be"),
        (dict(bits=0), "bits must be"),
        (dict(clip="max"), "clip must be"),
        (dict(order="desc_act"), "order must be"),
        (dict(rounding="floor"), "rounding must be"),
        (dict(damp=1.0), "damp must be"),
        (dict(group_size=0), "group_size must be"),
        (dict(grid=unit_grid(2), group_size=4), "group_size must be None"),
        (dict(backend="torch"), "backend must be"),
    ):
        with pytest.raises(ql.InvalidArgumentError, match=match):
            ql.safe(p.W, p.H, **kwargs)
    for wrong, right in (("percdamp", "damp"), ("wbits", "bits"), ("groupsize", "group_size")):
        with pytest.raises(ql.DTypeError, match=f"{wrong}.*{right}"):
            ql.safe(p.W, p.H, **{wrong: 1})
    with pytest.raises(ql.InvalidArgumentError, match=r"Pass W\.T"):
        ql.safe(p.W.T, p.H)
    with pytest.raises(ql.NonFiniteError, match="W must be finite"):
        ql.safe(p.W * np.nan, p.H)
    with pytest.raises(ql.NonFiniteError, match="H must be finite"):
        ql.safe(p.W, p.H * np.nan)
    with pytest.raises(ql.NotPositiveDefiniteError):
        ql.safe(p.W, p.H - 3 * np.ones((8, 8)))


def test_nothing_the_caller_passed_is_changed():
    p = make_problem(6, 20, 0, 2, "outlier")
    W, H = p.W.copy(), p.H.copy()
    for a in (W, H):
        a.flags.writeable = False
    ql.safe(W, H, c=0.01)
    assert W.tobytes() == p.W.tobytes() and H.tobytes() == p.H.tobytes()


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("kwargs", (
    {}, dict(c=0.05, order="act"), dict(c=0), dict(c=0.3, rounding="nearest"),
    dict(c=0.1, damp=0.0, clip="mse"),
), ids=str)  # fmt: skip
def test_verify_finds_every_change(kwargs, dtype):
    p = make_problem(40, 48, 0, 2, "outlier")
    W = p.W.astype(dtype)
    q = ql.safe(W, p.H, 2, **kwargs)
    found = ql.verify(W, p.H, q)
    assert found.ok and found.loss_error <= 1e-12 and found.worst <= 1e-3
    for place in ((0, 0), (7, 20), (39, 47)):
        codes = q.codes.astype(int)
        codes[place] += 1 if codes[place] < 3 else -1
        other = ql.verify(W, p.H, dataclasses.replace(q, codes=codes.astype(np.uint8)))
        assert not other.ok and other.first_wrong == place
    bound = q.feedback_bound
    for changed, word in (
        ({"loss": q.loss * (1 + 1e-4)}, "loss"),
        ({"feedback_bound": None}, "feedback_bound"),
        ({"feedback_bound": -1.0}, "feedback_bound"),
        ({"feedback_bound": float("nan")}, "feedback_bound"),
        ({"feedback_bound": bound / 2 + 0.01}, "rounding"),
        ({"method": "ldlq"}, "rounding"),
        # much, because the multipliers of columns at their bound make up for a little
        ({"damp": q.damp + 100}, "rounding" if bound else "ok"),
        ({"grid": dataclasses.replace(q.grid, scale=q.grid.scale * 1.01)}, "rounding"),
    ):
        other = ql.verify(W, p.H, dataclasses.replace(q, **changed))
        if word == "ok":  # without feedback the damping changes nothing
            assert other.ok
        else:
            assert not other.ok and word in other.reason, (changed, other)


def test_round_trip_through_a_file(tmp_path):
    p = make_problem(10, 24, 0, 2, "outlier")
    layers = {
        "safe": ql.safe(p.W, p.H, c=0.3, order="act", seed=7),
        "none": ql.safe(p.W, p.H, c=0),
        "ldlq": ql.ldlq(p.W, p.H),
    }
    with ql.ResultWriter(tmp_path / "r.h5") as file:
        for name, q in layers.items():
            file.add(name, q)
    with ql.open_result(tmp_path / "r.h5") as file:
        for name, q in layers.items():
            read = file.layer(name)
            assert (read.codes == q.codes).all() and read.feedback_bound == q.feedback_bound
            assert (read.method, read.seed, read.loss) == (q.method, q.seed, q.loss)
            assert ql.verify(p.W, p.H, read).ok
    assert layers["ldlq"].feedback_bound is None and layers["none"].feedback_bound == 0.0


def test_any_array_comes_back_as_its_kind():
    p = make_problem(6, 12, 0, 2, "power")
    lists = ql.safe(p.W.tolist(), p.H.tolist(), c=0.1)
    assert (lists.codes == ql.safe(p.W, p.H, c=0.1).codes).all()
    assert ql.safe(p.W.astype(np.float16), p.H).dequantize().dtype == np.float16
