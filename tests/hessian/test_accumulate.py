"""The accumulator: exactness, error bounds, splits, threads, weights, merging, bad batches."""

from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import (
    ConditioningWarning,
    DTypeError,
    InvalidArgumentError,
    NonFiniteError,
)
from quiplinalg.hessian.tokens import CHUNK

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
SIZES = (0, 1, 2, 3, 5, 10, 50, 130)


def integers(tokens, n, dtype=np.float64, seed=0):
    """Small integers: every sum of products below is exact, in float32 too."""
    return np.random.default_rng([seed, tokens, n]).integers(-4, 5, (tokens, n)).astype(dtype)


def normals(tokens, n, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, tokens, n]).standard_normal((tokens, n)).astype(dtype)


def accumulated(X, cuts=(), **options):
    H = ql.Hessian(X.shape[-1], **options)
    for i, j in pairwise([0, *cuts, len(X)]):
        H.add(X[i:j])
    return H


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", SIZES)
def test_small_integers_are_summed_exactly(n, dtype):
    X = integers(2100, n, dtype)  # over a full chunk in either precision
    exact = X.astype(np.int64).T @ X.astype(np.int64)
    H = accumulated(X, cuts=(3, 700), track_mean=True)
    S = H.sum()
    assert S.dtype == np.float64 and S.flags.c_contiguous and S.flags.writeable
    assert (S == exact).all() and (S == S.T).all()
    assert H.count == 2100 and H.weight == 2100.0
    assert H.precision == ("float64" if dtype == np.float64 else "float32")
    assert (H.input_mean() == X.astype(np.int64).sum(axis=0) / 2100).all()


def test_it_is_the_definition():
    X, w = normals(40, 7), np.random.default_rng(0).uniform(0, 3, 40)
    H = ql.Hessian(7, track_mean=True)
    H.add(X, weights=w)
    # each entry is 40 products and sums: 42 eps of their sizes, twice as many for the means
    eps = np.finfo(float).eps
    size = np.abs(X).T @ (w[:, None] * np.abs(X))
    assert (np.abs(H.sum() - reference.cross_moment(X, X, w)) <= 42 * eps * size).all()
    error = np.abs(H.covariance() - reference.covariance(X, w))
    assert (error <= 2 * 42 * eps * size / w.sum() * 2).all()


@pytest.mark.parametrize("kind", ["normal", "same sign", "outlier"])
@pytest.mark.parametrize("weighted", [False, True])
def test_float32_products_are_within_the_stated_bound(kind, weighted):
    n, tokens, u = 40, 5000, 2.0**-24
    X = normals(tokens, n, np.float32)
    X = np.abs(X) if kind == "same sign" else X
    X[:, 3] *= 1e6 if kind == "outlier" else 1
    w = np.random.default_rng(1).uniform(0.1, 8, tokens) if weighted else np.ones(tokens)
    H = ql.Hessian(n)
    H.add(X, weights=w if weighted else None)
    assert H.precision == "float32"
    wide = X.astype(np.longdouble)
    exact = wide.T @ (w[:, None] * wide)
    size = np.abs(wide).T @ (w[:, None] * np.abs(wide))
    bound = (514 * u + (1 + tokens / 512) * 2.0**-53) * size
    error = np.abs(H.sum() - exact)
    assert (error <= bound).all(), f"{float((error / bound).max()):.3g} of the bound"
    # and float64 products of the same tokens are 2^29 times as accurate, so they are not float32
    fine = ql.Hessian(n, precision="float64")
    fine.add(X, weights=w if weighted else None)
    assert (np.abs(fine.sum() - exact) <= tokens * 2.0**-53 * size).all()
    assert fine.precision == "float64"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 17, 130])
def test_any_split_and_any_thread_count_give_the_same_bits(n, dtype):
    chunk = CHUNK[np.dtype(dtype)]
    X = normals(2 * chunk + 77, n, dtype)
    with ql.num_threads(1):
        whole = accumulated(X, track_mean=True)
    for threads, cuts in (
        (2, ()),
        (2, range(10, 2 * chunk, 97)),
        (1, (chunk,)),
        (2, (1, chunk - 1, chunk + 1, 2 * chunk)),
    ):
        with ql.num_threads(threads):
            H = accumulated(X, cuts=cuts, track_mean=True)
            assert (H.sum() == whole.sum()).all()
            assert (H.input_mean() == whole.input_mean()).all()
    # reading a sum in between ends no chunk; a token alone is a batch
    H = ql.Hessian(n)
    for x in X[:5]:
        H.add(x)
        H.sum()
    H.add(X[5:])
    assert (H.sum() == whole.sum()).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])  # of other tiles
