"""Stacks of layers: every member as if alone, to the last bit."""

from __future__ import annotations

import copy
import pickle
import signal
import time
import warnings
from collections.abc import Sequence

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identical import assert_identical
from stacked import assert_alone, grid, layers

import quiplinalg as ql
from quiplinalg.rounding import prepared as prepared_module

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@st.composite
def calls(draw):
    """(W, H, keywords) of a stack."""
    b, m = draw(st.integers(0, 4)), draw(st.integers(0, 20))
    n = draw(st.integers(0, 40))
    dtype = draw(st.sampled_from((np.float32, np.float64, np.float16, BFLOAT16)))
    W, H = layers(b, m, n, draw(st.integers(0, 99)), dtype, dead=draw(st.integers(0, n // 4)))
    if b and draw(st.booleans()):
        H = H[0]
    keywords = {
        "bits": draw(st.integers(1, 5)),
        "order": draw(st.sampled_from(("natural", "act", "min-pivot"))),
        "damp": draw(st.sampled_from((0.01, 0.3, "auto", ql.AbsoluteDamp(0.5)))),
        "block": draw(st.sampled_from((None, 8))),
    }
    if draw(st.booleans()):
        keywords |= {"rounding": "stochastic", "seed": draw(st.integers(0, 2**63 - 1))}
    if draw(st.integers(0, 3)) == 0:
        rows, groups = draw(st.sampled_from((1, m))), draw(st.integers(1, 3))
        bits = draw(st.sampled_from((None, 3)))
        wide = draw(st.sampled_from((np.float16, np.float32, np.float64)))
        keywords["grid"] = grid(rows, n, bits, groups, wide)
    else:
        keywords |= {
            "group_size": draw(st.sampled_from((None, 1, 6, 16, 64))),
            "static_groups": draw(st.booleans()),
            "sym": draw(st.booleans()),
            "clip": draw(st.sampled_from(("mse", "minmax", "best"))),
        }
    return W, H, keywords


@given(calls(), st.integers(1, 2), st.sampled_from((ql.ldlq, ql.gptq)))
def test_every_member_is_as_if_alone(call, threads, function):
    W, H, keywords = call
    W.flags.writeable = H.flags.writeable = False
    with warnings.catch_warnings(), ql.num_threads(threads):
        warnings.simplefilter("ignore", ql.DampingWarning)
        stack = function(W, H, **keywords)
        assert_alone(stack, W, H, function, **keywords)
    assert stack.shape == W.shape and stack.method == function.__name__


@settings(max_examples=20)
@given(st.integers(1, 3), st.integers(0, 5), st.integers(0, 9), st.booleans())
def test_w_hat_and_nearest_losses(b, m, n, wide):
    W, H = layers(b, m, n, 3, np.float64 if wide else np.float32)
    for hessian in (H, H[0]):
        stack = ql.ldlq(W, hessian, group_size=4)
        members = [ql.ldlq(W[i], H[i] if hessian is H else H[0], group_size=4) for i in range(b)]
        values = stack.dequantize()
        assert values.shape == W.shape and values.dtype == W.dtype
        np.testing.assert_array_equal(values, np.stack([q.dequantize() for q in members]))
        for dtype in (None, np.float64, np.float16):
            ours = np.asarray(stack, dtype)
            expected = np.stack([np.asarray(q, dtype) for q in members])
            assert ours.dtype == expected.dtype
            np.testing.assert_array_equal(ours, expected)
        losses = stack.nearest_loss(W, hessian)
        assert losses.dtype == np.float64
        assert losses.tolist() == [
            q.nearest_loss(W[i], H[i] if hessian is H else H[0]) for i, q in enumerate(members)
        ]
        assert stack.bits_per_weight == pytest.approx(np.mean([q.bits_per_weight for q in members]))


@pytest.mark.parametrize("shape", ((12, 8, 8), (5, 40, 96), (5, 130, 260)))
@pytest.mark.parametrize("shared", (False, True))
def test_threads_change_nothing(shape, shared):
    W, H = layers(*shape)
    H = H[0] if shared else H
    results = []
    for threads in (1, 2, 3):
        with ql.num_threads(threads):
            results.append(ql.ldlq(W, H, group_size=32))
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert_identical(one, same)


@pytest.mark.host
def test_members_of_every_size_are_shared_out(monkeypatch):
    """Tiny ones one by one, small ones side by side, large ones with all threads inside."""
    from quiplinalg import parallel
    from quiplinalg.rounding import stack as module

    seen = []
    original = module.round_with_feedback

    def noted(*arguments):
        seen.append(parallel.thread_count())
        return original(*arguments)

    monkeypatch.setattr(module, "round_with_feedback", noted)
    W, H = layers(5, 48, 64)
    for tiny, share, widest, shared, expected in (
        (1 << 30, 1, 2048, False, [1] * 5),
        (0, 1 << 30, 2048, False, [1] * 5),
        (0, 1 << 30, 10, False, [2] * 5),
        (0, 1 << 30, 10, True, [1] * 5),
        (0, 1, 2048, False, [1, 1, 1, 1, 2]),
    ):
        for name, value in (("_TINY", tiny), ("_SHARE", share), ("_WIDEST", widest)):
            monkeypatch.setattr(module, name, value)
        seen.clear()
        with ql.num_threads(2):
            stack = ql.ldlq(W, H[0] if shared else H)
        assert sorted(seen) == expected
        assert_alone(stack, W, H[0] if shared else H)


@pytest.mark.host
def test_a_shared_hessian_is_factored_once(monkeypatch):
    calls = []
    original = prepared_module.factor_in_order
    monkeypatch.setattr(
        prepared_module, "factor_in_order", lambda *a: calls.append(1) or original(*a)
    )
    W, H = layers(6, 5, 37)
    stack = ql.ldlq(W, H[0], clip="best")
    assert len(calls) == 1
    ready = ql.prepare(H[0])
    assert len(calls) == 2
    for one, same in zip(stack, ql.ldlq(W, ready, clip="best"), strict=True):
        assert_identical(one, same)
    assert len(calls) == 2
    ql.ldlq(W, H)
    assert len(calls) == 8


@pytest.mark.parametrize("shape", ((0, 3, 8), (0, 0, 0), (2, 0, 8), (2, 3, 0), (1, 1, 1)))
@pytest.mark.parametrize(
    "keywords", ({}, {"group_size": 4}, {"order": "natural", "sym": True}, {"bits": 3})
)
def test_empty_stacks_and_members(shape, keywords):
    W, H = np.zeros(shape), np.broadcast_to(np.eye(shape[2]), (shape[0], shape[2], shape[2]))
    for hessian in (H, np.eye(shape[2]), ql.prepare(np.eye(shape[2]))):
        if not isinstance(hessian, np.ndarray) and "order" in keywords:
            continue
        stack = ql.ldlq(W, hessian, **keywords)
        if isinstance(hessian, np.ndarray):
            assert_alone(stack, W, hessian, **keywords)
        assert stack.shape == shape and stack.codes.dtype == np.uint8
        assert stack.dequantize().shape == shape and np.asarray(stack).shape == shape
        assert stack.loss.shape == (shape[0],) and len(list(stack)) == shape[0]
        assert "QuantizedStack(" in repr(stack)
    if not shape[0]:
        assert np.isnan(stack.bits_per_weight) and repr(stack).endswith("bits: no members)")
        assert stack.nearest_loss(W, np.eye(shape[2])).shape == (0,)
        assert len(stack[:]) == 0
        with pytest.raises(IndexError):
            stack[0]


def test_it_is_a_sequence():
    W, H = layers(5, 4, 9, dead=2)
    stack = ql.ldlq(W, H, 3, group_size=3)
    assert isinstance(stack, Sequence) and len(stack) == 5
    assert_identical(stack[-1], stack[4])
    assert_identical(stack[np.int64(2)], stack[2])
    assert [q.loss for q in stack] == stack.loss.tolist()
    assert [q.loss for q in reversed(stack)] == stack.loss.tolist()[::-1]
    part = stack[1:4]
    assert isinstance(part, ql.QuantizedStack) and part.shape == (3, 4, 9)
    assert np.shares_memory(part.codes, stack.codes)
    for one, same in zip(part, list(stack)[1:4], strict=True):
        assert_identical(one, same)
    assert [q.loss for q in stack[::-2]] == stack.loss[::-2].tolist()
    np.testing.assert_array_equal(part.dequantize(), stack.dequantize()[1:4])
    for bad in (5, -6):
        with pytest.raises(IndexError, match="members are 0 to 4"):
            stack[bad]
    with pytest.raises(TypeError):
        stack["loss"]
    for other in (pickle.loads(pickle.dumps(stack)), copy.deepcopy(stack)):
        for one, same in zip(stack, other, strict=True):
            assert_identical(one, same)
        assert other.dequantize().dtype == W.dtype
    with pytest.raises(ValueError):
        np.asarray(stack, copy=False)


def test_the_repr_is_one_line_of_what_matters():
    W, H = layers(3, 6, 16)
    W[1] *= 10
    text = repr(ql.ldlq(W, H))
    assert text.startswith("QuantizedStack(3x6x16, ldlq, 2 bits: loss ")
    assert "of member 1" in text and "bits/weight" in text and "\n" not in text
    assert "unbounded: loss" in repr(ql.gptq(W, H, grid=grid(1, 16, None)))


def test_layouts_of_the_caller():
    W, H = layers(3, 7, 12, dtype=np.float64, h_dtype=np.float64)
    expected = ql.ldlq(W, H)
    for view in (
        lambda a: np.asfortranarray(a),
        lambda a: np.repeat(a, 2, axis=0)[::2],
        lambda a: a[::-1][::-1],
        lambda a: a.astype(">f8"),
        lambda a: a.tolist(),
        lambda a: list(a),
    ):
        stack = ql.ldlq(view(W), view(H))
        np.testing.assert_array_equal(stack.codes, expected.codes)
        np.testing.assert_array_equal(stack.loss, expected.loss)


@pytest.mark.parametrize("library", ("torch", "jax.numpy", "array_api_strict"))
def test_the_caller_s_kind_of_array_comes_back(library):
    xp = pytest.importorskip(library)
    W, H = layers(3, 5, 16)
    stack = ql.ldlq(xp.asarray(W), xp.asarray(H))
    np.testing.assert_array_equal(stack.codes, ql.ldlq(W, H).codes)
    for values in (stack.dequantize(), stack[0].dequantize()):
        assert type(values) is type(xp.asarray(W)) and values.dtype == xp.asarray(W).dtype
    assert tuple(stack.dequantize().shape) == W.shape
    np.testing.assert_array_equal(stack.nearest_loss(xp.asarray(W), xp.asarray(H)),
                                  stack.nearest_loss(W, H))  # fmt: skip
    if library == "torch":
        half = xp.asarray(W).bfloat16()
        stack = ql.ldlq(half, xp.asarray(H[0]))
        assert stack.dequantize().dtype == xp.bfloat16 and stack[1].dequantize().shape == (5, 16)
        assert_identical(stack[1], ql.ldlq(half[1], H[0]))


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("threads", (1, 2))
def test_ctrl_c_ends_it(threads):
    W, H = layers(4, 24, 64)
    ql.ldlq(W, H)
    W, H = (np.broadcast_to(a[0], (20000, *a.shape[1:])) for a in (W, H))  # many seconds

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with ql.num_threads(threads), pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.3, 1)  # again where a callback swallowed it
            begun = time.monotonic()
            ql.ldlq(W, H)
        assert time.monotonic() - begun < 5
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert_alone(ql.ldlq(W[:3], H[:3]), W[:3], H[:3])  # and all is well
