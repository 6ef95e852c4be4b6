"""With the factor on disk the codes are those of a factor in memory, within the memory given."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from identical import assert_identical

import quiplinalg as ql
from quiplinalg.errors import InsufficientMemoryError
from quiplinalg.factor.source import ArraySource
from quiplinalg.rounding.out_of_core import (
    OutOfCoreHessian,
    least_memory,
    round_out_of_core,
    scratch_bytes,
)

pytestmark = pytest.mark.host

# rounding errors apart: of the factor, whose codes they do not change here
ROUNDED = ("loss", "trace_D")


def layer(m, n, dtype=np.float32, h_dtype=np.float32, seed=0):
    rng = np.random.default_rng([seed, n])
    X = rng.standard_normal((2 * n + 3, n)) @ rng.standard_normal((n, n)) / np.sqrt(max(n, 1))
    X[:, : n // 30] = 0
    W = rng.standard_normal((m, n)).astype(dtype)
    H = X.T @ X / len(X)
    return W, np.maximum(H, H.T).astype(h_dtype)


def least(W):
    m, n = W.shape
    return least_memory(m, n, 8 if W.dtype == np.float64 else 4, ql.parallel.thread_count())


def both(W, H, method, keywords, scratch, memory=None, **more):
    """The result in memory, and the one with the factor on disk, compared."""
    expected = getattr(ql, method)(W, H, **keywords, **more)
    q = round_out_of_core(
        W, ArraySource(H), method, keywords, scratch=scratch, memory=memory or least(W), **more
    )
    assert_identical(q, expected, ROUNDED)
    for name in ROUNDED:
        assert getattr(q, name) == pytest.approx(getattr(expected, name), rel=1e-11, abs=1e-300)
    assert (np.asarray(q.dequantize()) == np.asarray(expected.dequantize())).all()
    return q


@pytest.fixture
def few_rows(monkeypatch):
    """Take the rows of a layer a few tiles at a time."""
    original = OutOfCoreHessian.rows_at_once

    def rows_at_once(self, work):
        original(self, work)
        return 48

    monkeypatch.setattr(OutOfCoreHessian, "rows_at_once", rows_at_once)


KEYWORDS = (
    {},
    {"bits": 4, "order": "natural", "clip": "minmax"},
    {"bits": 3, "group_size": 16},
    {"group_size": 16, "sym": True, "clip": "best", "damp": 0.05},
    {"group_size": 10, "order": "natural"},
    {"group_size": 32, "static_groups": True},
    {"clip": "best", "block": 8},
    {"rounding": "stochastic", "seed": 5, "damp": "auto"},
    {"rounding": "stochastic", "seed": 2**40, "group_size": 8, "order": "natural"},
    {"damp": ql.AbsoluteDamp(0.7)},
)


@pytest.mark.parametrize("keywords", KEYWORDS, ids=str)
@pytest.mark.parametrize("n", (1, 5, 64, 257))
def test_every_option_gives_the_codes_of_memory(tmp_path, n, keywords, few_rows):
    W, H = layer(101, n)
    both(W, H, "ldlq", keywords, tmp_path)


@pytest.mark.parametrize("n", (1, 64, 257))
def test_gptq_has_its_own_width(tmp_path, n):
    W, H = layer(30, n)
    assert both(W, H, "gptq", {}, tmp_path).grid.bits == 4


@pytest.mark.parametrize("order", ("act", "natural"))
def test_several_strips_of_the_factor(tmp_path, order):
    W, H = layer(70, 700)
    q = both(W, H, "ldlq", {"order": order, "group_size": 128}, tmp_path)
    assert q.loss > 0


@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
@pytest.mark.parametrize("h_dtype", (np.float16, np.float32, np.float64))
def test_every_precision(tmp_path, dtype, h_dtype, few_rows):
    W, H = layer(100, 90, dtype, h_dtype)
    both(W, H, "ldlq", {"bits": 3}, tmp_path)


def test_bfloat16_and_strided_weights(tmp_path, few_rows):
    import ml_dtypes

    W, H = layer(100, 90)
    both(W.astype(ml_dtypes.bfloat16), H, "ldlq", {}, tmp_path)
    both(np.asfortranarray(W)[::-1], H, "ldlq", {}, tmp_path)


@pytest.mark.parametrize("bits", (3, None))
@pytest.mark.parametrize("rows", (1, 100))
@pytest.mark.parametrize("kind", (np.float32, np.float64))
def test_a_grid_that_is_given(tmp_path, bits, rows, kind, few_rows):
    W, H = layer(100, 60)
    rng = np.random.default_rng(0)
    index = (np.arange(60) % 3).astype(np.int32)
    grid = ql.UniformGrid(
        rng.uniform(0.2, 0.4, (rows, 3)).astype(kind), np.full((rows, 3), 4, kind), bits, index
    )
    both(W, H, "ldlq", {"grid": grid}, tmp_path)


def test_h_that_is_symmetric_to_rounding_only(tmp_path):
    W, H = layer(40, 300)
    noise = np.random.default_rng(0).standard_normal(H.shape).astype(np.float32)
    both(W, H * (1 + np.float32(1e-6) * noise), "ldlq", {}, tmp_path)


def test_a_loss_that_damping_hides_is_computed(tmp_path, few_rows, monkeypatch):
    calls, original = [], OutOfCoreHessian.loss
    monkeypatch.setattr(
        OutOfCoreHessian, "loss", lambda *given: calls.append(given) or original(*given)
    )
    n = 64
    W = np.random.default_rng(0).standard_normal((100, n)).astype(np.float32)
    v = np.random.default_rng(1).standard_normal((1, n))
    H = (v.T @ v).astype(np.float32)
    H = np.maximum(H, H.T)
    for keywords in ({"damp": 0.5}, {"damp": ql.AbsoluteDamp(1e5), "bits": 4, "group_size": 8}):
        q = both(W, H, "ldlq", keywords, tmp_path)
        assert q.loss == pytest.approx(ql.proxy_loss(q, W, H), rel=1e-3)
    assert len(calls) == 1


def test_the_generic_backend(tmp_path):
    W, H = layer(20, 70)
    both(W, H, "ldlq", {"group_size": 16}, tmp_path, backend="generic")


def test_no_rows_or_no_columns(tmp_path):
    for m, n in ((0, 5), (3, 0), (0, 0)):
        both(np.zeros((m, n)), np.eye(n), "ldlq", {}, tmp_path)


@pytest.mark.parametrize("threads", (1, 2, 5))
def test_the_number_of_threads_and_the_memory_change_nothing(tmp_path, threads):
    W, H = layer(150, 500)
    first = both(W, H, "ldlq", {"group_size": 64}, tmp_path)
    with ql.num_threads(threads):
        for memory in (least(W), 1 << 30):
            q = both(W, H, "ldlq", {"group_size": 64}, tmp_path, memory)
            assert_identical(q, first, ROUNDED)


def test_one_factor_rounds_several_layers(tmp_path):
    W, H = layer(50, 80)
    memory = least(W)
    with OutOfCoreHessian(
        ArraySource(H), "act", 0.01, ql.kernels.record.select(), scratch=tmp_path, memory=memory
    ) as hessian:
        for bits in (2, 3):
            assert_identical(ql.ldlq(W, hessian, bits), ql.ldlq(W, H, bits), ROUNDED)
        with pytest.raises(ql.InvalidArgumentError, match="damp must be that of the prepared H"):
            ql.ldlq(W, hessian, damp=0.5)


# errors


def refused(keywords, W=None, H=None, method="ldlq", **more):
    ours, other = layer(10, 40)
    W, H = ours if W is None else W, other if H is None else H
    more = {"scratch": ".", "memory": 1 << 30, **more}
    return round_out_of_core(W, ArraySource(H), method, keywords, **more)


def test_what_cannot_be_done_on_disk_says_what_can():
    with pytest.raises(ql.InvalidArgumentError, match="'ldlq' or 'gptq' where H does not fit"):
        refused({}, method="obq")
    with pytest.raises(ql.InvalidArgumentError, match="order must be 'act' or 'natural' where H"):
        refused({"order": "min-pivot"})
    with pytest.raises(ql.InvalidArgumentError, match="order must be one of"):
        refused({"order": "greedy"})


def test_bad_arguments_are_seen_before_h_is_read(monkeypatch):
    def read(self, memory):
        raise AssertionError("H was read")

    monkeypatch.setattr(ArraySource, "check", read)
    for keywords, kind, text in (
        ({"bits": 9}, ql.InvalidArgumentError, "bits must be"),
        ({"wbits": 4}, ql.DTypeError, "did you mean bits"),
        ({"damp": 1.0}, ql.InvalidArgumentError, "damp must be a fraction"),
        ({"rounding": "stochastic"}, ql.InvalidArgumentError, "seed must be"),
    ):
        with pytest.raises(kind, match=text):
            refused(keywords)
    with pytest.raises(ql.InvalidArgumentError, match=r"H must be \(n, n\) for W"):
        refused({}, W=np.zeros((3, 7)))
    with pytest.raises(ql.NonFiniteError, match="W must be finite"):
        refused({}, W=np.full((3, 40), np.nan, np.float32))
    with pytest.raises(InsufficientMemoryError, match="memory must hold"):
        refused({}, memory=1000)
    with pytest.raises(AssertionError, match="H was read"):
        refused({})


def test_bad_hessians_are_refused_as_in_memory():
    H = np.eye(40)
    for i, j, value, kind in (
        (3, 5, np.nan, ql.NonFiniteError),
        (3, 5, 1.0, ql.InvalidArgumentError),
        (4, 4, -1.0, ql.NotPositiveDefiniteError),
    ):
        bad = H.copy()
        bad[i, j] = value
        with pytest.raises(kind) as outside:
            refused({}, H=bad)
        with pytest.raises(kind) as inside:
            ql.ldlq(layer(10, 40)[0], bad)
        assert str(outside.value) == str(inside.value)


@pytest.mark.parametrize("order", ("act", "natural"))
def test_a_failed_pivot(order):
    H = np.diag(np.arange(1.0, 41.0))
    H[7, 20] = H[20, 7] = 100.0
    with pytest.raises(ql.NotPositiveDefiniteError) as outside:
        refused({"order": order}, H=H)
    with pytest.raises(ql.NotPositiveDefiniteError) as inside:
        ql.ldlq(layer(10, 40)[0], H, order=order)
    assert (outside.value.index, outside.value.pivot) == (inside.value.index, inside.value.pivot)


def test_auto_damping_escalates(tmp_path):
    n = 40
    H = (1 + 4 / n) * np.eye(n) - 4 / n * np.ones((n, n)) / 3
    W = layer(10, n)[0]
    with pytest.warns(ql.DampingWarning):
        q = both(W, H, "ldlq", {"damp": "auto"}, tmp_path)
    assert q.damp > 0.01


def test_a_group_too_wide_for_the_memory_has_a_remedy():
    n = 1600
    W = np.ones((8, n), np.float32)
    for keywords in ({"group_size": 1500}, {"group_size": 10**9}):
        with pytest.raises(InsufficientMemoryError, match="static_groups=True"):
            refused(keywords, W=W, H=np.eye(n, dtype=np.float32), memory=least(W))


def test_a_full_disk(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda _: usage(1, 1, scratch_bytes(40) - 1))
        with pytest.raises(OSError, match="scratch must have room") as error:
            refused({}, scratch=tmp_path)
        assert error.value.errno == errno.ENOSPC

    def full(descriptor, data, offset):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left"):
        refused({}, scratch=tmp_path)
    assert os.listdir(tmp_path) == []


def test_least_memory_grows_with_the_layer():
    assert least_memory(16384, 53248, 4, 2) < 2 * 16384 * 53248 + 600e6
    assert least_memory(1, 53248, 4, 2) < 500e6
    assert least_memory(7500, 4096, 8, 2) > least_memory(7500, 4096, 4, 2)
    assert least_memory(64, 64, 4, 8) > least_memory(64, 64, 4, 1)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_the_peak_is_below_the_memory_given(tmp_path):
    """In a process of its own, where H and its factor in memory would take far more."""
    found = json.loads(
        subprocess.run(
            [sys.executable, str(Path(__file__).with_name("out_of_core_peak.py")), tmp_path],
            check=True, capture_output=True, text=True,
        ).stdout
    )  # fmt: skip
    assert found["in_memory"] > 1.2 * found["memory"]  # else there is nothing to see
    assert found["peak"] <= found["memory"]