def test_tiles_of_many_sizes_give_what_one_product_gives(dtype):
    for n in (63, 64, 65, 127, 129, 193, 255, 400, 513):
        X, Y = integers(9, n, dtype), integers(9, n, dtype, seed=1)
        assert (accumulated(X).sum() == X.astype(float).T @ X.astype(float)).all(), n
        both = ql.CrossMoment(n)
        both.add(X, Y)
        assert (both.sum() == X.astype(float).T @ Y.astype(float)).all(), n


def test_precisions_mix_at_fixed_places():
    X = normals(1500, 9)
    half = X.astype(np.float32)
    results = []
    for cuts in ((), (5, 400, 690)):
        H = ql.Hessian(9)
        for i, j in pairwise([0, *cuts, 700]):
            H.add(half[i:j])
        H.add(X[700:])
        results.append(H.sum())
        assert H.precision == "float32"
    assert (results[0] == results[1]).all()
    parts = [accumulated(half[:700]), accumulated(X[700:])]
    assert (results[0] == ql.merge_statistics(parts).sum()).all()


def test_weights_and_masks():
    X = integers(700, 6)
    w = np.random.default_rng(3).integers(0, 3, 700)
    H = ql.Hessian(6, track_mean=True)
    H.add(X[:100], weights=w[:100])
    H.add(X[100:], weights=w[100:].astype(np.float32))
    integer = X.astype(int)
    assert (H.sum() == integer.T @ (w[:, None] * integer)).all()
    assert H.weight == w.sum() and H.count == np.count_nonzero(w)
    assert H.diagnostics().effective_samples == w.sum() ** 2 / np.square(w).sum()
    assert (H.input_mean() * w.sum() == w @ integer).all()
    # a mask: the tokens it leaves out are not read at all
    batch = X.reshape(7, 100, 6).copy()
    mask = (w > 0).reshape(7, 100)
    batch[~mask] = np.nan
    for kind in (mask, mask.astype(np.int64), mask.tolist()):
        masked = ql.Hessian(6)
        masked.add(batch, weights=kind)
        kept = integer[w > 0]
        assert (masked.sum() == kept.T @ kept).all() and masked.count == len(kept)
    # bits do not depend on the split either
    real = np.random.default_rng(4).uniform(0, 2, 700)
    Y = normals(700, 6, np.float32)
    one, many = ql.Hessian(6), ql.Hessian(6)
    one.add(Y, weights=real)
    for i in range(0, 700, 13):
        many.add(Y[i : i + 13], weights=real[i : i + 13])
    assert (one.sum() == many.sum()).all() and one.weight == many.weight


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e-12, 1e12, 1e20, 1e25, 3e38])
def test_float32_batches_at_the_ends_of_the_range(scale):
    X = (integers(20, 4, np.float32) / np.float32(4)) * np.float32(scale)
    wide = X.astype(np.longdouble)
    for w in (None, np.full(20, 1e8), np.full(20, 1e-8)):
        H = ql.Hessian(4)
        H.add(X, weights=w)
        exact = wide.T @ wide * (1 if w is None else np.longdouble(w[0]))
        size = np.abs(wide).T @ np.abs(wide) * (1 if w is None else np.longdouble(w[0]))
        assert (np.abs(H.sum() - exact) <= 22 * 2.0**-24 * size).all()
    X[:, 0] = integers(20, 1, np.float32)[:, 0]  # one column of another size altogether
    H = ql.Hessian(4)
    H.add(X)
    wide = X.astype(np.longdouble)
    size = np.abs(wide).T @ np.abs(wide)
    assert (np.abs(H.sum() - wide.T @ wide) <= 22 * 2.0**-24 * size).all()


