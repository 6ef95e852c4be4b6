"""Prune and quantise: the mask is respected, the rest is rounded as it should be."""

from __future__ import annotations

import numpy as np
import pytest
from comparing import assert_same_rounding
from strategies import make_problem

import quiplinalg as ql
from quiplinalg import reference


def damped(H, q):
    return H + q.damp * np.eye(len(H))


def rounder(grid, n):
    """Q of a column, by the definition of the grid."""
    index = grid.columns(n)

    def quantise(k, w):
        s, o = (np.asarray(a, float)[:, index[k]] for a in (grid.scale, grid.zero))
        return s * (np.clip(np.rint(w / s) + o, 0, grid.maxq) - o)

    return quantise


@pytest.mark.parametrize("backend", ("cpu", "generic"))
@pytest.mark.parametrize("keywords,oracle", (
    (dict(sparsity=0.5, block=16), dict(sparsity=0.5, block=16)),
    (dict(pattern="2:4"), dict(keep=2, size=4)),
    (dict(pattern="4:8", group_size=12), dict(keep=4, size=8)),
    (dict(sparsity=0.3, sym=True, clip="minmax"), dict(sparsity=0.3)),
))  # fmt: skip
def test_one_pass_is_the_published_algorithm(backend, keywords, oracle):
    for seed in range(4 if backend == "cpu" else 1):
        P = make_problem(19, 48, seed, hessian=("well", "power")[seed % 2])
        q = ql.prune_quantize(P.W, P.H, 3, backend=backend, **keywords)
        W_hat, mask = reference.sparsegpt(
            P.W, damped(P.H, q), quantise=rounder(q.grid, 48), **oracle
        )
        assert (q.mask == mask).all()
        assert np.abs(np.asarray(q, np.float64) - W_hat).max() <= 1e-12 * np.abs(W_hat).max()


def test_nothing_pruned_is_gptq():
    for kind in ("well", "power", "outlier"):
        P = make_problem(30, 70, 1, hessian=kind)
        for keywords in (dict(), dict(order="act"), dict(sym=True, group_size=16)):
            q = ql.prune_quantize(P.W, P.H, 4, 0.0, **keywords)
            g = ql.gptq(P.W, P.H, 4, static_groups=True, **({"order": "natural"} | keywords))
            assert not q.mask.any()
            assert_same_rounding(
                q.codes, g.codes, P.W, damped(P.H, q), q.grid.scale, q.grid.zero, 15.0,
                perm=q.permutation, group_index=q.grid.group_index,
            )  # fmt: skip
            assert abs(q.loss / g.loss - 1) <= 1e-9
            assert q.clipped == g.clipped and abs(q.trace_D / g.trace_D - 1) <= 1e-12


@pytest.mark.parametrize("method", ("sparsegpt", "obs"))
@pytest.mark.parametrize("dtype", (np.float16, np.float32, np.float64))
@pytest.mark.parametrize("pattern", (None, "2:4", "4:8"))
def test_masked_weights_are_zero_and_the_loss_is_its_definition(method, dtype, pattern):
    P = make_problem(24, 64, 2, hessian="outlier")
    W = P.W.astype(dtype)
    for bits, sym in ((2, False), (4, False), (4, True)):
        q = ql.prune_quantize(W, P.H, bits, pattern=pattern, method=method, sym=sym)
        W_hat = q.dequantize()
        assert W_hat.dtype == dtype and (W_hat[q.mask] == 0).all()
        assert q.mask.sum() == q.mask.size // 2
        if pattern:
            size = int(pattern[2:])
            assert (q.mask.reshape(24, -1, size).sum(axis=2) == size // 2).all()
        zero = np.broadcast_to(q.grid.zero, q.shape)
        assert (q.codes[q.mask] == zero[q.mask]).all()  # min-max grids have the zero
        levels = np.asarray(q.grid.scale, float) * (q.codes - np.asarray(q.grid.zero, float))
        assert (np.asarray(q, np.float64) == np.where(q.mask, 0, levels)).all()
        loss = ql.proxy_loss(q, W.astype(float), P.H)
        assert abs(q.loss - loss) <= 1e-4 * loss
        assert q.method == {"sparsegpt": "sparsegpt", "obs": "obq"}[method]


def test_a_grid_without_zero_is_masked_all_the_same():
    P = make_problem(24, 64, 2)
    grid = ql.rms_grid(P.W, 3, rho=2.1)
    q = ql.prune_quantize(P.W, P.H, pattern="2:4", grid=grid)
    assert q.grid is grid and (q.dequantize()[q.mask] == 0).all() and not q.codes[q.mask].any()
    assert abs(q.loss - ql.proxy_loss(q, P.W, P.H)) <= 1e-6 * q.loss
    with pytest.raises(ql.InvalidArgumentError, match="zero"):
        ql.prune_quantize(P.W, P.H, pattern="2:4", grid=grid, method="obs")


def test_obs_takes_the_mask_of_obs_prune_and_is_better_on_average():
    gains = []
    for seed in range(6):
        P = make_problem(24, 64, seed, hessian="power")
        fast, exact = (ql.prune_quantize(P.W, P.H, 4, 0.5, method=m) for m in ("sparsegpt", "obs"))
        assert (exact.mask == ql.obs_prune(P.W, P.H, 0.5).mask).all()
        greedy = ql.prune_quantize(P.W, P.H, 4, 0.5, method="obs", order="greedy")
        assert (greedy.mask == exact.mask).all() and (greedy.codes != exact.codes).any()
        gains.append(10 * np.log10(fast.loss / exact.loss))
    assert np.mean(gains) >= 1, gains


def test_one_call_is_better_than_rounding_after_pruning():
    """Rounding what sparsegpt kept to nearest feeds nothing back."""
    gains = []
    for seed in range(6):
        P = make_problem(24, 64, seed, hessian="power")
        q = ql.prune_quantize(P.W, P.H, 3, 0.5)
        p = ql.sparsegpt(P.W, P.H, 0.5)
        after = np.where(p.mask, 0, ql.nearest(p.weights, bits=3, grid=q.grid).dequantize())
        gains.append(10 * np.log10(ql.proxy_loss(after, P.W, P.H) / q.loss))
    assert np.mean(gains) >= 1, gains


@pytest.mark.parametrize("method", ("sparsegpt", "obs"))
def test_the_same_codes_for_any_number_of_threads(method):
    P = make_problem(140, 64, 7, hessian="outlier")
    for keywords in (dict(pattern="2:4"), dict(sparsity=0.5, group_size=16)):
        results = []
        for threads in (1, 2, 3):
            with ql.num_threads(threads):
                results.append(ql.prune_quantize(P.W, P.H, 3, method=method, **keywords))
        for other in results[1:]:
            assert other.codes.tobytes() == results[0].codes.tobytes()
            assert (other.mask == results[0].mask).all() and other.loss == results[0].loss
