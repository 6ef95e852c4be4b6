"""The kernels of elimination, each against the other and the references; inputs are read-only."""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg.kernels.record import select
from quiplinalg.reference import obq, obs, pruned_optimum

CPU, GENERIC = select("cpu"), select("generic")
BOTH = pytest.mark.parametrize("kernels", (CPU, GENERIC), ids=("cpu", "generic"))
SIZES = (0, 1, 2, 3, 4, 5, 17, 23, 24, 25, 48, 49, 63, 64, 65)
NONE, NO_MASK = np.empty(0, np.int64), np.zeros((0, 0), bool)
ROWS = 3


def frozen(a):
    a = np.array(a, order="C")
    a.flags.writeable = False
    return a


def spd(n, seed=0):
    X = np.random.default_rng([n, seed]).standard_normal((2 * n + 5, n))
    H = X.T @ X / (2 * n + 5)
    return (H + H.T) / 2


def eliminated(
    kernels, W, H, *, grid=None, order=NONE, mask=NO_MASK, steps=None, quota=NONE, width=1,
    outliers=False, fill=np.nan,
):  # fmt: skip
    """Everything the slot writes, from inputs that it may not."""
    rows, n = W.shape
    inverse = np.linalg.inv(H)
    inverse = np.triu(inverse) + np.tril(np.full((n, n), fill), -1) if n else inverse
    inverse[np.isnan(inverse)] = 7e3  # below the diagonal nothing counts
    if grid is None:
        grid = (np.empty((rows, 0)), np.empty((rows, 0)), np.zeros(n, np.int32), 0.0, 0.0)
    plan = (
        frozen(order), frozen(mask), frozen(np.full(rows, n if steps is None else steps)),
        frozen(quota), width, outliers,
    )  # fmt: skip
    found = (
        np.full((rows, n), -9, np.int32), np.full((rows, n), np.nan), np.full((rows, n), np.nan),
        np.full((rows, n), -9, np.int32), np.full((rows, 3), np.nan),
    )  # fmt: skip
    work = np.full(kernels.eliminate_space(n), np.nan)  # nothing in it is read before it is set
    grid = (*(frozen(a) for a in grid[:3]), *grid[3:])
    failed = kernels.eliminate_rows(frozen(W), frozen(inverse), grid, plan, work, found)
    assert failed == -1
    return found


def grid_of(rows, n, groups=2, maxq=7.0):
    rng = np.random.default_rng(n)
    scale = rng.uniform(0.3, 0.6, (rows, groups))
    zero = rng.integers(2, 5, (rows, groups)) + 0.0
    ends = (0.0, maxq) if np.isfinite(maxq) else (-np.inf, np.inf)
    return scale, zero, rng.integers(0, groups, n).astype(np.int32), *ends


