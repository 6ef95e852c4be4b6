"""The public assertions and strategies: they accept what is right and nothing else."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quiplinalg as ql
from quiplinalg import reference, testing
from quiplinalg.testing import (
    assert_cholesky,
    assert_inverse,
    assert_loss_identity,
    assert_lower_bounds,
    assert_monotone,
    assert_on_grid,
    assert_rounds_targets,
    assert_udu,
    make_problem,
    spd_families,
)

ONE, ZERO = np.ones((1, 1)), np.zeros((1, 1))


def test_every_public_name_is_there():
    for name in testing.__all__:
        assert getattr(testing, name) is not None
        assert name in dir(testing)
    assert ql.testing is testing
    with pytest.raises(AttributeError, match="no attribute 'problem'"):
        _ = testing.problem


def test_without_hypothesis_only_the_strategies_are_missing():
    code = (
        "import sys; sys.modules['hypothesis'] = None\n"
        "from quiplinalg import testing\n"
        "testing.make_problem(2, 3, 0); testing.check_quantizer; testing.assert_on_grid\n"
        "try:\n    testing.problems\n"
        "except ImportError as error:\n    print(type(error).__name__, error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.startswith("BackendUnavailableError")
    assert "pip install 'quiplinalg[test]'" in run.stdout


@given(testing.problems(bits=(2, 3), max_n=10), st.booleans())
def test_a_changed_code_breaks_the_certificate(p, random):
    scale, zero = p.grid()
    u = reference.uniforms(p.seed, p.m, p.n) if random else None
    found = reference.ldlq(p.W, p.H, scale, zero, p.maxq, order=p.order, uniforms=u)
    args = (p.W, p.H, scale, zero, p.maxq)
    tau = 1e-9 * max(1.0, float(np.abs(p.W / scale).max()))
    assert assert_rounds_targets(found.codes, *args, order=p.order, uniforms=u, tau=tau) <= tau
    codes = found.codes.copy()
    rng = np.random.default_rng(p.seed)
    i, j = rng.integers(p.m), rng.integers(p.n)
    codes[i, j] += -1 if codes[i, j] == p.maxq else 1
    with pytest.raises(AssertionError, match="not the rounding of their targets"):
        # a whole step off: also where the target was half a step away
        assert_rounds_targets(codes, *args, order=p.order, uniforms=u, tau=1e-12)


@given(testing.problems(bits=(3, None), max_n=10), st.floats(0, 0.5))
def test_the_identity_holds_for_any_codes_and_tells_wrong_factors(p, damp):
    codes = np.random.default_rng(p.seed).integers(-3, 4, (p.m, p.n)).astype(float)
    perm = p.order
    H_in = p.H[np.ix_(perm, perm)]
    direct = assert_loss_identity(codes, p.W, p.H, order=perm, damp=damp)
    assert direct == pytest.approx(reference.proxy_loss(codes, p.W, p.H), rel=1e-12)
    factor = ql.udu(H_in + damp * np.eye(p.n))
    pair = (factor.T, factor.D)
    assert_loss_identity(codes, p.W, p.H, direct, order=perm, factor=pair, damp=damp)
    with pytest.raises(AssertionError, match="reported loss"):
        assert_loss_identity(codes, p.W, p.H, direct * 1.001, order=perm, damp=damp)
    with pytest.raises(AssertionError, match="reported loss"):
        assert_loss_identity(codes, p.W, p.H, float("nan"), order=perm, damp=damp)
    with pytest.raises(AssertionError, match="not H"):
        wrong = (factor.T, factor.D * 1.001)
        assert_loss_identity(codes, p.W, p.H, order=perm, factor=wrong, damp=damp)


def test_grid_membership():
    scale, zero = np.array([[0.1], [0.3]], np.float32), np.array([[1.0], [2.0]], np.float32)
    codes = np.array([[0, 3, 1], [2, 1, 0]])
    values = scale * (codes - zero)
    for dtype in (np.float32, np.float64, np.float16):
        tight = values.astype(dtype)
        assert (assert_on_grid(tight, scale, zero, 3) == codes).all()
    assert (assert_on_grid(codes.astype(np.uint8), scale, zero, 3) == codes).all()
    for bad in (values + 1e-3, np.where(codes == 3, np.nan, values)):
        with pytest.raises(AssertionError, match="no points of the grid"):
            assert_on_grid(bad, scale, zero, 3)
    for outside in (codes + 1, codes - 1):
        with pytest.raises(AssertionError, match=r"codes must be in 0 .. 3"):
            assert_on_grid(outside, scale, zero, 3)
        with pytest.raises(AssertionError, match=r"codes must be in 0 .. 3"):
            assert_on_grid(scale * (outside - zero), scale, zero, 3)


def test_factor_ratios_pass_lapack_and_fail_float32():
    """Accidental float32 is what the ratio is for: allclose would let it pass."""
    for name, A in spd_families(10).items():
        if "flow" in name:
            continue
        L = np.linalg.cholesky(A)
        assert assert_cholesky(L, A) <= 5, name
        factor = ql.udu(A)
        assert assert_udu(factor.T, factor.D, A) <= 30
        if np.linalg.cond(A) < 1e12:
            assert assert_inverse(np.linalg.inv(A), A) <= 30
        rounded = L.astype(np.float32).astype(np.float64)
        if not np.array_equal(rounded, L):
            with pytest.raises(AssertionError, match="ratio"):
                assert_cholesky(rounded, A)
            assert assert_cholesky(L.astype(np.float32), A) <= 30
    with pytest.raises(AssertionError, match="lower triangular"):
        assert_cholesky(L.T, A)
    with pytest.raises(AssertionError, match="upper triangular"):
        assert_udu(factor.T.T, factor.D, A)
    with pytest.raises(AssertionError, match="positive"):
        assert_udu(factor.T, -factor.D, A)
    with pytest.raises(AssertionError, match="ratio"):
        assert_cholesky(L, np.where(np.eye(10) > 0, np.nan, A))
    with pytest.raises(AssertionError, match="positive"):
        assert_udu(factor.T, factor.D * np.nan, A)


@pytest.mark.parametrize("bits,n", ((1, 6), (2, 5), (2, 20)))
def test_lower_bounds_against_enumeration_and_against_rivals(bits, n):
    p = make_problem(4, n, bits + n, bits)
    scale, zero = p.grid()
    args = (p.W, p.H, scale, zero, p.maxq)
    least = np.linalg.eigvalsh(p.H)[0]
    codes = reference.nearest(p.W, scale, zero, p.maxq)
    E = reference.dequantise(codes, scale, zero) - p.W
    bound = least * (E**2).sum(axis=1)  # lambda_min ||E||^2, nearest has the least ||E||
    ratio = assert_lower_bounds(bound, *args)
    assert 0 < ratio <= 1
    best = reference.ldlq(p.W, p.H, scale, zero, p.maxq).loss
    with pytest.raises(AssertionError, match="exist"):
        assert_lower_bounds(best * 1.0001, *args)
    with pytest.raises(AssertionError, match="exist"):
        assert_lower_bounds(np.full(4, np.nan), *args)
    with pytest.raises(ql.InvalidArgumentError, match="bounds"):
        assert_lower_bounds(0.0, *args)


def test_monotone():
    assert_monotone(np.array([[3.0, 2.0], [1.0, 1.0]]))
    assert_monotone([1.0, 2.0], increasing=True)
    assert_monotone([1.0, 1.0 + 1e-12], slack=1e-11)
    for values in ([1.0, 2.0], [2.0, float("nan")], [[1.0, 1.0], [1.0, 1.5]]):
        with pytest.raises(AssertionError):
            assert_monotone(values)
    with pytest.raises(AssertionError, match="down"):
        assert_monotone([2.0, 1.0], increasing=True)


@given(testing.spd_matrices(max_kappa=1e6), testing.calibration_hessians(), testing.weights())
def test_what_the_strategies_draw(A, H, W):
    for matrix in (A, H):
        assert (matrix == matrix.T).all() and np.linalg.eigvalsh(matrix)[0] > 0
    assert W.dtype == np.float64 and np.isfinite(W).all()


@given(st.data())
def test_grids_hold_positive_steps_and_zeros_in_range(data):
    W = data.draw(testing.weights(min_n=2))
    scale, zero = data.draw(testing.grids(W, 3))
    assert scale.shape == zero.shape == (len(W), 1)
    assert (scale > 0).all() and ((zero >= 0) & (zero <= 8)).all()


@given(st.data())
def test_an_unknown_kind_of_grid_is_refused_and_not_an_odd_one(data):
    with pytest.raises(ql.InvalidArgumentError, match="mimax"):
        data.draw(testing.grids(W3, 3, kinds=("mimax",)))


def test_builders_refuse_unknown_kinds():
    for call in (
        lambda: testing.make_hessian("flat", 3, 0),
        lambda: testing.make_weights("flat", 3, 3, 0),
        lambda: testing.make_order("flat", np.eye(3), 0),
        lambda: testing.spectrum("flat", 3, 10.0, np.random.default_rng(0)),
        lambda: testing.calibration_hessian(3, 0, 0),
    ):
        with pytest.raises(ql.InvalidArgumentError):
            call()


W3 = np.random.default_rng(0).standard_normal((3, 4))
H4 = testing.make_hessian("power", 4, 0)
CODES = reference.ldlq(W3, H4, ONE, 2 * ONE, 3).codes
GRID = (ONE, 2 * ONE, 3)
CALLS = {  # every assertion on a rounding, and the W and H it was made of
    "targets": lambda W, H, *grid, **k: assert_rounds_targets(CODES, W, H, *grid, **k),
    "same": lambda W, H, *grid, **k: testing.assert_same_rounding(CODES, CODES, W, H, *grid, **k),
    "bounds": lambda W, H, *grid, **k: assert_lower_bounds(np.zeros(3), W, H, *grid, **k),
    "grid": lambda W, H, *grid, **k: assert_on_grid(CODES - 2.0, *grid, **k),
    "loss": lambda W, H, *grid, **k: assert_loss_identity(CODES - 2.0, W, H, **k),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_without_a_meaning_are_refused_and_not_passed(name):
    """A short order, one triangle of H or broadcast rows would assert about half of the codes."""
    call, refused = CALLS[name], ql.InvalidArgumentError
    call(W3, H4, *GRID)
    if name != "grid":
        for H, word in ((H4[:3, :3], "H must be"), (np.triu(H4), "symmetric")):
            with pytest.raises(refused, match=word):
                call(W3, H, *GRID)
        if name in ("targets", "loss"):
            for order in ([0, 1], [0, 0, 1, 2], [0.0, 1.0, 2.0, 3.0]):
                with pytest.raises(refused, match="order must hold"):
                    call(W3, H4, *GRID, order=np.array(order))
            with pytest.raises(ValueError, match="H must be positive definite"):
                call(W3, -H4, *GRID)
    if name != "loss":
        for scale in (0 * ONE, -ONE, np.nan * ONE, np.ones((2, 1))):
            with pytest.raises(refused, match="scale must be"):
                call(W3, H4, scale, 2 * ONE, 3)
        for maxq in (float("nan"), 0, 2.5):
            with pytest.raises(refused, match="maxq"):
                call(W3, H4, ONE, 2 * ONE, maxq)
        for group in ([0, 0], [0, 0, 1, 1], [0, 0, -1, 0], [0.5] * 4):
            with pytest.raises(refused, match="group_index"):
                call(W3, H4, *GRID, group_index=np.array(group))
        call(W3, H4, 1.0, [2.0] * 3, 3)  # a number for all rows, and a list of one a row


def test_codes_that_are_no_codes_are_a_finding():
    args = (W3, H4, *GRID)
    for codes, word in (
        (CODES[:, :3], "must be"), (CODES + 0.3, "whole"), (CODES + 8, "0 .. 3"),
        (CODES * np.nan, "whole"),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=word):
            assert_rounds_targets(codes, *args)
        with pytest.raises(AssertionError, match=word):
            testing.assert_same_rounding(CODES, codes, *args)
    far = np.full((1, 1), 9.2)  # not clamped: it is the rounding of its target, and no code
    with pytest.raises(AssertionError, match=r"0 .. 3"):
        assert_rounds_targets(np.array([[9]]), far, np.eye(1), ONE, ZERO, 3)
    for huge in (np.full((1, 1), 2**64 - 1, np.uint64), np.full((1, 1), 1e300)):
        with pytest.raises(AssertionError, match=r"beyond 2\*\*53"):
            assert_on_grid(huge, ONE, ZERO, np.inf)
    with pytest.raises(AssertionError, match="W_hat must be"):
        assert_loss_identity(W3[:1], W3, H4)  # one row for all
    with pytest.raises(AssertionError, match="NaN or infinity"):
        assert_loss_identity(W3 * np.nan, W3, H4)
    assert testing.assert_same_rounding(CODES, CODES, *args, tau=0) == 0


def test_factors_of_other_shapes_are_refused():
    L = np.linalg.cholesky(H4)
    refused = ql.InvalidArgumentError
    for call, word in (
        (lambda: assert_cholesky(L[:3, :3], H4), "L must be"),
        (lambda: assert_inverse(np.eye(3), H4), "P must be"),
        (lambda: assert_udu(np.eye(4), np.ones((4, 1)), np.eye(4)), "D must be"),
        (lambda: assert_loss_identity(W3, W3, H4, factor=(np.eye(3), np.ones(3))), "factor"),
        (lambda: assert_loss_identity(W3, W3, H4, damp=-1.0), "damp"),
        (lambda: assert_monotone(3.0), "values"),
        (lambda: testing.clamped_counterexample(0), "n must"),
        (lambda: testing.spectrum("geometric spectrum", 3, 0.5, np.random.default_rng(0)), "kappa"),
    ):
        with pytest.raises(refused, match=word):
            call()
    with pytest.raises(AssertionError, match="inf"):
        assert_inverse(np.zeros((2, 2)), np.eye(2) * 0)
    assert testing.residual_ratio(np.zeros((2, 2)), np.zeros((2, 2)), 2.0**-53) == 0
