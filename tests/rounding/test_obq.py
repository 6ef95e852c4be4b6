"""OBQ: equal to GPTQ in a common order, its steps, its loss, its choices, and bad input."""

from __future__ import annotations

import dataclasses
import importlib
import re
import tracemalloc

import numpy as np
import pytest
from comparing import assert_same_rounding
from strategies import make_hessian, make_problem, make_weights

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.kernels.record import select
from quiplinalg.rounding.elimination import damped_inverse, eliminate
from quiplinalg.rounding.obq import obq_masked

EPS = np.finfo(np.float64).eps
KINDS = ("well", "power", "lowrank", "outlier", "diagonal")
ORDERS = ("natural", "act", "min-pivot")
BITS = (1, 2, 3, 4, 8, None)


def grid_for(W, bits, seed, groups=1):
    """A min-max grid, or unbounded with random steps; some with several groups of columns."""
    m, n = W.shape
    size = -(-n // groups)
    if bits is None:
        count = -(-n // size)
        scale = np.random.default_rng(seed).uniform(0.2, 1.0, (m, count))
        index = (np.arange(n) // size).astype(np.int32)
        return ql.UniformGrid(scale, np.zeros_like(scale), None, index)
    return ql.mse_grid(W, bits, group_size=size, scale_dtype=np.float64)


def test_in_a_common_order_it_is_gptq_and_ldlq_on_100_000_rows():
    """Other formulas, no factor, no feedback: the same codes, but after a rounding tie."""
    rows, near = 200, 0
    for seed in range(500):
        rng = np.random.default_rng([seed, 9])
        n, bits = int(rng.integers(2, 13)), BITS[seed % 6]
        H = make_hessian(KINDS[seed % 5], n, seed)
        W = make_weights("normal" if seed % 2 else "heavy", rows, n, seed)
        order = ORDERS[seed % 3]
        grid = grid_for(W, bits, seed, groups=1 + seed % 4 // 2)
        ours = ql.obq(W, H, grid=grid, order=order)
        gptq = ql.gptq(W, H, grid=grid, order=order)
        perm = np.arange(n) if gptq.permutation is None else gptq.permutation
        damped = H + ours.damp * np.eye(n)
        twins = [gptq.codes]
        if seed % 10 == 0:
            for twin in (reference.ldlq, reference.gptq, reference.obq_fixed):
                rounded = twin(
                    W, damped, grid.scale, grid.zero, grid.maxq, order=perm,
                    group_index=grid.columns(n),
                )  # fmt: skip
                twins.append(rounded.codes)
        for codes in twins:
            near += assert_same_rounding(
                ours.codes, codes, W, damped, grid.scale, grid.zero, grid.maxq, perm, 1e-9,
                group_index=grid.columns(n),
            )  # fmt: skip
        assert ours.damp == gptq.damp
        assert abs(ours.trace_D - gptq.trace_D) <= 1e-12 * gptq.trace_D
    assert near <= 10  # ties within 1e-9 of a step, of 10^6 targets


@pytest.mark.parametrize("order", ("greedy", *ORDERS))
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_results_are_verified(order, dtype):
    P = make_problem(20, 70, 1, 3, "outlier", "heavy")
    W, H = P.W.astype(dtype), P.H
    for keywords in ({}, dict(group_size=16), dict(sym=True, clip="minmax"), dict(damp=0.0)):
        q = ql.obq(W, H, 3, order=order, **keywords)
        found = ql.verify(W, H, q)
        assert found.ok and found.codes_checked == (order != "greedy"), found.reason
        assert q.dequantize().dtype == dtype and q.precision == "float64"
        assert (q.permutation is None) == (order in ("greedy", "natural"))
        assert not ql.verify(W, H, dataclasses.replace(q, loss=q.loss * 1.001)).ok
        codes = q.codes.copy()
        codes[3, 5] = 9  # beyond the grid
        bad = ql.verify(W, H, dataclasses.replace(q, codes=codes))
        assert not bad.ok and bad.first_wrong == (3, 5)
        if order != "greedy":
            codes[3, 5] = q.codes[3, 5] ^ 1
            bad = ql.verify(W, H, dataclasses.replace(q, codes=codes))
            assert not bad.ok and bad.first_wrong[0] == 3
    forged = dataclasses.replace(ql.ldlq(W, H), order="greedy", permutation=None)
    assert "permutation of the columns is missing" in ql.verify(W, H, forged).reason


def test_a_greedy_result_survives_a_file_and_descent(tmp_path):
    P = make_problem(9, 40, 2, 3, "power", "heavy")
    q = ql.obq(P.W, P.H, 2)
    with ql.ResultWriter(tmp_path / "r.h5") as writer:
        writer.add("a", q)
    with ql.open_result(tmp_path / "r.h5") as result:
        again = result.layer("a")
    assert (again.codes == q.codes).all() and again.order == "greedy"
    assert again.method == "obq" and again.permutation is None
    assert ql.verify(P.W, P.H, again).ok
    refined = ql.descend(P.W, P.H, q)
    assert refined.loss < q.loss and ql.verify(P.W, P.H, refined).ok


@pytest.mark.parametrize("order", ("greedy", "act"))
@pytest.mark.parametrize("kind", KINDS)
def test_costs_add_up_to_the_damped_loss_and_the_loss_is_the_defined_one(kind, order):
    n = 150  # more than two blocks of steps
    P = make_problem(6, n, 3, 3, kind, "heavy")
    for bits in (2, 8):
        t = ql.obq_trace(P.W, P.H, bits, order=order)
        q = t.quantized
        E = np.asarray(q, float) - P.W
        loss, damping = ((E @ P.H) * E).sum(), q.damp * (E**2).sum()
        damped = P.H + q.damp * np.eye(n)
        bound = 10 * n * EPS * np.linalg.cond(damped)  # each cost divides by an updated inverse
        assert abs(t.costs.sum() - loss - damping) <= bound * (loss + damping)
        assert abs(q.loss - loss) <= 1e-12 * loss
        assert (np.sort(t.order, axis=1) == np.arange(n)).all() and (t.costs >= 0).all()
        if order == "act":
            assert (t.order == q.permutation).all()


def test_greedy_is_the_reference():
    for seed in range(12):
        n = 3 + seed * 2
        P = make_problem(5, n, seed, 3, KINDS[seed % 5], "heavy")
        for outliers in (False, True):
            q = ql.obq_trace(P.W, P.H, 2, outliers_first=outliers, group_size=8)
            grid = q.quantized.grid
            expected, order = reference.obq(
                P.W, P.H + q.quantized.damp * np.eye(n), grid.scale, grid.zero, 3.0,
                group_index=grid.columns(n), outliers_first=outliers,
            )  # fmt: skip
            assert (q.order == order).all() and (q.quantized.codes == expected.codes).all()
            steps = np.take_along_axis(expected.costs, order, axis=1)
            assert np.abs(q.costs - steps).max() <= 1e-9 * steps.max()
            slow = ql.obq(P.W, P.H, grid=grid, outliers_first=outliers, backend="generic")
            assert (slow.codes == expected.codes).all()
            assert abs(slow.loss - q.quantized.loss) <= 1e-10 * slow.loss
            D = 1 / np.linalg.inv(P.H + q.quantized.damp * np.eye(n)).diagonal()
            assert D.sum() * (1 - 1e-12) <= q.quantized.trace_D  # X only shrinks


# ------------------------------------------- the formulas, right and wrong


def trajectory(w, H, targets, bug=""):
    """Eliminate all coordinates greedily; ``bug`` is one of the six popular mistakes."""
    n = len(w)
    w, X0 = w.copy(), np.linalg.inv(H)
    X, live = X0.copy(), np.ones(n, bool)
    order, costs, states = [], [], [w.copy()]
    for _ in range(n):
        e = w - targets(w)
        scale = H.diagonal() if bug == "saliency with H_qq" else 1 / X.diagonal()
        if bug == "D_k for 1 / [H^-1]_kk":
            scale = 1 / X0.diagonal()
        q = int(np.argmin(np.where(live, e * e * scale, np.inf)))
        order.append(q)
        costs.append(e[q] ** 2 * scale[q])
        column = {"column of H": H, "full inverse": X0}.get(bug, X)[:, q]
        pivot = H[q, q] if bug in ("update by H_qq", "column of H") else column[q]
        delta = np.where(live, -e[q] / pivot * column, 0)
        w = w + delta
        if bug != "update by H_qq":
            w[q] = targets(states[-1])[q]
        states.append(w.copy())
        live[q] = False
        by = H[q, q] if bug == "downdate by H_qq" else X[q, q]
        X = X - np.outer(X[:, q], X[q]) / by
        X[q] = X[:, q] = 0
        X[q, q] = 1
    return np.array(order), np.array(costs), states


def our_trajectory(w, H, grid, kernels):
    """The same from the kernel: as many steps as it takes, each time from the start."""
    n, X = len(w), np.linalg.inv(H)
    runs = [
        eliminate(w[None], np.ascontiguousarray(X), kernels, grid=grid, steps=k)
        for k in range(n + 1)
    ]
    for k, run in enumerate(runs):
        assert (run.order[0, :k] == runs[-1].order[0, :k]).all()
    return runs[-1].order[0], runs[-1].costs[0], [run.weights[0] for run in runs]


def broken(w, H, targets, order, costs, states):
    """Which of the facts of OBS do not hold, each by its definition."""
    n, wrong, tolerance = len(w), set(), 1e-9
    before = 0.0
    for k in range(n):
        q, now, after = order[k], states[k], states[k + 1]
        delta = after - w
        rest = np.setdiff1d(np.arange(n), order[: k + 1])
        if not abs(after[q] - targets(now)[q]) <= tolerance:
            wrong.add("delta_q = -e")
        if not np.abs((H @ delta)[rest]).max(initial=0) <= tolerance:
            wrong.add("the others are at their optimum")
        if not np.abs(after[order[:k]] - now[order[:k]]).max(initial=0) == 0:
            wrong.add("what is fixed stays")
        loss = delta @ H @ delta
        if not abs(costs[k] - (loss - before)) <= tolerance * (1 + loss):
            wrong.add("the cost is what the optimum rises by")
        # of all that could be next: the least rise of the optimum, 1 / X_qq = Schur complement
        rises = []
        for j in np.setdiff1d(np.arange(n), order[:k]):
            others = np.setdiff1d(np.arange(n), [*order[:k], j])
            schur = H[j, j] - H[j, others] @ np.linalg.solve(
                H[np.ix_(others, others)], H[others, j]
            )
            rises.append((now[j] - targets(now)[j]) ** 2 * schur)
        if not loss - before <= min(rises) + tolerance * (1 + loss):
            wrong.add("the choice is the least rise")
        before = loss
    return wrong


@pytest.mark.parametrize("pruning", (True, False))
def test_the_six_popular_mistakes_are_each_caught_and_ours_makes_none(pruning):
    grid = None if pruning else ql.UniformGrid(np.full((1, 1), 0.4), np.full((1, 1), 3.0), 3)

    def targets(w):
        return 0 * w if pruning else 0.4 * (np.clip(np.rint(w / 0.4) + 3, 0, 7) - 3)

    caught = {
        "update by H_qq": {"delta_q = -e"},
        "downdate by H_qq": {"the others are at their optimum"},
        "saliency with H_qq": {"the cost is what the optimum rises by"},
        "column of H": {"the others are at their optimum"},
        "full inverse": {"the others are at their optimum"},
        "D_k for 1 / [H^-1]_kk": {"the cost is what the optimum rises by"},
    }
    for seed in range(5):
        w, H = make_weights("normal", 1, 8, seed)[0], make_hessian("power", 8, seed)
        assert broken(w, H, targets, *trajectory(w, H, targets)) == set()
        for kernels in (select("cpu"), select("generic")):
            assert broken(w, H, targets, *our_trajectory(w, H, grid, kernels)) == set()
        for bug, facts in caught.items():
            assert facts <= broken(w, H, targets, *trajectory(w, H, targets, bug)), (seed, bug)
    choices = [
        broken(w, make_hessian("power", 8, s), targets, *trajectory(w, make_hessian("power", 8, s),
               targets, bug))
        for s in range(5) for bug in ("saliency with H_qq", "D_k for 1 / [H^-1]_kk")
    ]  # fmt: skip
    assert any("the choice is the least rise" in c for c in choices)


def test_pruning_costs_are_the_kkt_value():
    kernels = select()
    for seed in range(30):
        n = 2 + seed
        P = make_problem(4, n, seed, 3, KINDS[seed % 5], "heavy")
        H = P.H + 0.01 * np.eye(n)
        inverse = damped_inverse(H, 0.0, kernels).Hinv
        done = eliminate(P.W, inverse, kernels, steps=n - n // 3)
        for i in range(4):
            pruned = done.order[i][done.order[i] >= 0]
            weights, value = reference.pruned_optimum(P.W[i], H, pruned)
            assert abs(done.costs[i].sum() - value) <= 1e-12 * value
            assert np.abs(done.weights[i] - weights).max() <= 1e-11 * np.abs(P.W[i]).max()


# ------------------------------------------- the mask, the outlier rule, determinism


@pytest.mark.parametrize("order", ("greedy", "act"))
def test_a_mask_is_kept_and_the_rest_is_rounded_around_it(order):
    P = make_problem(7, 90, 4, 3, "power", "heavy")
    mask = np.random.default_rng(0).random(P.W.shape) < 0.5
    mask[0], mask[1] = True, False
    t = obq_masked(P.W, P.H, mask, 3, order=order)
    q = t.quantized
    W_hat = np.asarray(q, float)
    assert (W_hat[mask] == 0).all() and q.order == "masked" and ql.verify(P.W, P.H, q).ok
    first = np.take_along_axis(mask, t.order, axis=1)
    assert (first == (np.arange(90) < mask.sum(axis=1)[:, None])).all()
    E = W_hat - P.W
    damped = P.H + q.damp * np.eye(90)
    loss = ((E @ damped) * E).sum()
    assert abs(t.costs.sum() - loss) <= 1e-10 * loss
    plain = ql.obq_trace(P.W, P.H, 3, order=order)
    assert (q.codes[1] == plain.quantized.codes[1]).all() and (t.order[1] == plain.order[1]).all()
    rounded = np.where(mask, 0, np.asarray(plain.quantized, float)) - P.W  # mask after rounding
    assert q.loss < 0.9 * ((rounded @ P.H) * rounded).sum()
    with pytest.raises(ql.InvalidArgumentError, match="must have a code for 0"):
        obq_masked(P.W, P.H, mask, grid=ql.rms_grid(P.W, 3, rho=2.0))
    with pytest.raises(ql.DTypeError, match="mask must be of dtype bool"):
        obq_masked(P.W, P.H, mask.astype(float))
    with pytest.raises(ql.InvalidArgumentError, match="mask must have the shape"):
        obq_masked(P.W, P.H, mask[1:])


def test_outliers_first_takes_clipped_weights_at_once():
    rng = np.random.default_rng(3)
    W, H = rng.standard_t(3, (20, 60)), make_hessian("power", 60, 0)
    grid = ql.UniformGrid(np.full((1, 1), 0.8), np.full((1, 1), 2.0), 2)
    t, plain = (ql.obq_trace(W, H, grid=grid, outliers_first=first) for first in (True, False))
    for i in range(20):  # at the start: those beyond the grid, the largest error first
        code = np.rint(W[i] / 0.8) + 2
        e = np.where((code < 0) | (code > 3), np.abs(W[i] - 0.8 * (np.clip(code, 0, 3) - 2)), 0)
        assert t.order[i, 0] == np.argmax(e) and e.max() > 0.4
    assert (t.order != plain.order).any()
    assert t.quantized.loss < 0.9 * plain.quantized.loss  # what the rule is for
    free = dataclasses.replace(grid, bits=None)  # no ends, no outliers
    codes = [ql.obq(W, H, grid=free, outliers_first=first).codes for first in (True, False)]
    assert (codes[0] == codes[1]).all()


def test_the_same_bits_for_any_threads_and_pieces_of_rows():
    P = make_problem(37, 130, 5, 3, "outlier", "heavy")
    grid = ql.mse_grid(P.W, 3)
    with ql.num_threads(1):
        one = ql.obq_trace(P.W, P.H, grid=grid)
    with ql.num_threads(2):
        two = ql.obq_trace(P.W, P.H, grid=grid)
    for a, b in ((one.costs, two.costs), (one.order, two.order)):
        assert a.tobytes() == b.tobytes()
    assert one.quantized.loss == two.quantized.loss
    assert (one.quantized.codes == two.quantized.codes).all()
    for i, j in ((0, 1), (5, 20), (36, 37)):
        own = dataclasses.replace(grid, scale=grid.scale[i:j], zero=grid.zero[i:j])
        part = ql.obq_trace(P.W[i:j], P.H, grid=own)
        assert part.costs.tobytes() == one.costs[i:j].tobytes()
        assert (part.quantized.codes == one.quantized.codes[i:j]).all()


def test_ctrl_c_waits_for_about_a_second_of_work_not_for_a_layer():
    """Pieces of rows are tasks of their own, which `run_all` drops, and small where n is large."""
    rows = []

    def count(W, *others):
        rows.append(W.shape[0])
        return -1

    kernels = dataclasses.replace(select(), eliminate_rows=count)
    for n, most in ((4, 64), (1024, 2), (1500, 1)):
        rows.clear()
        eliminate(np.ones((2048, n)), np.eye(n), kernels)
        assert max(rows) == most and sum(rows) == 2048


# ------------------------------------------- inputs of all kinds


@pytest.mark.parametrize("shape", ((0, 0), (0, 5), (5, 0), (1, 1), (1, 70), (70, 1)))
@pytest.mark.parametrize("backend", ("cpu", "generic"))
def test_every_shape(shape, backend):
    n = shape[1]
    for keywords in ({}, dict(group_size=3), dict(order="act"), dict(outliers_first=True)):
        for dtype in (np.float16, np.float32, np.float64):
            W = np.random.default_rng(0).standard_normal(shape).astype(dtype)
            t = ql.obq_trace(W, np.eye(n, dtype=dtype), backend=backend, **keywords)
            q = t.quantized
            assert q.codes.shape == t.order.shape == t.costs.shape == shape
            assert q.dequantize().dtype == dtype and "obq" in repr(q)
            assert np.isfinite(q.loss) and np.isfinite(q.trace_D)


@pytest.mark.parametrize("bits", (1, 8))
@pytest.mark.parametrize("damp", (0.01, 0.0))
def test_dead_columns_are_nearest_and_the_others_do_not_see_them(bits, damp):
    P = make_problem(6, 50, 6, 3, "well", "heavy")
    live = np.setdiff1d(np.arange(50), [0, 7, 49])
    H = np.zeros((50, 50))
    H[np.ix_(live, live)] = P.H[np.ix_(live, live)]
    grid = ql.mse_grid(P.W, bits)
    for order in ("greedy", "act"):
        q = ql.obq(P.W, H, grid=grid, order=order, damp=damp)
        assert q.dead.tolist() == [0, 7, 49] and ql.verify(P.W, H, q).ok
        nearest = ql.nearest(P.W, grid=grid).codes
        assert (q.codes[:, q.dead] == nearest[:, q.dead]).all()
        inner = ql.obq(
            P.W[:, live], P.H[np.ix_(live, live)], grid=grid, order=order,
            damp=ql.AbsoluteDamp(q.damp),
        )  # fmt: skip
        assert (q.codes[:, live] == inner.codes).all()
        assert abs(q.loss - inner.loss) <= 1e-12 * inner.loss
        assert abs(q.trace_D - inner.trace_D - 3 * q.damp) <= 1e-12 * q.trace_D
    everything = ql.obq(P.W, np.zeros((50, 50)), grid=grid)
    assert (everything.codes == nearest).all() and everything.loss == 0


def test_equal_rows_and_constant_rows():
    H = make_hessian("power", 40, 0)
    W = np.tile(make_weights("normal", 1, 40, 0), (5, 1))
    q = ql.obq(W, H, 2)
    assert (q.codes == q.codes[0]).all()
    for value in (0.0, 1.0, -3.0, 1e-30):
        q = ql.obq(np.full((3, 40), value), H, 3)
        assert (q.codes == q.codes[0]).all() and ql.verify(np.full((3, 40), value), H, q).ok
    assert not ql.obq(np.zeros((3, 40)), H, 3).loss


def test_bad_input_gets_the_errors_of_ldlq():
    P = make_problem(6, 8, 0, 2, "well")

    def spoiled(a, value, place):
        b = a.copy()
        b[place] = value
        return b

    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    indefinite = (Q * [1, 1, 1, -5, 1, 1, 1, 1]) @ Q.T + 3 * np.ones((8, 8))
    for call in (ql.obq, ql.obq_trace):
        for args, error in (
            ((spoiled(P.W, np.nan, (2, 3)), P.H), ql.NonFiniteError),
            ((P.W, spoiled(P.H, np.inf, (4, 4))), ql.NonFiniteError),
            ((P.W, spoiled(P.H, 5.0, (2, 3))), ql.InvalidArgumentError),
            ((P.W, spoiled(P.H, -2.0, (4, 4))), ql.NotPositiveDefiniteError),
            ((P.W, spoiled(P.H, 0.0, (4, 4))), ql.NotPositiveDefiniteError),
            ((P.W, (indefinite + indefinite.T) / 2), ql.NotPositiveDefiniteError),
            ((P.W + 1j, P.H), ql.DTypeError),
            ((P.W, (100 * P.H).astype(int)), ql.DTypeError),
            ((P.W.T, P.H), ql.InvalidArgumentError),
            ((P.W[0], P.H), ql.InvalidArgumentError),
        ):
            with pytest.raises(error) as ours:
                call(*args)
            with pytest.raises(error) as theirs:
                ql.ldlq(*args, order="natural")
            assert str(ours.value) == str(theirs.value)
        for keywords, match in (
            (dict(bits=0), "bits must be"),
            (dict(bits=9), "bits must be"),
            (dict(grid="minmax"), "grid must be"),
            (dict(grid=ql.minmax_grid(P.W, 2), group_size=4), "group_size must be None"),
            (dict(grid=ql.minmax_grid(P.W[:4], 2)), "grid must have 1 or 6 rows"),
            (dict(group_size=0), "group_size must be"),
            (dict(clip="max"), "clip must be"),
            (dict(clip="best"), "clip must be 'mse' or 'minmax' for OBQ"),
            (dict(order="desc_act"), "order must be one of greedy, natural, act, min-pivot"),
            (dict(outliers_first=1), "outliers_first must be True or False"),
            (dict(outliers_first=True, order="act"), "outliers_first must be False"),
            (dict(damp=-1.0), "damp must be"),
            (dict(backend="torch"), "backend must be"),
        ):
            with pytest.raises(ql.InvalidArgumentError, match=match):
                call(P.W, P.H, **keywords)
        for wrong, right in (("percdamp", "damp"), ("wbits", "bits"), ("groupsize", "group_size")):
            with pytest.raises(TypeError, match=f"{wrong}.*{right}"):
                call(P.W, P.H, **{wrong: 1})
    with pytest.raises(ql.InvalidArgumentError, match=re.escape("fit in int32")):
        ql.obq(P.W * 1e12, P.H, grid=ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None))


def test_an_inverse_that_is_not_positive_is_an_error_not_an_answer():
    inverse = np.eye(6)
    inverse[3, 3] = -1e-3
    with pytest.raises(
        ql.NotPositiveDefiniteError, match=r"row 3 is -0\.001.*Raise damp"
    ) as caught:
        eliminate(np.ones((40, 6)), inverse, select())
    assert caught.value.index == 3


@pytest.mark.parametrize("library", ("torch", "jax"))
def test_the_callers_kind_of_array_comes_back(library):
    module = pytest.importorskip(library)
    xp = importlib.import_module("jax.numpy") if library == "jax" else module
    P = make_problem(5, 12, 7, 3)
    W, H = xp.asarray(P.W.astype(np.float32)), xp.asarray(P.H.astype(np.float32))
    q = ql.obq(W, H, 3)
    expected = ql.obq(P.W.astype(np.float32), P.H.astype(np.float32), 3)
    assert (q.codes == expected.codes).all()
    assert isinstance(q.dequantize(), type(W)) and q.dequantize().dtype == W.dtype
    assert (np.asarray(q.dequantize()) == expected.dequantize()).all()


def test_nothing_the_caller_passed_is_changed():
    P = make_problem(5, 30, 8, 3)
    W, H, mask = P.W.copy(), P.H.copy(), np.eye(5, 30, dtype=bool)
    before = [a.copy() for a in (W, H, mask)]
    for a in (W, H, mask):
        a.flags.writeable = False
    ql.obq(W, H)
    ql.obq(W, H, order="act", backend="generic")
    obq_masked(W, H, mask)
    for was, now in zip(before, (W, H, mask), strict=True):
        assert was.tobytes() == now.tobytes()


def test_memory_is_a_work_space_a_thread_and_the_trace():
    """Not m n^2: half a matrix a thread, H, its inverse, and a few (m, n) arrays."""
    m, n = 64, 512
    P = make_problem(m, n, 9, 3, "well")
    ql.obq(P.W, P.H, 3)
    tracemalloc.start()
    try:
        with ql.num_threads(2):
            ql.obq(P.W, P.H, 3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    allowed = 2 * n * n * 8 + 3 * n * n * 8 + 64 * m * n + 4_000_000
    assert peak <= allowed, (peak, allowed)
    assert allowed < m * n * n * 8 / 6
