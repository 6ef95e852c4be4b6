"""Incoherence bounds of QuIP# and the best range of Gaussian weights."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import quiplinalg as ql


@given(n=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_hadamard_incoherence_bound_of_weights(n, seed):
    """QuIP#, lemma 3.1: mu_W <= 2 log(4 m n / delta) with probability 1 - delta, both sides.

    At delta = 1e-9 a miss in the few thousand runs of this test is a fault, not bad luck.
    """
    rng = np.random.default_rng(seed)
    m = int(rng.integers(1, 40))
    W = np.zeros((m, n))
    W[rng.integers(m), rng.integers(n)] = 1.0  # the worst there is: mu = sqrt(m n)
    W2, _, _ = ql.incoherence_process(W, np.eye(n), sides="both", rescale=False, seed=seed)
    assert ql.mu_weight(W2) <= 2 * np.log(4 * m * n / 1e-9)


def test_hadamard_incoherence_bound_of_hessians():
    """QuIP#, lemma 3.1: mu_H <= sqrt(2 log(2 n^2 / delta)) with probability 1 - delta."""
    n, delta = 64, 1e-9
    H = np.diag(np.arange(1.0, n + 1))  # eigenvectors e_i: mu = sqrt(n) = 8
    for seed in range(50):
        _, H2, _ = ql.incoherence_process(np.ones((1, n)), H, rescale=False, seed=seed)
        found = ql.mu_hessian(H2)
        assert found.degenerate == 0 and found.upper <= np.sqrt(2 * np.log(2 * n**2 / delta))


def test_the_rho_of_gaussian_weights():
    """Least MSE of levels s (2k / maxq - 1) on N(0, 1): rho 0.80, 1.49, 2.05, 2.52 at 1 to 4 bits.

    The known minima are .363, .1187, .0374 and .0115.
    """
    W = np.random.default_rng(0).standard_normal((1, 1_000_000))
    for bits, rho, mse in (
        (1, 0.80, 0.363),
        (2, 1.49, 0.1187),
        (3, 2.05, 0.0374),
        (4, 2.52, 0.0115),
    ):
        errors = {}
        for factor in (0.9, 1.0, 1.1):
            grid = ql.rms_grid(W, bits, rho=rho * factor)
            errors[factor] = float(np.square(np.asarray(ql.nearest(W, grid=grid)) - W).mean())
        assert min(errors, key=errors.get) == 1.0
        assert abs(errors[1.0] / mse - 1) <= 0.01  # two or three known digits
