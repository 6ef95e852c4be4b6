"""Stacks of layers on a device: each member as if alone, as many at once as fit."""

import numpy as np
import pytest
from test_cuda_layers import KEYWORDS, assert_same, problem

import quiplinalg as ql
from quiplinalg.kernels.record import select
from quiplinalg.rounding import stack_device

SHAPES = ((3, 5, 7), (2, 130, 33), (2, 20, 150), (1, 4, 4))


def stack(b, m, n):
    pairs = [problem(m, n, seed=i) for i in range(b)]
    return tuple(np.stack(each) for each in zip(*pairs, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_members_are_those_of_the_host(cuda, shape, shared):
    W, H = stack(*shape)
    H = H[0] if shared else H
    for keywords in KEYWORDS:
        q = ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(H), **keywords)
        host = ql.ldlq(W, H, **keywords)
        assert type(q) is type(host) is ql.QuantizedStack
        assert type(q.codes) is type(q.dequantize()) is cuda.xp.ndarray and q.shape == shape
        for one, other in zip(q.to_host(), host, strict=True):
            assert_same(one, other)
        alone = ql.ldlq(cuda.xp.asarray(W[0]), cuda.xp.asarray(H if shared else H[0]), **keywords)
        np.testing.assert_array_equal(alone.codes.get(), q[0].codes.get())


def test_members_go_in_lots_where_memory_is_short(cuda, monkeypatch):
    W, H = stack(5, 6, 9)
    there = cuda.xp.asarray(W), cuda.xp.asarray(H)
    whole = ql.ldlq(*there)
    kernels = select("cuda", W=there[0])
    launches = []

    def load(*arguments):
        launches.append(arguments[0].shape[0])
        return plain(*arguments)

    plain = kernels.load
    monkeypatch.setitem(kernels.__dict__, "load", load)
    monkeypatch.setattr(stack_device, "_MOST", 2)  # of a launch
    ql.ldlq(*there)
    assert launches == [2, 2, 1]
    launches.clear()
    monkeypatch.setitem(kernels.__dict__, "free_bytes", lambda: 9000)
    lots = ql.ldlq(*there)
    assert len(launches) > 1 and sum(launches) == 5
    np.testing.assert_array_equal(lots.codes.get(), whole.codes.get())
    np.testing.assert_array_equal(lots.loss, whole.loss)
    np.testing.assert_array_equal(lots.permutation, whole.permutation)


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0)], ids=str)
def test_empty_stacks(cuda, shape):
    W, H = np.zeros(shape, np.float32), np.zeros((shape[0], shape[2], shape[2]))
    for keywords in ({}, {"group_size": 2}, {"clip": "best"}):
        q, host = (
            ql.ldlq(cuda.xp.asarray(W), cuda.xp.asarray(H), **keywords),
            ql.ldlq(W, H, **keywords),
        )
        assert q.shape == host.shape == shape
        assert q.scale.shape[0] == shape[0]
        np.testing.assert_array_equal(q.loss, host.loss)


def test_errors_and_warnings_name_the_member(cuda):
    W, H = stack(4, 5, 7)
    H[2] -= 2 * np.linalg.eigvalsh(H[2])[1] * np.eye(7)
    H[2][np.diag_indices(7)] = np.maximum(H[2].diagonal(), 1e-3)
    there = cuda.xp.asarray(W), cuda.xp.asarray(H)
    with pytest.warns(ql.DampingWarning, match=r"H\[2\]") as caught:
        q = ql.ldlq(*there, damp="auto")
    assert [each.filename for each in caught] == [__file__]  # once, for one member
    with pytest.warns(ql.DampingWarning, match=r"H\[2\]"):
        host = ql.ldlq(W, H, damp="auto")
    np.testing.assert_array_equal(q.damp, host.damp)
    np.testing.assert_array_equal(q.codes.get(), host.codes)
    with pytest.raises(ql.NotPositiveDefiniteError, match=r"^H\[2\] must be positive definite"):
        ql.ldlq(*there, damp=0.0)
    H[3, 1, 1] = np.nan
    with pytest.raises(ql.NonFiniteError, match=r"H\[3\]"):
        ql.ldlq(there[0], cuda.xp.asarray(H))
    W[1, 2, 3] = np.inf
    with pytest.raises(ql.NonFiniteError, match=r"W\[1, 2, 3\]"):
        ql.ldlq(cuda.xp.asarray(W), there[1])
    with pytest.raises(ql.BackendMismatchError, match=r"W .*H"):
        ql.ldlq(there[0], H)
    with pytest.raises(ql.InvalidArgumentError, match="each of its 4"):
        ql.ldlq(there[0], there[1][:3])


def test_a_stack_factors_as_one_matrix_does(cuda):
    for b, n in ((3, 1), (2, 128), (3, 129), (2, 300)):
        _, H = stack(b, 1, n)
        A = H + np.eye(n)
        kernels = select("cuda", W=cuda.xp.asarray(A))
        together = cuda.xp.asarray(np.triu(A))
        info, _ = kernels.cholesky(together)
        assert not info.get().any()
        for i in range(b):
            alone = cuda.xp.asarray(np.triu(A[i]))[None]
            kernels.cholesky(alone)
            ratio = np.abs(np.triu(together[i].get() - alone[0].get())).max()
            assert ratio <= 10 * n * np.finfo(float).eps * np.abs(A[i]).max() ** 0.5
