"""Elimination on a device: the choices, codes and costs of the CPU's kernel, to the bit."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.kernels.cuda import obs
from quiplinalg.kernels.record import select
from quiplinalg.rounding import elimination_device
from quiplinalg.rounding.elimination import damped_inverse, eliminate
from quiplinalg.rounding.elimination_device import eliminate_on_device, inverse_of_factor

CPU, GENERIC = select("cpu"), select("generic")
SIZES = (*range(18), 31, 32, 33, 60, 96, 130)
ROWS = 3
FIELDS = ("order", "costs", "weights", "codes", "ties", "clipped", "trace_D")


def kernels_of(cuda):
    return SimpleNamespace(
        xp=cuda.xp,
        eliminate_rows=obs.eliminate_rows,
        eliminate_space=obs.eliminate_space,
        inverse_in_place=obs.inverse_in_place,
    )


def spd(n, seed=0):
    X = np.random.default_rng([n, seed]).standard_normal((2 * n + 5, n))
    H = X.T @ X / (2 * n + 5)
    return (H + H.T) / 2


def inverse(n, seed=0):
    Hinv = np.linalg.inv(spd(n, seed))
    return np.ascontiguousarray((Hinv + Hinv.T) / 2)


def grid_of(rows, n, groups=2, bits=3, half=0.0):
    rng = np.random.default_rng(n)
    scale = rng.uniform(0.3, 0.6, (rows, groups))
    zero = rng.integers(2, 5, (rows, groups)) + half
    return ql.UniformGrid(scale, zero, bits, rng.integers(0, groups, n))


def cases(n, rows=ROWS):
    """Every kind of plan."""
    rng = np.random.default_rng(n)
    mask = rng.random((rows, n)) < 0.4
    order = rng.permutation(n)
    grid, some = grid_of(rows, n), np.resize([n // 2, 0, n], rows)
    blocks = -(-n // 4)
    yield "greedy", dict(grid=grid)
    yield "unbounded", dict(grid=grid_of(rows, n, bits=None))
    yield "half zeros, one row of scales", dict(grid=grid_of(1, n, half=0.5))
    narrow = ql.UniformGrid(grid.scale / 2, grid.zero, 3, grid.group_index)
    yield "outliers first", dict(grid=narrow, outliers=True)
    yield "forced", dict(grid=grid, order=order)
    yield "masked", dict(grid=grid, mask=mask)
    yield "masked and forced", dict(grid=grid, mask=mask, order=order)
    yield "prune", dict()
    yield "prune some", dict(steps=some)
    yield "prune a mask", dict(mask=mask, steps=mask.sum(axis=1))
    yield "prune in order", dict(order=order, steps=n // 2)
    yield "n:m", dict(quota=2, width=4)
    yield "uneven n:m", dict(quota=np.arange(blocks) % 3, width=4, steps=some)
    yield "n:m in order", dict(quota=3, width=4, order=order)
    yield "n:m of a mask", dict(quota=2, width=4, mask=mask)
    yield "all in one block", dict(quota=n // 3, width=n + 7)


def on_device(cuda, W, Hinv, **plan):
    xp = cuda.xp
    grid = plan.pop("grid", None)
    if grid is not None:
        grid = ql.UniformGrid(*(xp.asarray(a) for a in (grid.scale, grid.zero)), grid.bits,
                              grid.group_index)  # fmt: skip
    return eliminate_on_device(xp.asarray(W), xp.asarray(Hinv), kernels_of(cuda), grid=grid, **plan)


def assert_same(ours, expected, name):
    made = expected.order.shape[1] - (expected.order < 0).sum(axis=1)
    for field in FIELDS:
        a, b = getattr(ours, field), getattr(expected, field)
        if b is None:
            assert a is None, name
            continue
        a = a if isinstance(a, np.ndarray) else a.get()
        if field == "codes":  # undefined where nothing was eliminated
            for i, steps in enumerate(made):
                columns = expected.order[i, :steps]
                assert (a[i, columns] == b[i, columns]).all(), name
        else:
            assert a.dtype == b.dtype and np.array_equal(a, b), (name, field)


@pytest.mark.parametrize("n", SIZES)
def test_every_plan_has_the_bits_of_the_cpu(cuda, n):
    W, Hinv = np.random.default_rng(n).standard_normal((ROWS, n)), inverse(n)
    for name, plan in cases(n):
        expected = eliminate(W, Hinv, CPU, **plan)
        assert_same(on_device(cuda, W, Hinv, **plan), expected, name)


@pytest.mark.parametrize("n", (200, 320))
def test_more_columns_than_threads_and_tiles(cuda, n):
    W, Hinv = np.random.default_rng(n).standard_normal((2, n)), inverse(n)
    for name, plan in list(cases(n, 2))[:: 3 if n == 200 else 8]:
        expected = eliminate(W, Hinv, CPU, **plan)
        assert_same(on_device(cuda, W, Hinv, **plan), expected, name)


@pytest.mark.parametrize("order", ("reverse", 3))
def test_threads_in_any_order(cuda, order):
    n = 90
    W, Hinv = np.random.default_rng(n).standard_normal((ROWS, n)), inverse(n)
    for name, plan in list(cases(n))[::2]:
        expected = eliminate(W, Hinv, CPU, **plan)
        with cuda.order(order):
            assert_same(on_device(cuda, W, Hinv, **plan), expected, name)


@pytest.mark.parametrize("n", (5, 17, 33))
def test_the_twin_in_numpy_agrees(cuda, n):
    W, Hinv = np.random.default_rng(n).standard_normal((ROWS, n)), inverse(n)
    # each of n downdates rounds to eps of the inverse: n eps cond, and a margin for the chains
    bound = 100 * n * 2.0**-52 * np.linalg.cond(Hinv)
    for name, plan in cases(n):
        ours, twin = on_device(cuda, W, Hinv, **plan), eliminate(W, Hinv, GENERIC, **plan)
        assert (ours.order.get() == twin.order).all(), name
        for a, b in ((ours.costs.get(), twin.costs), (ours.weights.get(), twin.weights)):
            assert np.abs(a - b).max() <= bound * (1 + np.abs(b).max()), name


def test_the_work_space_decides_nothing(cuda, monkeypatch):
    n, m = 20, 7
    W, Hinv = np.random.default_rng(n).standard_normal((m, n)).astype(np.float32), inverse(n)
    expected = eliminate(W, Hinv, CPU, grid=grid_of(m, n))
    for rows in (1, 3, 100):
        monkeypatch.setattr(elimination_device, "_rows_at_once", lambda *_, rows=rows: rows)
        assert_same(on_device(cuda, W, Hinv, grid=grid_of(m, n)), expected, rows)


def test_the_rows_at_once_are_those_that_fit_in_memory(cuda):
    kernels, free = kernels_of(cuda), cuda.xp.cuda.Device().mem_info[0]
    rows_at_once = elimination_device._rows_at_once
    assert rows_at_once(5, 64, kernels) == 5
    assert rows_at_once(10**6, 64, kernels) == 264
    n = 11008
    assert 200 < rows_at_once(10**6, n, kernels) < 264
    assert rows_at_once(10**6, n, kernels) * 8 * obs.eliminate_space(n) < 0.8 * free
    assert rows_at_once(10**6, 10**6, kernels) == 1


@pytest.mark.parametrize("n", (1, 4, 63, 64, 4096, 11008))
def test_the_work_space_is_half_a_matrix_and_panels(n):
    assert obs.eliminate_space(n) <= n * n / 2 + 75 * n + 300
    size = -(-n // 4) * 4
    assert obs.eliminate_space(n) >= n * (n + 1) / 2 + 70.5 * size


def test_only_the_upper_triangle_counts(cuda):
    n = 40
    W, Hinv = np.random.default_rng(n).standard_normal((2, n)), inverse(n)
    expected = eliminate(W, Hinv, CPU)
    Hinv[np.tril_indices(n, -1)] = 7e3
    assert_same(on_device(cuda, W, Hinv), expected, "")


def test_equal_costs_are_taken_from_the_lowest_column(cuda):
    n = 270  # more than a thread each, and positions that have moved
    W = np.tile(np.repeat([0.25, 0.5], n // 2), (2, 1))
    done = on_device(cuda, W, np.eye(n))
    assert (done.order.get() == np.arange(n)).all()
    assert (done.costs.get() == np.square(W)).all()
    zero = on_device(cuda, np.zeros((1, 70)), inverse(70))  # every cost is exactly 0
    assert (zero.order.get() == np.arange(70)).all() and not zero.costs.get().any()


@pytest.mark.parametrize("bad", (-1.0, np.nan, np.inf))
def test_a_pivot_that_is_not_positive_is_reported(cuda, bad):
    n = 5
    Hinv = np.eye(n)
    Hinv[2, 2] = bad
    W = np.ones((4, n))
    W[1:, 2] = 10.0
    with pytest.raises(ql.NotPositiveDefiniteError, match="Raise damp") as error:
        on_device(cuda, W, Hinv, steps=np.array([0, n, n, n]))
    assert error.value.index == 2
    assert np.array_equal(error.value.pivot, bad, equal_nan=True)


def test_the_first_row_that_fails_is_the_one_reported(cuda, monkeypatch):
    n, m = 6, 9
    Hinv = np.eye(n)
    Hinv[2, 2] = Hinv[4, 4] = -1.0
    W = np.ones((m, n))
    steps = np.array([0, 0, 0, 1, 0, 1, 1, 0, 1])
    mask = np.zeros((m, n), bool)
    mask[:, 4], mask[3] = True, False
    mask[3, 2] = True
    for rows in (1, 2, 9):
        monkeypatch.setattr(elimination_device, "_rows_at_once", lambda *_, rows=rows: rows)
        with pytest.raises(ql.NotPositiveDefiniteError) as error:
            on_device(cuda, W, Hinv, mask=mask, steps=steps)
        assert error.value.index == 2


def test_codes_beyond_int32_are_refused_on_an_unbounded_grid(cuda):
    grid = ql.UniformGrid(np.full((1, 1), 1e-12), np.zeros((1, 1)), None)
    with pytest.raises(ql.InvalidArgumentError, match="int32"):
        on_device(cuda, np.ones((1, 3)), np.eye(3), grid=grid)


@pytest.mark.parametrize("n", (0, 1, 2, 3, 17, 64, 130))
def test_the_inverse_from_the_factor(cuda, n):
    H = spd(n)
    for order in ("natural", "act"):
        kept = damped_inverse(H, 0.01, CPU, order)
        place = kept.permutation[::-1]
        shifted = (H + np.diag(kept.shift))[np.ix_(place, place)]
        L = np.linalg.cholesky(shifted) if n else shifted
        factor = np.triu(L.T) + np.tril(np.full((n, n), np.nan), -1)  # below nothing counts
        there = cuda.xp.asarray(factor)
        Hinv = inverse_of_factor(there, kept.permutation, kernels_of(cuda)).get()
        assert Hinv.flags.c_contiguous and (Hinv == Hinv.T).all()
        # two triangular systems: backward errors of n eps each, amplified by the condition of H
        bound = 8 * max(n, 1) * 2.0**-52 * (np.linalg.cond(H) if n else 1)
        assert np.abs(Hinv - kept.Hinv).max(initial=0) <= bound * np.abs(kept.Hinv).max(initial=0)
        assert np.array_equal(there.get(), factor, equal_nan=True)


def test_the_factor_may_be_anything_below_its_diagonal(cuda):
    """As cuSOLVER leaves it: `inverse_of_factor` reads one triangle."""
    kernels = kernels_of(cuda)
    clean = inverse_of_factor(cuda.xp.asarray(np.eye(3)), np.arange(3), kernels)
    dirty = inverse_of_factor(cuda.xp.asarray(np.eye(3) + np.tri(3, k=-1)), np.arange(3), kernels)
    assert np.array_equal(clean.get(), dirty.get()) and np.array_equal(clean.get(), np.eye(3))
