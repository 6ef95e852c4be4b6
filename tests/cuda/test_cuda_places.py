"""Arrays in any strides and on any device: a device other than the current one, or a mixture."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql
from quiplinalg.errors import BackendMismatchError, InvalidArgumentError
from quiplinalg.grids.apply import dequantize, round_to_grid
from quiplinalg.kernels.record import select

P = make_problem(6, 8, 1, 3, "outlier", "heavy")
W, H = P.W.astype(np.float32), P.H
RNG = np.random.default_rng(0)
SCALE = RNG.uniform(0.3, 0.9, (6, 2)).astype(np.float32)
ZERO = RNG.integers(0, 3, (6, 2)).astype(np.float32)
GROUPS = np.arange(8) // 4
LEVELS = np.sort(RNG.standard_normal((6, 4)).astype(np.float32), axis=1)
CODES = RNG.integers(0, 4, (6, 8)).astype(np.uint8)
LAYOUTS = ("C", "F", "steps", "backwards", "one for all rows")


def laid_out(xp, a, layout):
    """Return an array on the device in some strides, and what it holds."""
    if layout == "F":
        return xp.asarray(np.ascontiguousarray(a.T)).T, a
    if layout == "steps":
        wide = np.repeat(np.repeat(a, 2, axis=0), 3, axis=1)
        return xp.asarray(wide)[::2, ::3], a
    if layout == "backwards":
        return xp.asarray(np.ascontiguousarray(a[::-1, ::-1]))[::-1, ::-1], a
    if layout == "one for all rows":
        return xp.broadcast_to(xp.asarray(a[:1]), a.shape), np.broadcast_to(a[:1], a.shape).copy()
    return xp.asarray(a), a


@pytest.fixture
def elsewhere(cuda):
    """Give W and H on device 1, where 0 is the current one."""
    with cuda.xp.cuda.Device(1):
        return cuda.xp.asarray(W), cuda.xp.asarray(H)


# -- strides --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("bits", (2, None))
def test_uniform_grids_in_any_strides(cuda, layout, bits):
    scale, own_scale = laid_out(cuda.xp, SCALE, layout)
    zero, own_zero = laid_out(cuda.xp, ZERO, layout)
    codes, own_codes = laid_out(cuda.xp, CODES, layout)
    weight, own_weight = laid_out(cuda.xp, W, layout)
    grid = ql.UniformGrid(scale, zero, bits, GROUPS)
    host = ql.UniformGrid(own_scale, own_zero, bits, GROUPS)
    for dtype in (np.float32, np.float64):
        found = dequantize(codes, grid, np.dtype(dtype))
        assert np.array_equal(found.get(), dequantize(own_codes, host, np.dtype(dtype)))
        rounded = round_to_grid(weight.astype(dtype), grid, select("cuda", W=weight))
        wanted = round_to_grid(own_weight.astype(dtype), host, select("cpu"))
        assert np.array_equal(rounded[0].get(), wanted[0]) and rounded[1:] == wanted[1:]
    of_host = dequantize(codes, host, np.dtype(np.float32))  # a grid that is uploaded
    assert np.array_equal(of_host.get(), dequantize(own_codes, host, np.dtype(np.float32)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codebooks_in_any_strides(cuda, layout):
    levels, own_levels = laid_out(cuda.xp, LEVELS, layout)
    codes, own_codes = laid_out(cuda.xp, CODES, layout)
    weight, own_weight = laid_out(cuda.xp, W, layout)
    if layout == "backwards":  # of the rows only: levels ascend
        levels, own_levels = cuda.xp.asarray(LEVELS)[::-1], LEVELS[::-1]
    grid, host = ql.CodebookGrid(levels), ql.CodebookGrid(own_levels)
    assert np.array_equal(grid.nearest(weight).get(), host.nearest(own_weight))
    for dtype in (np.float16, np.float32, np.float64):
        found = grid.values(codes, dtype)
        assert found.dtype == dtype and np.array_equal(found.get(), host.values(own_codes, dtype))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_codes_in_any_strides_are_packed(cuda, layout):
    for bits in (2, 3, 8):
        codes, own = laid_out(cuda.xp, CODES, layout)
        assert np.array_equal(ql.pack(codes, bits).get(), ql.pack(own, bits))
        packed, own = laid_out(cuda.xp, ql.pack(CODES, bits), layout)
        assert np.array_equal(ql.unpack(packed, bits, 8).get(), ql.unpack(own, bits, 8))


@pytest.mark.parametrize("m", (1, 3))
def test_slices_of_stacks_and_rows_of_layers(cuda, m):
    weights = RNG.standard_normal((5, m, 8)).astype(np.float32)
    there = cuda.xp.asarray(weights), cuda.xp.asarray(H)
    one = ql.UniformGrid(np.full((1, 1), 0.5, np.float32), np.ones((1, 1), np.float32), 2)
    for keywords in ({}, {"grid": one}, {"group_size": 4, "static_groups": True}):
        stack = ql.ldlq(*there, **keywords)
        host = stack.to_host()
        for part in (slice(None), slice(None, None, 2), slice(None, None, -1), slice(1, 4)):
            found, wanted = stack[part], host[part]
            assert np.array_equal(found.dequantize().get(), wanted.dequantize())
            for q, other in zip(found, wanted, strict=True):
                assert np.array_equal(q.dequantize().get(), other.dequantize())
                assert q.bits_per_weight == other.bits_per_weight
    for q in (ql.ldlq(cuda.xp.asarray(W), there[1]), ql.lnq(cuda.xp.asarray(W), there[1])):
        for rows in (slice(None, None, 2), slice(None, None, -1), np.array([3, 0])):
            found = q.of_rows(rows)
            assert np.array_equal(found.dequantize().get(), found.to_host().dequantize())
            assert np.array_equal(found.dequantize().get(), q.dequantize().get()[rows])


# -- devices --------------------------------------------------------------------------------------


def same(found, wanted):
    if type(found).__name__ == "ndarray":
        return np.array_equal(found.get() if hasattr(found, "get") else found, wanted)
    return found == wanted


OF_RESULTS = {
    "values": lambda q: q.values(np.float16),
    "dequantize": lambda q: q.dequantize(),
    "bits_per_weight": lambda q: q.bits_per_weight,
    "repr": repr,
    "rows": lambda q: q.of_rows(np.array([3, 0])).values(),
    "nearest_loss": None,
}


@pytest.mark.parametrize("name", OF_RESULTS)
def test_results_on_another_device(cuda, elsewhere, name):
    for q in (
        ql.ldlq(*elsewhere),
        ql.lnq(*elsewhere),
        ql.ldlq(elsewhere[0][None], elsewhere[1])[0],
    ):
        call = OF_RESULTS[name] or (lambda q: q.nearest_loss(*elsewhere))
        found = call(q)
        with cuda.xp.cuda.Device(1):
            there = call(q)
        assert same(found, there.get() if hasattr(there, "get") else there)
        assert not hasattr(found, "device") or found.device.id == 1
        assert cuda.xp.cuda.Device().id == 0


def test_stacks_on_another_device(cuda, elsewhere):
    stack = ql.ldlq(elsewhere[0][None], elsewhere[1])
    host = stack.to_host()
    assert repr(stack) == repr(host) and stack.bits_per_weight == host.bits_per_weight
    assert np.array_equal(stack.values(np.float16).get(), host.values(np.float16))
    for q in (stack[0], stack[:1][-1], *stack):
        assert q.codes.device.id == q.grid.scale.device.id == q.dequantize().device.id == 1
        assert np.array_equal(q.dequantize().get(), host[0].dequantize())


@pytest.mark.parametrize("factor", (ql.cholesky, ql.ldl, ql.udu))
def test_factors_on_another_device(cuda, elsewhere, factor):
    found = factor(elsewhere[1])
    again = found.reconstruct()
    assert again.device.id == 1 and cuda.xp.cuda.Device().id == 0
    np.testing.assert_allclose(again.get(), H, atol=1e-12 * np.abs(H).max())


def test_grids_made_on_another_device(cuda, elsewhere):
    with cuda.xp.cuda.Device(1):
        scale, zero, levels = (cuda.xp.asarray(a) for a in (SCALE, ZERO, LEVELS))
    grid, book = ql.UniformGrid(scale, zero, 2, GROUPS), ql.CodebookGrid(levels)
    assert grid.of_rows(np.array([3, 0])).scale.device.id == 1
    assert book.of_rows(np.array([3, 0])).levels.device.id == 1
    host = ql.UniformGrid(SCALE, ZERO, 2, GROUPS)
    assert grid.storage_bits(6, 8) == host.storage_bits(6, 8)
    q = ql.ldlq(*elsewhere, grid=grid)
    assert np.array_equal(q.codes.get(), ql.ldlq(W, H, grid=host).codes)
    with pytest.raises(InvalidArgumentError, match="scale must be positive"):
        ql.UniformGrid(zero, zero, 2, GROUPS)


@pytest.mark.parametrize("name", ("gptq", "ldlq", "nearest", "obq", "stack"))
def test_a_grid_on_another_device_than_the_weights(cuda, elsewhere, name):
    weight, hessian = cuda.xp.asarray(W), cuda.xp.asarray(H)
    grid = ql.mse_grid(elsewhere[0], 2)
    with pytest.raises(BackendMismatchError, match=r"grid must be .* device 0, as W is; got .* 1"):
        if name == "stack":
            ql.ldlq(weight[None], hessian, grid=grid)
        else:
            getattr(ql, name)(weight, hessian, grid=grid)
    with cuda.xp.cuda.Device(0):  # what the message says
        moved = ql.UniformGrid(grid.scale.copy(), grid.zero.copy(), 2)
    assert moved.scale.device.id == 0 and ql.nearest(weight, grid=moved).shape == W.shape


def test_codes_and_grids_on_two_devices(cuda, elsewhere):
    weight, hessian = cuda.xp.asarray(W), cuda.xp.asarray(H)
    for method in (ql.ldlq, ql.lnq):
        q, other = method(weight, hessian), method(*elsewhere)
        mixed = dataclasses.replace(q, grid=other.grid)
        for call, what in (
            (mixed.dequantize, "codes are"),
            (lambda mixed=mixed: mixed.nearest_loss(weight, hessian), "W is"),
            (lambda mixed=mixed: ql.proxy_loss(mixed, weight, hessian), "codes are"),
        ):
            with pytest.raises(BackendMismatchError, match=f"grid must be .* as {what}; got"):
                call()
    first, second = (ql.ldlq(*pair).grid for pair in ((weight, hessian), elsewhere))
    with pytest.raises(BackendMismatchError, match="scale and zero must be in one place"):
        ql.UniformGrid(first.scale, second.zero, 2)


def test_the_stand_in_moves_what_cupy_moves(cuda):
    """asarray and copy fetch arrays from another device; ascontiguousarray does not."""
    xp = cuda.xp
    with xp.cuda.Device(1):
        a = xp.asarray(SCALE)
    assert xp.asarray(a).device.id == a.copy().device.id == 0 and a.device.id == 1
    assert xp.ascontiguousarray(a) is a
    with pytest.raises(ValueError, match="must be same as the current device"):
        xp.ascontiguousarray(a, np.float64)
    with pytest.raises(TypeError, match="incorrect type"):
        xp.ascontiguousarray(SCALE)
    one = xp.broadcast_to(xp.asarray(SCALE[:1, :1]), (3, 1))
    assert one.strides[0] == 0 and not one.flags.c_contiguous
    assert xp.ascontiguousarray(one).strides == (4, 4)
