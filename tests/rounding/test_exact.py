"""The exact search against enumeration, on finite and unbounded grids, and what it says of it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from strategies import clamped_counterexample, make_hessian, make_problem

import quiplinalg as ql
from quiplinalg import reference

EPS = np.finfo(float).eps
NONE = ql.AbsoluteDamp(0.0)


def unit_grid(bits, zero=0.0):
    return ql.UniformGrid(np.ones((1, 1)), np.full((1, 1), zero), bits)


def enumerate_rows(W, H, levels):
    """The least e H e^T of each row over the codes of a table, and how large the terms are."""
    table = np.array(list(itertools.product(*levels)), float)
    whole = ((table @ H) * table).sum(axis=1)[:, None] - 2 * table @ (H @ W.T)
    best = whole.argmin(axis=0)
    E = table[best] - W
    return ((E @ H) * E).sum(axis=1), np.abs(whole).max() + np.abs(W @ H @ W.T).max()


@pytest.mark.parametrize("bits", (1, 2))
@pytest.mark.parametrize("n", (1, 2, 3, 4, 5, 6))
def test_it_agrees_with_enumeration_on_a_finite_grid(n, bits):
    """With the unbounded ones below, over 10^5 problems."""
    cheap = (2**bits) ** n <= 256
    for seed, kind in enumerate(("well", "power", "lowrank", "outlier", "diagonal")):
        H = make_hessian(kind, n, seed)
        m = 2000 if cheap else 250
        W = np.random.default_rng([n, bits, seed]).uniform(-0.7, 2**bits - 0.3, (m, n))
        found = ql.exact(W, H, grid=unit_grid(bits), damp=NONE)
        least, size = enumerate_rows(W, H, [range(2**bits)] * n)
        assert found.proven.all()
        # both sums have n^2 rounded terms at most as large as size
        tau = 8 * n * n * EPS * size
        assert (np.abs(found.row_loss - least) <= tau).all()
        E = found.quantized.codes.astype(float) - W
        assert (np.abs(((E @ H) * E).sum(axis=1) - found.row_loss) <= tau).all()
        assert abs(found.quantized.loss - least.sum()) <= m * tau


@pytest.mark.parametrize("n", (1, 2, 3, 4))
def test_it_agrees_with_enumeration_on_the_unbounded_grid(n):
    """e_k^2 <= L (H^-1)_kk for the best e, and L <= tr(D) / 4: that window holds the optimum."""
    for seed in range(5):
        H = make_hessian("well" if n > 2 else "power", n, seed)
        D = np.square(np.linalg.cholesky(H[::-1, ::-1]).diagonal())
        reach = np.sqrt(D.sum() / 4 * np.linalg.inv(H).diagonal())
        W = np.random.default_rng([n, seed]).uniform(0, 1, (1500, n))
        levels = [range(-int(np.ceil(b)), int(np.ceil(b)) + 2) for b in reach]
        found = ql.exact(W, H, grid=unit_grid(None), damp=NONE)
        least, size = enumerate_rows(W, H, levels)
        assert found.proven.all() and found.quantized.codes.dtype == np.int32
        assert (np.abs(found.row_loss - least) <= 8 * n * n * EPS * size).all()


@pytest.mark.parametrize("order", ("natural", "act", "min-pivot"))
@pytest.mark.parametrize("bits", (2, None))
def test_groups_and_orders_have_the_optimum_of_the_reference(order, bits):
    rng = np.random.default_rng(5)
    n, m = 5, 6
    H, W = make_hessian("power", n, 3) + 0.3 * np.eye(n), rng.standard_normal((m, n))
    scale, zero = rng.uniform(0.4, 0.9, (m, 2)), rng.uniform(0, 2, (m, 2))
    index = np.array([1, 0, 0, 1, 1])
    grid = ql.UniformGrid(scale, zero, bits, index)
    found = ql.exact(W, H, grid=grid, order=order)
    Hd = H + found.quantized.damp * np.eye(n)
    codes, loss = reference.exact(W, Hd, scale, zero, grid.maxq, group_index=index)
    assert (found.quantized.codes == codes).all()  # generic W: the optimum is unique
    assert np.allclose(found.row_loss, loss, rtol=1e-12, atol=0)
    assert found.quantized.order == order and found.quantized.method == "exact"


def test_the_references_agree():
    rng = np.random.default_rng(0)
    H, W = make_hessian("power", 4, 0), rng.uniform(-1, 4, (5, 4))
    one, zero = np.ones((1, 1)), np.zeros((1, 1))
    for a, b in zip(
        reference.exact(W, H, one, zero, 3.0),
        reference.exhaustive(W, H, one, zero, 3.0),
        strict=True,
    ):
        assert np.allclose(a, b, rtol=1e-12)
    with pytest.raises(ql.InvalidArgumentError, match="at most"):
        reference.exact(np.zeros((1, 12)) + 0.4, make_hessian("power", 12, 0), one, zero, np.inf)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_nothing_is_better_than_the_optimum(dtype):
    """Exact <= K-best <= LDLQ under the damped H; and the theorem's bound on the unbounded grid."""
    for bits in (2, 3):
        P = make_problem(12, 24, hessian="power", weights="heavy", seed=bits)
        W = P.W.astype(dtype)
        found = ql.exact(W, P.H, bits)
        q = found.quantized
        Hd = P.H + q.damp * np.eye(24)
        assert found.proven.all() and (found.nodes >= 0).all()
        for other in (ql.kbest(W, P.H, grid=q.grid, k=64), ql.ldlq(W, P.H, grid=q.grid),
                      ql.nearest(W, grid=q.grid), ql.descend(W, P.H, q)):  # fmt: skip
            E = other.__array__(np.float64) - W
            rows = ((E @ Hd) * E).sum(axis=1)
            assert (found.row_loss <= rows * (1 + 1e-12)).all()
        E = q.__array__(np.float64) - W
        assert np.allclose(((E @ Hd) * E).sum(axis=1), found.row_loss, rtol=1e-10)
        direct = ql.proxy_loss(q, W, P.H)
        assert abs(q.loss - direct) <= 1e-6 * direct
        assert q.dequantize().dtype == dtype and q.precision == np.dtype(dtype).name


