"""What must change no bit, or only what it says: units, congruence, permutations, company."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import make_hessian, make_problem, problems

import quiplinalg as ql
from quiplinalg import reference


@given(
    n=st.integers(2, 10), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(("well", "power"))
)
def test_row_and_column_permutations_change_nothing(n, seed, kind):
    """Rows are independent, and a permutation of the columns is an order."""
    H = make_hessian(kind, n, seed)
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((5, n))
    grid = ql.UniformGrid(np.full((1, 1), 0.7), np.full((1, 1), 1.5), 2)
    q = ql.ldlq(W, H, grid=grid, order="natural", damp=0.0)
    rows = rng.permutation(5)
    assert (ql.ldlq(W[rows], H, grid=grid, order="natural", damp=0.0).codes == q.codes[rows]).all()
    perm = rng.permutation(n)
    twin = reference.ldlq(W, H, grid.scale, grid.zero, 3.0, order=perm)
    P = np.ix_(perm, perm)
    other = ql.ldlq(W[:, perm], H[P], grid=grid, order="natural", damp=0.0)
    assert abs(other.loss - twin.loss.sum()) <= 1e-9 * max(twin.loss.sum(), 1e-12)


@given(
    problem=problems(max_n=20, max_m=5, bits=(2, 4, None)),
    seed=st.integers(0, 2**32 - 1),
    single=st.booleans(),
)
def test_power_of_two_congruence_changes_no_bit(problem, seed, single):
    """H' = S H S, W' = W S^-1 and steps s / S_k, S a diagonal of powers of 2: the same codes, loss.

    T' = S T S^-1 and D' = S^2 D exactly, so that every target is the same number of steps.
    """
    rng = np.random.default_rng(seed)
    n = problem.n
    S = 2.0 ** rng.integers(-6, 7, n)
    W = problem.W.astype(np.float32 if single else np.float64)
    scale = np.exp(rng.uniform(-2, 0, (1, n))).astype(np.float32)
    zero = rng.integers(0, 4, (1, n)).astype(np.float32)
    index = np.arange(n, dtype=np.int32)
    found = []
    for s in (np.ones(n), S):
        grid = ql.UniformGrid((scale / s).astype(np.float32), zero, problem.bits, index)
        shrunk = (W / s).astype(W.dtype)
        found.append(
            ql.ldlq(shrunk, s[:, None] * problem.H * s, grid=grid, damp=0.0, order="natural")
        )
    plain, scaled = found
    assert (plain.codes == scaled.codes).all()
    # sums of D eta^2 are the same products in the same order
    assert plain.loss == scaled.loss and plain.near_tie_rows == scaled.near_tie_rows


@pytest.mark.parametrize("power", (-40, -6, 14, 60))
@pytest.mark.parametrize("method", ("gptq", "safe", "quip", "nearest"))
def test_the_unit_of_h_changes_no_bit(method, power):
    """H <- 4^k H: square roots stay exact, every code too, and the loss is 4^k times itself."""
    p = make_problem(20, 40, 0, 3, "outlier")
    run = getattr(ql, method)
    a, b = run(p.W, p.H, bits=3), run(p.W, p.H * 2.0**power, bits=3)
    assert (a.codes == b.codes).all()
    # the solver of safe works in its own unit; a rotated H is a product, exact in powers of 2
    assert abs(b.loss / (a.loss * 2.0**power) - 1) <= (1e-12 if method == "safe" else 0)


@pytest.mark.parametrize("method", ("ldlq", "gptq", "nearest", "quip"))
def test_a_row_alone_is_the_row_in_the_batch(method):
    """Rows are independent to the last bit, wherever tiles and threads cut them."""
    p = make_problem(61, 30, 4, 2, "power", "heavy")
    run = getattr(ql, method)
    grid = {} if method == "quip" else {"grid": ql.minmax_grid(p.W, 2)}
    whole = run(p.W, p.H, bits=2, **grid)
    if method == "quip":  # its rescaling looks at all rows: without it
        keywords = {"rescale": False, "rotation": "hadamard"}
        whole = ql.quip(p.W, p.H, 2, **keywords)
    for i in (0, 11, 12, 24, 47, 60):
        if method == "quip":
            alone = ql.quip(p.W[i : i + 1], p.H, 2, **keywords)
        else:
            own = grid["grid"]
            one = ql.UniformGrid(own.scale[i : i + 1], own.zero[i : i + 1], 2)
            alone = run(p.W[i : i + 1], p.H, bits=2, grid=one)
        assert (alone.codes[0] == whole.codes[i]).all(), i
