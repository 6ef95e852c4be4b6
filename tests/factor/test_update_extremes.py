"""Updates at the ends of the range, of one row, and of factors that hold NaN."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from strategies import make_hessian

import quiplinalg as ql

N = 6
L = np.linalg.cholesky(make_hessian("well", N, 0))
x = np.random.default_rng(0).standard_normal(N) / 9


@pytest.mark.parametrize("backend", ("cpu", "generic"))
def test_one_row_of_any_strides(backend):
    for A in (
        np.array([[2.0]])[::-1, ::-1],
        np.full((3, 3), 2.0)[::3, ::3],
        np.full((3, 1, 1), 2.0),
    ):
        single = A.ndim == 2
        x = np.ones(1) if single else np.ones((3, 1))
        L = np.ones(A.shape)[::-1, ::-1]
        D, q = (np.full(1, 2.0), 0) if single else (np.full((3, 1), 2.0), 0)
        assert (ql.cholesky_update(A, 1.5 * x, backend=backend) == 2.5).all()
        assert (ql.cholesky_downdate(1.25 * A, 1.5 * x, backend=backend) == 2).all()
        assert ql.cholesky_delete(A, q, backend=backend).size == 0
        assert (ql.ldl_update(L, D, x, backend=backend)[1] == 3).all()
        assert np.abs(ql.woodbury(A, x[..., None], 1.5, backend=backend) - 0.5).max() <= 1e-15


BIG = {np.float32: 1e30, np.float64: 1e200}  # whose squares overflow


@pytest.mark.parametrize("dtype", BIG)
def test_what_overflows_is_an_error_and_leaves_the_matrix_as_it_was(dtype):
    eye, big = np.eye(2, dtype=dtype), dtype(BIG[dtype])
    top = dtype(0.9) * np.finfo(dtype).max
    z = np.array([big, 0], dtype)
    cases = [
        (ql.sherman_morrison_into, big * eye, (z,)),
        (ql.woodbury_into, big * eye, (np.stack([z, z[::-1]], 1),)),
        (ql.woodbury_into, big * eye, (np.stack([z] * 9, 1),)),
        (
            ql.inverse_adjoin_into,
            np.eye(3, dtype=dtype),
            (np.zeros(2), 1e-310 if dtype == np.float64 else 1e-44, 1),
        ),
        (ql.cholesky_update_into, top * np.asfortranarray(eye), (np.full(2, top),)),
    ]
    if dtype == np.float64:
        cases += [
            (ql.sherman_morrison_into, eye, (z,)),  # an inverse that is not changed by 1e400
            (ql.sherman_morrison_into, eye, (z, -1.0)),
            (ql.inverse_adjoin_into, np.eye(3), (z, 1e300)),
        ]
    else:
        cases += [
            (ql.sherman_morrison_into, eye, (np.array([1e39, 0]),)),
            (ql.inverse_adjoin_into, np.eye(3, dtype=dtype), (np.zeros(2), 1e39)),
        ]
    for into, A, rest in cases:
        work = A.copy(order="K")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ql.InvalidArgumentError, match="range of float"):
                into(work, *rest)
        if into is not ql.cholesky_update_into:
            assert (work == A).all(), into


@pytest.mark.parametrize("backend", ("cpu", "generic"))
def test_huge_and_tiny_factors_fail_for_the_right_reason(backend):
    for scale in (1e200, 1.0, 1e-200):
        with pytest.raises(ql.NotPositiveDefiniteError) as caught:
            ql.cholesky_downdate(scale * L, scale * 2 * L[:, 0], backend=backend)
        assert caught.value.index == 0
        lower = ql.cholesky_downdate(scale * L, scale * x, backend=backend) / scale
        assert np.abs(lower - ql.cholesky_downdate(L, x)).max() <= 1e-14
    for D0, z in ((1e300, 1e200), (1e-300, 1e10)):  # the pivot overflows; its growth does
        with pytest.raises(ql.InvalidArgumentError, match="factor of what was added"):
            ql.ldl_update(np.eye(2), [D0, 1.0], [z, 0.0], backend=backend)


def test_nan_is_named_where_it_is():
    B = L.copy()
    B[4, 1] = np.nan
    for call in (
        lambda: ql.cholesky_update(B, np.empty((N, 0))),  # no vector meets it
        lambda: ql.cholesky_delete(B, 5),
        lambda: ql.cholesky_delete(B, 0),
        lambda: ql.cholesky_insert(B, N, x, 3.0),
    ):
        with pytest.raises(ql.NonFiniteError, match=r"L\[4, 1\]"):
            call()
    with pytest.raises(ql.NonFiniteError, match=r"L\[1\]\[4, 1\]"):
        ql.cholesky_delete(np.stack([L, B]), 0)
