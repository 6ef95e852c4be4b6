"""Adversarial ties: exact ones go to even, near ones to their own side, in every order.

Without feedback, and in the natural order: tests/rounding/test_rounding.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_hessian

import quiplinalg as ql
from quiplinalg import reference

BACKENDS = ("cpu", "generic")


def dyadic(n, m, rng):
    """H, W whose every target is exact in float32: half of them are on ties.

    H = T D T^T with T of halves and D of powers of 4, whose roots are exact; W = Z - eta T^-1 with
    eta a multiple of 1/4.
    """
    T = np.triu(rng.integers(-1, 2, (n, n)) / 2.0, 1) + np.eye(n)
    H = (T * 4.0 ** rng.integers(-2, 3, n)) @ T.T
    Z = rng.integers(-3, 8, (m, n))
    eta = rng.choice([-0.5, 0.5, -0.25, 0.0], (m, n))
    inverse = np.linalg.inv(T)
    inverse = np.rint(inverse * 2.0 ** (n - 1)) / 2.0 ** (n - 1)
    assert (inverse @ T == np.eye(n)).all()
    return H, Z - eta @ inverse


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("bits", (2, 3, None))
@given(
    n=st.integers(1, 8),
    seed=st.integers(0, 2**32 - 1),
    zero=st.sampled_from((0.0, 1.0, 1.5)),
    power=st.integers(-3, 3),
)
def test_exact_ties_behind_feedback_go_to_even(backend, dtype, bits, n, seed, zero, power):
    """Not tie-aware: every bit is determined, also for zeros half way between codes."""
    rng = np.random.default_rng(seed)
    H, W = dyadic(n, 40, rng)
    step = 2.0**power
    W = ((W - zero % 1) * step).astype(dtype)
    grid = ql.UniformGrid(np.full((1, 1), step), np.full((1, 1), zero), bits)
    block = int(rng.integers(1, 9))
    q = ql.ldlq(W, H, grid=grid, damp=0.0, order="natural", block=block, backend=backend)
    maxq = np.inf if bits is None else 2.0**bits - 1
    twin = reference.ldlq(W.astype(float), H, grid.scale, grid.zero, maxq)
    assert (q.codes == twin.codes).all()
    assert q.loss == pytest.approx(twin.loss.sum(), rel=1e-12)
    assert bits is not None or q.near_tie_rows > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ("natural", "act", "min-pivot"))
@pytest.mark.parametrize("kind", ("well", "power", "lowrank"))
def test_targets_a_billionth_from_a_tie(backend, order, kind):
    """delta = 1e-9: float32 anywhere between W and the codes would lose the side."""
    n, m = 37, 60
    H = make_hessian(kind, n, 5)
    perm = ql.ldlq(np.zeros((1, n)), H, damp=0.0, order=order).permutation
    perm = np.arange(n) if perm is None else perm
    T = ql.udu(H[np.ix_(perm, perm)]).T
    rng = np.random.default_rng(6)
    Z = rng.integers(0, 256, (m, n)) if backend == "cpu" else rng.integers(-9, 9, (m, n))
    eta = np.where(rng.random(Z.shape) < 0.5, -0.5 + 1e-9, 0.5 - 1e-9)
    W = np.empty(Z.shape)
    W[:, perm] = Z[:, perm] - np.linalg.solve(T.T, eta.T).T
    bits = 8 if backend == "cpu" else None
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits)
    for block in (1, 5, 32, None):
        q = ql.ldlq(W, H, grid=grid, damp=0.0, order=order, block=block, backend=backend)
        # at the ends of the grid a code holds from either side
        assert (q.codes == Z).all(), (block, (q.codes != Z).sum())


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12))
def test_stochastic_rounding_beside_its_jumps(seed, n):
    """code = floor(z + u): targets 1e-9 above a jump get its upper code, 1e-9 below its lower."""
    rng = np.random.default_rng(seed)
    m, H = 20, make_hessian("well", n, seed)
    u = reference.uniforms(seed, m, n).astype(float)
    Z = rng.integers(-5, 6, (m, n))
    above = rng.random((m, n)) < 0.5
    # z + u = Z + delta gives Z, z + u = Z + 1 - delta gives Z too
    z = Z - u + np.where(above, 1e-9, 1 - 1e-9)
    T = ql.udu(H).T
    W = Z + np.linalg.solve(T.T, (z - Z).T).T  # (W - Z) T = z - Z
    grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), None)
    run = {"damp": 0.0, "order": "natural", "rounding": "stochastic", "seed": seed}
    assert (ql.ldlq(W, H, grid=grid, **run).codes == Z).all()
