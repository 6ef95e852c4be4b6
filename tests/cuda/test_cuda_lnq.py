"""LNQ on a device: each step against the host's, and the layers against those of the host."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import BackendMismatchError, InvalidArgumentError
from quiplinalg.grids.apply import round_to_grid
from quiplinalg.kernels.record import select
from quiplinalg.rounding.levels import (
    dense_feedback,
    fit_levels,
    kmeans_levels,
    round_to_levels,
)

DTYPES = (np.float32, np.float64)
CPU = select("cpu")


def there(cuda, *arrays):
    return [cuda.xp.asarray(a) for a in arrays]


def kernels_of(W):
    return select("cuda", W=W)


def start(p, dtype=np.float64, stored=np.float64, seed=0):
    """A layer, and levels and codes that were drawn."""
    rng = np.random.default_rng(seed)
    W = np.ascontiguousarray(p.W, dtype)
    levels = np.sort(rng.standard_normal((p.m, 1 << p.bits)) * np.std(W), axis=1)
    codes = rng.integers(0, 1 << p.bits, W.shape).astype(np.uint8)
    return W, p.H, ql.CodebookGrid(levels.astype(stored)), codes


def on_device(cuda, W, H, grid, codes):
    W, H, levels, codes = there(cuda, W, H, grid.levels, codes)
    return W, H, ql.CodebookGrid(levels), codes


# -- the grid -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("stored", (np.float16, *DTYPES))
def test_a_codebook_on_a_device_has_the_values_and_codes_of_the_hosts(cuda, bits, stored):
    rng = np.random.default_rng(bits)
    for m, n in ((1, 1), (3, 17), (5, 300), (0, 4), (3, 0)):
        levels = np.sort(rng.standard_normal((m, 1 << bits)), axis=1).astype(stored)
        levels[:, :1] = levels[:, 1:2]  # equal ones may repeat
        codes = rng.integers(0, 1 << bits, (m, n)).astype(np.uint8)
        host = ql.CodebookGrid(levels)
        device = ql.CodebookGrid(cuda.xp.asarray(levels))
        assert repr(device) == repr(host) and device.dtype == stored
        assert device.storage_bits(m, n) == host.storage_bits(m, n)
        for dtype in DTYPES:
            W = rng.standard_normal((m, n)).astype(dtype)
            W[:, ::3] = ((levels[:, :1].astype(float) + levels[:, 1:2]) / 2).astype(dtype)  # ties
            for grid in (device, host):  # of levels on the host too
                found = grid.nearest(cuda.xp.asarray(W))
                assert found.dtype == np.uint8 and np.array_equal(found.get(), host.nearest(W))
                values = grid.values(cuda.xp.asarray(codes), dtype)
                assert values.dtype == dtype
                assert np.array_equal(values.get(), host.values(codes, dtype))
            there_too = round_to_grid(cuda.xp.asarray(W), device, kernels_of(values))[0]
            assert np.array_equal(there_too.get(), found.get())
        for rows in (slice(1, 3), np.arange(m)[::2]):
            assert np.array_equal(device.of_rows(rows).levels.get(), levels[rows])


def test_rows_are_searched_in_parts_where_memory_is_short(cuda, monkeypatch):
    W, _, grid, _ = on_device(cuda, *start(make_problem(9, 5, 1, 3, "well")))
    expected = ql.CodebookGrid(grid.levels.get()).nearest(W.get())
    short = dataclasses.replace(kernels_of(W), free_bytes=lambda: 700)
    monkeypatch.setattr("quiplinalg.grids.codebook.select", lambda *_, **__: short)
    assert np.array_equal(grid.nearest(W).get(), expected)


def test_levels_of_a_device_are_checked_and_not_moved_to_the_host(cuda):
    for wrong in (np.ones((2, 3)), np.ones((2, 4), int), np.ones(4)):
        with pytest.raises(InvalidArgumentError, match="levels must be a floating array"):
            ql.CodebookGrid(cuda.xp.asarray(wrong))
    for wrong in ([[0.0, 1, 0, 2]], [[0.0, 1, 2, np.nan]], [[0.0, 1, 2, np.inf]]):
        with pytest.raises(InvalidArgumentError, match="levels must be finite, and ascend"):
            ql.CodebookGrid(cuda.xp.asarray(np.array(wrong)))
    grid = ql.CodebookGrid(cuda.xp.asarray(np.array([[0.0, 1, 2, 3]])))
    for call in (
        lambda: grid.values(np.zeros((1, 2), np.uint8), np.float64),
        lambda: grid.nearest(np.zeros((1, 2))),
    ):
        with pytest.raises(BackendMismatchError, match=r"levels must be in host.*levels\.get\(\)"):
            call()


# -- the steps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_k_means_has_the_levels_of_the_hosts(cuda, dtype):
    for n, bits in ((1, 1), (2, 3), (50, 2), (300, 4)):
        W = make_problem(7, n, 2, 2, "outlier", "heavy").W.astype(dtype)
        device = cuda.xp.asarray(W)
        expected = kmeans_levels(W, bits, CPU)
        for kernels in (
            kernels_of(device),
            dataclasses.replace(kernels_of(device), free_bytes=lambda: 4000),
        ):
            assert np.array_equal(kmeans_levels(device, bits, kernels).get(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "order"), ((1, "act"), (6, "natural"), (129, "act"), (258, "act")))
def test_feedback_rounds_each_target_to_the_nearest_level(cuda, n, order, dtype):
    """Of the codes' own past: the targets are sums in another order than on the host."""
    p = make_problem(5, n, n, 2, "outlier", "heavy")
    W, H, grid, _ = start(p, dtype)
    device, H_there, levels = there(cuda, W, H, grid.levels)
    kernels = kernels_of(device)
    ready = ql.prepare(H_there, order=order)
    U = dense_feedback(ready, np.dtype(dtype), kernels)
    host = ql.prepare(H, order=order)
    assert (ready.permutation == host.permutation).all()
    expected = dense_feedback(host, np.dtype(dtype), CPU)
    size = np.abs(expected).max(initial=1)
    np.testing.assert_allclose(U.get(), expected, rtol=1e-6, atol=1e-8 * size)
    codes = round_to_levels(device, U, ready.permutation, ql.CodebookGrid(levels), kernels)
    short = dataclasses.replace(kernels, free_bytes=lambda: 1)  # a row at a time
    again = round_to_levels(device, U, ready.permutation, ql.CodebookGrid(levels), short)
    for found in (codes.get(), again.get()):
        w = W[:, ready.permutation].astype(float)
        W_hat = grid.values(found, float)[:, ready.permutation]
        target = w + (w - W_hat) @ U.get().astype(float)
        best = np.abs(grid.levels[:, None, :] - target[:, :, None]).min(axis=2)
        scale = 1 + np.abs(target).max()
        slack = 400 * np.finfo(dtype).eps * scale
        assert (np.abs(W_hat - target) <= best + slack).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ("drawn", "uniform", "k-means", "both"))
