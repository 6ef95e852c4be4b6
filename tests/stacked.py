"""Stacks of layers, and what is asked of their results."""

from __future__ import annotations

import numpy as np
from identical import assert_identical

import quiplinalg as ql

__all__ = ["assert_alone", "grid", "indefinite", "layers", "spoiled"]


def layers(b, m, n, seed=0, dtype=np.float32, h_dtype=np.float32, dead=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((b, 2 * n + 3, n)) @ rng.standard_normal((n, n)) / np.sqrt(max(n, 1))
    X[:, :, :dead] = 0
    W = rng.standard_normal((b, m, n)).astype(dtype)
    return W, (X.swapaxes(1, 2) @ X / max(X.shape[1], 1)).astype(h_dtype)


def indefinite(n, by):
    """An H that is not positive definite by so much of its diagonal."""
    return np.eye(n) - (1 + by) / (n - 1) * (np.ones((n, n)) - np.eye(n))


def grid(rows, n, bits, groups=1, dtype=np.float32):
    scale = np.linspace(0.2, 0.6, rows * groups).reshape(rows, groups).astype(dtype)
    index = None if groups == 1 else (np.arange(n) % groups).astype(np.int32)
    return ql.UniformGrid(scale, np.full_like(scale, 1), bits, index, "rms")


def assert_alone(stack, W, H, call=ql.ldlq, **keywords):
    assert isinstance(stack, ql.QuantizedStack) and len(stack) == len(W)
    assert stack.to_host() is stack
    whole = np.asarray(stack.dequantize())
    for i, q in enumerate(stack):
        alone = call(W[i], H if H.ndim == 2 else H[i], **keywords)
        assert_identical(q, alone)
        values, expected = q.dequantize(), alone.dequantize()
        assert type(values) is type(expected) and values.dtype == expected.dtype
        np.testing.assert_array_equal(np.asarray(values), np.asarray(expected))
        np.testing.assert_array_equal(whole[i], np.asarray(expected))
        assert q.bits_per_weight == alone.bits_per_weight or q.grid.bits is None
        assert np.shares_memory(q.codes, stack.codes) or not q.codes.size
        for name in ("loss", "trace_D", "damp", "near_tie_rows", "clipped"):
            assert getattr(stack, name)[i] == getattr(alone, name)
        np.testing.assert_array_equal(np.flatnonzero(stack.dead[i]), alone.dead)


def spoiled(a, place, value):
    a = a.copy()
    a[place] = value
    return a
