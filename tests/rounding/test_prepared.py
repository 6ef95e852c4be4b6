"""A prepared Hessian gives what H itself gives, to the last bit, and is factored once."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from identical import assert_identical

import quiplinalg as ql
from quiplinalg.rounding import prepared as prepared_module


def layer(m, n, seed=0, dtype=np.float32, h_dtype=np.float32, dead=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((2 * n + 3, n)) @ rng.standard_normal((n, n)) / np.sqrt(max(n, 1))
    X[:, :dead] = 0
    W = rng.standard_normal((m, n)).astype(dtype)
    return W, (X.T @ X / len(X)).astype(h_dtype)


@pytest.fixture
def factored(monkeypatch):
    """A list that grows by one at every factorisation of a prepared Hessian."""
    calls = []
    original = prepared_module.factor_in_order

    def counted(*arguments):
        calls.append(arguments[1])
        return original(*arguments)

    monkeypatch.setattr(prepared_module, "factor_in_order", counted)
    return calls


@pytest.mark.parametrize("order", ("natural", "act", "min-pivot"))
@pytest.mark.parametrize("m,n", ((0, 5), (3, 1), (5, 4), (7, 65), (40, 130)))
@pytest.mark.parametrize("dtypes", ((np.float32, np.float32), (np.float64, np.float32)))
def test_the_results_are_those_of_h_itself(m, n, order, dtypes):
    W, H = layer(m, n, n, *dtypes, dead=n // 20)
    H.flags.writeable = W.flags.writeable = False
    ready = ql.prepare(H, order=order)
    for keywords in (
        {},
        {"group_size": 8},
        {"group_size": 6, "sym": True},
        {"group_size": 16, "static_groups": True, "clip": "minmax"},
        {"rounding": "stochastic", "seed": 3, "block": 8},
        {"clip": "best", "bits": 3},
        {"grid": ql.UniformGrid(np.full((1, 1), 0.25), np.zeros((1, 1)), bits=None)},
    ):
        ours = ql.ldlq(W, ready, order=order, **keywords)
        assert_identical(ours, ql.ldlq(W, H, order=order, **keywords))
    assert_identical(ql.gptq(W, ready, order=order), ql.gptq(W, H, order=order))


def test_no_columns():
    ready = ql.prepare(np.zeros((0, 0)))
    W = np.zeros((3, 0))
    assert_identical(ql.ldlq(W, ready), ql.ldlq(W, np.zeros((0, 0))))


@pytest.mark.parametrize("damp", (0.0, 0.3, 0.95, "auto", ql.AbsoluteDamp(0.5)))
def test_damping_is_that_of_the_call(damp):
    W, H = layer(6, 40, 1, dead=2)
    ready = ql.prepare(H, damp=damp)
    assert_identical(ql.ldlq(W, ready, damp=damp), ql.ldlq(W, H, damp=damp))
    assert ready.damping == ql.ldlq(W, H, damp=damp).damp


def test_auto_damping_warns_once_where_h_is_prepared():
    H = np.eye(12) - 0.12 * (np.ones((12, 12)) - np.eye(12))
    with pytest.warns(ql.DampingWarning):
        ready = ql.prepare(H, damp="auto")
    W = layer(4, 12)[0]
    with pytest.warns(ql.DampingWarning):
        plain = ql.ldlq(W, H, damp="auto")
    assert_identical(ql.ldlq(W, ready, damp="auto"), plain)


def test_one_layout_is_factored_once(factored):
    W, H = layer(5, 37)
    ready = ql.prepare(H)
    for keywords in ({}, {"group_size": 8}, {"block": 4}, {"group_size": 12, "clip": "best"}):
        ql.ldlq(W, ready, **keywords)
    assert len(factored) == 1
    ql.ldlq(W, ready, group_size=7)  # padded differently
    assert len(factored) == 2
    ql.ldlq(W, ready, group_size=7)
    assert len(factored) == 2
    ql.ldlq(W.astype(np.float64), ready)
    ql.ldlq(W.astype(np.float64), ready)
    assert len(factored) == 3
    ql.ldlq(W, ready)
    assert len(factored) == 4


def test_threads_may_share_it(factored):
    _, H = layer(1, 90)
    layers = [layer(20, 90, seed)[0] for seed in range(8)]
    ready = ql.prepare(H)
    with ThreadPoolExecutor(4) as pool:
        shared = list(pool.map(lambda W: ql.ldlq(W, ready), layers))
    assert len(factored) == 1
    for q, W in zip(shared, layers, strict=True):
        assert_identical(q, ql.ldlq(W, H))


@pytest.mark.host
def test_the_factor_is_freed_once_it_is_packed():
    import tracemalloc

    n = 700
    W, H = np.ones((8, n), np.float32), np.eye(n, dtype=np.float32)
    ql.ldlq(W, ql.prepare(H))
    tracemalloc.start()
    try:
        ready = ql.prepare(H)
        assert tracemalloc.get_traced_memory()[0] <= 8.5 * n * n
        ql.ldlq(W, ready)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held <= 2.5 * n * n, held / n**2


@pytest.mark.host
def test_what_differs_from_the_preparation_is_refused():
    W, H = layer(4, 12)
    ready = ql.prepare(H, order="natural", damp=0.05)
    right = {"order": "natural", "damp": 0.05}
    ql.ldlq(W, ready, **right)
    for wrong, text in (
        ({"order": "act"}, "order must be that of the prepared H, 'natural'; got order='act'"),
        ({"damp": 0.01}, "damp must be that of the prepared H, 0.05; got damp=0.01"),
        ({"damp": "auto"}, "damp must be that of the prepared H"),
        ({"damp": 1.5}, "damp must be a fraction"),
        ({"backend": "generic"}, "backend must be that of the prepared H, 'cpu'"),
    ):
        for method in (ql.ldlq, ql.gptq):
            with pytest.raises(ql.InvalidArgumentError, match=text):
                method(W, ready, **{**right, **wrong})
    with pytest.raises(ql.InvalidArgumentError, match="order must be that of the prepared H"):
        ql.ldlq(W, ready)  # the default order is another
    mean = float(H.diagonal().mean(dtype=np.float64))
    assert_identical(
        ql.ldlq(W, ready, order="natural", damp=ql.AbsoluteDamp(0.05 * mean)),
        ql.ldlq(W, H, **right),
    )  # the same damping in other words


def test_bad_input():
    W, H = layer(4, 12)
    with pytest.raises(ql.InvalidArgumentError, match=r"H must be \(n, n\) for W"):
        ql.ldlq(W[:, :5], ql.prepare(H))
    with pytest.raises(ql.InvalidArgumentError, match="order must be one of"):
        ql.prepare(H, order="greedy")
    with pytest.raises(ql.InvalidArgumentError, match="damp must be a fraction"):
        ql.prepare(H, damp=-1)
    with pytest.raises(ql.NonFiniteError):
        ql.prepare(np.full((2, 2), np.nan))
    with pytest.raises(ql.NotPositiveDefiniteError) as error:
        ql.prepare(np.array([[1.0, 2.0], [2.0, 1.0]]), order="natural", damp=0.0)
    assert error.value.index == 0
    with pytest.raises(ql.DTypeError, match="has no keyword 'percdamp'; did you mean damp"):
        ql.prepare(H, percdamp=0.1)
    with pytest.raises(ql.DTypeError, match="H must be"):
        ql.safe(W, ql.prepare(H, order="natural"))  # its feedback is another


def test_it_describes_itself():
    ready = ql.prepare(np.eye(3, dtype=np.float32), damp=ql.AbsoluteDamp(0.5))
    assert repr(ready) == "PreparedHessian(3x3, act order, damp 0.5)"
    assert ready.shape == (3, 3) and ready.hessian.dtype == np.float32


@pytest.mark.host
def test_the_callers_h_is_not_copied():
    H = np.eye(5)
    assert ql.prepare(H).hessian is H or np.shares_memory(ql.prepare(H).hessian, H)
    with pytest.raises(TypeError):
        pickle.dumps(ql.prepare(H))  # tasks get paths, not factors


def test_a_stack_and_a_layer_of_another_layout_share_it_without_a_deadlock():
    # n * m so large that the members of the stack are rounded side by side on the pool
    rng = np.random.default_rng(0)
    X = rng.standard_normal((320, 300))
    W, stack = rng.standard_normal((32, 300)), rng.standard_normal((8, 64, 300))
    ready = ql.prepare(X.T @ X / 320)
    errors = []

    def run(weight, **keywords):
        try:
            for _ in range(8):
                ql.ldlq(weight, ready, clip="minmax", **keywords)
        except Exception as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(stack,), daemon=True),
        threading.Thread(target=run, args=(W,), kwargs={"group_size": 6}, daemon=True),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not errors and not any(thread.is_alive() for thread in threads)