def test_float16_products_cannot_overflow():
    H = ql.Hessian(2)
    H.add(np.full((8, 2), 57344, np.float16))  # 7 * 2^13: its square is no float16
    assert (H.sum() == 8 * 57344.0**2).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_bad_batch_adds_nothing(bad, dtype):
    H = accumulated(integers(600, 5, dtype), track_mean=True)
    before = H.sum(), H.count, H.input_mean()
    batch = integers(3000, 5, dtype).reshape(3, 1000, 5)
    batch[2, 17, 3] = bad
    with pytest.raises(NonFiniteError, match=r"X\[2, 17, 3\]") as caught:
        H.add(batch)
    assert caught.value.count == 1
    with pytest.raises(NonFiniteError, match=r"X\[2, 17, 3\]"):
        H.add(batch, weights=np.arange(3000).reshape(3, 1000))
    assert (H.sum() == before[0]).all() and H.count == before[1]
    assert (H.input_mean() == before[2]).all()
    H.add(integers(2, 5, dtype))
    assert H.count == 602


def test_bad_arguments():
    H = ql.Hessian(3)
    cases = [
        (InvalidArgumentError, r"Pass X\.T", (np.ones((3, 7)),), {}),
        (InvalidArgumentError, r"X\.shape=\(2, 4\)", (np.ones((2, 4)),), {}),
        (InvalidArgumentError, "last axis", (np.float64(1.0),), {}),
        (InvalidArgumentError, "weights.shape", (np.ones((2, 3)),), {"weights": np.ones(3)}),
        (InvalidArgumentError, "2\\*\\*60", (np.ones((2, 3)),), {"weights": [1.0, -1.0]}),
        (InvalidArgumentError, "2\\*\\*60", (np.ones((2, 3)),), {"weights": [1.0, 2.0**61]}),
        (InvalidArgumentError, "2\\*\\*-500", (np.ones((2, 3)),), {"weights": [0.0, 1e-200]}),
        (InvalidArgumentError, "2\\*\\*450", (np.full((2, 3), 1e150),), {}),
        (NonFiniteError, r"weights\[1\]", (np.ones((2, 3)),), {"weights": [1.0, np.nan]}),
        (DTypeError, "floating", (np.ones((2, 3), int),), {}),
        (DTypeError, "did you mean weights", (np.ones((2, 3)),), {"mask": [1, 0]}),
    ]
    for error, text, arguments, keywords in cases:
        with pytest.raises(error, match=text):
            H.add(*arguments, **keywords)
    for n in (-1, 1.5, True):
        with pytest.raises(InvalidArgumentError, match="n must be"):
            ql.Hessian(n)
    with pytest.raises(InvalidArgumentError, match="precision must be"):
        ql.Hessian(3, precision="float32")
    for read in (H.mean, H.input_mean, H.covariance):
        with pytest.raises(InvalidArgumentError, match="count=0"):
            read()
    assert (H.sum() == 0).all() and H.count == 0
    H.add(np.ones((1, 3)))
    with pytest.raises(InvalidArgumentError, match="track_mean=True"):
        H.input_mean()


def test_odd_memory_layouts_and_no_change_to_the_batch():
    X = integers(60, 8)
    want = X.T @ X
    frozen = X.copy()
    frozen.setflags(write=False)
    views = {
        "read-only": frozen,
        "big-endian": X.astype(">f8"),
        "big-endian float16": X.astype(">f2"),
        "Fortran": np.asfortranarray(X),
        "strided": np.repeat(X, 2, axis=1)[:, ::2],
        "reversed": X[::-1],
        "leading axes": X.reshape(3, 4, 5, 8),
        "permuted axes": X.reshape(6, 10, 8).transpose(1, 0, 2),
        "list": X.tolist(),
        "longdouble": X.astype(np.longdouble),
    }
    for name, view in views.items():
        H = ql.Hessian(8)
        H.add(view)
        assert (H.sum() == want).all(), name
        assert H.count == 60
    assert (frozen == X).all()
    H = ql.Hessian(8)
    H.add(X[:0])
    H.add(np.empty((0, 4, 8)))
    assert H.count == 0 and (H.sum() == 0).all()


def test_the_largest_inputs_and_weights_do_not_overflow_and_the_least_do_not_vanish():
    H = ql.Hessian(2)
    H.add(np.full((64, 2), 2.0**450), weights=np.full(64, 2.0**60))
    assert (H.sum() == 2.0**966).all() and H.diagnostics().effective_samples == 64
    H = ql.Hessian(2)
    H.add(np.ones((64, 2)), weights=np.full(64, 2.0**-500))
    assert (H.mean() == 1).all() and H.diagnostics().effective_samples == 64