@pytest.mark.parametrize("bits", (2, 3))
def test_turns_of_levels_and_codes_fall_as_on_the_host(cuda, kind, bits, dtype):
    p = make_problem(20, 40, 1, bits, "outlier", "heavy", dead=1)
    W, H, grid, codes = start(p, dtype, np.float32)
    rounded = ql.ldlq(W, H, bits)
    every = rounded.grid.scale * (np.arange(1 << bits) - rounded.grid.zero)
    uniform = ql.CodebookGrid(every), rounded.codes
    means = ql.CodebookGrid(kmeans_levels(W, bits, CPU).astype(np.float32))
    ready = ql.prepare(H)
    U = dense_feedback(ready, np.dtype(dtype), CPU)
    from_means = means, round_to_levels(W, U, ready.permutation, means, CPU)
    starts = {
        "drawn": [(grid, codes)],
        "uniform": [uniform],
        "k-means": [from_means],
        "both": [uniform, from_means],
    }[kind]
    moved = [on_device(cuda, W, H, *each)[2:] for each in starts]
    W_there, H_there = there(cuda, W, H)
    kernels = kernels_of(W_there)
    much, little, less = 1 << 40, 100_000, 1  # of memory: all rows at a time, some, one
    for rounds, free in ((0, much), (2, much), (2, little), (2, less), (20, much)):
        host = fit_levels(W, H, starts, rounds, CPU)
        some = dataclasses.replace(kernels, free_bytes=lambda free=free: free)
        same_fit(fit_levels(W_there, H_there, moved, rounds, some), host, W, H)
    for (_, left), (_, given) in zip(moved, starts, strict=True):
        assert np.array_equal(left.get(), given)


