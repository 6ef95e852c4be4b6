"""Rotations: orthogonal, what the definition says, reproducible, and kept whole in a file."""

from __future__ import annotations

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.errors import DTypeError, InvalidArgumentError
from quiplinalg.incoherence import draws

MAKERS = {"kronecker": ql.kronecker_orthogonal, "hadamard": ql.hadamard_orthogonal}
SIZES = [*range(71), 96, 127, 128, 129, 384, 521]
EXPLICIT = [(2, 3), (1, 5), (16, 3, 5), (2, 2, 2, 2), (7, 30)]
DTYPES = (np.float32, np.float64)
GOLDEN_PERMUTATION = [7, 6, 4, 5, 3, 1, 0, 2]
GOLDEN_SIGNS = [-1, 1, -1, -1, -1, 1, -1, -1]
GOLDEN_INNER_SIGNS = [-1, -1, 1, -1, 1, -1, -1, -1]
GOLDEN_LARGE_SEED = [1, 3, 0, 2, 4]
GOLDEN_HAAR_ROW = [-0.8420135396401538, 0.539456392178885]


def dense(V):
    """Q from the naive definition and the parts of V."""
    windows, used = [], 0
    for number, window in enumerate(V.windows):
        factors = [reference.walsh_hadamard(window.walsh)]
        factors += V.factors[used : used + len(window.sizes)]
        used += len(window.sizes)
        inner = V.inner_signs if number else np.ones(window.length)
        windows.append((window.start, inner, factors))
    return reference.rotation(V.permutation, V.signs, windows)


def rotations():
    for kind, make in MAKERS.items():
        for n in SIZES:
            yield f"{kind}-{n}", make(n, 7)
    for factors in EXPLICIT:
        yield f"{factors}", ql.kronecker_orthogonal(int(np.prod(factors)), 7, factors)


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_applications_are_those_of_the_dense_matrix(dtype):
    rng = np.random.default_rng(0)
    eps = float(np.finfo(dtype).eps)
    for name, V in rotations():
        n, Q = V.n, dense(V)
        # a rounding error an operation, of which a path has at most 2 n, on entries of norm 1
        assert np.abs(Q.T @ Q - np.eye(n)).max(initial=0) <= 4e-15 * max(n, 1), name
        X = rng.standard_normal((37, n)).astype(dtype)
        norm = np.linalg.norm(X, axis=1).max(initial=0)
        tol = 4 * eps * np.sqrt(max(n, 1)) * norm
        wide = X.astype(float)
        results = {
            "apply": (V.apply(X), wide @ Q.T),
            "apply left": (V.apply(X.T, side="left"), Q @ wide.T),
            "back": (V.apply_transposed(X), wide @ Q),
            "back left": (V.apply_transposed(X.T, side="left"), Q.T @ wide.T),
            "there and back": (V.apply_transposed(V.apply(X)), wide),
        }
        for what, (ours, expected) in results.items():
            assert ours.dtype == dtype and ours.flags.c_contiguous and ours.shape == expected.shape
            error = np.abs(ours - expected).max(initial=0)
            assert error <= tol, (name, what, error / tol)
        A = X.T @ X / 37
        H = A + A.T
        turned = V.conjugate(H)
        assert turned.dtype == dtype and (turned == turned.T).all(), name
        error = np.abs(turned - Q @ H.astype(float) @ Q.T).max(initial=0)
        # two applications to rows and columns of at most the norm of H
        assert error <= 8 * eps * np.sqrt(max(n, 1)) * np.linalg.norm(H), (name, error)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", MAKERS)
def test_the_applied_operator_is_orthogonal(kind, dtype):
    eps = float(np.finfo(dtype).eps)
    for n in (1, 2, 33, 128, 521, 688, 1024):
        Q = MAKERS[kind](n, 1).apply(np.eye(n, dtype=dtype)).astype(float)
        error = np.linalg.norm(Q.T @ Q - np.eye(n), 2)
        assert error <= 10 * n * eps, (n, error / (n * eps))


@pytest.mark.parametrize("kind", MAKERS)
def test_any_layout_of_the_input_gives_the_same_and_is_left_alone(kind):
    rng = np.random.default_rng(1)
    for n in (5, 48, 67):
        V = MAKERS[kind](n, 3)
        X = rng.standard_normal((35, n))
        expected, left = V.apply(X), V.apply(X.T, "left")
        assert (V.apply(np.asfortranarray(X)) == expected).all()
        frozen = X.copy()
        frozen.flags.writeable = False
        assert (V.apply(frozen) == expected).all()
        assert (V.apply(X[::-1].copy()[::-1]) == expected).all()
        padded = np.zeros((70, 2 * n))
        padded[::2, ::-2] = X
        before = padded.copy()
        assert (V.apply(padded[::2, ::-2]) == expected).all()
        assert (V.apply(padded[::2, ::-2].T, side="left") == left).all()
        H = X.T @ X
        kept = H.copy()
        assert (V.conjugate(H[::-1, ::-1].copy()[::-1, ::-1]) == V.conjugate(H)).all()
        assert (before == padded).all() and (kept == H).all()
        assert V.apply(X.astype(">f8")).dtype == np.float64
        assert V.apply(X.astype(np.float16)).dtype == np.float32


