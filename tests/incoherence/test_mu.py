"""mu of weights and Hessians: known values, bounds, degenerate eigenbases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from strategies import from_spectrum, haar, problems

import quiplinalg as ql


@given(problem=problems(max_n=12))
def test_mu_of_weights_is_between_its_bounds(problem):
    W = problem.W
    mu = ql.mu_weight(W)
    direct = np.abs(W).max() * np.sqrt(W.size) / np.linalg.norm(W)
    assert abs(mu - direct) <= 64 * np.finfo(float).eps * direct
    assert 1 - 1e-12 <= mu <= np.sqrt(W.size) * (1 + 1e-12)
    assert ql.mu_weight(W * 2.0**900) == ql.mu_weight(W)  # squares would overflow


def test_mu_of_weights_without_any():
    assert np.isnan(ql.mu_weight(np.zeros((2, 3)))) and np.isnan(ql.mu_weight(np.zeros((0, 3))))


@pytest.mark.parametrize("n", (1, 2, 7, 40))
def test_mu_of_a_simple_spectrum_is_that_of_its_basis(n):
    rng = np.random.default_rng(n)
    Q = haar(n, rng)
    found = ql.mu_hessian((lambda A: (A + A.T) / 2)((Q * np.arange(1.0, n + 1)) @ Q.T))
    expected = np.sqrt(n) * np.abs(Q).max()
    assert found.degenerate == 0
    assert found.lower == found.upper
    # eigenvectors of gaps 1/n ||H|| are accurate to about n eps
    assert abs(found.upper - expected) <= 100 * n * np.finfo(float).eps * expected


@given(problem=problems(min_n=2, max_n=10, hessian_kinds=("diagonal",)))
def test_mu_of_a_diagonal_is_the_largest_there_is(problem):
    found = ql.mu_hessian(problem.H)
    assert found.degenerate == 0
    assert abs(found.upper - np.sqrt(problem.n)) <= 1e-12 * np.sqrt(problem.n)


def test_degenerate_spectra_are_owned_up_to():
    """Of the identity every basis is one: a Hadamard basis has mu 1, and eigh finds sqrt(n)."""
    found = ql.mu_hessian(np.eye(16))
    assert found.degenerate == 16
    assert abs(found.lower - 1) <= 1e-12 and found.upper >= found.lower
    rng = np.random.default_rng(0)
    values = np.array([4.0, 4.0, 4.0, 2.0, 1.0, 1.0])
    H = from_spectrum(values, rng)
    found = ql.mu_hessian(H)
    assert found.degenerate == 5
    assert found.lower <= found.upper * (1 + 1e-12)
    # no basis can beat the lower bound: try random ones of each eigenspace
    _, Q = np.linalg.eigh(H)
    for seed in range(200):
        r = np.random.default_rng(seed)
        parts = [Q[:, :2] @ haar(2, r), Q[:, 2:3], Q[:, 3:] @ haar(3, r)]
        mu = np.sqrt(6) * max(np.abs(part).max() for part in parts)
        assert mu >= found.lower * (1 - 1e-9)


def test_rotation_brings_mu_down():
    n = 256
    H = np.diag(np.arange(1.0, n + 1))
    W = np.zeros((64, n))
    W[3, 5] = 1.0
    for kind in ("hadamard", "kronecker"):
        W2, H2, _ = ql.incoherence_process(W, H, rotation=kind, rescale=False, sides="both")
        assert ql.mu_weight(W2) < ql.mu_weight(W) / 4
        before, after = ql.mu_hessian(H), ql.mu_hessian(H2)
        assert abs(before.upper - 16) < 1e-9 and after.upper < 9


def test_empty_hessian():
    found = ql.mu_hessian(np.zeros((0, 0)))
    assert np.isnan(found.upper) and found.degenerate == 0
