"""What the pruning functions accept, and what each bad input gets."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql

P = make_problem(6, 16, 0, 2, "well")
CALLS = {
    "sparsegpt": ql.sparsegpt,
    "sparsegpt 2:4": lambda W, H, **k: ql.sparsegpt(W, H, pattern="2:4", **k),
    "obs_prune": ql.obs_prune,
    "obs_prune 2:4": lambda W, H, **k: ql.obs_prune(W, H, pattern="2:4", **k),
    "obs_prune block:4": lambda W, H, **k: ql.obs_prune(W, H, pattern="block:4", **k),
    "prune_columns": ql.prune_columns,
    "prune_quantize": ql.prune_quantize,
    "prune_quantize obs": lambda W, H, **k: ql.prune_quantize(W, H, method="obs", **k),
}
BOTH = pytest.mark.parametrize("name", CALLS)


def dense(result):
    return result.dequantize() if isinstance(result, ql.Quantized) else result.dense()


@BOTH
def test_bad_weights_and_hessians(name):
    call = CALLS[name]
    for value in (np.nan, np.inf):
        W, H = P.W.copy(), P.H.copy()
        W[2, 3] = H[4, 3] = value
        with pytest.raises(ql.NonFiniteError, match=r"W\[2, 3\].*Find where W was made"):
            call(W, P.H)
        with pytest.raises(ql.NonFiniteError, match=r"H\[4, 3\]"):
            call(P.W, H)
    with pytest.raises(ql.DTypeError, match="W must"):
        call(P.W.astype(int), P.H)
    with pytest.raises(ql.InvalidArgumentError, match=r"Pass W\.T for Keras"):
        call(P.W[:, :12], P.H)
    with pytest.raises(ql.InvalidArgumentError, match="H must be symmetric"):
        call(P.W, P.H + np.triu(np.ones_like(P.H), 1))
    bad = P.H - 1.2 * np.linalg.eigvalsh(P.H)[-2] * np.eye(16)
    with pytest.raises(ql.NotPositiveDefiniteError):
        call(P.W, bad)
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((16, 16)))[0]
    values = np.r_[np.ones(15), -0.5]
    with pytest.raises(ql.NotPositiveDefiniteError, match="Raise damp"):
        call(P.W, (Q * values) @ Q.T)
    with pytest.raises(ql.InvalidArgumentError, match="damp must be"):
        call(P.W, P.H, damp=2.0)
    with pytest.raises(ql.InvalidArgumentError, match="backend must be"):
        call(P.W, P.H, backend="torch")
    with pytest.raises(TypeError, match=r"percdamp.*did you mean damp") as caught:
        {"sparsegpt 2:4": ql.sparsegpt}.get(name, call)(P.W, P.H, percdamp=0.1)
    assert isinstance(caught.value, ql.DTypeError)


@pytest.mark.parametrize("call", (ql.sparsegpt, ql.obs_prune, ql.prune_quantize))
def test_bad_patterns(call):
    for pattern in ("2/4", "4:2", "0:4", "2:", ":4", "2:4:8", "two:four", "", "block:0", "block:-4",
                    "-2:4", "2:4 ", 4, (2, 4), "columns"):  # fmt: skip
        with pytest.raises(ql.InvalidArgumentError, match=r"pattern must be .* got pattern=.*GPUs"):
            call(P.W, P.H, pattern=pattern)
    with pytest.raises(ql.InvalidArgumentError, match=r"Add columns of zeros .* up to n=18"):
        call(P.W, P.H, pattern="1:3")
    if call is not ql.obs_prune:
        with pytest.raises(ql.InvalidArgumentError, match="pattern must be"):
            call(P.W, P.H, pattern="block:4")


def test_the_remedy_of_a_pattern_that_does_not_fit_works():
    W, H = np.pad(P.W, ((0, 0), (0, 2))), np.pad(P.H, ((0, 2), (0, 2)))
    for call in (ql.sparsegpt, ql.obs_prune):
        p = call(W, H, pattern="2:3")
        assert p.mask[:, 16:].sum() == 6  # one of each last group of three, of the zeros
        assert p.mask[:, 15].sum() == 0


@pytest.mark.parametrize("call", (ql.sparsegpt, ql.obs_prune, ql.prune_columns))
def test_bad_sparsities(call):
    for sparsity in (-0.1, 1.1, np.nan, "half", True, 50):
        with pytest.raises(ql.InvalidArgumentError, match=r"sparsity must be a share .* got"):
            call(P.W, P.H, sparsity)
    if call is not ql.prune_columns:
        with pytest.raises(ql.InvalidArgumentError, match=r"sparsity must be 0.5 with .*Leave"):
            call(P.W, P.H, 0.6, pattern="2:4")
        assert call(P.W, P.H, 0.75, pattern="1:4").sparsity == 0.75


def test_other_bad_keywords():
    for kwargs, match in (
        (dict(block=0), "block must be .*128 is what"),
        (dict(block=1.5), "block must be"),
        (dict(order="desc_act"), "order must be"),
        (dict(order="act", pattern="2:4"), "order must be 'natural' .*unstructured pattern"),
    ):
        for call in (ql.sparsegpt, ql.prune_quantize):
            with pytest.raises(ql.InvalidArgumentError, match=match):
                call(P.W, P.H, **kwargs)
    for budget in (-1, np.inf, np.nan, "1%"):
        for call in (ql.obs_prune, ql.prune_columns):
            with pytest.raises(ql.InvalidArgumentError, match=r"loss_budget must be .*hundredth"):
                call(P.W, P.H, loss_budget=budget)
    with pytest.raises(ql.InvalidArgumentError, match=r"loss_budget must be None .*Leave one"):
        ql.obs_prune(P.W, P.H, pattern="2:4", loss_budget=0.1)
    for count in (-1, 17, 1.5, True):
        with pytest.raises(ql.InvalidArgumentError, match=r"count must be .*takes a share"):
            ql.prune_columns(P.W, P.H, count=count)
    with pytest.raises(ql.InvalidArgumentError, match="Drop one of them"):
        ql.prune_columns(P.W, P.H, 0.5, count=3)
    for kwargs, match in (
        (dict(method="magnitude"), "method must be .*fast one"),
        (dict(clip="best"), "clip must be .*Call twice"),
        (dict(bits=0), "bits must be"),
        (dict(method="obs", order="desc_act"), "order must be"),
        (dict(method="obs", bits=9), "bits must be"),
        (dict(group_size=0), "group_size must be"),
        (dict(grid="minmax"), "grid must be"),
    ):
        with pytest.raises(ql.InvalidArgumentError, match=match):
            ql.prune_quantize(P.W, P.H, **kwargs)


@BOTH
def test_scales_at_which_losses_do_not_fit_are_refused(name):
    """Squares that are all 0 or infinite would leave the choice of the mask to their order."""
    for w, h in ((1e-200, 1.0), (1e160, 1.0), (1e-310, 1.0), (1.0, 1e307), (1e-100, 1e-200)):
        with pytest.raises(ql.InvalidArgumentError, match=r"(float64 can hold|scale must be)"):
            CALLS[name](P.W * w, P.H * h)
    for w, h in ((2.0**60, 2.0**-300), (2.0**-60, 2.0**700)):
        expected = CALLS[name](P.W, P.H)
        assert (CALLS[name](P.W * w, P.H * h).mask == expected.mask).all()
        assert CALLS[name](0 * P.W, P.H * h).loss == 0 == CALLS[name](P.W * w, 0 * P.H).loss


def test_names_of_sparsegpts_code_are_explained():
    for call in (ql.sparsegpt, ql.prune_quantize):
        with pytest.raises(TypeError, match=r"block .*changes the result"):
            call(P.W, P.H, blocksize=128)
        with pytest.raises(TypeError, match='did you mean pattern="2:4"'):
            call(P.W, P.H, prunen=2)
    with pytest.raises(ql.InvalidArgumentError, match="block must be"):
        ql.prune_quantize(P.W, P.H, method="obs", block=0)


def test_a_pruned_unbounded_grid_that_int32_cannot_hold_is_refused():
    H = np.array([[1.0, 9e-11], [9e-11, 1e-20]])  # U = 9e9: an error of 0.4 is a target of 4e9
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)
    for method in ("sparsegpt", "obs"):
        with pytest.raises(ql.InvalidArgumentError, match="codes fit in int32"):
            ql.prune_quantize(
                np.array([[0.4, 0.0]]), H, 4, 0.0, grid=grid, damp=0.0, method=method,
                order="natural",
            )  # fmt: skip


@BOTH
def test_every_kind_of_array_comes_back_in_kind(name):
    call = CALLS[name]
    for dtype in (np.float16, np.float32, np.float64):
        result = call(P.W.astype(dtype), P.H)
        assert type(dense(result)) is np.ndarray and dense(result).dtype == dtype
        assert (dense(result)[result.mask] == 0).all()
        wide = np.asarray(result, np.float64)
        assert np.abs(wide - dense(result)).max() <= 2 * np.finfo(dtype).eps * np.abs(wide).max()
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        W = torch.tensor(P.W, dtype=dtype)
        back = dense(call(W, torch.tensor(P.H)))
        assert isinstance(back, torch.Tensor) and back.dtype == dtype


@BOTH
def test_nothing_the_caller_passed_is_changed_and_memory_may_be_awkward(name):
    call = CALLS[name]
    for dtype in (np.float32, np.float64):
        W, H = P.W.astype(dtype), P.H.astype(dtype)
        before = W.tobytes(), H.tobytes()
        expected = dense(call(W, H))
        assert (W.tobytes(), H.tobytes()) == before
        for a in (W, H):
            a.flags.writeable = False
        strided, reversed_ = np.repeat(W, 2, axis=1)[:, ::2], H[::-1, ::-1].copy()[::-1, ::-1]
        fortran = np.asfortranarray(W), np.asfortranarray(H)
        for other in ((W, H), fortran, (strided, reversed_)):
            assert (dense(call(*other)) == expected).all()
    result = call(P.W, P.H)
    dense(result)[:] = 0
    assert np.asarray(result).any()


@BOTH
@pytest.mark.parametrize("shape", ((0, 0), (0, 8), (5, 0), (1, 4), (1, 68), (70, 4)))
def test_every_shape(name, shape):
    n = shape[1]
    for backend in ("cpu", "generic"):
        result = CALLS[name](np.ones(shape), np.eye(n) + 0.1, backend=backend)
        assert result.shape == shape == dense(result).shape == result.mask.shape
        kind = "Quantized" if "quantize" in name else "Pruned"
        assert repr(result).startswith(f"{kind}({shape[0]}x{n}, ")
        assert result.loss >= 0


def test_the_repr_and_the_array_protocol():
    H = P.H.copy()
    H[3] = H[:, 3] = 0
    p = ql.sparsegpt(P.W.astype(np.float32), H, pattern="2:4")
    assert repr(p).startswith("Pruned(6x16, sparsegpt, 2:4: loss ")
    assert "50% pruned" in repr(p) and "1 dead columns" in repr(p)
    assert np.shares_memory(np.asarray(p, copy=False), p.weights)
    assert not np.shares_memory(np.array(p), p.weights)
    with pytest.raises(ValueError, match="uncopied"):
        np.asarray(p, np.float64, copy=False)
    assert ql.proxy_loss(p, P.W.astype(np.float32), H) == pytest.approx(p.loss, rel=1e-4)


def test_damping_escalates_and_is_recorded():
    low = np.linalg.eigvalsh(P.H)[0]
    H = P.H - (low + 0.05 * np.trace(P.H) / 16) * np.eye(16)
    for name, call in CALLS.items():
        with pytest.warns(ql.DampingWarning):
            result = call(P.W, H, damp="auto")
        assert result.damp > 0.05 * np.trace(H) / 16, name
