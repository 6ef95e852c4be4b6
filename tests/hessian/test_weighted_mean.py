"""Weighted tokens: every mean is over the sum of the weights, not over the number of tokens."""

from __future__ import annotations

import numpy as np

import quiplinalg as ql


def test_means_are_over_the_sum_of_weights():
    """Small integers and weights that are powers of 2: everything is exact."""
    X = np.array([[1.0, 2.0], [3.0, -1.0], [5.0, 4.0]])
    w = np.array([0.5, 4.0, 3.5])  # sum 8, of three tokens
    H = ql.Hessian(2, track_mean=True)
    H.add(X, weights=w)
    assert H.count == 3 and H.weight == 8
    second, first = (X.T * w) @ X / 8, w @ X / 8
    assert (H.mean() == second).all() and (H.input_mean() == first).all()
    assert np.abs(H.covariance() - (second - np.outer(first, first))).max() <= 1e-14
