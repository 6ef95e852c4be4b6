"""E T = eta and l = sum_k D_k eta_k^2, for any rounding: the root of all other tests."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import HESSIANS, make_hessian, make_order, make_problem

import quiplinalg as ql
from quiplinalg.testing import assert_loss_identity


@given(
    n=st.integers(1, 16),
    kind=st.sampled_from(HESSIANS),
    ordering=st.sampled_from(("natural", "act", "random")),
    damp=st.floats(1e-3, 0.5),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_loss_under_the_undamped_h_is_free(n, kind, ordering, damp, seed):
    """tr(E H E^T) = sum D eta^2 - d ||E||_F^2 where H + d I was factored, for any rounding."""
    H = make_hessian(kind, n, seed)
    perm = make_order(ordering, H, seed)
    rng = np.random.default_rng(seed)
    W, W_hat = rng.standard_normal((3, n)), rng.integers(-2, 3, (3, n)).astype(float)
    E = (W_hat - W)[:, perm]
    factor = ql.udu(H[np.ix_(perm, perm)] + damp * np.eye(n))
    eta = E @ factor.T
    free = (factor.D * eta**2).sum() - damp * (E**2).sum()
    direct = ql.proxy_loss(W_hat, W, H)
    size = (factor.D * eta**2).sum() + (E**2).sum() * np.trace(H)
    assert abs(free - direct) <= 1e-13 * n * size


@pytest.mark.parametrize(
    "kwargs",
    (
        {},
        {"order": "natural", "clip": "minmax", "sym": True},
        {"order": "min-pivot", "bits": 3},
        {"rounding": "stochastic", "seed": 7},
        {"group_size": 8},
        {"damp": 0.5},
    ),
    ids=str,
)
def test_reported_losses_are_those_of_the_codes(kwargs):
    """Clamped, grouped, stochastic: tr(E H E^T) = sum D eta^2 - d ||E||^2 = what is reported."""
    for kind in HESSIANS:
        p = make_problem(9, 33, 3, 2, kind, "heavy")
        q = ql.ldlq(p.W, p.H, **kwargs)
        assert_loss_identity(
            q.dequantize(), p.W, p.H, q.loss, order=q.permutation, damp=q.damp, rtol=1e-11
        )
