"""The oracles of the certificates against enumeration and their definitions."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_hessian

from quiplinalg import reference


@given(n=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_the_dual_value_is_below_every_point(n, seed):
    rng = np.random.default_rng(seed)
    H = make_hessian("well", n, seed)
    lam = rng.uniform(0.01, 0.99, n) * np.linalg.eigvalsh(H)[0]
    f = rng.uniform(-0.5, 0.5, n)
    d = np.array(list(itertools.product((-1.5, -0.5, 0.5, 1.5), repeat=n))) - f
    best = ((d @ H) * d).sum(axis=1).min()
    assert reference.dual_value(f, H, lam) <= best + 1e-11 * n


@given(n=st.integers(1, 10), seed=st.integers(0, 2**32 - 1))
def test_the_majorant_is_above_concave_and_touches(n, seed):
    D = np.exp(np.random.default_rng(seed).standard_normal(n))
    S = np.concatenate([[0.0], np.cumsum(np.log(D))])
    slopes = np.log(reference.concave_pivots(D))
    M = np.concatenate([[0.0], np.cumsum(slopes)])
    assert (M >= S - 1e-12 * n).all() and (np.diff(slopes) <= 1e-12 * n).all()
    # least: where the slope changes, and at the ends, it is the sum itself
    corners = np.flatnonzero(np.abs(np.diff(slopes)) > 1e-9) + 1
    assert (np.abs((M - S)[[0, n, *corners]]) <= 1e-12 * n).all()


@given(n=st.integers(1, 8), bits=st.floats(0, 8), seed=st.integers(0, 2**32 - 1))
def test_no_allocation_of_the_bits_has_less_distortion(n, bits, seed):
    """v 4^-b_i sum up to the least distortion for bits b_i >= 0 with the mean ``bits``."""
    rng = np.random.default_rng(seed)
    power = np.exp(rng.standard_normal(n))
    found = reference.rate_distortion(power, 1.0, bits)
    for _ in range(20):
        share = rng.dirichlet(np.ones(n)) * n * bits
        assert found <= (power * 4.0**-share).sum() * (1 + 1e-12 * n)
    assert found <= power.sum() * (1 + 1e-12 * n)
    assert reference.rate_distortion(power, 1.0, 0.0) >= power.sum() * (1 - 1e-12 * n)
