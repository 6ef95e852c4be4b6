"""Incoherence processing: the loss is invariant, undo undoes, parts round-trip."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_problem, problems

import quiplinalg as ql
from quiplinalg.incoherence.process import ROTATIONS, SIDES, Processing

KINDS = (*ROTATIONS, None)


@given(
    problem=problems(max_m=9, max_n=40, max_dead=2),
    rotation=st.sampled_from(KINDS),
    sides=st.sampled_from(SIDES),
    rescale=st.sampled_from((True, False, "trace", "volume")),
    seed=st.integers(0, 2**63 - 1),
)
def test_the_loss_is_invariant_and_undo_undoes(problem, rotation, sides, rescale, seed):
    W, H = problem.W, problem.H
    sides = sides if rotation else "input"
    W2, H2, p = ql.incoherence_process(
        W, H, rotation=rotation, sides=sides, rescale=rescale, seed=seed
    )
    assert W2.dtype == H2.dtype == np.float64
    assert rotation is None or (H2 == H2.T).all()
    rng = np.random.default_rng(seed)
    E = rng.standard_normal(W2.shape)
    before, after = ql.proxy_loss(p.undo(W2 + E), W, H), ql.proxy_loss(W2 + E, W2, H2)
    # undo(W2 + E) - W cancels: its rounding errors are relative to W, in the norm of H
    s = np.ones(problem.n) if p.scales is None else p.scales
    size = float(np.linalg.norm(H)) * np.square(np.abs(p.undo(E)) + np.abs(W)).sum()
    spread = (s.max() / s.min()) ** 2
    assert abs(before - after) <= 1e-12 * spread * max(size, after)
    back = p.undo(W2)
    tolerance = 64 * np.finfo(float).eps * np.linalg.norm(W * s, axis=1, keepdims=True).max()
    assert (np.abs(back - W) * s <= tolerance).all()


@pytest.mark.parametrize("rotation", ROTATIONS)
def test_the_proxy_is_invariant_to_1e_12_and_1e_5(rotation):
    """On a layer of ordinary shape, in float64 and float32."""
    problem = make_problem(96, 384, 1, hessian="outlier", weights="heavy")
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        W, H = problem.W.astype(dtype), problem.H.astype(dtype)
        W2, H2, p = ql.incoherence_process(W, H, rotation=rotation, sides="both")
        assert W2.dtype == dtype
        # the loss of rounding everything to zero, and that of rounding to a coarse grid
        for hat2 in (np.zeros_like(W2), np.round(W2 * 2) / 2):
            hat = hat2 * 0 if not hat2.any() else p.undo(hat2)
            expected, found = ql.proxy_loss(hat, W, H), ql.proxy_loss(hat2, W2, H2)
            assert abs(found - expected) <= tolerance * expected, (found - expected) / expected


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("rotation", KINDS)
def test_parts_make_it_again(rotation, sides):
    problem = make_problem(6, 44, 0)
    sides = sides if rotation else "input"
    W2, _, p = ql.incoherence_process(problem.W, problem.H, rotation=rotation, sides=sides, seed=5)
    scalars, arrays = p.to_parts()
    q = Processing.from_parts(p.shape, scalars, arrays)
    assert (q.undo(W2) == p.undo(W2)).all() and (q.weight(problem.W) == W2).all()
    assert (q.hessian(problem.H) == p.hessian(problem.H)).all()
    assert q.storage_bits == p.storage_bits and repr(q) == repr(p)
    spoiled = {**arrays, "scales": -arrays["scales"]}
    with pytest.raises(ql.InvalidArgumentError, match="scales must be 44 positive float16"):
        Processing.from_parts(p.shape, scalars, spoiled)
    if rotation:
        bad = {k: v for k, v in arrays.items() if k != "input_signs"}
        with pytest.raises(ql.InvalidArgumentError, match="A rotation has the arrays"):
            Processing.from_parts(p.shape, scalars, bad)
        for name in ("input_rotation", "input_seed"):
            less = {k: v for k, v in scalars.items() if k != name}
            with pytest.raises(ql.InvalidArgumentError):
                Processing.from_parts(p.shape, less, arrays)
        if any(k.startswith("input_factor") for k in arrays):
            last = max(k for k in arrays if k.startswith("input_factor"))
            bad = {k: v for k, v in arrays.items() if k != last}
            with pytest.raises(
                ql.InvalidArgumentError, match=r"must be .* arrays, as windows says"
            ):
                Processing.from_parts(p.shape, scalars, bad)
        with pytest.raises(ql.InvalidArgumentError, match="need its kind; got output_x"):
            Processing.from_parts(p.shape, {k: v for k, v in scalars.items() if "input" in k},
                                  {k: v for k, v in arrays.items() if "output" not in k}
                                  | {"output_x": np.zeros(1)})  # fmt: skip


def test_both_sides_of_a_square_layer_get_different_rotations():
    _, _, p = ql.incoherence_process(np.ones((64, 64)), np.eye(64), sides="both")
    assert (p.input.signs != p.output.signs).any()


def test_seeds_and_threads():
    problem = make_problem(40, 200, 0)
    first = ql.incoherence_process(problem.W, problem.H, seed=3)
    with ql.num_threads(1):
        again = ql.incoherence_process(problem.W, problem.H, seed=3)
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    other = ql.incoherence_process(problem.W, problem.H, seed=4)
    assert (first[0] != other[0]).any()


def test_bad_input():
    P = make_problem(6, 8, 0, 2, "well")
    for bad in ("dct", "", 1, ["hadamard"]):
        with pytest.raises(ql.InvalidArgumentError, match=r"rotation must be 'hadamard'.*got"):
            ql.incoherence_process(P.W, P.H, rotation=bad)
    with pytest.raises(ql.InvalidArgumentError, match="sides must be 'input' or 'both'; got"):
        ql.incoherence_process(P.W, P.H, sides="output")
    for bad in (-1, 2**63, 0.5, None):
        with pytest.raises(ql.InvalidArgumentError, match="seed must be a whole number"):
            ql.incoherence_process(P.W, P.H, seed=bad)
    with pytest.raises(ql.InvalidArgumentError, match=r"Pass W\.T"):
        ql.incoherence_process(P.W.T, P.H)
    _, _, p = ql.incoherence_process(P.W, P.H)
    with pytest.raises(ql.InvalidArgumentError, match=r"W_hat must have the shape .*\(6, 8\); got"):
        p.undo(P.W.T)
    with pytest.raises(ql.NonFiniteError, match="W_hat must be finite"):
        p.undo(P.W * np.nan)
    with pytest.raises(ql.InvalidArgumentError, match=r"H must be \(8, 8\)"):
        p.hessian(np.eye(7))


@pytest.mark.parametrize("shape", ((0, 5), (5, 0), (0, 0), (1, 1)))
def test_empty(shape):
    _, n = shape
    W2, H2, p = ql.incoherence_process(np.ones(shape), np.eye(n), sides="both")
    assert W2.shape == shape and H2.shape == (n, n) and p.undo(W2).shape == shape


def test_nothing_passed_is_changed():
    P = make_problem(6, 8, 0, 2, "well")
    W, H = P.W.copy(), P.H.copy()
    W.flags.writeable = H.flags.writeable = False
    _, _, p = ql.incoherence_process(W, H)
    p.undo(W)
    assert (W == P.W).all() and (H == P.H).all()
