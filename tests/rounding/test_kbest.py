"""K-best rounding: LDLQ with one path, the optimum with enough, between them otherwise."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import make_problem, problems

import quiplinalg as ql
from quiplinalg import reference

DTYPES = (np.float32, np.float64)


def damped(H, q):
    shift = np.full(len(H), q.damp)
    live = H.diagonal()[H.diagonal() > 0]
    if q.damp == 0:
        shift[H.diagonal() == 0] = live.mean() if live.size else 1
    return H + np.diag(shift)


def row_losses(q, W, Hd):
    E = q.__array__(np.float64) - W.astype(float)
    return ((E @ Hd) * E).sum(axis=1)


def unit_grid(bits):
    return ql.UniformGrid(np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32), bits)


@pytest.mark.parametrize("backend", ("cpu", "generic"))
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=30)
@given(
    problem=problems(max_n=41, max_m=60, bits=(1, 2, 4, 8), max_dead=2),
    order=st.sampled_from(("natural", "act", "min-pivot")),
    clip=st.sampled_from(("mse", "minmax", "best")),
    group=st.sampled_from((None, 3, 16)),
    block=st.sampled_from((None, 4, 13, 100)),
)
def test_one_path_is_ldlq_to_the_last_code(backend, dtype, problem, order, clip, group, block):
    W = problem.W.astype(dtype)
    keywords = dict(clip=clip, order=order, group_size=group, block=block, backend=backend)
    q = ql.kbest(W, problem.H, problem.bits, k=1, **keywords)
    ldlq = ql.ldlq(W, problem.H, problem.bits, static_groups=True, **keywords)
    if backend == "cpu":
        assert (q.codes == ldlq.codes).all()
        assert q.loss == ldlq.loss and q.clipped == ldlq.clipped
    else:  # NumPy's sums depend on how many columns there are
        near = (q.codes != ldlq.codes).any(axis=1).sum()
        assert near <= max(ldlq.near_tie_rows, 0.02 * len(W))
    assert (q.grid.scale == ldlq.grid.scale).all() or backend == "generic"
    assert q.damp == ldlq.damp and q.trace_D == ldlq.trace_D and (q.dead == ldlq.dead).all()
    assert q.method == "kbest" and q.precision == ldlq.precision


@pytest.mark.parametrize("n", (300, 523))
def test_one_path_is_ldlq_over_several_blocks_on_an_unbounded_grid(n):
    P = make_problem(70, n, hessian="power", weights="heavy", seed=n)
    grid = ql.UniformGrid(np.full((1, 1), 0.7, np.float32), np.full((1, 1), 0.3, np.float32), None)
    for dtype in DTYPES:
        W = P.W.astype(dtype)
        ldlq = ql.ldlq(W, P.H, grid=grid)
        for block in (None, 64):
            q = ql.kbest(W, P.H, grid=grid, k=1, block=block)
            assert (q.codes == ldlq.codes).all() and q.loss == ldlq.loss


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(
    problem=problems(max_n=33, max_m=60, bits=(1, 2, 3, None), max_dead=2),
    k=st.integers(2, 12),
    order=st.sampled_from(("natural", "act", "min-pivot")),
)
def test_no_row_is_worse_than_ldlq(dtype, problem, k, order):
    W, bits = problem.W.astype(dtype), problem.bits
    grid = unit_grid(None) if bits is None else None
    q = ql.kbest(W, problem.H, bits or 2, k=k, grid=grid, order=order)
    ldlq = ql.ldlq(W, problem.H, bits or 2, grid=grid, order=order)
    Hd = damped(problem.H, q)
    ours, theirs = row_losses(q, W, Hd), row_losses(ldlq, W, Hd)
    # in float32 the losses compared are those of targets with n rounded terms, of scale |W|
    terms = np.abs(W.astype(float)).max(initial=1) ** 2 * np.trace(Hd)
    tau = 8 * np.finfo(dtype).eps * max(problem.n, 1)
    assert (ours <= theirs * (1 + tau) + tau * np.sqrt(theirs * terms) + tau**2 * terms).all()
    direct = ql.proxy_loss(q.__array__(np.float64), W, problem.H)
    size = ql.proxy_loss(0 * W.astype(float), W.astype(float), Hd)
    assert abs(q.loss - direct) <= 64 * problem.n * np.finfo(dtype).eps * max(size, 1e-300)


@settings(max_examples=40)
@given(
    problem=problems(max_n=9, max_m=4, bits=(1, 2, None), max_dead=0),
    k=st.sampled_from((2, 3, 5, 16)),
    group=st.sampled_from((None, 2)),
)
def test_it_is_the_reference(problem, k, group):
    W, H, m, n = problem.W, problem.H, problem.m, problem.n
    index = None if group is None else (np.arange(n) // group).astype(np.int32)
    groups = 1 if group is None else max(1, -(-n // group))
    rng = np.random.default_rng(problem.seed)
    scale = rng.uniform(0.3, 1, (m, groups)) * max(np.abs(W).max(initial=0), 1e-3)
    zero = rng.uniform(0, 3, (m, groups))
    grid = ql.UniformGrid(scale, zero, problem.bits, index)
    q = ql.kbest(W, H, grid=grid, k=k, order="act")
    perm = np.arange(n) if q.permutation is None else q.permutation
    Hd = damped(H, q)
    twin = reference.kbest(W, Hd, scale, zero, grid.maxq, k, order=perm, group_index=index)
    same = (q.codes == twin.codes).all(axis=1)
    ours, theirs = row_losses(q, W, Hd), twin.costs.sum(axis=1)
    # where candidates cost the same to a few eps either may survive: losses may then differ,
    # but such ties are rare in generic weights
    close = np.abs(ours - theirs) <= 1e-9 * (theirs + 1e-300)
    assert (close >= same).all()
    assert same.all() or not _generic(problem)


def _generic(problem):
    """Whether no two candidates of a row cost the same: not so where weights or H repeat."""
    return problem.hessian != "diagonal" and problem.weights in ("normal", "heavy")


@pytest.mark.parametrize("bits", (1, 2, None))
@pytest.mark.parametrize("k", (1, 2, 3, 5, 8))
def test_ties_are_broken_by_the_rule(bits, k):
    """Dyadic numbers: every sum is exact, in both precisions, and many candidates cost the same."""
    rng = np.random.default_rng(k)
    n, m = 6, 40
    T = np.eye(n) + np.triu(rng.choice([-0.5, 0, 0, 0.5, 1], (n, n)), 1)
    H = (T * rng.choice([1.0, 4.0, 0.25], n)) @ T.T
    W = rng.integers(-2, 14, (m, n)) / 4
    codes = reference.kbest(W, H, np.ones((1, 1)), np.zeros((1, 1)),
                            np.inf if bits is None else 2.0**bits - 1, k).codes  # fmt: skip
    for dtype in DTYPES:
        for backend in ("cpu", "generic"):
            q = ql.kbest(W.astype(dtype), H, grid=unit_grid(bits), k=k, order="natural", damp=0.0,
                         backend=backend)  # fmt: skip
            assert (q.codes == codes).all()


@pytest.mark.parametrize("bits,n", ((1, 6), (2, 4)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_with_a_path_for_every_prefix_it_is_exact(bits, n, dtype):
    P = make_problem(64, n, hessian="power", weights="normal", seed=n)
    W = P.W.astype(dtype)
    best = ql.exact(W, P.H, bits)
    q = ql.kbest(W, P.H, bits, k=2 ** (bits * n))
    ours = row_losses(q, W, damped(P.H, q))
    assert (ours <= best.row_loss * (1 + 64 * n * np.finfo(dtype).eps)).all()
    assert (ours >= best.row_loss * (1 - 1e-12)).all()


def test_a_group_that_no_column_is_in():
    """The last of three: scales there are not used, and change nothing."""
    P = make_problem(6, 9, hessian="power", weights="normal", seed=2)
    index = (np.arange(9) % 2).astype(np.int32)
    scale, zero = np.full((6, 3), 0.6), np.full((6, 3), 1.5)
    three = ql.UniformGrid(scale, zero, 2, index)
    two = ql.UniformGrid(scale[:, :2], zero[:, :2], 2, index)
    for method in (ql.kbest, ql.ldlq, ql.gptq):
        assert (method(P.W, P.H, grid=three).codes == method(P.W, P.H, grid=two).codes).all()


def feedback_without_end():
    """Columns in units so unlike that feedback moves a target by more steps than int32 counts."""
    s = np.array([1e-9, 1e9, 1e-9])
    H = make_problem(1, 3, hessian="power", weights="normal", seed=0).H * s * s[:, None]
    W = 10 * make_problem(4, 3, hessian="power", weights="normal", seed=0).W
    return W, H, ql.UniformGrid(np.full((1, 1), 0.08), np.full((1, 1), 0.5), None)


@pytest.mark.parametrize("backend", ("cpu", "generic"))
@pytest.mark.parametrize("dtype", DTYPES)
def test_targets_beyond_int32_are_an_error_not_a_wrong_code(backend, dtype):
    W, H, grid = feedback_without_end()
    for method in (ql.ldlq, ql.gptq, ql.kbest, ql.obq):
        with pytest.raises(ql.InvalidArgumentError, match="fit in int32"):
            method(W.astype(dtype), H, grid=grid, order="natural", damp=0.0, backend=backend)


def test_more_paths_bring_more_on_average():
    P = make_problem(200, 96, hessian="power", weights="heavy", seed=0)
    losses = [ql.kbest(P.W, P.H, k=k).loss for k in (1, 2, 4, 8, 16)]
    assert all(a > b for a, b in pairwise(losses)), losses


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", (3, 8))
def test_blocks_threads_and_neighbours_do_not_matter(dtype, k):
    P = make_problem(103, 150, hessian="outlier", weights="heavy", seed=k)
    W = P.W.astype(dtype)
    with ql.num_threads(1):
        one = ql.kbest(W, P.H, k=k)
    with ql.num_threads(3):
        for block in (4, 30, 64, 1000):
            q = ql.kbest(W, P.H, k=k, block=block)
            assert (q.codes == one.codes).all() and q.loss == one.loss
    alone = ql.kbest(W[40:41], P.H, k=k)
    assert (alone.codes[0] == one.codes[40]).all()
    slow = ql.kbest(W[:20], P.H, k=k, backend="generic")
    same = (slow.codes == one.codes[:20]).all(axis=1)
    assert same.mean() >= (1 if dtype == np.float64 else 0.8)
    assert abs(slow.loss - ql.kbest(W[:20], P.H, k=k).loss) <= 1e-2 * slow.loss


def test_rows_whose_paths_never_meet_change_nothing_for_others():
    """A row of grid points keeps paths that differ in its first columns: nothing is shared."""
    P = make_problem(30, 160, hessian="power", weights="normal", seed=4)
    W = P.W.copy()
    W[7] = np.round(W[7])
    grid = unit_grid(None)
    q, block = ql.kbest(W, P.H, grid=grid), ql.kbest(W, P.H, grid=grid, block=16)
    assert (q.codes == block.codes).all() and (q.codes[7] == W[7]).all()
    others = np.arange(30) != 7
    alone = ql.kbest(W[others], P.H, grid=grid, block=16)
    assert (alone.codes == q.codes[others]).all()


def test_the_grids_that_the_rows_of_best_were_rounded_on():
    P = make_problem(40, 48, hessian="power", weights="outlier", seed=1)
    each = {clip: ql.kbest(P.W, P.H, clip=clip) for clip in ("mse", "minmax", "best")}
    rows = {clip: row_losses(q, P.W, P.H) for clip, q in each.items()}
    least = np.minimum(rows["mse"], rows["minmax"])
    assert np.allclose(rows["best"], least, rtol=1e-10)
    assert each["best"].loss <= min(each["mse"].loss, each["minmax"].loss) * (1 + 1e-12)


@pytest.mark.parametrize("m,n", ((0, 0), (0, 3), (3, 0), (1, 1)))
@pytest.mark.parametrize("backend", ("cpu", "generic"))
def test_empty_layers(m, n, backend):
    q = ql.kbest(np.full((m, n), 0.4), np.eye(n), grid=unit_grid(2), backend=backend)
    assert q.codes.shape == (m, n) and q.loss >= 0 and q.clipped == 0


def test_bad_input():
    P = make_problem(4, 6, hessian="well", weights="normal", seed=0)
    for bad in (0, -1, 1.5, True, None, "8", 5000):
        with pytest.raises(ql.InvalidArgumentError, match="k must be a whole number"):
            ql.kbest(P.W, P.H, k=bad)
    for kwargs, match in (
        (dict(clip="max"), "clip"), (dict(order="best"), "order"), (dict(bits=0), "bits"),
        (dict(group_size=0), "group_size"), (dict(damp=2.0), "damp"), (dict(block=0), "block"),
        (dict(grid="mse"), "grid"), (dict(backend="torch"), "backend"),
    ):  # fmt: skip
        with pytest.raises(ql.InvalidArgumentError, match=f"{match} must be"):
            ql.kbest(P.W, P.H, **kwargs)
    with pytest.raises(ql.InvalidArgumentError, match=r"Pass W\.T"):
        ql.kbest(P.W.T, P.H)
    W, H = P.W.copy(), P.H.copy()
    W[1, 2] = np.nan
    with pytest.raises(ql.NonFiniteError, match="W"):
        ql.kbest(W, P.H)
    H[2, 3] = np.inf
    with pytest.raises(ql.NonFiniteError, match="H"):
        ql.kbest(P.W, H)
    with pytest.raises(ql.NotPositiveDefiniteError):
        ql.kbest(P.W, P.H - 2 * np.linalg.eigvalsh(P.H)[0] * np.eye(6), damp=0.0)
    huge = ql.UniformGrid(np.full((1, 1), 1e-12), np.zeros((1, 1)), None)
    with pytest.raises(ql.InvalidArgumentError, match="fit in int32"):
        ql.kbest(P.W, P.H, grid=huge)
    with pytest.raises(TypeError, match=r"percdamp.*damp"):
        ql.kbest(P.W, P.H, percdamp=0.1)


def test_the_arguments_are_not_changed_and_the_result_is_of_their_kind():
    P = make_problem(5, 9, hessian="well", weights="normal", seed=0)
    W, H = P.W.astype(np.float16), np.asfortranarray(P.H)
    W.flags.writeable = H.flags.writeable = False
    q = ql.kbest(W, H)
    assert q.dequantize().dtype == np.float16 and q.precision == "float32"
    assert "kbest" in repr(q)