def same_fit(found, host, W, H):
    """Codes of nearly all rows, losses of all, and the levels where the codes are the same."""
    wide = W.dtype == np.float64
    codes, levels = found.codes.get(), found.grid.levels.get()
    assert levels.dtype == host.grid.dtype and codes.dtype == np.uint8
    same = (codes == host.codes).all(axis=1)
    assert same.all() if wide else same.mean() >= 0.8
    np.testing.assert_allclose(found.loss, host.loss, rtol=1e-11 if wide else 1e-4)
    assert (found.history >= 0).all()
    mine, theirs = (
        reference.row_losses(grid.values(q, float), W, H)
        for grid, q in ((ql.CodebookGrid(levels), codes), (host.grid, host.codes))
    )
    np.testing.assert_allclose(mine[same], theirs[same], rtol=1e-4)
    assert (mine <= 1.2 * theirs).all() and (theirs <= 1.2 * mine).all()
    own = found.loss - found.history.sum(axis=(0, 1))
    np.testing.assert_allclose(mine, own, atol=(1e-9 if wide else 1e-4) * found.loss.max())
    if same.all():
        assert found.rounds == host.rounds and found.changed == host.changed
        falls = host.loss[:, None, None] - np.cumsum(host.history.T, axis=2)
        assert found.history.shape == host.history.shape
        others = found.loss[:, None, None] - np.cumsum(found.history.T, axis=2)
        np.testing.assert_allclose(others, falls, atol=1e-4 * host.loss.max())


@pytest.mark.parametrize("exponent", (-80, 0, 80))
def test_h_is_scaled_as_on_the_host(cuda, exponent):
    p = make_problem(6, 20, 5, 2, "outlier", "heavy")
    W, H, *first = start(p, np.float32)
    H = H * 2.0**exponent
    host = fit_levels(W, H, [first], 2, CPU)
    W_there, H_there, *moved = on_device(cuda, W, H, *first)
    same_fit(fit_levels(W_there, H_there, [moved], 2, kernels_of(W_there)), host, W, H)


# -- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bits", (2, 3))
def test_layers_have_the_codes_and_losses_of_the_hosts(cuda, bits, dtype):
    p = make_problem(30, 48, bits, bits, "outlier", "heavy", dead=1)
    W = p.W.astype(dtype)
    W_there, H_there = there(cuda, W, p.H)
    for stored in ("float16", "float32"):
        host = ql.lnq(W, p.H, bits, level_dtype=stored)
        q = ql.lnq(W_there, H_there, bits, level_dtype=stored)
        codes, levels = q.codes.get(), q.grid.levels.get()
        same = (codes == host.codes).all(axis=1)
        assert same.mean() >= 0.8 and q.loss == pytest.approx(host.loss, rel=0.02)
        off = np.abs(levels[same].astype(float) - host.grid.levels[same])
        assert (off <= 2e-3 * np.abs(levels[same]).max(axis=1, keepdims=True)).all()
        assert q.loss == pytest.approx(ql.proxy_loss(q, W_there, H_there), rel=1e-6)
        assert (q.method, q.refit, q.precision) == ("lnq", "levels", np.dtype(dtype).name)
        assert q.bits_per_weight == host.bits_per_weight and "lnq" in repr(q)
        W_hat = q.dequantize()
        assert type(W_hat) is cuda.xp.ndarray and W_hat.dtype == dtype
        there_loss, here_loss = q.nearest_loss(W_there, H_there), q.to_host().nearest_loss(W, p.H)
        assert there_loss == pytest.approx(here_loss)
        assert ql.verify(W, p.H, q.to_host()).ok
        assert np.array_equal(q.to_host().dequantize(), W_hat.get())
        assert np.array_equal(q.of_rows(slice(2, 5)).values().get(), W_hat.get()[2:5])


