"""Coordinate descent: against the twin, monotone, exact in its account, the same on any machine."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import clamped_counterexample, make_problem, problems

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.files.result_layout import CHECKSUM, layer_checksum
from quiplinalg.incoherence.process import Processing
from quiplinalg.kernels.record import select
from quiplinalg.rounding import tiles
from quiplinalg.rounding.descent import MAX_PASSES, descend_codes

BACKENDS = ("cpu", "generic")
# of tr(W H W^T): what the rounding of n products in either precision leaves of a loss
RTOL = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-10}


def unit_grid(bits):
    return ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits)


def quantized(p, W, **kwargs):
    """A result on a grid of this problem's bits; by the seed with groups, or one grid for all."""
    kind = p.seed % 3
    if p.bits is None:
        return ql.ldlq(W, p.H, grid=unit_grid(None), **kwargs)
    if kind == 0:
        scale, zero = np.full((1, 1), 0.7, W.dtype), np.full((1, 1), p.maxq / 2, W.dtype)
        return ql.ldlq(W, p.H, grid=ql.UniformGrid(scale, zero, p.bits), **kwargs)
    return ql.ldlq(W, p.H, p.bits, group_size=None if kind == 1 else 3, **kwargs)


def row_losses(q, W, H):
    return reference.row_losses(q.__array__(np.float64), np.asarray(W, float), H)


def energy(W, H):
    return ql.proxy_loss(np.zeros_like(W), W, H)


