"""The tie-aware comparer accepts what it should and nothing else."""

import numpy as np
import pytest
from comparing import assert_same_rounding
from strategies import make_problem

from quiplinalg.reference import ldlq, minmax_grid, nearest, rms_grid, uniforms

ONE, ZERO = np.ones((1, 1)), np.zeros((1, 1))
# T = [[1, 1/2], [0, 1]]; the first target of the first row is an exact tie
H = np.array([[1.0, 0.5], [0.5, 1.0]])
W = np.array([[0.5, 0.1], [0.2, 0.7]])


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, None])
def test_one_changed_code_is_caught(bits, random):
    p = make_problem(5, 6, 2, bits, "power", "heavy", "random")
    scale, zero = rms_grid(p.W, 3, 1.5) if random else minmax_grid(p.W, 3)
    u = uniforms(0, 5, 6) if random else None
    codes = ldlq(p.W, p.H, scale, zero, p.maxq, order=p.order, uniforms=u).codes
    args = (p.W, p.H, scale, zero, p.maxq, p.order, 1e-9)
    assert assert_same_rounding(codes, codes, *args, uniforms=u, loss_rtol=1e-12) == 0
    for r in range(5):
        for k in range(6):
            other = codes.copy()
            other[r, k] += -1 if other[r, k] == p.maxq else 1
            with pytest.raises(AssertionError, match="tie"):
                assert_same_rounding(codes, other, *args, uniforms=u)
            with pytest.raises(AssertionError):
                assert_same_rounding(other, codes, *args, uniforms=u)


def test_a_tie_may_go_either_way_and_then_cascade():
    down, up = np.array([[0, 0], [0, 1]]), np.array([[1, 0], [0, 1]])
    # targets of step 1: 0.1 + 0.25 after code 0, 0.1 - 0.25 after code 1: both round to 0
    assert assert_same_rounding(down, up, W, H, ONE, ZERO, 3) == 1
    assert assert_same_rounding(up, down, W, H, ONE, ZERO, 3) == 1
    wrong = up.copy()
    wrong[0, 1] = 1  # after a tie a code must still be the rounding of its own target
    with pytest.raises(AssertionError, match="own targets"):
        assert_same_rounding(down, wrong, W, H, ONE, ZERO, 3)
    with pytest.raises(AssertionError, match="tie"):
        assert_same_rounding(down, np.array([[0, 0], [0, 0]]), W, H, ONE, ZERO, 3)


def test_losses_are_compared_on_request():
    near = np.array([[0.5, 0.4], [0.2, 0.7]])
    down, up = np.array([[0, 1], [0, 1]]), np.array([[1, 0], [0, 1]])
    assert assert_same_rounding(down, up, near, H, ONE, ZERO, 3) == 1
    with pytest.raises(AssertionError, match="losses"):
        assert_same_rounding(down, up, near, H, ONE, ZERO, 3, loss_rtol=1e-3)


def test_codes_outside_the_grid_and_nan_are_caught():
    codes = nearest(W, ONE, ZERO, np.inf)
    with pytest.raises(AssertionError, match="outside"):
        assert_same_rounding(codes, codes + 4, W, H, ONE, ZERO, 3)
    with pytest.raises(AssertionError):
        assert_same_rounding(codes, codes, np.full_like(W, np.nan), H, ONE, ZERO, 3)


def test_a_tie_beyond_the_clip_is_no_tie():
    far = np.array([[7.5, 0.1]])
    codes = ldlq(far, H, ONE, ZERO, 3).codes
    assert assert_same_rounding(codes, codes, far, H, ONE, ZERO, 3) == 0
