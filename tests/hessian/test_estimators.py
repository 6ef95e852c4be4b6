"""Estimates from products: unbiased, with the variances of the theory and honest errors."""

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import DTypeError, InvalidArgumentError, NonFiniteError
from quiplinalg.incoherence.draws import signs


def symmetric(values, seed=0):
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((len(values),) * 2))
    A = (Q * values) @ Q.T
    return (A + A.T) / 2


def draws(estimate, repeats):
    return np.array([estimate(seed) for seed in range(repeats)])


def test_they_are_the_definitions_on_their_probes():
    A = symmetric(np.linspace(-1, 3, 9))
    V = np.array([signs(9, 7, i) for i in range(5)], float).T
    samples = reference.probe_trace(A, V)
    trace = ql.hutchinson(lambda v: A @ v, 9, probes=5, seed=7)
    assert abs(trace.trace - samples.mean()) <= 1e-13
    assert abs(trace.standard_error - samples.std(ddof=1) / 5**0.5) <= 1e-13
    assert trace.products == 5
    diagonal = ql.hutchinson_diagonal(lambda v: A @ v, 9, probes=5, seed=7)
    assert np.abs(diagonal.diagonal - reference.probe_diagonal(A, V)).max() <= 1e-13


def test_trace_is_unbiased_with_the_variance_of_the_theory():
    A = symmetric(np.arange(1.0, 25) ** -0.5)
    k, repeats = 4, 3000
    found = draws(lambda s: ql.hutchinson(lambda V: A @ V, 24, probes=k, seed=s, blocks=True).trace,
                  repeats)  # fmt: skip
    variance = 2 * (np.square(A).sum() - np.square(np.diag(A)).sum()) / k
    assert abs(found.mean() - np.trace(A)) <= 5 * np.sqrt(variance / repeats)
    # the spread of a sample variance, from the fourth moment seen
    spread = np.sqrt((np.mean((found - found.mean()) ** 4) - variance**2) / repeats)
    assert abs(found.var() - variance) <= 5 * spread


def test_diagonal_is_unbiased_with_the_variance_of_the_theory():
    A = symmetric(np.arange(1.0, 13))
    k, repeats = 6, 2000
    found = draws(
        lambda s: (
            ql.hutchinson_diagonal(lambda V: A @ V, 12, probes=k, seed=s, blocks=True).diagonal
        ),
        repeats,
    )
    variance = (np.square(A).sum(axis=1) - np.square(np.diag(A))) / k
    assert (np.abs(found.mean(axis=0) - np.diag(A)) <= 5 * np.sqrt(variance / repeats)).all()
    spread = np.sqrt((np.mean((found - found.mean(axis=0)) ** 4, axis=0) - variance**2) / repeats)
    assert (np.abs(found.var(axis=0) - variance) <= 5 * spread).all()


def test_standard_errors_are_honest():
    A = symmetric(np.arange(1.0, 41) ** -0.5)
    for estimate, budget in ((ql.hutchinson, {"probes": 30}), (ql.hutch_pp, {"products": 60})):
        found = [estimate(lambda V: A @ V, 40, seed=s, blocks=True, **budget) for s in range(400)]
        z = [(f.trace - np.trace(A)) / f.standard_error for f in found]
        # t with about 20 degrees of freedom: variance 1.11; 400 draws know it to 0.08
        assert 0.8 <= np.var(z) <= 1.6 and abs(np.mean(z)) <= 5 * np.sqrt(1.6 / 400)


def test_hutch_pp_gains_on_a_decaying_spectrum_and_loses_on_a_flat_one():
    n, budget, repeats = 120, 48, 120

    def spread(A, estimate, name):
        found = draws(
            lambda s: estimate(lambda V: A @ V, n, seed=s, blocks=True, **{name: budget}).trace,
            repeats,
        )
        assert abs(found.mean() - np.trace(A)) <= 5 * found.std() / np.sqrt(repeats)
        return found.std()

    decaying = symmetric(np.arange(1.0, n + 1) ** -2.0)
    gain = spread(decaying, ql.hutchinson, "probes") / spread(decaying, ql.hutch_pp, "products")
    assert gain >= 5, gain  # 11 in theory.md
    flat = symmetric(np.random.default_rng(0).choice([-1.0, 1.0], n))
    loss = spread(flat, ql.hutch_pp, "products") / spread(flat, ql.hutchinson, "probes")
    assert 1.2 <= loss <= 2, loss  # sqrt(2.4) = 1.55


def test_hutch_pp_is_exact_with_enough_products():
    A = symmetric(np.linspace(-2, 5, 7))
    found = ql.hutch_pp(lambda v: A @ v, 7, products=21)
    assert abs(found.trace - np.trace(A)) <= 7 * 2.0**-52 * 5 * 7 and found.standard_error == 0
    low = symmetric(np.r_[np.zeros(15), 1, 2, 3, 4, 5.0])  # rank 5 is found whole
    found = ql.hutch_pp(lambda v: low @ v, 20, products=24)
    assert abs(found.trace - 15) <= 1e-12 and found.standard_error <= 1e-12


