"""verify_pruned: what the methods return passes, and every kind of damage is found."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import quiplinalg as ql


def layer(m=9, n=24, samples=None, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((samples or 4 * n, n)) @ rng.standard_normal((n, n))
    return rng.standard_normal((m, n)).astype(dtype), X.T @ X / len(X)


METHODS = {
    "sparsegpt": lambda W, H: ql.sparsegpt(W, H, 0.4, block=8),
    "sparsegpt act": lambda W, H: ql.sparsegpt(W, H, 0.4, order="act"),
    "sparsegpt min-pivot": lambda W, H: ql.sparsegpt(W, H, 0.4, order="min-pivot", damp=0.1),
    "sparsegpt 2:4": lambda W, H: ql.sparsegpt(W, H, pattern="2:4"),
    "obs": lambda W, H: ql.obs_prune(W, H, 0.4),
    "obs 4:8": lambda W, H: ql.obs_prune(W, H, pattern="4:8"),
    "obs blocks": lambda W, H: ql.obs_prune(W, H, 0.5, pattern="block:3"),
    "columns": lambda W, H: ql.prune_columns(W, H, 0.5),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("samples", (96, 10))
def test_what_the_methods_return_passes(method, dtype, samples):
    W, H = layer(samples=samples, dtype=dtype)
    H[:, 5] = H[5] = 0  # a dead column
    pruned = METHODS[method](W, H)
    found = ql.verify_pruned(W, H, pruned)
    assert found.ok, found.reason
    assert found.worst <= 1 and found.rows_wrong == 0
    assert found.loss == pytest.approx(ql.proxy_loss(pruned.weights, W, H), rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_damage_is_found(method, dtype):
    W, H = layer(dtype=dtype)
    pruned = METHODS[method](W, H)

    def reason(**changes):
        found = ql.verify_pruned(W, H, dataclasses.replace(pruned, **changes))
        assert not found.ok
        return found.reason

    row, column = np.argwhere(~pruned.mask)[3]
    weights = pruned.weights.copy()
    weights[row, column] *= dtype(1.001)
    assert f"1 of 9 rows, first row {row}" in reason(weights=weights)
    row, column = np.argwhere(pruned.mask)[2]
    weights = pruned.weights.copy()
    weights[row, column] = 1e-3
    assert f"1 of 9 rows, first row {row}" in reason(weights=weights)
    assert "the stored loss is" in reason(loss=pruned.loss * 1.01)
    assert "damp must be finite" in reason(damp=float("nan"))
    assert "is not known" in reason(method="wanda")
    mask = pruned.mask.copy()
    row, column = np.argwhere(mask)[0]
    mask[row, column] = False
    if pruned.pattern != "unstructured":  # the pattern is broken
        assert "mask is not" in (text := reason(mask=mask)) or "rows are pruned" in text
    else:  # a zero that stays is not what the method would leave there
        assert f"1 of 9 rows, first row {row}" in reason(mask=mask)


def test_ill_conditioned_layers_pass():
    """A loss from a factor is that of an H within eps of it: far more than 1e-10 of a tiny loss."""
    worst = 0.0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        Q = np.linalg.qr(rng.standard_normal((8, 8)))[0]
        H = (Q * np.logspace(0, -11, 8)) @ Q.T
        W, H = rng.standard_normal((2, 8)), (H + H.T) / 2
        found = ql.verify_pruned(W, H, ql.sparsegpt(W, H, order="act", damp=1e-8))
        assert found.ok, found.reason
        worst = max(worst, found.loss_error)
    assert worst > 1e-10  # or this shows nothing


def test_arguments_are_checked():
    W, H = layer()
    pruned = ql.obs_prune(W, H, 0.5)
    with pytest.raises(ql.InvalidArgumentError, match=r"W\.T"):
        ql.verify_pruned(W[1:], H, pruned)
    with pytest.raises(ql.DTypeError, match="must be a Pruned; got Quantized"):
        ql.verify_pruned(W, H, ql.nearest(W, H))
    with pytest.raises(ql.NonFiniteError, match="H"):
        ql.verify_pruned(W, np.full_like(H, np.nan), pruned)


@pytest.mark.parametrize("shape", ((0, 8), (3, 0)))
def test_empty_layers(shape):
    W, H = np.ones(shape), np.eye(shape[1])
    for pruned in (ql.sparsegpt(W, H), ql.obs_prune(W, H), ql.prune_columns(W, H)):
        assert ql.verify_pruned(W, H, pruned).ok
