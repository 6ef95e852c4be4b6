"""The compatibility mode against its naive twin, and the factors of the authors' code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.incoherence.process import OUTPUT_SEED
from quiplinalg.rounding.quip_authors import authors_factors


def test_factors():
    known = {4096: (64, 64), 11008: (688, 16), 13696: (16, 856), 1: (1, 1), 7: (7, 1), 12: (6, 2)}
    for n, factors in known.items():
        assert sorted(authors_factors(n)) == sorted(factors)
        assert np.prod(authors_factors(n)) == n


@pytest.mark.parametrize("bits", (2, 3, 4))
@pytest.mark.parametrize("shape", ((12, 40), (8, 21), (5, 7)))
def test_it_is_the_authors_algorithm(bits, shape):
    P = make_problem(*shape, 0, hessian="outlier", weights="heavy")
    q = ql.quip_authors(P.W, P.H, bits, seed=3)
    m, n = shape
    V = ql.kronecker_orthogonal(n, 3, authors_factors(n))
    U = ql.kronecker_orthogonal(m, 3 + OUTPUT_SEED, authors_factors(m))
    dense = [R.apply(np.eye(R.n), side="left") for R in (U, V)]
    codes, W_hat = reference.quip_authors(P.W, P.H, bits, *dense, q.processing.scales)
    assert (codes == q.codes).all()
    # the twin's scale is float64, a stored scale float32
    assert np.abs(W_hat - q.dequantize()).max() <= 1e-6 * np.abs(W_hat).max()
    loss = ql.proxy_loss(q.dequantize(), P.W, P.H)
    assert abs(q.loss - loss) <= 1e-12 * loss


def test_the_scales_are_the_papers():
    """(H_ii / ||W_:i||^2)^(1/4) up to one factor, and the rounding to float16."""
    P = make_problem(12, 40, 0, hessian="outlier", weights="heavy")
    s = ql.quip_authors(P.W, P.H, 4, seed=3).processing.scales
    paper = (np.diag(P.H) / np.square(P.W).sum(axis=0)) ** 0.25
    ratio = s / paper
    assert ratio.max() / ratio.min() <= 1 + 2 * 2.0**-11


def test_ours_is_better_by_what_the_scale_costs():
    """rho = 2.4 for the whole matrix costs about 2 dB at 2 bits (Gaussian weights)."""
    P = make_problem(128, 256, 0, hessian="power", weights="normal")
    theirs, ours = ql.quip_authors(P.W, P.H, 2), ql.quip(P.W, P.H, 2, rotation="kronecker")
    assert 10 * np.log10(theirs.loss / ours.loss) >= 1.5


def test_verify_files_and_flipped_codes(tmp_path):
    P = make_problem(16, 60, 0, hessian="outlier", weights="heavy")
    q = ql.quip_authors(P.W, P.H, 2)
    assert q.order == "reversed" and (q.permutation == np.arange(60)[::-1]).all()
    with ql.ResultWriter(tmp_path / "r.h5") as file:
        file.add("a", q)
    with ql.open_result(tmp_path / "r.h5") as file:
        r = file.layer("a")
    found = ql.verify(P.W, P.H, r)
    assert found.ok, found.reason
    codes = r.codes.copy()
    codes[2, 30] ^= 1
    assert not ql.verify(P.W, P.H, dataclasses.replace(r, codes=codes)).ok


def test_bad_input():
    P = make_problem(6, 8, 0, 2, "well")
    for name, value in (("bits", 0), ("seed", -1), ("seed", None)):
        with pytest.raises(ql.InvalidArgumentError, match=f"{name} must be"):
            ql.quip_authors(P.W, P.H, **{name: value})
    with pytest.raises(ql.InvalidArgumentError, match="rescale must be True or False"):
        ql.quip_authors(P.W, P.H, rescale="volume")
    for shape in ((0, 5), (1, 1), (5, 0)):
        assert ql.quip_authors(np.ones(shape), np.eye(shape[1])).dequantize().shape == shape