def cases(n):
    """Every kind of plan."""
    rng = np.random.default_rng(n)
    mask = rng.random((ROWS, n)) < 0.4
    order = rng.permutation(n)
    grid, half = grid_of(ROWS, n), np.array([n // 2, 0, n])
    unbounded = grid_of(ROWS, n, maxq=np.inf)
    blocks = -(-n // 4)
    yield "greedy", dict(grid=grid)
    yield "unbounded", dict(grid=unbounded)
    yield "half zeros", dict(grid=(grid[0], grid[1] + 0.5, *grid[2:]))
    yield "outliers first", dict(grid=(grid[0] / 2, *grid[1:]), outliers=True)
    yield "forced", dict(grid=grid, order=order)
    yield "masked", dict(grid=grid, mask=mask)
    yield "masked and forced", dict(grid=grid, mask=mask, order=order)
    yield "prune", dict()
    yield "prune some", dict(steps=half)
    yield "prune a mask", dict(mask=mask, steps=mask.sum(axis=1))
    yield "prune in order", dict(order=order, steps=n // 2)
    yield "n:m", dict(quota=np.full(blocks, 2), width=4)
    yield "uneven n:m", dict(quota=np.arange(blocks) % 3, width=4, steps=half)
    yield "n:m in order", dict(quota=np.full(blocks, 3), width=4, order=order)
    yield "n:m of a mask", dict(quota=np.full(blocks, 2), width=4, mask=mask)


@pytest.mark.parametrize("n", SIZES)
def test_kernels_do_the_same(n):
    W = np.random.default_rng(n).standard_normal((ROWS, n))
    H = spd(n)
    # each of n downdates rounds to eps of the inverse: n eps cond, and a margin for the chains
    bound = 100 * max(n, 1) * 2.0**-52 * (np.linalg.cond(H) if n else 1)
    for name, plan in cases(n):
        ours, twin = (eliminated(kernels, W, H, **plan) for kernels in (CPU, GENERIC))
        assert (ours[0] == twin[0]).all(), name
        assert (ours[3] == twin[3]).all(), name
        for a, b in ((ours[1], twin[1]), (ours[2], twin[2]), (ours[4], twin[4])):
            assert np.abs(a - b).max(initial=0) <= bound * (1 + np.abs(b).max(initial=0)), name


@BOTH
@pytest.mark.parametrize("n", (1, 2, 3, 5, 17, 24, 33))
def test_rounding_is_the_reference(kernels, n):
    W = np.random.default_rng(n).standard_normal((ROWS, n))
    H = spd(n)
    for maxq in (7.0, np.inf):
        for outliers in (False, True):
            grid = grid_of(ROWS, n, maxq=maxq)
            expected, order = obq(
                W, H, grid[0], grid[1], maxq, group_index=grid[2], outliers_first=outliers
            )
            orders, costs, weights, codes, stats = eliminated(
                kernels, W, H, grid=grid, outliers=outliers
            )
            assert (orders == order).all() and (codes == expected.codes).all()
            steps = np.take_along_axis(expected.costs, order, axis=1)
            assert np.abs(costs - steps).max() <= 1e-11 * np.abs(steps).max()
            assert (weights == expected.W_hat).all()  # the update of q itself is exact
            targets = (expected.W_hat - expected.eta) / grid[0][:, grid[2]]
            off = np.abs(np.abs(targets - np.rint(targets)) - 0.5)
            code = np.rint(targets) + grid[1][:, grid[2]]
            outside = ((code < 0) | (code > maxq)) & np.isfinite(maxq)
            assert (stats[:, 1] == outside.sum(axis=1)).all()
            inner = targets + grid[1][:, grid[2]]
            seen = np.where((inner >= 0) & (inner < maxq) | np.isinf(maxq), off, 0.5).min(axis=1)
            assert np.abs(stats[:, 0] - seen).max() <= 1e-9
            pivots = steps / np.take_along_axis(
                np.square(expected.eta), order, axis=1
            )  # 1 / X_qq = cost / e^2
            assert np.abs(stats[:, 2] / pivots.sum(axis=1) - 1).max() <= 1e-8


@BOTH
@pytest.mark.parametrize("n", (1, 2, 3, 5, 17, 24, 33))
def test_pruning_is_the_reference_and_the_optimum(kernels, n):
    W = np.random.default_rng(n).standard_normal((ROWS, n))
    H = spd(n)
    for steps, quota in ((n, None), (n // 2, None), (n, 2)):
        limits = {} if quota is None else dict(quota=np.full(-(-n // 4), quota), width=4)
        orders, costs, weights, codes, _ = eliminated(kernels, W, H, steps=steps, **limits)
        assert (codes == -9).all()
        for i in range(ROWS):
            _, order, cost = obs(W[i], H, steps, quota=quota, width=quota and 4)
            made = len(order)
            assert (orders[i, :made] == order).all() and (orders[i, made:] == -1).all()
            assert (costs[i, made:] == 0).all() and (weights[i, order] == 0).all()
            best, value = pruned_optimum(W[i], H, order)
            tolerance = 1e-12 * max(n, 4) * np.linalg.cond(H) / 10
            assert np.abs(weights[i] - best).max() <= tolerance
            assert np.abs(costs[i, :made] - cost).max(initial=0) <= tolerance * value
            assert abs(costs[i].sum() - value) <= 1e-12 * value


@BOTH
def test_a_group_is_its_members_one_by_one_in_any_order(kernels):
    n = 40
    W, H = np.random.default_rng(5).standard_normal((ROWS, n)), spd(n)
    mask = np.random.default_rng(6).random((ROWS, n)) < 0.5
    results = [
        eliminated(kernels, W, H, mask=mask, steps=mask.sum(axis=1), order=order)
        for order in (NONE, np.arange(n), np.arange(n)[::-1])
    ]
    for i in range(ROWS):
        S, X = np.flatnonzero(mask[i]), np.linalg.inv(H)
        group = np.linalg.solve(X[np.ix_(S, S)], W[i, S])
        delta = -X[:, S] @ group
        for orders, costs, weights, _, _ in results:
            assert set(orders[i, : S.size].tolist()) == set(S.tolist())
            assert np.abs(weights[i] - (W[i] + delta)).max() <= 1e-12
            assert abs(costs[i].sum() - W[i, S] @ group) <= 1e-12 * costs[i].sum()


@BOTH
def test_equal_costs_are_taken_from_the_lowest_column(kernels):
    n = 70  # more than a block: positions have moved by then
    W = np.tile(np.repeat([0.25, 0.5], n // 2), (2, 1))
    orders, costs, *_ = eliminated(kernels, W, np.eye(n), fill=0.0)
    assert (orders == np.arange(n)).all()
    assert (costs == np.square(W)).all()
    zero = eliminated(kernels, np.zeros((2, n)), spd(n))  # every cost is exactly 0
    assert (zero[0] == np.arange(n)).all() and not zero[1].any()


@BOTH
def test_outliers_come_by_the_size_of_their_error_whatever_their_cost(kernels):
    """Of clipped weights the largest |e| is next; of those inside the grid the least cost."""
    W = np.array([[0.1, 5.0, -3.0, 3.4, 0.3, 5.0]])
    H = np.diag([1.0, 100.0, 1.0, 1.0, 1.0, 1.0])
    grid = (np.ones((1, 1)), np.zeros((1, 1)), np.zeros(6, np.int32), 0.0, 3.0)
    # off by 2, 3, and 2; 3.4 is beyond the last level too, but by less than half a step
    orders, costs, _, codes, stats = eliminated(kernels, W, H, grid=grid, outliers=True)
    assert orders[0].tolist() == [2, 1, 5, 0, 4, 3]
    assert np.abs(costs[0] - [9, 400, 4, 0.01, 0.09, 0.16]).max() <= 1e-12
    assert codes[0].tolist() == [0, 3, 0, 3, 0, 3] and stats[0, 1] == 3
    plain = eliminated(kernels, W, H, grid=grid)
    assert plain[0][0].tolist() == [0, 4, 3, 5, 2, 1]
    free = (*grid[:3], -np.inf, np.inf)
    assert eliminated(kernels, W, H, grid=free, outliers=True)[4][0, 1] == 0


@BOTH
def test_a_row_alone_is_the_row_in_a_batch(kernels):
    n, rows = 65, 5
    W, H = np.random.default_rng(1).standard_normal((rows, n)), spd(n)
    grid = grid_of(rows, n)
    together = eliminated(kernels, W, H, grid=grid)
    for i in range(rows):
        own = (grid[0][i : i + 1], grid[1][i : i + 1], *grid[2:])
        alone = eliminated(kernels, W[i : i + 1], H, grid=own)
        for a, b in zip(alone, together, strict=True):
            assert a[0].tobytes() == b[i].tobytes()


@BOTH
def test_a_pivot_that_is_not_positive_is_reported(kernels):
    n = 5
    inverse = np.eye(n)
    inverse[2, 2] = -1.0
    W = np.ones((3, n))
    W[1, 2] = 10.0
    found = (
        np.full((3, n), -9, np.int32), np.zeros((3, n)), np.zeros((3, n)),
        np.zeros((3, n), np.int32), np.zeros((3, 3)),
    )  # fmt: skip
    grid = (np.empty((3, 0)), np.empty((3, 0)), np.zeros(n, np.int32), 0.0, 0.0)
    plan = (NONE, NO_MASK, np.array([0, n, n]), NONE, 1, False)
    work = np.empty(kernels.eliminate_space(n))
    assert kernels.eliminate_rows(W, inverse, grid, plan, work, found) == 1
    at = int(np.flatnonzero(found[0][1] >= 0)[-1])
    assert found[0][1, at] == 2 and found[1][1, at] == -1


def test_the_work_space_is_half_a_matrix_and_panels():
    for n in (1, 64, 768, 4096):
        assert CPU.eliminate_space(n) <= n * n / 2 + 256 * n + 8192