def test_what_is_returned_is_new():
    H = accumulated(integers(5, 3), track_mean=True)
    for read in (H.sum, H.mean, H.covariance, H.input_mean):
        before = read()
        read()[...] = -1
        assert (read() == before).all()


def test_mean_and_covariance():
    X = integers(64, 4) + 1
    H = accumulated(X, track_mean=True)
    assert (H.mean() == X.T @ X / 64).all()
    centred = X - X.mean(axis=0)
    error = np.abs(H.covariance() - centred.T @ centred / 64)
    assert (error <= 66 * np.finfo(float).eps * (X.T @ X / 64).max()).all()


def test_too_few_tokens_warn_once_read():
    H = accumulated(integers(4, 5) + 0.5)
    with pytest.warns(ConditioningWarning, match="rank of at most 4"):
        H.mean()
    X = np.ones((3, 5))
    X[:, 1:] = 0  # dead inputs need no tokens
    accumulated(X).mean()


def test_merging_is_exact_on_integers_and_fixed_by_the_order():
    X = integers(2000, 6)
    shards = [accumulated(X[i : i + 300], track_mean=True) for i in range(0, 2000, 300)]
    total = ql.merge_statistics(shard for shard in shards)
    assert (total.sum() == X.astype(int).T @ X.astype(int)).all()
    assert total.count == 2000 and (total.input_mean() == X.mean(axis=0)).all()
    assert (shards[0].sum() == X[:300].T @ X[:300]).all(), "a part was changed"

    Y = normals(2000, 6, np.float32)
    sums = []
    for threads in (1, 2):
        with ql.num_threads(threads):
            parts = [accumulated(Y[i : i + 300], cuts=(7,)) for i in range(0, 2000, 300)]
            sums.append(ql.merge_statistics(parts).sum())
    assert (sums[0] == sums[1]).all()
    # ((p0 + p1) + p2) + ..., in this order
    by_hand = parts[0].sum()
    for part in parts[1:]:
        by_hand = by_hand + part.sum()
    assert (sums[0] == by_hand).all()
    # in place, with a part of a chunk on both sides, and more tokens after it
    a, b = accumulated(X[:100]), accumulated(X[100:150])
    a.merge(b)
    a.add(X[150:])
    assert (a.sum() == X.T @ X).all() and a.count == 2000 and b.count == 50
    copy = a.copy()
    copy.add(X[:1])
    assert a.count == 2000 and (a.sum() == X.T @ X).all()


def test_what_does_not_merge():
    for parts, got in (([], "none"), ("ab", "str"), ([np.eye(2)] * 2, "ndarray"), (None, "None")):
        with pytest.raises(InvalidArgumentError, match=f"or more; got {got}"):
            ql.merge_statistics(parts)
    for other, text in (
        (ql.Hessian(4), "n=4"),
        (ql.CrossMoment(3), "CrossMoment"),
        (ql.Hessian(3, track_mean=True), "track_mean=True"),
    ):
        with pytest.raises(InvalidArgumentError, match=text):
            ql.merge_statistics([ql.Hessian(3), other])
    with pytest.raises(InvalidArgumentError, match="n=4"):
        ql.CrossMoment(3).merge(ql.CrossMoment(4))


def test_parts_round_trip_and_are_checked():
    H = accumulated(normals(70, 4, np.float32), track_mean=True)
    scalars, arrays = H.to_parts()
    again = ql.Hessian.from_parts(scalars, {k: a.copy() for k, a in arrays.items()})
    assert (again.sum() == H.sum()).all() and (again.input_mean() == H.input_mean()).all()
    assert (again.count, again.weight, again.precision) == (70, 70.0, "float32")
    again.add(np.ones(4))
    assert again.count == 71
    negative = arrays["second"] - np.eye(4) * 1e9
    for change in (
        {"second": arrays["second"][:3]},
        {"second": arrays["second"].astype(np.float32)},
        {"second": arrays["second"] * np.nan},
        {"second": negative},
        {"first": np.zeros(5)},
    ):
        with pytest.raises(InvalidArgumentError):
            ql.Hessian.from_parts(scalars, arrays | change)
    for change in ({"count": -1}, {"count": 0}, {"weight": np.inf}, {"precision": "int8"}):
        with pytest.raises(InvalidArgumentError):
            ql.Hessian.from_parts(scalars | change, arrays)
