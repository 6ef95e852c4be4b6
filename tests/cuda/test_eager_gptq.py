"""The published GPTQ loop in torch, the rival of the device's benchmarks, against ours."""

from __future__ import annotations

import host_machine  # noqa: F401  bench on the path
import numpy as np
import pytest
from comparing import assert_same_rounding

import quiplinalg as ql
from bench import device_answers
from bench.common import hessian, weights


@pytest.mark.parametrize("order", ["natural", "act"])
@pytest.mark.parametrize("shape,block", [((24, 1), 128), ((16, 96), 128), ((32, 150), 32)])
@pytest.mark.parametrize("bits", [2, 4])
def test_the_eager_loop_has_the_codes_of_gptq(order, shape, block, bits):
    torch = pytest.importorskip("torch")
    from bench.eager_gptq import EagerGPTQ

    m, n = shape
    W, H = weights(m, n).astype(np.float64), hessian(n).astype(np.float64)
    grid = ql.minmax_grid(W, bits, scale_dtype=np.float64)
    ours = ql.gptq(W, H, grid=grid, order=order)
    loop = EagerGPTQ(
        W, H, grid.scale, grid.zero, bits, act_order=order == "act", block=block,
        dtype=torch.float64,
    )  # fmt: skip
    codes = loop.codes()
    damped = H + ours.damp * np.eye(n)
    assert_same_rounding(
        codes, ours.codes, W, damped, grid.scale, grid.zero, grid.maxq, ours.permutation, 1e-8
    )
    assert np.array_equal(loop.codes(), codes)  # prepare makes copies: W and H are as before
    if n > 1:
        nearest = ql.nearest(W, H, grid=grid)
        assert (codes != nearest.codes).any()


def test_the_eager_loop_in_float32_passes_the_check_of_a_rival():
    pytest.importorskip("torch")
    from bench.eager_gptq import EagerGPTQ

    W, H = weights(64, 256), hessian(256)
    grid = ql.mse_grid(W, 4)
    ours = ql.gptq(W, H, grid=grid)
    codes = EagerGPTQ(W, H, grid.scale, grid.zero, 4, act_order=True).codes()
    answer = device_answers.compare_rival(codes, ours, W, H)
    assert answer["equal_codes"] > 0.9
    with pytest.raises(SystemExit, match="wrong answer"):
        device_answers.compare_rival(ql.nearest(W, H, grid=grid).codes, ours, W, H)


def test_the_eager_loop_takes_whole_zeros_only():
    pytest.importorskip("torch")
    from bench.eager_gptq import EagerGPTQ

    with pytest.raises(ValueError, match="whole"):
        EagerGPTQ(weights(2, 4), hessian(4), np.ones((2, 1)), np.full((2, 1), 1.5), 2)