def test_empty_matrices():
    for make in MAKERS.values():
        assert make(0, 0).apply(np.zeros((3, 0))).shape == (3, 0)
        assert make(0, 0).conjugate(np.zeros((0, 0))).shape == (0, 0)
        assert make(5, 0).apply(np.zeros((0, 5))).shape == (0, 5)
        assert make(5, 0).apply(np.zeros((5, 0)), side="left").shape == (5, 0)
        assert abs(make(1, 0).apply(np.ones((1, 1)))[0, 0]) == 1


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("dtype,tol", ((np.float64, 1e-12), (np.float32, 1e-5)))
def test_the_proxy_loss_is_invariant(kind, dtype, tol):
    rng = np.random.default_rng(2)
    for n in (17, 384, 521):
        E = rng.standard_normal((8, n)).astype(dtype)
        X = rng.standard_normal((2 * n, n)) * np.exp(rng.standard_normal(n))
        H = (X.T @ X / n).astype(dtype)
        V = MAKERS[kind](n, 5)
        before = ql.proxy_loss(E, np.zeros_like(E), H)
        after = ql.proxy_loss(V.apply(E), np.zeros_like(E), V.conjugate(H))
        assert abs(after - before) <= tol * before, (n, after / before - 1)


@pytest.mark.parametrize("kind", MAKERS)
def test_threads_and_neighbours_do_not_change_a_bit(kind):
    rng = np.random.default_rng(3)
    V = MAKERS[kind](521, 9)
    X = rng.standard_normal((5000, 521)).astype(np.float32)  # more than one piece of work
    H = (X.T @ X).astype(np.float64)
    results = []
    for threads in (1, 2):
        with ql.num_threads(threads):
            results.append([V.apply(X), V.apply_transposed(X.T, "left"), V.conjugate(H)])
    for one, two in zip(*results, strict=True):
        assert (one == two).all()
    assert (V.apply(X[4321:4324]) == results[0][0][4321:4324]).all()


@pytest.mark.parametrize("k", (33, 160, 1 << 17, (1 << 17) + 5))
def test_both_sides_do_the_same_operations(k):
    """Large results of the left side are written in another way, where rows are cache lines."""
    X = np.random.default_rng(4).standard_normal((17, k)).astype(np.float32)
    V = ql.kronecker_orthogonal(17, 2)
    assert (V.apply(X, side="left") == V.apply(X.T).T).all()


def test_draws_are_these_for_ever():
    """The streams of PCG64, fixed by NumPy's policy: what was stored with a seed stays readable."""
    assert draws.permutation(8, 0).tolist() == GOLDEN_PERMUTATION
    assert draws.signs(8, 0).tolist() == GOLDEN_SIGNS
    assert draws.signs(8, 0, 1).tolist() == GOLDEN_INNER_SIGNS
    assert draws.permutation(5, 2**63 - 1).tolist() == GOLDEN_LARGE_SEED
    # logarithms and LAPACK: not to the last bit
    assert np.abs(draws.haar(2, 0)[0] - GOLDEN_HAAR_ROW).max() <= 1e-13
    V = ql.kronecker_orthogonal(8, 0)
    assert V.permutation.tolist() == GOLDEN_PERMUTATION and V.signs.tolist() == GOLDEN_SIGNS
    V = ql.hadamard_orthogonal(8, 0)
    assert V.permutation.tolist() == list(range(8)) and V.signs.tolist() == GOLDEN_SIGNS


@pytest.mark.parametrize("kind", MAKERS)
def test_the_seed_decides(kind):
    X = np.eye(48)
    same = [MAKERS[kind](48, 11).apply(X) for _ in range(2)]
    assert (same[0] == same[1]).all()
    for other in (10, 11 + 2**32, 11 << 32, 12):
        assert np.abs(MAKERS[kind](48, other).apply(X) - same[0]).max() > 0.1


def test_haar_matrices_are_not_biased():
    """Q's mean is 0, Q_00^2's mean is 1/q: 5 standard errors of 400 draws."""
    draw = np.array([draws.haar(3, seed, 0) for seed in range(400)])
    assert np.abs(draw.mean(0)).max() <= 5 * np.sqrt(1 / 3 / 400)
    assert np.abs((draw**2).mean(0) - 1 / 3).max() <= 5 * np.sqrt(0.09 / 400)
    determinant = np.linalg.det(draw).mean()  # +1 and -1 are as likely
    assert abs(determinant) <= 5 / np.sqrt(400)


