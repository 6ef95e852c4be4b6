"""verify on pruned and on searched layers: what it can hold against them, it does."""

import dataclasses

import numpy as np
import pytest

import quiplinalg as ql


def layer(m=20, n=36, dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    H = (Q * np.logspace(0, -4, n)) @ Q.T
    return rng.standard_normal((m, n)).astype(dtype), (H + H.T) / 2


SEARCHED = {
    "kbest": lambda W, H: ql.kbest(W, H, 2),
    "kbest groups": lambda W, H: ql.kbest(W, H, 3, k=3, group_size=9, order="min-pivot"),
    "exact": lambda W, H: ql.exact(W[:, :8], H[:8, :8], 2).quantized,
    "obq": lambda W, H: ql.obq(W, H, 3),
    "obs": lambda W, H: ql.prune_quantize(W, H, 4, pattern="2:4", method="obs"),
}


@pytest.mark.parametrize("method", SEARCHED)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_codes_without_targets_are_checked_by_grid_and_loss(method, dtype):
    W, H = layer(dtype=dtype)
    q = SEARCHED[method](W, H)
    n = q.shape[1]
    W, H = W[:, :n], H[:n, :n]
    found = ql.verify(W, H, q)
    assert found.ok and not found.codes_checked, found
    assert "no more can be said of the codes" in found.reason
    codes = q.codes.copy()
    row, column = np.argwhere(q.codes < q.grid.maxq)[0] if q.mask is None else (
        np.argwhere(~q.mask & (q.codes < q.grid.maxq))[0]
    )  # fmt: skip
    codes[row, column] += 1
    found = ql.verify(W, H, dataclasses.replace(q, codes=codes))
    assert not found.ok and "the stored loss is" in found.reason
    codes[row, column] = q.grid.maxq + 1
    found = ql.verify(W, H, dataclasses.replace(q, codes=codes))
    assert not found.ok and "1 of" in found.reason and "not on the grid" in found.reason
    assert found.first_wrong == (row, column)


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("keywords", ({}, {"pattern": "2:4"}, {"order": "act", "sparsity": 0.3}))
def test_one_pass_pruning_has_targets_where_weights_stay(dtype, keywords):
    W, H = layer(dtype=dtype)
    q = ql.prune_quantize(W, H, 3, **keywords)
    found = ql.verify(W, H, q)
    assert found.ok and found.codes_checked, found
    row, column = np.argwhere(~q.mask & (q.codes < q.grid.maxq))[5]
    codes = q.codes.copy()
    codes[row, column] += 1
    found = ql.verify(W, H, dataclasses.replace(q, codes=codes))
    assert not found.ok and found.codes_wrong >= 1 and found.first_wrong[0] == row
    # a weight that is said not to be pruned, but has the code of zero
    mask = q.mask.copy()
    row, column = np.argwhere(mask)[np.argmax(np.abs(W[mask]))]
    mask[row, column] = False
    found = ql.verify(W, H, dataclasses.replace(q, mask=mask))
    assert not found.ok and found.first_wrong == (row, column)
    with pytest.raises(ql.InvalidArgumentError, match="mask must be a boolean array"):
        ql.verify(W, H, dataclasses.replace(q, mask=mask[:, :-1]))
    with pytest.raises(ql.InvalidArgumentError, match=r"got a list of bool, \(20, 36\)"):
        ql.verify(W, H, dataclasses.replace(q, mask=mask.tolist()))
