"""quip: the loss in the original basis, the choice of a rotation, files, the claimed decibels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import haar, make_problem, problems

import quiplinalg as ql
from quiplinalg.incoherence.process import SIDES
from quiplinalg.rounding.scale_search import RHO, scale_steps

ROTATIONS = ("hadamard", "kronecker", None, "auto")
FAST = dict(max_m=6, max_n=33, bits=(1, 2, 3, 4, 8))


def relative_gap(q, W, H):
    """How far the loss it carries is from the defined one, relative to tr(W H W^T)."""
    W_hat = q.__array__(np.float64)
    energy = ql.proxy_loss(np.zeros_like(W_hat), W, H) + ql.proxy_loss(W_hat, W, H)
    return abs(q.loss - ql.proxy_loss(W_hat, W, H)) / max(energy, 1e-300)


@pytest.mark.parametrize("rotation", ROTATIONS)
@given(
    problem=problems(**FAST, max_dead=2),
    sides=st.sampled_from(SIDES),
    rescale=st.sampled_from((True, False, "trace", "volume")),
    rho=st.sampled_from((None, "search", 2.0)),
    refine=st.sampled_from((0, 2, None)),
)
def test_the_loss_is_that_of_the_original_basis(rotation, problem, sides, rescale, rho, refine):
    W, H = problem.W, problem.H
    sides = sides if rotation else "input"
    q = ql.quip(
        W, H, problem.bits, rotation=rotation, sides=sides, rescale=rescale, rho=rho, refine=refine
    )
    assert relative_gap(q, W, H) <= 1e-9
    assert q.codes.max(initial=0) < 2**problem.bits
    assert (q.dead == np.flatnonzero(H.diagonal() == 0)).all()
    assert q.dequantize().dtype == W.dtype and q.method == "quip"


@pytest.mark.parametrize("rotation", ("hadamard", "kronecker"))
def test_it_is_ldlq_of_the_processed_layer(rotation):
    P = make_problem(20, 96, 3, hessian="outlier", weights="heavy")
    q = ql.quip(P.W, P.H, 3, rotation=rotation, rho=2.0, order="act", seed=7)
    W2, H2, p = ql.incoherence_process(P.W, P.H, rotation=rotation, seed=7)
    twin = ql.ldlq(W2, H2, 3, grid=ql.rms_grid(W2, 3, rho=2.0), order="act")
    assert (q.codes == twin.codes).all()
    assert (q.dequantize() == p.undo(twin.dequantize())).all()
    assert q.loss == twin.loss and q.damp == twin.damp


def test_auto_keeps_the_best_at_equal_size_and_says_what_the_others_cost():
    P = make_problem(64, 256, 0, hessian="outlier", weights="heavy")
    q = ql.quip(P.W, P.H, 2)
    assert set(q.candidates) == {"hadamard", "kronecker", "none"}
    single = {name: ql.quip(P.W, P.H, 2, rotation=name) for name in ("hadamard", "kronecker")}
    single["none"] = ql.ldlq(P.W, P.H, 2, clip="best", order="min-pivot")
    assert {name: found.loss for name, found in single.items()} == dict(q.candidates)
    best = min(single, key=lambda name: single[name].loss * 4 ** single[name].bits_per_weight)
    assert q.processing.rotation == best and (q.codes == single[best].codes).all()
    assert f"{best} rotation (" in repr(q) and "none +" in repr(q)


def test_auto_keeps_the_plain_layer_where_a_rotation_does_not_pay():
    """Weights on the grid of a diagonal H: nothing is lost without a rotation."""
    rng = np.random.default_rng(0)
    W = rng.integers(0, 4, (32, 64)).astype(float)
    W[:, 0], W[:, 1] = 0, 3
    q = ql.quip(W, np.diag(rng.uniform(1, 2, 64)), 2)
    assert q.processing is None and q.loss == 0 and q.candidates["none"] == 0
    assert "no rotation" in repr(q)


def test_one_huge_weight_with_nearly_all_the_energy():
    """A weight of 175 sigma: the two Haar factors leave it visible, Hadamard spreads it."""
    rng = np.random.default_rng(0)
    n = 1024
    W = rng.standard_normal((256, n))
    W[7, 11] = 175.0
    spectrum = np.arange(1, n + 1) ** -1.0
    Q = haar(n, rng)
    H = (Q * spectrum) @ Q.T
    H[11] *= 24
    H[:, 11] *= 24
    H = (H + H.T) / 2 + 1e-2 * np.mean(np.diag(H)) * np.eye(n)
    energy = ql.proxy_loss(0 * W, W, H)
    share = 175.0**2 * H[11, 11] / energy
    assert share > 0.97
    plain = ql.ldlq(W, H, 2, clip="best", order="min-pivot").loss
    losses = {r: ql.quip(W, H, 2, rotation=r).loss for r in ("hadamard", "kronecker", "auto")}
    assert losses["auto"] <= min(losses["hadamard"], plain) and losses["auto"] <= 0.7 * plain
    assert ql.quip_authors(W, H, 2).loss >= 2 * plain  # one scale, two Haar factors: worse
    mu = {r: ql.mu_weight(ql.incoherence_process(W, H, rotation=r, rescale=False)[0])
          for r in ("hadamard", "kronecker")}  # fmt: skip
    assert mu["hadamard"] <= 12 and mu["kronecker"] >= 2 * mu["hadamard"]


def test_the_claimed_decibels():
    """2 bits: -18.0 dB on the heavy-tailed outlier layer, -18.5 refined; plain LDLQ has -13."""
    m, n, decibels = 256, 512, []
    for seed in range(3):
        rng = np.random.default_rng(100 + seed)
        Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
        H = (Q * np.arange(1, n + 1) ** -1.2) @ Q.T
        H = H / H.diagonal().mean() + 1e-3 * np.eye(n)
        s = np.exp(0.5 * rng.standard_normal(n))
        s[rng.choice(n, n // 100 + 1, replace=False)] *= 8
        H = s[:, None] * H * s
        H /= H.diagonal().mean()
        H = (H + H.T) / 2 + 1e-2 * np.eye(n)
        W = rng.standard_t(5, (m, n)) * np.exp(0.3 * rng.standard_normal((m, 1)))
        W *= np.exp(0.3 * rng.standard_normal(n))
        W /= np.sqrt((W**2).mean())
        energy = ql.proxy_loss(0 * W, W, H)
        losses = [
            ql.quip(W, H, 2, rotation="hadamard", order="act").loss,
            ql.quip(W, H, 2, rotation="hadamard", refine=3).loss,
            ql.quip(W, H, 3, rotation="hadamard", order="act").loss,
            ql.quip(W, H, 3, rotation="hadamard", refine=3).loss,
        ]
        decibels.append(10 * np.log10(np.array(losses) / energy))
    found = np.mean(decibels, axis=0)
    assert (found <= [-18.0, -18.5, -23.5, -24.0]).all(), found


def test_refinement_only_helps_and_is_recorded():
    P = make_problem(32, 128, 1, hessian="outlier", weights="heavy")
    before = ql.quip(P.W, P.H, 2, rotation="hadamard")
    q = ql.quip(P.W, P.H, 2, rotation="hadamard", refine=None)
    assert q.loss < before.loss and q.passes > 0 and q.changed == 0
    assert relative_gap(q, P.W, P.H) <= 1e-10
    assert ql.quip(P.W, P.H, 2, rotation="hadamard", refine=1).passes == 1


def test_the_search_is_never_worse_than_any_of_its_grids():
    P = make_problem(16, 64, 2, hessian="power", weights="heavy")
    q = ql.quip(P.W, P.H, 2, rotation="hadamard", rho="search")
    for rho in (RHO[2], RHO[2] * 0.85, RHO[2] * 1.18):
        assert q.loss <= ql.quip(P.W, P.H, 2, rotation="hadamard", rho=rho).loss * (1 + 1e-12)
    whole = ql.quip(P.W, P.H, 2, rotation="hadamard", per_tensor=True, sides="both")
    assert whole.grid.scale.shape == (1, 1)
    base = scale_steps(P.W, 2, 1.6, None, False)
    assert len(base) == 1 and base[0](None).scale.shape == (16, 1)


def test_groups():
    P = make_problem(8, 40, 2, hessian="power", weights="heavy")
    q = ql.quip(P.W, P.H, 2, rotation="hadamard", group_size=16)
    assert q.grid.scale.shape == (8, 3) and relative_gap(q, P.W, P.H) <= 1e-10


def test_bits_per_weight_counts_the_processing():
    P = make_problem(64, 256, 0, hessian="outlier", weights="heavy")
    plain = ql.quip(P.W, P.H, 2, rotation=None, rescale=False)
    assert plain.bits_per_weight == 2 + 32 / 256
    for name in ("hadamard", "kronecker"):
        q = ql.quip(P.W, P.H, 2, rotation=name)
        extra = 16 * 256 + q.processing.input.storage_bits
        assert q.bits_per_weight == plain.bits_per_weight + extra / (64 * 256)


@pytest.mark.parametrize("rotation", ROTATIONS)
@pytest.mark.parametrize("refine", (0, None))
def test_verify_passes_and_sees_a_wrong_code(rotation, refine):
    P = make_problem(24, 100, 0, hessian="outlier", weights="heavy")
    for dtype in (np.float32, np.float64):
        W = P.W.astype(dtype)
        q = ql.quip(W, P.H, 2, rotation=rotation, refine=refine)
        assert ql.verify(W, P.H, q).ok, ql.verify(W, P.H, q).reason
        codes = q.codes.copy()
        codes[3, 50] ^= 1
        assert not ql.verify(W, P.H, dataclasses.replace(q, codes=codes)).ok
        assert not ql.verify(W, P.H, dataclasses.replace(q, loss=q.loss * 1.001)).ok
        assert ql.verify(W, P.H, q).codes_checked


@pytest.mark.parametrize("bits", (2, 4, 8))
@pytest.mark.parametrize("rotation", ("hadamard", "kronecker"))
def test_verify_sees_any_single_code_and_a_thousandth_of_the_loss_in_float32(rotation, bits):
    P = make_problem(48, 256, 1, hessian="outlier", weights="heavy")
    W = P.W.astype(np.float32)
    q = ql.quip(W, P.H, bits, rotation=rotation, refine=None)
    assert ql.verify(W, P.H, q).ok
    rng = np.random.default_rng(0)
    for _ in range(10):
        codes = q.codes.copy()
        codes[rng.integers(48), rng.integers(256)] ^= 1
        assert not ql.verify(W, P.H, dataclasses.replace(q, codes=codes)).ok
    for factor in (1.001, 0.999):
        assert not ql.verify(W, P.H, dataclasses.replace(q, loss=q.loss * factor)).ok


def test_verify_says_where_it_can_check_the_loss_only():
    """Between two passes of the descent a code is the rounding of no target, and no optimum yet."""
    P = make_problem(48, 256, 1, hessian="power", weights="heavy")
    q = ql.quip(P.W, P.H, 2, rotation="hadamard", refine=1)
    found = ql.verify(P.W, P.H, q)
    assert q.changed > 0 and found.ok and not found.codes_checked
    assert "stopped before a fixed point" in found.reason
    settled = ql.quip(P.W, P.H, 2, rotation="hadamard", refine=None)
    assert settled.changed == 0 and ql.verify(P.W, P.H, settled).codes_checked


@pytest.mark.parametrize("rotation", ("hadamard", "kronecker"))
@pytest.mark.parametrize("rescale", (True, False, "trace", "volume"))
def test_dead_columns_come_back_as_zeros(rotation, rescale):
    """They cost nothing in H; their weights must not be blown up, nor cost the live ones."""
    P = make_problem(64, 128, 0, hessian="well", weights="normal")
    W, H = P.W.copy(), P.H.copy()
    dead = np.arange(0, 128, 2)
    H[dead], H[:, dead] = 0, 0
    W[:, dead] *= 10
    q = ql.quip(W, H, 3, rotation=rotation, rescale=rescale)
    W_hat = q.dequantize()
    assert (q.dead == dead).all()
    assert not W_hat[:, dead].any() and W_hat[:, 1::2].any(axis=0).all()
    zeroed = W.copy()
    zeroed[:, dead] = 0
    assert q.loss <= ql.quip(zeroed, H, 3, rotation=rotation, rescale=rescale).loss * (1 + 1e-9)
    assert ql.verify(W, H, q).ok and ql.verify(W, H, ql.quip_authors(W, H, 3)).ok


def test_a_rotated_h_that_does_not_factor_is_said_so():
    P = make_problem(6, 16, 0, hessian="well")
    H = P.H.copy()
    H[:12], H[:, :12] = 0, 0  # of twelve pivots that are 0, rounding makes one negative at least
    with pytest.raises(ql.NotPositiveDefiniteError, match="H in the rotated basis must be"):
        ql.quip(P.W, H, rotation="hadamard", damp=0.0)
    with pytest.warns(ql.ConditioningWarning, match=r"(hadamard|kronecker) rotation was left out"):
        q = ql.quip(P.W, H, damp=0.0)
    assert "hadamard" not in q.candidates
    assert q.candidates["none"] == ql.ldlq(P.W, H, 2, clip="best", order="min-pivot", damp=0.0).loss


def test_auto_compares_like_with_like():
    """With a given rho or one scale for all, the layer without a rotation has the same grid."""
    P = make_problem(32, 64, 0, hessian="outlier", weights="heavy")
    one = ql.quip(P.W, P.H, 2, per_tensor=True, sides="both", rho=2.4)
    grid = ql.rms_grid(P.W, 2, rho=2.4, per_tensor=True)
    assert one.candidates["none"] == ql.ldlq(P.W, P.H, grid=grid, order="min-pivot").loss
    assert one.grid.scale.shape == (1, 1)


def test_rows_of_zeros_stay_zeros():
    P = make_problem(12, 64, 0, hessian="outlier", weights="heavy")
    W = P.W * 1e-3
    W[0] = 0
    q = ql.quip(W, P.H, 2, rotation="hadamard")
    assert np.abs(q.dequantize()[0]).max() <= 1e-5 * np.abs(W).max()
    without = ql.quip(W[1:], P.H, 2, rotation="hadamard")
    assert abs(q.loss / without.loss - 1) <= 0.2  # another rescaling, by a row less
    assert ql.quip(0 * W, P.H, 2, rotation="kronecker").loss <= 1e-60


@pytest.mark.parametrize("refine", (0, 2))
@pytest.mark.parametrize("damp", (0.01, 0.5, "huge"))
def test_the_loss_has_its_digits_whatever_the_damping(refine, damp):
    """Of a rank-2 H the damping has nearly all of the damped loss: no difference may cancel."""
    X = np.random.default_rng(0).standard_normal((2, 48))
    W = make_problem(16, 48, 0).W.astype(np.float32)
    H = (X.T @ X).astype(np.float32)
    damp = ql.AbsoluteDamp(1e7) if damp == "huge" else damp
    q = ql.quip(W, H, 4, rotation="hadamard", damp=damp, refine=refine)
    loss = ql.proxy_loss(q.__array__(np.float64), W, H)
    assert abs(q.loss - loss) <= 1e-3 * loss


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_files_keep_everything(rotation, tmp_path):
    P = make_problem(12, 44, 0, hessian="outlier", weights="heavy")
    sides = "both" if rotation else "input"
    q = ql.quip(P.W, P.H, 2, rotation=rotation, sides=sides, refine=1)
    with ql.ResultWriter(tmp_path / "r.h5") as file:
        file.add("a/b", q, note="x")
    with ql.open_result(tmp_path / "r.h5") as file:
        r = file.layer("a/b")
        assert file.attributes("a/b") == {"note": "x"}
    assert (np.asarray(r) == np.asarray(q)).all() and r.bits_per_weight == q.bits_per_weight
    assert r.candidates == q.candidates and repr(r) == repr(q)
    assert ql.verify(P.W, P.H, r).ok
    again = tmp_path / "again.h5"
    with ql.ResultWriter(again) as file:
        file.add("a/b", r, note="x")
    assert again.read_bytes() == (tmp_path / "r.h5").read_bytes()


def test_same_codes_for_any_number_of_threads_and_blocks():
    P = make_problem(50, 200, 0, hessian="outlier", weights="heavy")
    W = P.W.astype(np.float32)
    q = ql.quip(W, P.H, 2, refine=2)
    with ql.num_threads(1):
        assert (ql.quip(W, P.H, 2, refine=2).codes == q.codes).all()
    assert (ql.quip(W, P.H, 2, refine=2, block=20).codes == q.codes).all()


def test_backends_agree():
    P = make_problem(10, 48, 0, hessian="power", weights="heavy")
    q, g = (ql.quip(P.W, P.H, 2, rotation="hadamard", backend=b) for b in ("cpu", "generic"))
    assert abs(q.loss - g.loss) <= 1e-9 * q.loss and (q.codes == g.codes).mean() > 0.99


def test_stochastic_rounding_is_unbiased_through_the_rotation():
    """The mean of W_hat over seeds is W on an unclipped range, within 6 sigma."""
    rng = np.random.default_rng(0)
    W, H = rng.standard_normal((4, 16)), np.eye(16)
    runs = np.array([
        ql.quip(W, H, 4, rotation="hadamard", rho=6.0, rounding="stochastic", seed=s).dequantize()
        for s in range(400)
    ])  # fmt: skip
    sigma = runs.std(axis=0) / np.sqrt(len(runs))
    assert (np.abs(runs.mean(axis=0) - W) <= 6 * sigma + 1e-12).all()


@pytest.mark.parametrize("shape", ((0, 5), (5, 0), (0, 0), (1, 1), (3, 1), (1, 7)))
def test_empty_and_tiny(shape):
    _, n = shape
    q = ql.quip(np.ones(shape), np.eye(n), 2)
    assert q.dequantize().shape == shape and q.loss >= 0


def test_the_callers_kind_comes_back_and_nothing_is_changed():
    P = make_problem(6, 16, 0)
    W, H = P.W.astype(np.float16), P.H.astype(np.float32)
    W.flags.writeable = H.flags.writeable = False
    kept = W.copy()
    q = ql.quip(W, H, 2)
    assert q.dequantize().dtype == np.float16 and (W == kept).all()
    assert q.nearest_loss(W, H) > q.loss


def test_bad_input():
    P = make_problem(6, 8, 0, 2, "well")
    cases = {
        "rotation": ("dct", 3), "sides": ("left",), "rescale": ("quip", 2),
        "rho": (0, -1.0, np.nan, "best", True, 10**400), "refine": (-1, 1.5, "all", True),
        "seed": (-1, None, 0.5), "bits": (0, 9, 2.5), "order": ("desc",), "damp": (-1, 2, 10**400),
        "group_size": (0, -1), "per_tensor": ("yes", 1),
    }  # fmt: skip
    for name, values in cases.items():
        for value in values:
            with pytest.raises(ql.InvalidArgumentError, match=f"{name} must be"):
                ql.quip(P.W, P.H, **{name: value})
    with pytest.raises(ql.InvalidArgumentError, match="rotation must not be None"):
        ql.quip(P.W, P.H, rotation=None, sides="both")
    assert ql.quip(P.W, P.H, group_size=10**30).grid.scale.shape == (6, 1)
    for nothing in (None, "x", P.W):
        with pytest.raises(ql.DTypeError, match="quantized must be a Quantized"):
            ql.verify(P.W, P.H, nothing)
    with pytest.raises(ql.DTypeError, match="did you mean bits"):
        ql.quip(P.W, P.H, wbits=2)
    with pytest.raises(ql.InvalidArgumentError, match=r"Pass W\.T"):
        ql.quip(P.W.T, P.H)
    bad = P.H.copy()
    bad[0, 0] = -1
    with pytest.raises(ql.NotPositiveDefiniteError):
        ql.quip(P.W, bad)
