"""Lemma 2 and theorem 4 of QuIP: what incoherence does to tr D, and that it is needed."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from strategies import hessians

import quiplinalg as ql

REGULAR = ("well", "power", "outlier", "diagonal")


@given(H=hessians(max_n=12))
def test_pivots_are_below_the_diagonal_and_equal_for_a_diagonal_h_only(H):
    """D_k <= H_kk; D = diag(H) if and only if H is diagonal (theorem 4: no gain then)."""
    D, d = ql.udu(H).D, np.diag(H)
    assert (D <= d * (1 + 1e-14 * len(H))).all()
    # D_k = H_kk - |U's part|: an off-diagonal r costs the trace r^2 / H_jj at least
    off = np.triu(H, 1) ** 2 / d
    assert D.sum() <= d.sum() - off.max(initial=0) + 1e-13 * len(H) * d.sum()
    only = ql.udu(np.diag(d)).D  # square roots are squared again
    assert (np.abs(only - d) <= 2 * np.finfo(float).eps * d).all()


@given(H=hessians(min_n=1, max_n=10, kinds=REGULAR))
def test_lemma_2s_chain(H):
    """n det(H)^(1/n) <= tr D <= max_i (H^1/2)_ii tr(H^1/2) <= (mu^2/n) tr(H^1/2)^2."""
    n = len(H)
    values, Q = np.linalg.eigh(H)
    root = (Q * np.sqrt(values)) @ Q.T
    mu = np.sqrt(n) * np.abs(Q).max()  # of this basis, whatever the gaps: the bound holds for it
    chain = [
        n * np.exp(np.log(values).mean()),
        ql.udu(H).D.sum(),
        np.diag(root).max() * np.trace(root),
        mu**2 / n * np.trace(root) ** 2,
    ]
    for low, high in itertools.pairwise(chain):
        assert low <= high * (1 + 1e-12 * n), chain


@given(n=st.integers(2, 12), rank=st.integers(1, 12), seed=st.integers(0, 2**32 - 1))
def test_lemma_2_at_low_rank(n, rank, seed):
    """tr D <= (mu^2 k / n) tr H at rank k (H damped by next to nothing, so that it factors)."""
    k = min(rank, n)
    X = np.random.default_rng(seed).standard_normal((k, n))
    H = X.T @ X / k
    _, Q = np.linalg.eigh(H)
    mu = np.sqrt(n) * np.abs(Q[:, n - k :]).max()
    shift = 1e-7 * np.trace(H) / n
    trace_D = ql.udu(H + shift * np.eye(n)).D.sum()
    # the lemma holds for the damped H, whose root has n - k more eigenvalues sqrt(d): relative to
    # tr(H^1/2) they are at most 12 sqrt(1e-7), and count twice
    assert trace_D <= mu**2 * k / n * np.trace(H) * (1 + 1e-2)