def test_default_structures():
    def sizes(V):
        return [(w.start, w.walsh, w.sizes) for w in V.windows]

    kronecker, hadamard = ql.kronecker_orthogonal, ql.hadamard_orthogonal
    assert sizes(kronecker(4096, 0)) == [(0, 1, (64, 64))]
    assert sizes(kronecker(11008, 0)) == [(0, 1, (86, 128))]
    assert sizes(kronecker(13696, 0)) == [(0, 1, (107, 128))]
    assert sizes(kronecker(127, 0)) == [(0, 1, (127,))]
    assert sizes(kronecker(521, 0)) == [(0, 1, (22, 23)), (15, 1, (22, 23))]
    assert sizes(kronecker(4096, 0, (16, 16, 16))) == [(0, 1, (16, 16, 16))]
    assert sizes(hadamard(4096, 0)) == [(0, 4096, ())]
    assert sizes(hadamard(11008, 0)) == [(0, 256, (43,))]
    assert sizes(hadamard(13696, 0)) == [(0, 128, (107,))]
    assert sizes(hadamard(127, 0)) == [(0, 1, (127,))]
    assert sizes(hadamard(521, 0)) == [(0, 512, ()), (9, 512, ())]
    for make in MAKERS.values():
        assert sizes(make(0, 0)) == sizes(make(1, 0)) == []
    for n in range(2, 3000, 7):
        for make in MAKERS.values():
            first, *second = make(n, 0).windows
            assert first.start == 0 and (first.length == n or n > first.length > n * 0.9)
            assert [w.start + w.length for w in second] == [n] * (first.length < n)


def test_a_hadamard_rotation_is_flat():
    for n in (2, 3, 7, 64, 96, 127, 384, 688, 1536):
        V = ql.hadamard_orthogonal(n, 4)
        bound = (1 if n & (n - 1) == 0 else np.sqrt(2)) / np.sqrt(n)
        assert np.abs(V.apply(np.eye(n))).max() <= bound * (1 + 1e-13), n
    for n in (129, 521):  # sums of random signs
        V = ql.hadamard_orthogonal(n, 4)
        p = V.windows[0].length
        bound = 2 * np.sqrt(n / p * np.log(2 * n * n / 1e-3))
        assert np.abs(V.apply(np.eye(n))).max() * np.sqrt(n) <= bound, n
    (factor,) = ql.hadamard_orthogonal(43, 0).factors
    assert np.abs(factor - reference.hartley(43)).max() <= 1e-15


def test_a_lone_huge_weight_disappears():
    W = np.random.default_rng(5).standard_normal((8, 1536))
    W[3, 77] = 500.0
    turned = ql.hadamard_orthogonal(1536, 0).apply(W)
    # the weight leaves 500 sqrt(2 / n) = 18 at most
    assert np.abs(turned).max() <= 500 * np.sqrt(2 / 1536) + 6


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("n", (0, 1, 2, 48, 129, 131))
def test_arrays_make_the_same_rotation(kind, n):
    V = MAKERS[kind](n, 6)
    arrays = V.to_arrays()
    again = ql.Rotation.from_arrays(kind, n, 6, arrays)
    X = np.random.default_rng(0).standard_normal((3, n))
    assert (again.apply(X) == V.apply(X)).all()
    assert repr(again) == repr(V) and again.storage_bits == V.storage_bits
    unsigned = {**arrays, "permutation": V.permutation.astype(np.uint32)}
    assert (ql.Rotation.from_arrays(kind, n, 6, unsigned).apply(X) == V.apply(X)).all()
    with pytest.raises(ValueError, match="read-only"):
        again.signs[:] = 1


def test_storage_bits_counts_signs_permutation_and_factors():
    assert ql.hadamard_orthogonal(64, 0).storage_bits == 64
    assert ql.kronecker_orthogonal(6, 0, (2, 3)).storage_bits == 6 * 33 + 64 * (4 + 9)
    assert ql.hadamard_orthogonal(96, 0).storage_bits == 96
    assert ql.hadamard_orthogonal(129, 0).storage_bits == 129 + 128


