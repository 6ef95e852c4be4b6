"""Rounding in min-pivot order: the twin of the order found, the certificate, dead columns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from comparing import assert_same_rounding
from hypothesis import given
from strategies import make_problem, problems

import quiplinalg as ql
from quiplinalg import reference

BACKENDS = ("cpu", "generic")


@pytest.mark.parametrize("backend", BACKENDS)
@given(problem=problems(max_n=33, max_m=6, bits=(1, 2, 4), order_kinds=("natural",)))
def test_codes_and_loss_are_the_reference_ones(backend, problem):
    W, H = problem.W, problem.H
    q = ql.ldlq(W, H, problem.bits, clip="minmax", order="min-pivot", backend=backend)
    assert q.order == "min-pivot" and sorted(q.permutation) == list(range(problem.n))
    Hd = H + q.damp * np.eye(problem.n)
    scale, zero = q.grid.scale.astype(float), q.grid.zero.astype(float)
    twin = reference.ldlq(W, Hd, scale, zero, problem.maxq, order=q.permutation)
    tau = 64 * 64 * np.finfo(float).eps  # as for the other orders
    assert_same_rounding(q.codes, twin.codes, W, Hd, scale, zero, problem.maxq, q.permutation, tau)
    order, _, _ = reference.min_pivot(Hd)
    if problem.hessian in ("power", "outlier"):  # apart by more than rounding errors
        assert (q.permutation == order).all()
    _, D = reference.udu(Hd[np.ix_(q.permutation, q.permutation)])
    assert abs(q.trace_D / D.sum() - 1) <= 1e-9  # cond(H) is at most 1e6
    assert ql.verify(W, H, q).ok
    direct = ql.proxy_loss(q.dequantize(), W, H)
    size = ql.proxy_loss(np.zeros_like(W), W, Hd)
    assert abs(q.loss - direct) <= 64 * problem.n * np.finfo(float).eps * max(size, 1e-300)


@pytest.mark.parametrize("kwargs", (
    {}, dict(group_size=16), dict(group_size=16, static_groups=True), dict(clip="best"),
    dict(rounding="stochastic", seed=1), dict(block=7),
), ids=str)  # fmt: skip
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_the_certificate_holds(kwargs, dtype):
    p = make_problem(40, 130, 0, 2, "outlier", "heavy")
    W, H = p.W.astype(dtype), p.H
    q = ql.ldlq(W, H, order="min-pivot", **kwargs)
    assert ql.verify(W, H, q).ok
    assert "min-pivot order" in repr(q)
    for threads in (1, 2):
        with ql.num_threads(threads):
            again = ql.gptq(W, H, 2, order="min-pivot", **kwargs)
        assert (again.codes == q.codes).all() and (again.permutation == q.permutation).all()
    other = np.roll(q.permutation, 1)
    assert not ql.verify(W, H, dataclasses.replace(q, permutation=other)).ok


@pytest.mark.parametrize("damp", (0.0, 0.01, "auto"))
def test_dead_columns(damp):
    p = make_problem(20, 30, 0, 4, "well", dead=4)
    q = ql.ldlq(p.W, p.H, bits=4, order="min-pivot", damp=damp)
    dead = np.flatnonzero(p.H.diagonal() == 0)
    assert q.dead.tolist() == dead.tolist() and len(dead) == 4
    assert (q.codes[:, dead] == ql.nearest(p.W, grid=q.grid).codes[:, dead]).all()
    assert ql.verify(p.W, p.H, q).ok


def test_the_trace_of_d_is_usually_less():
    """On outlier channels: less than the natural order's, and about that of act order."""
    H = make_problem(1, 256, 0, 2, "outlier").H
    W = np.ones((1, 256))
    trace = {order: ql.ldlq(W, H, order=order).trace_D for order in ("natural", "act", "min-pivot")}
    assert trace["min-pivot"] <= 0.95 * trace["natural"], trace
    assert trace["min-pivot"] <= 1.01 * trace["act"], trace


def test_a_bad_order_is_refused_before_anything_else():
    for wrong in ("min_pivot", "desc_act", None, np.arange(3)):
        with pytest.raises(ql.InvalidArgumentError, match="order must be one of natural, act, min"):
            ql.ldlq("not a matrix", None, order=wrong)
    H = np.diag([1.0, 2.0, 3.0])
    H[0, 2] = H[2, 0] = 2.5
    with pytest.raises(ql.NotPositiveDefiniteError, match=r"row 2 .*damp") as caught:
        ql.ldlq(np.ones((2, 3)), H, order="min-pivot", damp=0.0)
    assert (caught.value.index, caught.value.pivot) == (2, 3 - 2.5**2)
