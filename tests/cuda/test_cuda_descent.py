"""Coordinate descent on a device: the bits of the CPU's kernels, and the codes of its driver."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.kernels.cuda import descent
from quiplinalg.kernels.record import select
from quiplinalg.rounding.descent_device import descend_codes_on_device
from quiplinalg.rounding.descent_driver import descend_codes

CPU = select("cpu")
DTYPES = (np.float32, np.float64)
SIZES = (*range(18), 31, 32, 33, 65, 130, 257)
ROWS = (1, 2, 3, 4, 5, 33, 130)
WIDE = 257, 130  # columns more than a window of a pass, rows more than a tile of a product


def few(n):
    """Some numbers of rows: every one of them for some n, and a large one where n is small."""
    return {ROWS[n % 5], *((33, 130) if n in (5, 16, 33) else ())}


def layer(n, m, dtype, groups=2, code=np.uint8):
    rng = np.random.default_rng(n)
    low, high = (-20, 20) if code == np.int32 else (0, 4)
    W = rng.standard_normal((m, n)).astype(dtype)
    codes = rng.integers(low, high, (m, n)).astype(code)
    scale = rng.uniform(0.3, 0.8, (m, groups)).astype(dtype)
    zero = (rng.integers(0, 4, (m, groups)) + 0.5).astype(dtype)
    group = rng.integers(0, groups, n).astype(np.int32)
    return W, codes, scale, zero, group


def spd(n, dtype, dead=True):
    X = np.random.default_rng(n).standard_normal((n + 5, n))
    H = X.T @ X / (n + 5)
    if dead and n > 2:
        H[1] = H[:, 1] = 0
    return ((H + H.T) / 2).astype(dtype)


def cpu_residual(E, H):
    """G of the CPU's kernels, and its loss."""
    (m, n), steps = E.shape, 12
    lanes = CPU.lanes(E.dtype)
    panels, tiles = -(-n // 4), -(-m // lanes)
    P = np.zeros((-(-panels * 4 // steps), panels, steps, 4), E.dtype)
    CPU.pack_square(H, P, 0, panels)
    flat = np.zeros((tiles * lanes, panels * 4), E.dtype)
    flat[:m, :n] = E
    Z = np.ascontiguousarray(flat.reshape(tiles, lanes, -1).transpose(0, 2, 1))
    G, loss = np.empty((m, n), E.dtype), np.zeros((tiles, lanes))
    CPU.residual(Z, P, np.empty((tiles, 16, lanes), E.dtype), G, loss)
    return G, loss.reshape(-1)[:m]


@pytest.mark.parametrize("n", SIZES)
def test_errors_are_the_cpus(cuda, n):
    xp = cuda.xp
    for dtype in DTYPES:
        for m in few(n):
            for groups, code in ((1, np.uint8), (3, np.uint8), (2, np.int32)):
                W, codes, scale, zero, group = layer(n, m, dtype, groups, code)
                E = xp.empty((m, n), dtype)
                there = (xp.asarray(a) for a in (W, codes, scale, zero, group))
                descent.errors(*there, E)
                expected = scale[:, group] * (codes.astype(dtype) - zero[:, group]) - W
                assert np.array_equal(E.get(), expected)


def test_errors_of_more_rows_than_blocks(cuda, monkeypatch):
    monkeypatch.setattr(descent, "_MOST", 7)
    W, codes, scale, zero, group = layer(1100, 20, np.float32)
    E = cuda.xp.empty(W.shape, np.float32)
    descent.errors(*(cuda.xp.asarray(a) for a in (W, codes, scale, zero, group)), E)
    assert np.array_equal(E.get(), scale[:, group] * (codes - zero[:, group]) - W)


@pytest.mark.parametrize("n", SIZES)
def test_residual_has_the_bits_of_the_cpus(cuda, n):
    rng = np.random.default_rng(n)
    for dtype in DTYPES:
        for m in few(n):
            E, H = rng.standard_normal((m, n)).astype(dtype), spd(n, dtype)
            G, loss = cuda.xp.empty((m, n), dtype), cuda.xp.empty(m, np.float64)
            descent.residual(cuda.xp.asarray(E), cuda.xp.asarray(H), G, loss)
            expected, cpu_loss = cpu_residual(E, H) if n else (E, np.zeros(m))
            assert np.array_equal(G.get(), expected)
            # products and n sums in float64, each rounded
            size = (np.abs(E).astype(float) * np.abs(expected)).sum(axis=1)
            bound = (n + 2) * np.finfo(float).eps * size
            assert (np.abs(loss.get() - cpu_loss) <= bound).all()


@pytest.mark.parametrize("order", ("reverse", 7))
@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_of_several_tiles_in_any_order_of_threads(cuda, dtype, order):
    (n, m), rng = WIDE, np.random.default_rng(1)
    for columns in (n, n - 1):  # 256 is whole vectors, 257 is not
        E, H = rng.standard_normal((m, columns)).astype(dtype), spd(columns, dtype)
        G, loss = cuda.xp.empty((m, columns), dtype), cuda.xp.empty(m, np.float64)
        with cuda.order(order):
            descent.residual(cuda.xp.asarray(E), cuda.xp.asarray(H), G, loss)
        again = cuda.xp.empty(m, np.float64)
        descent.residual(cuda.xp.asarray(E), cuda.xp.asarray(H), G, again)
        assert np.array_equal(G.get(), cpu_residual(E, H)[0])
        assert np.array_equal(loss.get(), again.get())


def test_residual_of_arrays_that_no_vector_starts_at(cuda):
    E, H = np.ones((3, 8), np.float32), spd(8, np.float32)
    held = [cuda.xp.zeros(a.size + 1, np.float32) for a in (E, H, E)]
    E_there, H_there, G = (
        a[1:].reshape(shape) for a, shape in zip(held, (E.shape, H.shape, E.shape), strict=True)
    )
    E_there[...], H_there[...] = cuda.xp.asarray(E), cuda.xp.asarray(H)
    descent.residual(E_there, H_there, G, cuda.xp.empty(3, np.float64))
    assert np.array_equal(G.get(), cpu_residual(E, H)[0])


def passes(cuda, n, m, dtype, groups, rows, code=np.uint8):
    """One pass by the CPU and one by the device: codes, G, gain, changed, ties of each."""
    W, codes, scale, zero, group = layer(n, m, dtype, groups, code)
    H = spd(n, dtype)
    G = ((scale[:, group] * (codes.astype(dtype) - zero[:, group]) - W) @ H).astype(dtype)
    bound = np.where(H.diagonal() > 0, H.diagonal() * dtype(0.5), np.inf).astype(dtype)
    ends = (0.0, 3.0) if code == np.uint8 else (-(2.0**31 - 1), 2.0**31 - 1)
    limits = (*ends, 0.02, 16 * float(np.finfo(dtype).eps))  # a tolerance that meets some ties
    found = np.full(m, -1.0), np.full(m, -1), np.zeros(m, bool)
    xp = cuda.xp
    there = [xp.asarray(a) for a in (G, codes, H, scale, group, bound, *found)]
    CPU.descend(G, codes, H, (scale, group, bound, *limits), rows, 512, found)
    g, q, h, s, o, b, *device_found = there
    descent.descend(g, q, h, (s, o, b, *limits), xp.asarray(rows, np.int32), tuple(device_found))
    return (codes, G, *found), [a.get() for a in (q, g, *device_found)]


@pytest.mark.parametrize("resident", (True, False), ids=("shared", "global"))
@pytest.mark.parametrize("n", SIZES)
def test_a_pass_has_the_bits_of_the_cpus(cuda, monkeypatch, n, resident):
    if not resident:
        monkeypatch.setattr(descent, "resident_bytes", lambda: -1)
    tied = 0
    for dtype in DTYPES:
        for m in few(n):
            rows = np.unique(np.random.default_rng(m).integers(0, m, m))
            for groups, code in ((1, np.uint8), (3, np.int32)):
                cpu, device = passes(cuda, n, m, dtype, groups, rows, code)
                for ours, theirs in zip(device, cpu, strict=True):
                    assert np.array_equal(ours, theirs)
                tied += int(cpu[4].sum())
    assert tied or n < 30


@pytest.mark.parametrize("order", ("reverse", 5, 6))
def test_a_pass_in_any_order_of_threads(cuda, order):
    with cuda.order(order):
        for n in (33, 257, 300):
            cpu, device = passes(cuda, n, 4, np.float32, 1, np.arange(4))
            assert all(np.array_equal(a, b) for a, b in zip(device, cpu, strict=True))
            assert cpu[3].sum() > n  # several changes in a window


def test_a_pass_of_no_rows_does_nothing(cuda):
    cpu, device = passes(cuda, 9, 3, np.float32, 1, np.arange(0))
    assert all(np.array_equal(a, b) for a, b in zip(device, cpu, strict=True))


# -- the driver ----------------------------------------------------------------------------------


def device_kernels(cuda):
    return SimpleNamespace(
        xp=cuda.xp, errors=descent.errors, residual=descent.residual, descend=descent.descend
    )


def descended(cuda, W, H, codes, grid, most):
    """Both drivers: the same codes and numbers; the loss before is summed in another order."""
    cpu = descend_codes(W, H, codes, grid, most, CPU)
    xp = cuda.xp
    there = dataclasses.replace(grid, scale=xp.asarray(grid.scale), zero=xp.asarray(grid.zero))
    arrays = xp.asarray(W), xp.asarray(H), xp.asarray(codes)
    device = descend_codes_on_device(*arrays, there, most, device_kernels(cuda))
    assert np.array_equal(arrays[2].get(), codes)
    assert np.array_equal(device.codes.get(), cpu.codes) and device.codes.dtype == cpu.codes.dtype
    assert np.array_equal(device.ties, cpu.ties)
    assert (device.passes, device.changed) == (cpu.passes, cpu.changed)
    assert np.array_equal(device.decrease, cpu.decrease) and device.history == cpu.history
    e = np.abs(grid.scale[:, grid.columns(W.shape[1])] * 4.0) + np.abs(W)
    size = np.einsum("ij,jk,ik->i", e, np.abs(H), e, dtype=np.float64)
    assert (np.abs(device.loss - cpu.loss) <= 1e-12 * (size + cpu.loss)).all()
    return cpu


@pytest.mark.parametrize("n", SIZES)
def test_the_drivers_give_the_same_codes(cuda, n):
    for m in {0, *few(n)} if n < 66 else (3,):
        for dtype, groups, shared in ((np.float32, 1, True), (np.float64, 3, False)):
            W, codes, scale, zero, group = layer(n, m, dtype, groups)
            if shared:
                scale, zero = np.full((1, 1), 0.5, dtype), np.full((1, 1), 1.5, dtype)
            grid = ql.UniformGrid(scale, zero, 2, None if groups == 1 else group)
            cpu = descended(cuda, W, spd(n, dtype), codes, grid, 50)
            assert cpu.changed == 0 and (cpu.passes > 1 or n < 5 or not m)


@pytest.mark.parametrize("most", (0, 1, 2))
def test_the_drivers_stop_together(cuda, most):
    W, codes, scale, zero, group = layer(40, 5, np.float32)
    grid = ql.UniformGrid(scale.astype(np.float16), zero.astype(np.float16), 2, group)
    assert descended(cuda, W, spd(40, np.float32), codes, grid, most).passes == most


@pytest.mark.parametrize("exponent", (-80, -61, 0, 61, 80))
@pytest.mark.parametrize("kinds", ((np.float32, np.float32), (np.float32, np.float64)))
def test_the_drivers_scale_h_alike(cuda, exponent, kinds):
    """A diagonal beyond 2**-60 .. 2**60, or H in another precision than W."""
    W, codes, scale, zero, group = layer(20, 4, kinds[0])
    H = spd(20, kinds[1]) * kinds[1](2.0**exponent)
    descended(cuda, W, H, codes, ql.UniformGrid(scale, zero, 2, group), 9)


def test_the_drivers_agree_on_an_unbounded_grid(cuda):
    W, codes, scale, zero, group = layer(30, 4, np.float64, code=np.int32)
    descended(cuda, W, spd(30, np.float64), codes, ql.UniformGrid(scale, zero, None, group), 50)