def test_a_diagonal_matrix_has_no_variance():
    d = np.arange(1.0, 9)
    assert ql.hutchinson(lambda v: d * v, 8, probes=2) == ql.TraceEstimate(36.0, 0.0, 2)
    assert ql.hutchinson(lambda v: d * v, 8, probes=1).standard_error == np.inf
    found = ql.hutchinson_diagonal(lambda v: d * v, 8, probes=2)
    assert (found.diagonal == d).all() and (found.standard_error == 0).all()


@pytest.mark.parametrize("kind", ["decaying", "indefinite", "low rank"])
def test_low_rank(kind):
    n, rank = 60, 6
    k = np.arange(1.0, n + 1)
    values = {
        "decaying": k**-2.0,
        "indefinite": np.where(k % 2 == 1, 1, -1) * 2.0**-k,
        "low rank": np.where(k <= 4, k, 0.0),
    }[kind]
    A = symmetric(values)
    found = ql.low_rank(lambda v: A @ v, n, rank, iterations=4, seed=3)
    U, theta = found.vectors, found.values
    assert np.abs(U.T @ U - np.eye(rank)).max() <= 1e-13
    exact = values[np.argsort(-np.abs(values), kind="stable")][:rank]
    eigenvalues = np.linalg.eigvalsh(A)
    for value, residual, pair in zip(theta, found.residuals, U.T, strict=True):
        # Weyl: some eigenvalue is within the residual, up to rounding
        assert np.abs(eigenvalues - value).min() <= residual + 1e-14
        assert abs(np.linalg.norm(A @ pair - value * pair) - residual) <= 1e-13
    assert np.abs(theta - exact).max() <= 1e-6
    left = np.linalg.norm(A - found.reconstruct())
    assert abs(found.remainder - left) <= 5 * found.remainder_error + 1e-12
    assert found.products == (rank + 8) * 6 + 10


def test_the_seed_decides_alone_and_blocks_are_the_same_probes():
    A = symmetric(np.linspace(1, 2, 11))
    for estimate, options in (
        (ql.hutchinson, {}),
        (ql.hutch_pp, {"products": 9}),
        (ql.hutchinson_diagonal, {}),
        (ql.low_rank, {"rank": 3}),
    ):
        one, two, other = (
            estimate(lambda v: A @ v, 11, seed=s, blocks=b, **options)
            for s, b in ((5, False), (5, True), (6, False))
        )
        values = [vars(f) for f in (one, two, other)]
        key = next(iter(values[0]))
        assert np.abs(np.asarray(values[0][key]) - values[1][key]).max() <= 1e-13
        if estimate is not ql.low_rank:  # whose answer is the same
            assert np.any(np.asarray(values[0][key]) != values[2][key])


def test_bad_arguments():
    def same(v):
        return v

    cases = [
        (InvalidArgumentError, "probes", ql.hutchinson, {"probes": 0}),
        (InvalidArgumentError, "products", ql.hutch_pp, {"products": 2}),
        (InvalidArgumentError, "seed", ql.hutchinson, {"seed": -1}),
        (InvalidArgumentError, "rank", ql.low_rank, {"rank": 5}),
        (InvalidArgumentError, "rank", ql.low_rank, {"rank": 0}),
        (InvalidArgumentError, "iterations", ql.low_rank, {"rank": 1, "iterations": -1}),
    ]
    for error, text, function, keywords in cases:
        with pytest.raises(error, match=text):
            function(same, 4, **keywords)
    with pytest.raises(InvalidArgumentError, match="keep the shape"):
        ql.hutchinson(lambda v: v[:2], 4)
    with pytest.raises(NonFiniteError, match="product"):
        ql.hutchinson(lambda v: v * np.nan, 4)
    with pytest.raises(DTypeError):
        ql.hutchinson(lambda v: v * 1j, 4)


@pytest.mark.parametrize("blocks", [False, True])
def test_a_product_that_works_in_place_spoils_no_probes(blocks):
    d = np.arange(1.0, 13)

    def in_place(V):
        V *= d[:, None] if blocks else d
        return V

    options = {"probes": 4, "blocks": blocks}  # a diagonal matrix has no variance
    assert ql.hutchinson(in_place, 12, **options).trace == d.sum()
    assert (ql.hutchinson_diagonal(in_place, 12, **options).diagonal == d).all()
    plain = ql.hutch_pp(lambda V: V * (d[:, None] if blocks else d), 12, products=9, blocks=blocks)
    assert ql.hutch_pp(in_place, 12, products=9, blocks=blocks) == plain
    found = ql.low_rank(in_place, 12, 2, oversample=10, blocks=blocks)  # the whole space
    assert np.abs(found.values - [12, 11]).max() <= 1e-13


def test_what_is_no_callable_and_keywords_of_other_names():
    for function in (ql.hutchinson, ql.hutch_pp, ql.hutchinson_diagonal):
        with pytest.raises(DTypeError, match="product must be a callable"):
            function(np.eye(3), 3)
        with pytest.raises(DTypeError, match=r"did you mean pro(bes|ducts)"):
            function(lambda v: v, 3, num_samples=3)
