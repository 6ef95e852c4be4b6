"""What grids, rotations, packing and stacks are given on a device: taken, or refused in words."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from fake_frameworks import torch_module
from strategies import make_problem

import quiplinalg as ql
from quiplinalg.errors import BackendMismatchError, DTypeError, InvalidArgumentError

P = make_problem(6, 8, 1, 3, "outlier", "heavy")
W, H = P.W.astype(np.float32), P.H
RNG = np.random.default_rng(0)
SCALE = RNG.uniform(0.3, 0.9, (6, 2)).astype(np.float32)
ZERO = RNG.integers(0, 3, (6, 2)).astype(np.float32)
GROUPS = np.arange(8) // 4
LEVELS = np.sort(RNG.standard_normal((6, 4)).astype(np.float32), axis=1)
CODES = RNG.integers(0, 4, (6, 8)).astype(np.uint8)
ONE = np.ones((1, 1), np.float32)


def test_grids_keep_arrays_of_any_framework(cuda, monkeypatch):
    hessian = cuda.xp.asarray(H)
    listed = ql.UniformGrid(SCALE.tolist(), ZERO.astype(int).tolist(), np.int64(2), GROUPS.tolist())
    assert listed.dtype == listed.zero.dtype == np.float64 and type(listed.bits) is int
    assert listed.group_index.dtype == np.int32
    ours = ql.UniformGrid(SCALE.astype(float), ZERO.astype(float), 2, GROUPS)
    for weight, second in ((W, H), (cuda.xp.asarray(W), hessian)):
        q, other = (ql.ldlq(weight, second, grid=g).to_host() for g in (listed, ours))
        assert np.array_equal(q.codes, other.codes)
        assert np.array_equal(q.dequantize(), other.dequantize())
    assert ql.UniformGrid(SCALE.astype(">f4"), ZERO, 2, GROUPS).scale.dtype.isnative
    assert type(ql.CodebookGrid(LEVELS.tolist()).levels) is np.ndarray
    torch = torch_module(cuda.xp)
    monkeypatch.setitem(sys.modules, "torch", torch)
    scale, zero, levels = (torch.Tensor(cuda.xp.asarray(a)) for a in (SCALE, ZERO, LEVELS))
    grid = ql.UniformGrid(scale, zero, 2, GROUPS)
    assert type(grid.scale) is type(grid.zero) is cuda.xp.ndarray
    assert type(ql.CodebookGrid(levels).levels) is cuda.xp.ndarray


@pytest.mark.parametrize("on_device", (False, True))
def test_what_no_grid_is_made_of(cuda, on_device):
    def there(a):
        return cuda.xp.asarray(a) if on_device and a.dtype != np.longdouble else a

    one, pair = there(ONE), there(np.ones((1, 2), np.float32))
    for arguments, error, match in (
        ((there(ONE.astype(int)), one, 2), InvalidArgumentError, "scale must be .* float64; got"),
        ((one, there(ONE.astype(complex)), 2), DTypeError, "zero must hold real numbers"),
        ((there(ONE[0]), there(ONE[0]), 2), InvalidArgumentError, r"scale\[:, None\]"),
        ((one, one, "2"), InvalidArgumentError, "bits must be a whole number .* bits='2'"),
        ((one, one, 2.5), InvalidArgumentError, "bits must be a whole number .* bits=2.5"),
        ((one, one, True), InvalidArgumentError, "bits must be a whole number .* bits=True"),
        ((pair, pair, 2, np.arange(4) / 4), InvalidArgumentError, "whole numbers from 0 to 1"),
        ((pair, pair, 2, [0, 2]), InvalidArgumentError, "whole numbers from 0 to 1"),
        ((None, None, 2), DTypeError, "scale must be an array"),
    ):
        with pytest.raises(error, match=match):
            ql.UniformGrid(*arguments)
    long = ONE.astype(np.longdouble)
    if long.dtype.itemsize > 8:
        with pytest.raises(InvalidArgumentError, match=r"float64; got .* Use scale\.astype"):
            ql.UniformGrid(long, long, 2)
        with pytest.raises(InvalidArgumentError, match=r"levels must .* Use levels\.astype"):
            ql.CodebookGrid(np.repeat(long, 2, axis=1))
    with pytest.raises(DTypeError, match="levels must hold real numbers"):
        ql.CodebookGrid(there(np.zeros((1, 2), complex)))


def test_rotations_with_scales_and_dtypes_they_do_not_take(cuda):
    scales = np.linspace(1, 2, 8)
    for V in (ql.hadamard_orthogonal(8, 0), ql.kronecker_orthogonal(8, 1)):
        for there in (lambda a: a, cuda.xp.asarray):
            for call in (
                lambda s, V=V, t=there: V.apply(t(W), scales=s),
                lambda s, V=V, t=there: V.apply_transposed(t(W), scales=s),
                lambda s, V=V, t=there: V.conjugate(t(H), scales=s),
            ):
                with pytest.raises(BackendMismatchError, match=r"scales .*asnumpy\(scales\)"):
                    call(cuda.xp.asarray(scales))
                with pytest.raises(DTypeError, match="scales must hold real numbers"):
                    call(scales.astype(complex))
                with pytest.raises(InvalidArgumentError, match="scales must be"):
                    call(scales[:3])
                call(scales.tolist())
            for dtype in (np.float16, "x", int, np.complex128):
                with pytest.raises(DTypeError, match="dtype must be float32 or float64"):
                    V.conjugate(there(H), dtype=dtype)


def test_what_is_not_packed(cuda):
    for there in (lambda a: a, cuda.xp.asarray):
        packed = ql.pack(there(CODES), 2)
        for n in ("5", None, 8.0, True, -1, cuda.xp.asarray(8)):
            with pytest.raises(InvalidArgumentError, match="n must be a whole number"):
                ql.unpack(packed, 2, n)
        assert ql.unpack(packed, 2, np.int64(8)).shape == CODES.shape
        with pytest.raises(DTypeError, match=r"each member: pack\(stack\[i\]\.codes, bits\)"):
            ql.pack(there(CODES[None]), 2)
        with pytest.raises(DTypeError, match=r"reshape\(1, -1\)"):
            ql.pack(there(CODES[0]), 2)


def test_losses_in_the_precision_of_the_result(cuda):
    weight = W.astype(np.float64)
    host = ql.ldlq(weight, H)
    q = ql.ldlq(cuda.xp.asarray(weight), cuda.xp.asarray(H))
    assert q.precision == host.precision == "float64" and host.grid.dtype == np.float32
    loss = ql.proxy_loss(host.values(np.float64), weight, H)
    assert ql.proxy_loss(host, weight, H) == loss
    there = ql.proxy_loss(q, cuda.xp.asarray(weight), cuda.xp.asarray(H))
    assert abs(there - loss) <= 1e-12 * loss


def test_members_of_a_stack_are_numbered(cuda):
    for there in (lambda a: a, cuda.xp.asarray):
        stack = ql.ldlq(there(np.stack([W, W])), there(H))
        for i in (True, np.True_, np.array([True, False]), [0, 1], ..., 1.0, None, "0", (0, 1)):
            with pytest.raises(DTypeError, match=r"number of a member, or a slice; got .*\[stack"):
                stack[i]
        for i in (1, np.int64(1), np.array(1), -1):
            assert stack[i].loss == stack.loss[1]
        with pytest.raises(IndexError, match="0 to 1"):
            stack[2]