def test_the_counterexample_of_clamping_is_solved():
    """Where a clamped LDLQ is many times worse than nearest."""
    W, H = clamped_counterexample(24)
    W = W[:2]
    grid = unit_grid(2)
    found = ql.exact(W, H, grid=grid, damp=NONE)
    ldlq = ql.ldlq(W, H, grid=grid, damp=NONE, order="natural")
    assert found.row_loss.sum() <= ldlq.nearest_loss(W, H) * (1 + 1e-9)


def test_a_spent_budget_is_reported_and_never_worse_than_kbest():
    P = make_problem(9, 40, hessian="power", weights="heavy", seed=1)
    free = ql.kbest(P.W, P.H, k=8, order="min-pivot")
    Hd = P.H + free.damp * np.eye(40)
    E = free.__array__(np.float64) - P.W
    rows = ((E @ Hd) * E).sum(axis=1)
    last = None
    for budget in (1, 10, 1000, 30_000):
        found = ql.exact(P.W, P.H, max_nodes=budget)
        assert (found.nodes <= budget).all()
        assert (found.proven | (found.nodes == budget)).all()
        assert (found.row_loss <= rows * (1 + 1e-12)).all()
        if last is not None:
            assert (found.row_loss <= last.row_loss).all()
            assert (found.proven >= last.proven).all()
        last = found
        if budget < 1000:
            assert not found.proven.any()
            assert "9 of 9 rows NOT PROVEN" in repr(found)
    assert "all proven" in repr(ql.exact(P.W[:, :4], P.H[:4, :4]))


def test_rows_threads_and_backends_do_not_matter():
    P = make_problem(11, 14, hessian="outlier", weights="normal", seed=2)
    with ql.num_threads(1):
        one = ql.exact(P.W, P.H)
    with ql.num_threads(3):
        three = ql.exact(P.W, P.H)
    few = ql.exact(P.W[3:5], P.H)
    slow = ql.exact(P.W[:4], P.H, backend="generic")
    assert (one.quantized.codes == three.quantized.codes).all()
    assert (one.nodes == three.nodes).all() and (one.row_loss == three.row_loss).all()
    assert (few.quantized.codes == one.quantized.codes[3:5]).all()
    assert (slow.quantized.codes == one.quantized.codes[:4]).all()
    assert np.allclose(slow.row_loss, one.row_loss[:4], rtol=1e-10)


def test_dead_columns_and_no_damping():
    P = make_problem(4, 8, hessian="well", weights="normal", seed=3, dead=2)
    found = ql.exact(P.W, P.H, damp=NONE)
    assert found.quantized.dead.size == 2 and found.proven.all()
    live = np.setdiff1d(np.arange(8), found.quantized.dead)
    other = ql.exact(P.W[:, live], P.H[np.ix_(live, live)], damp=NONE,
                     grid=found.quantized.grid)  # fmt: skip
    assert (found.quantized.codes[:, live] == other.quantized.codes).all()
    near = ql.nearest(P.W, grid=found.quantized.grid)
    dead = found.quantized.dead
    assert (found.quantized.codes[:, dead] == near.codes[:, dead]).all()


@pytest.mark.parametrize("m,n", ((0, 0), (0, 3), (3, 0), (1, 1)))
def test_empty_layers(m, n):
    found = ql.exact(np.full((m, n), 0.4), np.eye(n), grid=unit_grid(2))
    assert found.quantized.codes.shape == (m, n) and found.proven.shape == (m,)
    assert found.proven.all() and found.nodes.dtype == np.int64
    assert "all proven" in repr(found)


def test_bad_input():
    P = make_problem(4, 6, hessian="well", weights="normal", seed=0)
    for bad in (0, -1, 1.5, True, None, "9", 1 << 62):
        with pytest.raises(ql.InvalidArgumentError, match="max_nodes must be"):
            ql.exact(P.W, P.H, max_nodes=bad)
    for kwargs, match in ((dict(clip="max"), "clip"), (dict(order="best"), "order"),
                          (dict(bits=0), "bits"), (dict(group_size=0), "group_size"),
                          (dict(damp=2.0), "damp")):  # fmt: skip
        with pytest.raises(ql.InvalidArgumentError, match=f"{match} must be"):
            ql.exact(P.W, P.H, **kwargs)
    with pytest.raises(ql.InvalidArgumentError, match=r"Pass W\.T"):
        ql.exact(P.W.T, P.H)
    W = P.W.copy()
    W[1, 2] = np.nan
    with pytest.raises(ql.NonFiniteError):
        ql.exact(W, P.H)
    with pytest.raises(ql.NotPositiveDefiniteError):
        ql.exact(P.W, P.H - 2 * np.linalg.eigvalsh(P.H)[0] * np.eye(6), damp=NONE)
    with pytest.raises(TypeError, match=r"percdamp.*damp"):
        ql.exact(P.W, P.H, percdamp=0.1)