def test_host_arrays_that_are_rounded_on_a_device_give_host_arrays(cuda):
    p = make_problem(9, 24, 3, 2, "outlier", "heavy")
    for dtype in (np.float16, *DTYPES):
        W = p.W.astype(dtype)
        q = ql.lnq(W, p.H, backend="cuda")
        assert type(q.codes) is type(q.grid.levels) is np.ndarray
        assert q.dequantize().dtype == dtype and type(q.dequantize()) is np.ndarray
        W_there, H_there = there(cuda, W, p.H)
        for H in (H_there, ql.prepare(H_there)):
            other = ql.lnq(W_there, H)
            assert np.array_equal(other.codes.get(), q.codes) and other.loss == q.loss
            assert np.array_equal(other.grid.levels.get(), q.grid.levels)
    prepared = ql.lnq(W, ql.prepare(p.H, backend="cuda"), backend="cuda")
    assert np.array_equal(prepared.codes, q.codes) and type(prepared.codes) is np.ndarray
    listed = ql.lnq(W.tolist(), p.H.tolist(), backend="cuda")
    assert np.array_equal(listed.codes, q.codes)


def test_a_layer_on_another_device_stays_there(cuda):
    p = make_problem(6, 8, 1, 2, "outlier", "heavy")
    with cuda.xp.cuda.Device(1):
        W, H = there(cuda, p.W, p.H)
    q = ql.lnq(W, H)
    for array in (q.codes, q.grid.levels, q.values(), q.of_rows(slice(2)).codes, q.dequantize()):
        assert array.device.id == 1
    assert q.nearest_loss(W, H) > q.loss and repr(q) == repr(q.to_host())
    assert repr(ql.ldlq(W, H)) == repr(ql.ldlq(p.W, p.H))
    with pytest.raises(BackendMismatchError, match="W and H must be in one place"):
        ql.lnq(W, cuda.xp.asarray(p.H))


def test_zeros_and_empty_layers(cuda):
    for shape in ((0, 4), (3, 0), (0, 0)):
        q = ql.lnq(*there(cuda, np.zeros(shape), np.eye(shape[1])))
        assert q.shape == shape and q.loss == 0 and type(q.codes) is cuda.xp.ndarray
    flat = ql.lnq(*there(cuda, np.zeros((3, 5)), np.eye(5)))
    assert flat.loss == 0 and not flat.values().get().any()


def test_what_is_wrong(cuda):
    p = make_problem(6, 12, 6, 2, "outlier", "heavy")
    W, H = there(cuda, p.W, p.H)
    for factor in (1e-9, 1e9):
        with pytest.raises(InvalidArgumentError, match="Pass level_dtype='float32'"):
            ql.lnq(W * factor, H)
        assert ql.lnq(W * factor, H, level_dtype="float32").loss < ql.ldlq(W * factor, H, 2).loss
    for match, call in (
        (r"W must be a matrix", lambda: ql.lnq(W[None], H)),
        (r"bits must be", lambda: ql.lnq(W, H, 9)),
        (r"rounds must be", lambda: ql.lnq(W, H, rounds=-1)),
        (r"backend must be.*'cpu'", lambda: ql.lnq(p.W, ql.prepare(p.H), backend="cuda")),
        (r"order must be", lambda: ql.lnq(W, ql.prepare(H), order="natural")),
        (r"H must be \(n, n\)", lambda: ql.lnq(W[:, :5], H)),
        (r"zeros for descent", lambda: ql.descend(W, H, ql.lnq(W, H))),
    ):
        with pytest.raises(InvalidArgumentError, match=match):
            call()
    spoiled = W.copy()
    spoiled[2, 3] = np.nan
    with pytest.raises(ql.NonFiniteError, match=r"W\[2, 3\]"):
        ql.lnq(spoiled, H)
    for mixed in ((p.W, ql.prepare(H)), (W, ql.prepare(p.H))):
        with pytest.raises(InvalidArgumentError, match="backend must be that of the prepared H"):
            ql.lnq(*mixed)
    for mixed in ((p.W, H), (W, p.H)):
        with pytest.raises(BackendMismatchError, match="W and H must be in one place"):
            ql.lnq(*mixed)
