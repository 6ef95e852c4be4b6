"""Theorem 6 of QuIP: LDLQ = GPTQ = OBQ in a fixed order = Babai's nearest plane, on the fast path.

That the four twins agree with each other: tests/reference/test_reference_rounding.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_same_rounding
from hypothesis import given
from strategies import problems

import quiplinalg as ql
from quiplinalg import reference


@pytest.mark.parametrize("twin", (reference.gptq, reference.obq_fixed, reference.babai))
@given(problem=problems(max_n=14, bits=(2, 3, 4, None), order_kinds=("natural", "act")))
def test_the_fast_path_is_each_of_the_four(twin, problem):
    """The same codes, clamped or not, from the inverse of H, its downdates, or a lattice basis."""
    scale, zero = (a.astype(np.float32) for a in problem.grid())
    grid = ql.UniformGrid(scale, zero, problem.bits)
    q = ql.gptq(problem.W, problem.H, grid=grid, damp=0.0, order=problem.ordering)
    wide = scale.astype(float), zero.astype(float), problem.maxq
    other = twin(problem.W, problem.H, *wide, order=problem.order)
    # H^-1 is known to cond(H) eps, and targets are as many steps as the largest weight
    size = max(1.0, float(np.abs(problem.W / scale).max()))
    tau = 1e3 * np.finfo(float).eps * np.linalg.cond(problem.H) * size
    assert_same_rounding(q.codes, other.codes, problem.W, problem.H, *wide, problem.order, tau)
    # and what each step cost adds up to the loss, in every one of them
    slack = 1e-9 * max(float(other.loss.sum()), 1e-9)
    assert abs(other.costs.sum() - other.loss.sum()) <= slack + 1e2 * tau * other.loss.sum()
