"""Rotations on a device: the bits of the CPU's kernels, whatever a block takes of the rows."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.incoherence import apply_device
from quiplinalg.incoherence.apply import rotate_into
from quiplinalg.incoherence.apply_device import device_plan, rotate_on_device
from quiplinalg.incoherence.windows import Window, pack
from quiplinalg.kernels.cuda import rotation
from quiplinalg.kernels.record import FACTOR, FOLDED, SCALE, WALSH, select

CPU = select("cpu")
DTYPES = (np.float32, np.float64)
SIZES = (*range(18), 31, 32, 33, 60, 96, 130)
LAYOUTS = [(a, b, False) for a in (True, False) for b in (True, False)]


def orthogonal(size, rng):
    return np.linalg.qr(rng.standard_normal((size, size)))[0]


def problems(n, rng):
    """Windows and factors of n coordinates that use every kind of step."""
    power = n & -n
    odd = n // power if n else 0
    yield (), ()
    if n:
        yield (Window(0, (n,)),), (orthogonal(n, rng),)
        yield (Window(0, (n,)),), (reference.hartley(n),)
        yield (Window(0, (odd,), power),), (reference.hartley(odd),)
        yield (Window(0, (power, odd)),), (orthogonal(power, rng), orthogonal(odd, rng))
    if n > 3:
        half = n // 2
        sizes = ((half,), (2, half // 2))
        factors = (orthogonal(half, rng), orthogonal(2, rng), orthogonal(half // 2, rng))
        yield (Window(1, sizes[0]), Window(n - 2 * (half // 2), sizes[1])), factors
        yield (Window(0, (), 4), Window(n - 2, (), 2)), ()


def planned(n, windows, factors, backward, dtype, rng, moved=True):
    permutation = rng.permutation(n) if moved else np.arange(n)
    inner = rng.choice([-1, 1], windows[1].length if len(windows) > 1 else 0)
    signs = rng.choice([-1, 1], n)
    return pack(permutation, signs, inner, windows, factors, backward, np.dtype(dtype))


def kernels_of(cuda):
    return SimpleNamespace(xp=cuda.xp, rotate=rotation.rotate)


def both(cuda, X, layout, plan):
    """The result on the device and that of the CPU, for a matrix whose rows are the vectors."""
    rows_in, rows_out, _ = layout
    X = X if rows_in else np.ascontiguousarray(X.T)
    shape = X.shape if rows_in == rows_out else X.shape[::-1]
    expected = np.full(shape, np.nan, X.dtype)
    rotate_into(X, expected, layout, plan, CPU)
    out = cuda.xp.empty(shape, X.dtype)
    source = cuda.xp.asarray(X)
    rotate_on_device(source, out, layout, plan, kernels_of(cuda))
    assert np.array_equal(source.get(), X)
    return out.get(), expected


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_plan_and_layout_has_the_bits_of_the_cpu(cuda, dtype, n):
    rng = np.random.default_rng(n)
    for number, (windows, factors) in enumerate(problems(n, rng)):
        backward, m = bool(rng.integers(2)), int(rng.integers(1, 7))
        plan = planned(n, windows, factors, backward, dtype, rng)
        X = rng.standard_normal((m, n)).astype(dtype)
        for layout in LAYOUTS if number % 2 else LAYOUTS[:1]:
            ours, expected = both(cuda, X, layout, plan)
            assert ours.tobytes() == expected.tobytes(), (windows, layout)


def test_the_problems_use_every_kind_of_step():
    rng, kinds = np.random.default_rng(0), set()
    for n in (12, 44):
        for windows, factors in problems(n, rng):
            plan = planned(n, windows, factors, False, np.float64, rng)
            kinds |= set(plan.steps[:, 0].tolist())
    assert kinds == {FACTOR, FOLDED, SCALE, WALSH}


@pytest.mark.parametrize("log", range(1, 13))
@pytest.mark.parametrize("dtype", DTYPES)
def test_powers_of_two(cuda, dtype, log):
    n = 2**log
    rng = np.random.default_rng(log)
    rotations = (ql.hadamard_orthogonal(n, log), ql.kronecker_orthogonal(n, log))
    for V in rotations[: 1 if n > 1024 else 2]:
        for backward in (False, True):
            plan = V._plan(backward, np.dtype(dtype), None)
            X = rng.standard_normal((3, n)).astype(dtype)
            ours, expected = both(cuda, X, LAYOUTS[0], plan)
            assert ours.tobytes() == expected.tobytes(), V


@pytest.mark.parametrize("n", (172, 520, 521, 1376))
def test_a_small_factor_beside_a_walsh_hadamard_matrix_and_two_windows(cuda, n):
    rng = np.random.default_rng(n)
    scales = np.exp(rng.standard_normal(n))
    for V in (ql.hadamard_orthogonal(n, 3), ql.kronecker_orthogonal(n, 3)):
        for backward, dtype in ((False, np.float32), (True, np.float64)):
            plan = V._plan(backward, np.dtype(dtype), scales)
            X = rng.standard_normal((2, n)).astype(dtype)
            ours, expected = both(cuda, X, LAYOUTS[0], plan)
            assert ours.tobytes() == expected.tobytes(), V


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n,m", ((1, 300), (5, 1000), (32, 700), (48, 600), (64, 601), (127, 270)))
def test_blocks_of_several_rows(cuda, monkeypatch, dtype, n, m):
    monkeypatch.setattr(rotation, "_BLOCKS", 9)
    rng = np.random.default_rng(n)
    for windows, factors in problems(n, rng):
        for moved in (True, False):
            plan = planned(n, windows, factors, False, dtype, rng, moved)
            X = rng.standard_normal((m, n)).astype(dtype)
            ours, expected = both(cuda, X, LAYOUTS[0], plan)
            assert ours.tobytes() == expected.tobytes(), (windows, moved)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ("forward", "reverse"))
@pytest.mark.parametrize("n", (32, 96, 130))
def test_rows_that_shared_memory_does_not_hold(cuda, monkeypatch, dtype, n, order):
    monkeypatch.setattr(rotation, "_shared_bytes", lambda _: rotation._STATIC + 64)
    monkeypatch.setattr(rotation, "_BLOCKS", 3)
    monkeypatch.setattr(rotation, "_TILE", 2 * n if order == "forward" else 1)
    rng = np.random.default_rng(n)
    for windows, factors in problems(n, rng):
        plan = planned(n, windows, factors, False, dtype, rng)
        X = rng.standard_normal((8, n)).astype(dtype)  # more rows than blocks
        with cuda.order(order):
            ours, expected = both(cuda, X, LAYOUTS[0], plan)
        assert ours.tobytes() == expected.tobytes(), windows


@pytest.mark.parametrize("dtype", DTYPES)
def test_little_scratch_space_takes_fewer_fibres_at_a_time(cuda, monkeypatch, dtype):
    n, rng = 130, np.random.default_rng(0)
    size = np.dtype(dtype).itemsize
    for windows, factors in problems(n, rng):
        plan = planned(n, windows, factors, False, dtype, rng)
        X = rng.standard_normal((3, n)).astype(dtype)
        for room in (650, 300, 160):  # the last is too little for one group of the largest factor
            limit = rotation._STATIC + (160 + room) * size
            monkeypatch.setattr(rotation, "_shared_bytes", lambda _, limit=limit: limit)
            ours, expected = both(cuda, X, LAYOUTS[0], plan)
            assert ours.tobytes() == expected.tobytes(), (windows, room)


@pytest.mark.parametrize("order", ("reverse", 5))
@pytest.mark.parametrize("n", (43 * 16, 256, 513))
def test_threads_in_any_order(cuda, order, n):
    X = np.random.default_rng(n).standard_normal((3, n)).astype(np.float32)
    for V in (ql.hadamard_orthogonal(n, 1), ql.kronecker_orthogonal(n, 1)):
        plan = V._plan(False, np.dtype(np.float32), None)
        for layout in LAYOUTS:
            with cuda.order(order):
                ours, expected = both(cuda, X, layout, plan)
            assert ours.tobytes() == expected.tobytes(), (V, layout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_in_place_and_only_the_upper_triangle(cuda, dtype):
    rng, xp = np.random.default_rng(1), cuda.xp
    for n in (1, 5, 16, 31, 48, 65, 300):
        plan = planned(n, (Window(0, (n,)),), (orthogonal(n, rng),), False, dtype, rng)
        A = rng.standard_normal((n, n)).astype(dtype)
        whole, expected = xp.asarray(A), A.copy()
        rotate_on_device(whole, whole, (True, True, False), plan, kernels_of(cuda))
        rotate_into(A, expected, (True, True, False), plan, CPU)
        assert np.array_equal(whole.get(), expected)
        upper = xp.asarray(A)
        rotate_on_device(upper, upper, (True, True, True), plan, kernels_of(cuda))
        assert np.array_equal(np.triu(upper.get()), np.triu(expected))


def test_what_is_not_contiguous_or_of_another_dtype_is_copied(cuda):
    xp, n = cuda.xp, 48
    V, rng = ql.hadamard_orthogonal(n, 2), np.random.default_rng(2)
    plan = V._plan(False, np.dtype(np.float64), None)
    X = rng.standard_normal((n, 2 * n)).astype(np.float32)
    views = (
        lambda a: a[:, ::2],
        lambda a: a[:, :n].T,
        lambda a: a[::-1, :n],
        lambda a: a[:, 1 : n + 1],
    )
    for view in views:
        there, here = view(xp.asarray(X)), view(X)
        for layout in LAYOUTS:
            out, expected = xp.empty((n, n), np.float64), np.empty((n, n))
            rotate_on_device(there, out, layout, plan, kernels_of(cuda))
            rotate_into(here, expected, layout, plan, CPU)
            assert np.array_equal(out.get(), expected)


def test_empty_matrices(cuda):
    plan = ql.hadamard_orthogonal(5, 0)._plan(False, np.dtype(np.float32), None)
    none = ql.hadamard_orthogonal(0, 0)._plan(False, np.dtype(np.float32), None)
    for shape, its in (((0, 5), plan), ((3, 0), none), ((0, 0), none)):
        out = cuda.xp.empty(shape, np.float32)
        rotate_on_device(out, out, (True, True, False), its, kernels_of(cuda))


def test_a_plan_is_uploaded_once_for_each_device_and_goes_with_its_owner(cuda):
    xp = cuda.xp
    plan = ql.hadamard_orthogonal(12, 0)._plan(False, np.dtype(np.float32), None)
    there = device_plan(plan, xp)
    assert device_plan(plan, xp) is there
    with xp.cuda.Device(1):
        other = device_plan(plan, xp)
        assert other is not there and device_plan(plan, xp) is other
    assert there.moved == (False, False) and there.scaled == (True, False)
    kept = len(apply_device._PLANS)
    del plan
    assert len(apply_device._PLANS) == kept - 1
    back = ql.kronecker_orthogonal(12, 0)._plan(True, np.dtype(np.float32), None)
    assert device_plan(back, xp).moved == (False, True)


def test_rows_that_take_all_the_shared_memory_there_is_without_asking(cuda):
    """48 KB, of which the arrays that a kernel has of its own are a part."""
    X = np.random.default_rng(0).standard_normal((1, 6144))
    V = ql.hadamard_orthogonal(6144, 0)
    np.testing.assert_array_equal(V.apply(cuda.xp.asarray(X)).get(), V.apply(X))