@pytest.mark.parametrize("backend", BACKENDS)
@given(
    problem=problems(max_n=14, max_m=4, bits=(1, 2, 3, 4, 5, 6, 7, 8, None), max_dead=2),
    start=st.sampled_from(("ldlq", "nearest", "anywhere")),
)
def test_codes_are_the_reference_ones(backend, problem, start):
    """In float64 on problems without a tie: with one, rounding errors decide, and both are right.

    Both compute g to n eps of the sum of its terms, far below the 1e-9 of a step asked for.
    """
    W = problem.W * (5 if problem.bits is None else 1)
    q = quantized(problem, W, order="natural")
    grid = q.grid
    if start == "nearest":
        q = ql.nearest(W, problem.H, grid=grid)
    elif start == "anywhere":
        rng = np.random.default_rng(problem.seed)
        low, high = (-9, 9) if grid.bits is None else (0, int(grid.maxq))
        codes = rng.integers(low, high + 1, q.shape).astype(grid.code_dtype)
        q = dataclasses.replace(q, codes=codes, loss=float("nan"))
    twin = reference.descend(
        W, problem.H, q.codes, grid.scale.astype(float), grid.zero.astype(float), grid.maxq,
        passes=MAX_PASSES, group_index=grid.columns(problem.n),
    )  # fmt: skip
    found = ql.descend(W, problem.H, q, backend=backend)
    if twin.nearest_tie > 1e-9:
        assert (found.codes == twin.codes).all()
        assert (found.passes, found.changed) == (len(twin.changed), twin.changed[-1])
    size = energy(W, problem.H) + twin.losses[:, 0].sum()
    direct = ql.proxy_loss(found.__array__(np.float64), W, problem.H)
    assert abs(found.loss - direct) <= RTOL[np.dtype(float)] * size
    assert found.codes.dtype == grid.code_dtype and found.grid is grid
    assert grid.bits is None or found.codes.max(initial=0) <= grid.maxq
    dead = problem.H.diagonal() == 0
    assert (found.codes[:, dead] == q.codes[:, dead]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("bits", (1, 2, 3, 4, 8, None))
def test_it_goes_down_pass_by_pass_and_says_how_far(backend, dtype, bits):
    for seed in range(3):  # each with another kind of grid
        p = make_problem(50, 65, seed, bits, "outlier", "heavy", dead=1)
        W = p.W.astype(dtype)
        q = quantized(p, W)
        H = np.ascontiguousarray(p.H)
        kernels = select(backend)
        found = descend_codes(W, H, q.codes, q.grid, MAX_PASSES, kernels)
        assert found.passes == len(found.history) < MAX_PASSES and found.changed == 0
        assert min(found.history) >= 0 and found.history[-1] == 0
        assert (found.decrease >= 0).all()
        size = RTOL[W.dtype] * energy(W, p.H)
        assert abs(sum(found.history) - found.decrease.sum()) <= 1e-12 * found.decrease.sum()
        before, after = row_losses(q, W, p.H), None
        assert abs(found.loss.sum() - before.sum()) <= size
        result = ql.descend(W, H, q, backend=backend)
        assert (result.codes == found.codes).all()
        after = row_losses(result, W, p.H)
        assert abs(result.loss - after.sum()) <= size
        assert (np.abs(before - after - found.decrease) <= size).all()
        assert (after <= before + size).all()
        # one pass after another is the same as all of them
        fallen, one = [], q
        for k in range(found.passes):
            step = descend_codes(W, H, one.codes, q.grid, 1, kernels)
            fallen.append(step.history[0])
            one = dataclasses.replace(one, codes=step.codes)
            assert step.passes == 1
            if k == 0 and dtype == np.float64:
                assert step.history[0] == pytest.approx(found.history[0], rel=1e-9)
        assert sum(fallen) == pytest.approx(sum(found.history), abs=size)


def test_it_gains_on_heavy_tailed_layers_and_no_row_gets_worse():
    """A quarter of a dB at 2 bits on incoherent H, nearly all of it in 3 passes."""
    gains = []
    for seed in range(4):
        p = make_problem(64, 256, seed, 2, "power", "heavy")
        q = ql.ldlq(p.W, p.H, order="act")
        some, found = ql.descend(p.W, p.H, q, passes=3), ql.descend(p.W, p.H, q)
        assert (row_losses(found, p.W, p.H) <= row_losses(q, p.W, p.H) * (1 + 1e-12)).all()
        assert found.loss <= some.loss < q.loss and some.passes == 3
        assert q.loss - some.loss >= 0.9 * (q.loss - found.loss)
        gains.append(10 * np.log10(q.loss / found.loss))
        # a polish: from nearest it does not get there
        assert ql.descend(p.W, p.H, ql.nearest(p.W, p.H, bits=2)).loss > 1.1 * q.loss
    assert 0.15 <= np.mean(gains) <= 0.4, gains


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_nothing_changes_at_a_fixed_point(backend, dtype):
    p = make_problem(40, 70, 1, 3, "power", "heavy")
    W = p.W.astype(dtype)
    once = ql.descend(W, p.H, ql.ldlq(W, p.H, bits=3), backend=backend)
    assert once.passes > 1 and once.changed == 0
    again = ql.descend(W, p.H, once, backend=backend)
    assert (again.codes == once.codes).all()
    assert again.loss == once.loss and again.passes == once.passes + 1 and again.changed == 0


def test_nothing_changes_where_columns_do_not_interact():
    """With a diagonal H rounding to nearest is best, and ldlq does that."""
    p = make_problem(40, 30, 0, 2, "diagonal", "normal")
    for dtype in (np.float32, np.float64):
        q = ql.ldlq(p.W.astype(dtype), p.H)
        assert q.near_tie_rows == 0
        found = ql.descend(p.W.astype(dtype), p.H, q)
        assert (found.codes == q.codes).all() and (found.passes, found.changed) == (1, 0)
        assert found.loss == q.loss


def test_it_leaves_the_bad_answer_of_clamped_rounding():
    """Section 5.2 of QuIP: 915 against nearest's 15.7 at n = 64."""
    W, H = clamped_counterexample(64)
    q = ql.ldlq(W, H, grid=unit_grid(2), damp=0.0, order="natural")
    found = ql.descend(W, H, q)
    assert q.loss > 900 and found.loss < 2 * q.nearest_loss(W, H)
    assert abs(found.loss - ql.proxy_loss(found, W, H)) <= 1e-9 * q.loss


def test_a_tie_does_not_go_back_and_forth():
    """-1.2 lies half-way between two codes: either is right, and the descent must stop."""
    W = np.array([[-1.20080626]])
    scale, zero = reference.minmax_grid(W, 2)
    grid = ql.UniformGrid(scale, zero + 0.5, 2)
    for code in (0, 1):
        q = dataclasses.replace(ql.nearest(W, np.eye(1), grid=grid), near_tie_rows=0)
        q = dataclasses.replace(q, codes=np.full((1, 1), code, np.uint8))
        for backend in BACKENDS:
            found = ql.descend(W, np.eye(1), q, backend=backend)
            assert (found.codes == code).all() and (found.passes, found.changed) == (1, 0)
            assert found.near_tie_rows == 1


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("group_size", (None, 16))
def test_the_same_codes_for_any_block_threads_and_parts(monkeypatch, dtype, group_size):
    p = make_problem(130, 301, 0, 2, "outlier", "heavy")
    W, H = p.W.astype(dtype), np.ascontiguousarray(p.H)
    q = ql.ldlq(W, H, group_size=group_size)
    with ql.num_threads(1):
        first = descend_codes(W, H, q.codes, q.grid, MAX_PASSES, select("cpu"))
    assert sum(first.history) > 0
    for block in (4, 20, 256):
        for threads in (1, 2):
            for part in (1, 1 << 30):  # a tile at a time, or all
                monkeypatch.setattr(tiles, "_WORK_BYTES", part)
                kernels = dataclasses.replace(select("cpu"), block=block)
                with ql.num_threads(threads):
                    other = descend_codes(W, H, q.codes, q.grid, MAX_PASSES, kernels)
                assert (other.codes == first.codes).all(), (block, threads, part)
                assert other.history == first.history and other.passes == first.passes
                assert (other.decrease == first.decrease).all() and (other.ties == first.ties).all()
                # added up tile by tile, in blocks of columns
                assert np.allclose(other.loss, first.loss, rtol=1e-6)


def test_a_row_alone_is_the_row_in_the_batch():
    p = make_problem(70, 40, 0, 2, "power")
    W = p.W.astype(np.float32)
    q = ql.ldlq(W, p.H, group_size=8)
    found = ql.descend(W, p.H, q)
    for i in (0, 23, 24, 47, 48, 69):
        grid = dataclasses.replace(
            q.grid, scale=q.grid.scale[i : i + 1], zero=q.grid.zero[i : i + 1]
        )
        row = dataclasses.replace(q, codes=q.codes[i : i + 1], grid=grid)
        assert (ql.descend(W[i : i + 1], p.H, row).codes[0] == found.codes[i]).all()


@pytest.mark.parametrize("power", (-900, -20, 8, 200))
def test_units_of_h_do_not_matter(power):
    p = make_problem(30, 40, 0, 2, "power")
    for dtype in (np.float32, np.float64):
        W = p.W.astype(dtype)
        q = ql.ldlq(W, p.H)
        scaled = p.H * 2.0**power
        a = ql.descend(W, p.H, q)
        b = ql.descend(W, scaled, dataclasses.replace(q, loss=q.loss * 2.0**power))
        assert (a.codes == b.codes).all() and b.loss == a.loss * 2.0**power


def test_a_hessian_that_is_not_quite_symmetric_counts_as_its_mean():
    p = make_problem(20, 30, 0, 2, "well")
    H = p.H + 3e-5 * np.triu(np.ones((30, 30)), 1)
    q = ql.ldlq(p.W, p.H)
    found = ql.descend(p.W, H, q)
    assert (found.codes == ql.descend(p.W, (H + H.T) / 2, q).codes).all()
    assert found.loss == pytest.approx(ql.proxy_loss(found.dequantize(), p.W, H), rel=1e-3)
    unknown = ql.descend(p.W, H, dataclasses.replace(q, loss=float("nan")))
    assert unknown.loss == pytest.approx(ql.proxy_loss(found.dequantize(), p.W, H), rel=1e-12)


def test_the_loss_is_that_of_the_hessian_passed():
    p, other = make_problem(20, 30, 0, 2, "well"), make_problem(20, 30, 5, 2, "outlier")
    without = ql.nearest(p.W, bits=2)
    for q, H in ((without, p.H), (ql.ldlq(p.W, p.H), other.H)):
        found = ql.descend(p.W, H, q)
        assert found.loss == pytest.approx(ql.proxy_loss(found.dequantize(), p.W, H), rel=1e-12)
    assert ql.descend(p.W, p.H, ql.ldlq(p.W, other.H), passes=0).passes == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", ((0, 4), (4, 0), (0, 0), (1, 1), (1, 4)))
def test_small_shapes(backend, shape):
    W, H = np.full(shape, 0.3, np.float32), np.eye(shape[1], dtype=np.float32)
    q = ql.ldlq(W, H)
    found = ql.descend(W, H, q, backend=backend)
    assert found.shape == shape and found.passes == 1 and found.changed == 0
    assert found.loss == q.loss


def test_all_dead():
    q = ql.ldlq(np.ones((2, 3)), np.zeros((3, 3)))
    found = ql.descend(np.ones((2, 3)), np.zeros((3, 3)), q)
    assert (found.codes == q.codes).all() and (found.passes, found.changed) == (1, 0)
    assert found.loss == 0


def test_inputs_are_not_changed_and_may_lie_anyhow():
    p = make_problem(20, 30, 0, 2, "power")
    W, H = p.W.astype(np.float32), p.H.astype(np.float32)
    H = (H + H.T) / 2
    q = ql.ldlq(W, H)
    expected = ql.descend(W, H, q)
    for a in (W, H, q.codes, q.grid.scale, q.grid.zero):
        a.flags.writeable = False
    before = W.copy(), H.copy(), q.codes.copy()
    found = ql.descend(W, H, q)
    for a, b in zip((W, H, q.codes), before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (found.codes == expected.codes).all()
    turned = dataclasses.replace(q, codes=np.asfortranarray(q.codes))
    for other in (
        ql.descend(np.asfortranarray(W), H[::-1, ::-1][::-1, ::-1], turned),
        ql.descend(W.astype(">f4"), H.astype(">f4"), q),
        ql.descend(W.astype(np.float64), H, q),  # rounded in float32: so is this
    ):
        assert (other.codes == expected.codes).all() and other.precision == "float32"
    torch_like = expected.dequantize()
    assert isinstance(torch_like, np.ndarray) and torch_like.dtype == np.float32


def test_bad_input():
    p = make_problem(6, 8, 0, 2, "well")
    W, H = p.W, p.H
    q = ql.ldlq(W, H)
    for passes in (-1, 2.0, True, "3"):
        with pytest.raises(ql.InvalidArgumentError, match="passes must be"):
            ql.descend(W, H, q, passes=passes)
    with pytest.raises(ql.InvalidArgumentError, match=r"W must be \(6, 8\).*W\.T"):
        ql.descend(W.T, H, q)
    with pytest.raises(ql.InvalidArgumentError, match=r"H \(8, 8\); got W \(6, 8\) and H \(7, 7\)"):
        ql.descend(W, H[1:, 1:], q)
    with pytest.raises(ql.DTypeError, match="quantized must be a Quantized; got ndarray"):
        ql.descend(W, H, q.codes)
    with pytest.raises(ql.InvalidArgumentError, match=r"quantized\.codes must be 0 to 3"):
        ql.descend(W, H, dataclasses.replace(q, codes=q.codes + np.uint8(4)))
    rotated = dataclasses.replace(q, processing=Processing((6, 8), None, None, None))
    with pytest.raises(ql.InvalidArgumentError, match="refine="):
        ql.descend(W, H, rotated)
    pruned = dataclasses.replace(q, mask=np.eye(6, 8, dtype=bool))
    with pytest.raises(ql.InvalidArgumentError, match=r"must not be pruned.*6 pruned weights"):
        ql.descend(W, H, pruned)
    for value in (np.nan, np.inf):
        bad = W.copy()
        bad[2, 3] = value
        with pytest.raises(ql.NonFiniteError, match=r"W\[2, 3\]"):
            ql.descend(bad, H, q)
        bad = H.copy()
        bad[2, 3] = value
        with pytest.raises(ql.NonFiniteError, match="H must be finite"):
            ql.descend(W, bad, q)
    with pytest.raises(ql.InvalidArgumentError, match="H must be symmetric"):
        ql.descend(W, H + np.triu(np.ones((8, 8)), 1), q)
    with pytest.raises(ql.DTypeError, match=r"did you mean|keywords are"):
        ql.descend(W, H, q, sweeps=3)
    with pytest.raises(ql.InvalidArgumentError, match="backend must be"):
        ql.descend(W, H, q, backend="gpu")


def test_the_result_says_so():
    p = make_problem(30, 64, 0, 2, "outlier", "heavy")
    q = ql.ldlq(p.W, p.H)
    assert (q.passes, q.changed) == (0, 0) and "descent" not in repr(q)
    one, all_of_them = ql.descend(p.W, p.H, q, passes=1), ql.descend(p.W, p.H, q)
    assert f"1 pass of descent, {one.changed} codes changed in the last" in repr(one)
    assert f"{all_of_them.passes} passes of descent, a fixed point" in repr(all_of_them)
    assert (all_of_them.method, all_of_them.order) == ("ldlq", "act")
    assert all_of_them.clipped == q.clipped and all_of_them.near_tie_rows >= q.near_tie_rows


def test_files_keep_it_and_older_ones_say_none(tmp_path):
    p = make_problem(9, 20, 0, 2, "outlier", "heavy")
    q = ql.descend(p.W, p.H, ql.ldlq(p.W, p.H), passes=1)
    assert q.changed > 0
    path = tmp_path / "r.h5"
    with ql.ResultWriter(path) as file:
        file.add("a", q)
        file.add("b", q)
    with h5py.File(path, "r+") as file:  # as a version without descent wrote it
        group = file["layers/a"]
        del group.attrs["passes"], group.attrs["changed"], group.attrs[CHECKSUM]
        group.attrs[CHECKSUM] = layer_checksum("a", group, sorted(group))
    with ql.open_result(path) as file:
        old, new = file.layer("a"), file.layer("b")
    assert (new.passes, new.changed) == (q.passes, q.changed)
    assert (old.passes, old.changed) == (0, 0) and (old.codes == new.codes).all()
    assert ql.verify(p.W, p.H, new).ok and not ql.verify(p.W, p.H, old).ok
    again = ql.descend(p.W, p.H, new)
    assert (again.codes == ql.descend(p.W, p.H, q).codes).all()
