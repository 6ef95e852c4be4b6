"""Low-sample diagnostics: rank, effective samples, eigenvalues, dead columns, verdicts."""

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.hessian.diagnostics import diagnose


def found(X, **options):
    H = ql.Hessian(X.shape[1], **options)
    H.add(X)
    return H.diagnostics()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "tokens, verdict",
    [(1, "too few samples"), (39, "too few samples"), (60, "few samples"), (80, "ok")],
)
def test_verdicts_by_the_number_of_tokens(tokens, verdict, dtype):
    X = np.random.default_rng(0).standard_normal((tokens, 40)).astype(dtype)
    d = found(X)
    assert (d.n, d.count, d.weight, d.effective_samples) == (40, tokens, tokens, tokens)
    assert d.rank == min(tokens, 40)
    assert d.verdict == verdict and d.ok == (verdict == "ok") and verdict in d.message
    assert (d.smallest > 0) == (tokens >= 40) and np.isfinite(d.condition) == (tokens >= 40)
    assert d.precision == np.dtype(dtype).name


def test_numbers_of_a_known_spectrum():
    H = ql.Hessian(4, track_mean=True)
    H.add(np.diag([4.0, 2.0, 0.0, 2.0]))
    d = H.diagnostics()
    assert d.dead.tolist() == [2] and d.live == 3 and d.rank == 3
    # the mean of x x^T is diag(4, 1, 0, 1): trace 6, sum of squares 18
    assert d.effective_rank == 2.0 and (d.smallest, d.largest) == (0.0, 4.0)
    assert "few samples for n=3 live" in d.message
    empty = ql.Hessian(4).diagnostics()
    assert empty.verdict == "empty" and empty.rank == 0 and empty.effective_rank == 0
    assert ql.Hessian(0).diagnostics().n == 0


def test_dependent_inputs_are_found_whatever_their_scale():
    rng = np.random.default_rng(1)
    X = rng.standard_normal((500, 20))
    X[:, 7] = X[:, 3] - 2 * X[:, 4]
    for dtype in (np.float32, np.float64):
        d = found((X * np.geomspace(1e-6, 1e6, 20)).astype(dtype))
        assert d.rank == 19 and d.verdict == "too few samples" and "depend" in d.message


def test_few_heavy_tokens_are_worth_few():
    X = np.random.default_rng(2).standard_normal((500, 10))
    w = np.full(500, 1e-6)
    w[:8] = 1.0
    H = ql.Hessian(10)
    H.add(X, weights=w)
    d = H.diagnostics()
    assert 8 < d.effective_samples < 8.01 and d.verdict == "too few samples"
    assert d.count == 500 and d.rank == 10 and "8.00" in d.message


def test_large_matrices_use_lanczos():
    n = 600
    rng = np.random.default_rng(3)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    values = np.geomspace(1e-4, 3, n)
    H = (Q * values) @ Q.T
    d = diagnose((H + H.T) / 2, 5000, 5000.0, 5000.0, "float64")
    assert abs(d.largest / values[-1] - 1) <= 1e-5 and abs(d.smallest / values[0] - 1) <= 1e-5
    assert d.rank == n and d.ok
    assert abs(d.effective_rank / (values.sum() ** 2 / np.square(values).sum()) - 1) <= 1e-12
    values[: n // 2] = 0
    H = (Q * values) @ Q.T
    d = diagnose((H + H.T) / 2, 5000, 5000.0, 5000.0, "float64")
    assert d.rank == n // 2 and d.smallest == 0 and d.condition == np.inf


def test_effective_samples_of_merged_shards_are_those_of_all_their_tokens():
    """(sum w)^2 / sum w^2 of 2 and 3 tokens; powers of two, so that the sums are exact."""
    weights = np.array([1.0, 4.0, 0.5, 2.0, 2.0])
    X = np.random.default_rng(0).standard_normal((5, 3))
    parts = [ql.Hessian(3), ql.Hessian(3)]
    for part, rows in zip(parts, (slice(2), slice(2, 5)), strict=True):
        part.add(X[rows], weights=weights[rows])
    expected = weights.sum() ** 2 / np.square(weights).sum()
    assert ql.merge_statistics(parts).diagnostics().effective_samples == expected
    assert ql.merge_statistics([parts[0], ql.Hessian(3)]).diagnostics().effective_samples == 25 / 17