def test_broken_arrays_are_refused():
    V = ql.kronecker_orthogonal(129, 0)
    good = V.to_arrays()

    def broken(name, change):
        array = np.array(good[name])
        return {**good, name: change(array)}

    def set_first(value):
        def change(array):
            array.flat[0] = value
            return array

        return change

    cases = {
        "permutation": (set_first(3), set_first(129), lambda a: a[:-1], lambda a: a * 1.0),
        "signs": (set_first(0), lambda a: a[:-1], set_first(2)),
        "inner_signs": (set_first(0), lambda a: a[:0]),
        "factor1": (
            lambda a: a + 1e-6, lambda a: a[:-1], lambda a: a[:-1, :-1], set_first(np.nan),
        ),
        "windows": (
            set_first(20), lambda a: a[:1], lambda a: a[0], lambda a: a * 1.0,
            lambda a: a - 1, lambda a: a * [[1, 3, 1]],
        ),
    }  # fmt: skip
    for name, changes in cases.items():
        for change in changes:
            with pytest.raises((InvalidArgumentError, DTypeError), match="got"):
                ql.Rotation.from_arrays("kronecker", 129, 0, broken(name, change))
    for arrays in ({**good, "more": good["signs"]}, {"signs": good["signs"]}):
        with pytest.raises(InvalidArgumentError, match="has the arrays"):
            ql.Rotation.from_arrays("kronecker", 129, 0, arrays)
    for kind, n, seed in (("haar", 129, 0), ("kronecker", 130, 0), ("kronecker", 129, -1)):
        with pytest.raises(InvalidArgumentError):
            ql.Rotation.from_arrays(kind, n, seed, good)


def test_wrong_arguments_say_what_is_right():
    V = ql.hadamard_orthogonal(6, 0)
    with pytest.raises(InvalidArgumentError, match=r"must be \(m, 6\).*side='left'"):
        V.apply(np.zeros((6, 5)))
    with pytest.raises(InvalidArgumentError, match=r"must be \(6, k\).*side='right'"):
        V.apply_transposed(np.zeros((5, 6)), side="left")
    with pytest.raises(InvalidArgumentError, match="'right' or 'left'"):
        V.apply(np.zeros((6, 6)), side="both")
    with pytest.raises(InvalidArgumentError, match=r"H must be \(6, 6\)"):
        V.conjugate(np.eye(5))
    with pytest.raises(InvalidArgumentError, match="square"):
        V.conjugate(np.zeros((5, 6)))
    with pytest.raises(DTypeError):
        V.apply(np.zeros((6, 6), int))
    for make in MAKERS.values():
        for seed in (-1, 2**63, 0.5, True, None):
            with pytest.raises(InvalidArgumentError, match="seed must be"):
                make(4, seed)
        for n in (-1, 2.0, True, 2**31):
            with pytest.raises(InvalidArgumentError, match="n must be"):
                make(n, 0)
    for factors in ((6,), (2, 4), (-2, -3), (2.0, 3), "ab", 6, ()):
        with pytest.raises(InvalidArgumentError, match="product is n=6"):
            ql.kronecker_orthogonal(6, 0, factors)


def test_repr_is_one_line():
    assert repr(ql.hadamard_orthogonal(4096, 3)) == "Rotation(hadamard, n=4096, seed=3: H4096)"
    text = "Rotation(kronecker, n=521, seed=3: 22 x 23, 22 x 23)"
    assert repr(ql.kronecker_orthogonal(521, 3)) == text
    assert repr(ql.kronecker_orthogonal(1, 3)) == "Rotation(kronecker, n=1, seed=3: 1)"


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("n", (1, 48, 129, 131))
def test_scales_are_those_of_the_coordinates(kind, n):
    """Q diag(d): X diag(d) Q^T, X Q diag(d), Q diag(d) H diag(d) Q^T, in H's dtype or wider."""
    rng = np.random.default_rng(n)
    V, d = MAKERS[kind](n, 3), np.exp(rng.standard_normal(n))
    X = rng.standard_normal((21, n))
    Y = X.T.copy()
    eps = np.finfo(float).eps
    for got, expected in (
        (V.apply(X, scales=d), V.apply(X * d)),
        (V.apply_transposed(X, scales=d), V.apply_transposed(X) * d),
        (V.apply(Y, "left", scales=d), V.apply(d[:, None] * Y, "left")),
        (V.apply_transposed(Y, "left", scales=d), d[:, None] * V.apply_transposed(Y, "left")),
    ):
        assert np.abs(got - expected).max() <= 10 * n * eps * np.abs(X).max() * d.max()
    H = (X.T @ X).astype(np.float32)
    wide = V.conjugate(H.astype(float) * d * d[:, None])
    for source in (H, np.asfortranarray(H), H.astype(float)):
        got = V.conjugate(source, scales=d, dtype=np.float64)
        assert got.dtype == np.float64 and (got == got.T).all()
        assert np.abs(got - wide).max() <= 10 * n * eps * np.abs(H).max() * d.max() ** 2 * n
    with pytest.raises(ql.InvalidArgumentError, match="scales must be"):
        V.apply(X, scales=d[:-1] if n > 1 else np.ones(2))
