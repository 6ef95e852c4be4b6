"""The rotation slots of every backend against dense products, n = 0 .. 65, inputs read-only."""

from __future__ import annotations

import numpy as np
import pytest

from quiplinalg import reference
from quiplinalg.incoherence.windows import Window, pack
from quiplinalg.kernels.record import FACTOR, FOLDED, SCALE, WALSH, select

BACKENDS = [pytest.param(select(name), id=name) for name in ("cpu", "generic")]
DTYPES = (np.float32, np.float64)


def frozen(a):
    a = np.array(a)
    a.flags.writeable = False
    return a


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
        sizes = ((half,), (2, half // 2), (half,))
        factors = (orthogonal(half, rng), orthogonal(2, rng), orthogonal(half // 2, rng))
        yield (Window(1, (half,)), Window(n - 2 * (half // 2), sizes[1])), factors
        yield (Window(0, (), 4), Window(n - 2, (), 2)), ()


def planned(n, windows, factors, backward, dtype, rng):
    """A plan, and the dense Q it stands for."""
    permutation, signs = rng.permutation(n), rng.choice([-1, 1], n)
    inner = rng.choice([-1, 1], windows[1].length if len(windows) > 1 else 0)
    plan = pack(permutation, signs, inner, windows, factors, backward, np.dtype(dtype))
    parts, used = [], 0
    for number, window in enumerate(windows):
        matrices = [reference.walsh_hadamard(window.walsh)]
        matrices += factors[used : used + len(window.sizes)]
        used += len(window.sizes)
        parts.append((window.start, inner if number else np.ones(window.length), matrices))
    Q = reference.rotation(permutation, signs, parts)
    return plan, Q.T if backward else Q


def test_the_problems_use_every_kind_of_step():
    rng = np.random.default_rng(0)
    kinds = set()
    for n in (12, 44):
        for windows, factors in problems(n, rng):
            plan, _ = planned(n, windows, factors, False, np.float64, rng)
            kinds |= set(plan.steps[:, 0].tolist())
    assert kinds == {FACTOR, FOLDED, SCALE, WALSH}


@pytest.mark.parametrize("kernels", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotate(kernels, dtype):
    rng = np.random.default_rng(0)
    lanes = kernels.vector(np.dtype(dtype))
    eps = float(np.finfo(dtype).eps)
    for n in range(66):
        for windows, factors in problems(n, rng):
            backward = bool(rng.integers(2))
            plan, Q = planned(n, windows, factors, backward, dtype, rng)
            work = np.full((n + 4 * plan.largest) * lanes, np.nan, dtype)
            m = int(rng.integers(2 * lanes + 3))
            first = int(rng.integers(m + 1))
            for rows_in in (True, False):
                for rows_out in (True, False):
                    X = rng.standard_normal((m, n)).astype(dtype)
                    out = np.full((m, n) if rows_out else (n, m), 7, dtype)
                    source = frozen(X if rows_in else np.ascontiguousarray(X.T))
                    layout = (rows_in, rows_out, False)
                    kernels.rotate(source, out, (first, m, first), layout, plan.parts, work)
                    ours = out if rows_out else out.T
                    assert (ours[:first] == 7).all(), "rows outside the span are not touched"
                    expected = X[first:].astype(float) @ Q.T
                    tol = 4 * eps * np.sqrt(n) * np.linalg.norm(X)
                    error = np.abs(ours[first:] - expected).max(initial=0)
                    assert error <= tol, (n, windows, layout, error / tol)


@pytest.mark.parametrize("kernels", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rotate_in_place_and_only_the_upper_triangle(kernels, dtype):
    rng = np.random.default_rng(1)
    lanes = kernels.vector(np.dtype(dtype))
    for n in (1, 5, 16, 31, 48, 65):
        plan, Q = planned(n, (Window(0, (n,)),), (orthogonal(n, rng),), False, dtype, rng)
        work = np.empty((n + 4 * plan.largest) * lanes, dtype)
        A = rng.standard_normal((n, n)).astype(dtype)
        out = A.copy()
        source = out.view()
        source.flags.writeable = False
        step = 2 * lanes
        for i in range(0, n, step):
            span = (i, min(i + step, n), i)
            kernels.rotate(source, out, span, (True, True, True), plan.parts, work)
        error = np.abs(np.triu(out - A.astype(float) @ Q.T)).max()
        assert error <= 4 * np.finfo(dtype).eps * np.sqrt(n) * np.linalg.norm(A)
        for i in range(0, n, step):
            kernels.mirror(out, i, min(i + step, n))
        assert (out == out.T).all()


@pytest.mark.parametrize("kernels", BACKENDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_mirror_copies_the_upper_triangle(kernels, dtype):
    rng = np.random.default_rng(2)
    for n in range(66):
        A = rng.standard_normal((n, n)).astype(dtype)
        expected = np.triu(A) + np.triu(A, 1).T
        for step in (7, 16, 64):
            B = A.copy()
            for i in range(0, n, step):
                kernels.mirror(B, i, min(i + step, n))
            assert (B == expected).all(), (n, step)
