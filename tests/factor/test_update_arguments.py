"""Arguments of the updates: layouts, the in-place forms, bad input, failures."""

from __future__ import annotations

import numpy as np
import pytest
from strategies import make_hessian

import quiplinalg as ql
from quiplinalg import reference

N = 6
H = make_hessian("well", N, 0)
L = np.linalg.cholesky(H)
HINV = reference.inverse(H)
M, D = reference.ldl(H)
X = np.random.default_rng(0).standard_normal((N, 2)) / 9
x = X[:, 0].copy()

# name: (pure, in place, the matrix, what follows it)
FORMS = {
    "sherman_morrison": (ql.sherman_morrison, ql.sherman_morrison_into, HINV, (x,)),
    "woodbury": (ql.woodbury, ql.woodbury_into, HINV, (X, -0.5)),
    "cholesky_update": (ql.cholesky_update, ql.cholesky_update_into, L, (X,)),
    "cholesky_downdate": (ql.cholesky_downdate, ql.cholesky_downdate_into, L, (x,)),
    "inverse_remove": (ql.inverse_remove, ql.inverse_remove_into, HINV, ([1, 4],)),
    "cholesky_delete": (ql.cholesky_delete, ql.cholesky_delete_into, L, (2,)),
}
ADJOIN = {
    "inverse_adjoin": (ql.inverse_adjoin, ql.inverse_adjoin_into, HINV, (x, 3.0, 2)),
    "cholesky_insert": (ql.cholesky_insert, ql.cholesky_insert_into, L, (2, x, 3.0)),
}
EVERY = {name: (form[0], form[2], form[3]) for name, form in {**FORMS, **ADJOIN}.items()}


def layouts(A):
    """A in every layout that is written into: C and Fortran order, leading blocks, one of each."""
    for order in "CF":
        yield np.array(A, order=order)
        room = np.full((9, 9), np.nan, order=order)
        room[: len(A), : len(A)] = A
        yield room[: len(A), : len(A)]


def same(a, b, name):
    """Equal to the last bit, in the triangle that counts."""
    if name.startswith("cholesky"):
        return (np.tril(a) == np.tril(b)).all()
    return (a == b).all()


@pytest.mark.parametrize("name", FORMS)
def test_the_in_place_form_is_the_pure_one_in_every_layout(name):
    pure, into, A, rest = FORMS[name]
    expected = pure(A, *rest)
    for work in layouts(A):
        out = into(work, *rest)
        assert np.shares_memory(out, work) and out.shape == expected.shape
        assert same(out, expected, name), work.flags
    stack = np.stack([A, A])
    out = into(stack, *rest) if name in ("inverse_remove", "cholesky_delete") and np.ndim(
        rest[0]
    ) == 0 else into(stack, np.stack([rest[0]] * 2), *rest[1:])  # fmt: skip
    assert same(out[0], expected, name) and same(out[1], expected, name)


@pytest.mark.parametrize("name", ADJOIN)
def test_growing_in_place_is_the_pure_form(name):
    pure, into, A, rest = ADJOIN[name]
    expected = pure(A, *rest)
    for room in layouts(np.full((N + 1, N + 1), np.nan)):
        room[:N, :N] = A
        assert into(room, *rest) is room
        assert same(room, expected, name)


def test_removing_and_adjoining_in_one_buffer():
    buffer = HINV.copy()
    less = ql.inverse_remove_into(buffer, [0, 3])
    less = ql.inverse_remove_into(less, 1)  # row 2 of H
    F = [1, 4, 5]
    more = ql.inverse_adjoin_into(buffer[:4, :4], H[F, 2], H[2, 2], 1)
    G = [1, 2, 4, 5]
    assert np.abs(more @ H[np.ix_(G, G)] - np.eye(4)).max() <= 1e-13
    assert np.shares_memory(more, buffer) and less.shape == (3, 3)


@pytest.mark.parametrize("order", "CF")
def test_ldl_in_place(order):
    for sigma in (2.0, -0.5):
        expected = ql.ldl_update(M, D, X, sigma)
        work, pivots = np.array(M, order=order), np.repeat(D, 2)[::2]
        out = ql.ldl_update_into(work, pivots, X, sigma)
        assert out[0] is work and out[1] is pivots
        assert (np.tril(work) == expected[0]).all() and (pivots == expected[1]).all()


@pytest.mark.parametrize("order", "CF")
def test_the_upper_triangle_of_a_factor_is_neither_read_nor_written(order):
    garbage = np.array(L + np.triu(np.full((N, N), np.nan), 1), order=order)
    assert (ql.cholesky_update(garbage, X) == ql.cholesky_update(L, X)).all()
    assert (ql.cholesky_delete(garbage, 2) == ql.cholesky_delete(L, 2)).all()
    assert (ql.cholesky_insert(garbage, 2, x, 3.0) == ql.cholesky_insert(L, 2, x, 3.0)).all()
    ql.cholesky_update_into(garbage, X)
    assert np.isnan(garbage[np.triu_indices(N, 1)]).all()
    assert (np.tril(garbage) == ql.cholesky_update(L, X)).all()


@pytest.mark.parametrize("name", EVERY)
def test_other_arrays_give_the_same_and_are_not_changed(name):
    pure, A, rest = EVERY[name]
    expected = pure(A, *rest)
    frozen = np.array(A)
    frozen.flags.writeable = False
    big, skipping = np.array(A, ">f8"), np.repeat(np.repeat(A, 2, 0), 2, 1)[::2, ::2]
    backwards = np.array(A[::-1, ::-1])[::-1, ::-1]
    for B in (frozen, big, skipping, backwards, np.asfortranarray(A), A.tolist()):
        copy = np.array(B)
        out = pure(B, *rest)
        assert (out == expected).all() and type(out) is np.ndarray and out.dtype == np.float64
        assert (np.array(B) == copy).all()
    kept = [np.array(r) for r in rest]
    pure(A, *rest)
    assert all((np.array(r) == k).all() for r, k in zip(rest, kept, strict=True))
    half = pure(np.array(A, np.float16), *rest)
    assert half.dtype == np.float32 and np.abs(half - expected).max() < 0.05


def test_nothing_at_all():
    none, no = np.empty((0, 0)), np.empty(0)
    for result in (
        ql.sherman_morrison(none, no), ql.woodbury(none, np.empty((0, 3))),
        ql.inverse_remove(none, []), ql.inverse_remove(HINV, range(N)),
        ql.cholesky_update(none, no), ql.cholesky_downdate(none, no),
        ql.cholesky_delete([[2.0]], 0), ql.ldl_update(none, no, no)[0],
    ):  # fmt: skip
        assert result.shape == (0, 0)
    assert ql.inverse_adjoin(none, no, 4.0).tolist() == [[0.25]]
    assert ql.cholesky_insert(none, 0, no, 4.0).tolist() == [[2.0]]
    for function, A in ((ql.woodbury, HINV), (ql.cholesky_update, L), (ql.cholesky_downdate, L)):
        assert (function(A, np.empty((N, 0))) == A).all()
    assert (ql.inverse_remove(HINV, set()) == HINV).all()
    assert ql.woodbury(np.empty((0, 3, 3)), np.empty((0, 3, 2))).shape == (0, 3, 3)
    assert ql.ActiveInverse(none).inverse.shape == (0, 0)


@pytest.mark.parametrize("name", EVERY)
def test_nan_is_named(name):
    pure, A, rest = EVERY[name]
    for bad in (np.nan, np.inf):
        B = A.copy()
        B[4, 1] = bad
        with pytest.raises(ql.NonFiniteError):
            pure(B, *rest)
        for i, r in enumerate(rest):
            if isinstance(r, np.ndarray):
                z = r.copy()
                z.flat[3] = bad
                with pytest.raises(ql.NonFiniteError):
                    pure(A, *rest[:i], z, *rest[i + 1 :])


@pytest.mark.parametrize("name", EVERY)
def test_shapes_that_do_not_fit(name):
    pure, A, rest = EVERY[name]
    for B in (A[:, :4], A[0], np.zeros((2, 2, 2, 2))):
        with pytest.raises(ql.InvalidArgumentError, match="square"):
            pure(B, *rest)
    with pytest.raises(ql.DTypeError):
        pure(A.astype(complex), *rest)
    for i, r in enumerate(rest):
        if isinstance(r, np.ndarray):
            with pytest.raises(ql.InvalidArgumentError):
                pure(A, *rest[:i], r[:-1], *rest[i + 1 :])


def test_bad_numbers():
    for sigma in (0, np.nan, np.inf, True, "1"):
        with pytest.raises(ql.InvalidArgumentError, match="sigma"):
            ql.sherman_morrison(HINV, x, sigma)
        with pytest.raises(ql.InvalidArgumentError, match="sigma"):
            ql.ldl_update(M, D, x, sigma)
    for q in (-1, N, 99):
        for call in (
            lambda q: ql.inverse_remove(HINV, q),
            lambda q: ql.inverse_remove(HINV, [0, q]),
            lambda q: ql.cholesky_delete(L, q),
        ):
            with pytest.raises(ql.InvalidArgumentError, match=f"={q}"):
                call(q)
    for at in (-1, N + 1):
        with pytest.raises(ql.InvalidArgumentError, match="position"):
            ql.inverse_adjoin(HINV, x, 3.0, at)
        with pytest.raises(ql.InvalidArgumentError, match="position"):
            ql.cholesky_insert(L, at, x, 3.0)
    for q in (1.0, True, "1", None):
        with pytest.raises(ql.DTypeError, match="whole number"):
            ql.cholesky_delete(L, q)
    with pytest.raises(ql.InvalidArgumentError, match="once"):
        ql.inverse_remove(HINV, [1, 1])
    with pytest.raises(ql.DTypeError, match="flatnonzero"):
        ql.inverse_remove(HINV, np.array([True, False] * 3))
    with pytest.raises(ql.InvalidArgumentError, match=f"={2**64 - 1}"):
        ql.inverse_remove(HINV, np.array([2**64 - 1], np.uint64))
    with pytest.raises(ql.DTypeError, match="whole numbers"):
        ql.inverse_remove(HINV, {"a", 1})
    with pytest.raises(ql.InvalidArgumentError, match="rows that differ in length"):
        ql.inverse_remove(np.stack([HINV, HINV]), [[1], [0, 2]])
    with pytest.raises(ql.InvalidArgumentError, match="woodbury"):
        ql.sherman_morrison(HINV, X)
    with pytest.raises(ql.InvalidArgumentError, match="unit lower"):
        ql.ldl_update(L, D, x)
    with pytest.raises(ql.InvalidArgumentError, match="symmetric"):
        ql.inverse_remove(HINV + np.triu(np.ones((N, N)), 1), 0)


def test_what_cannot_be_written_into():
    frozen = HINV.copy()
    frozen.flags.writeable = False
    with pytest.raises(ql.InvalidArgumentError, match="writable"):
        ql.inverse_remove_into(frozen, 0)
    for A in (HINV.tolist(), HINV.astype(">f8"), HINV.astype(np.float16)):
        with pytest.raises(ql.DTypeError, match="written into"):
            ql.sherman_morrison_into(A, x)
    for A in (np.zeros((12, 12))[::2, ::2], np.eye(6)[::-1], np.eye(6)[:, ::-1]):
        with pytest.raises(ql.InvalidArgumentError, match="by rows or by columns"):
            ql.cholesky_update_into(A, x)
    with pytest.raises(ql.DTypeError, match="D must be a writable"):
        ql.ldl_update_into(M.copy(), D.astype(np.float32), x)


def test_not_positive_definite_says_where_and_by_how_much():
    for k in (0, 3, N - 1):
        z = np.zeros(N)
        z[k] = 1.1 * L[k, k]  # the rows before stay, pivot k becomes L_kk^2 - 1.21 L_kk^2
        for backend in ("cpu", "generic"):
            with pytest.raises(ql.NotPositiveDefiniteError) as caught:
                ql.cholesky_downdate(L, z, backend=backend)
            assert caught.value.index == k
            assert abs(caught.value.pivot + 0.21 * L[k, k] ** 2) <= 1e-14
            with pytest.raises(ql.NotPositiveDefiniteError) as caught:
                ql.ldl_update(M, D, np.stack([z, z], 1), -0.75, backend=backend)
            assert caught.value.index == k
            assert abs(caught.value.pivot - (1 - 1.5 * 1.21) * D[k]) <= 1e-14
    e = np.eye(N)[2]
    for function in (ql.sherman_morrison, ql.woodbury):
        with pytest.raises(ql.NotPositiveDefiniteError) as caught:
            function(HINV, e, -2 / HINV[2, 2])
        assert caught.value.index == 0 and abs(caught.value.pivot + 1) <= 1e-14
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        ql.woodbury(HINV, np.stack([np.zeros(N), 2 * e / np.sqrt(HINV[2, 2])], 1), -1.0)
    assert caught.value.index == 1 and abs(caught.value.pivot + 3) <= 1e-14
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        ql.inverse_adjoin(HINV, H[:, 1], H[1, 1] - 0.5, 3)  # a duplicate of row 1, and less
    assert caught.value.index == 3 and abs(caught.value.pivot + 0.5) <= 1e-12
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        ql.cholesky_insert(L, N, H[:, 1], H[1, 1] - 0.5)
    assert caught.value.index == N and abs(caught.value.pivot + 0.5) <= 1e-12
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        ql.cholesky_insert(L, 0, H[:, 1], H[1, 1] - 0.5)  # found by the downdate
    assert caught.value.index == 2
    bad = np.diag([1.0, 1.0, -1.0])
    for function, rest in ((ql.cholesky_update, (np.ones(3),)), (ql.cholesky_delete, (0,))):
        with pytest.raises(ql.NotPositiveDefiniteError) as caught:
            function(bad, *rest)
        assert caught.value.index == 2 and caught.value.pivot == -1
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        ql.inverse_remove(np.array([[1.0, 2.0, 0], [2.0, 1.0, 0], [0, 0, 1.0]]), [0, 1])
    assert caught.value.index == 1 and caught.value.pivot == -3
    work = HINV.copy()
    with pytest.raises(ql.NotPositiveDefiniteError):
        ql.sherman_morrison_into(work, e, -2 / HINV[2, 2])
    assert (work == HINV).all()


def test_the_member_of_a_stack_is_named():
    stack = np.stack([HINV, HINV, HINV])
    z = np.zeros((3, N))
    z[1, 2] = 2 / np.sqrt(HINV[2, 2])
    with pytest.raises(ql.NotPositiveDefiniteError, match=r"\[1\]"):
        ql.sherman_morrison(stack, z, -1.0)
    factors = np.stack([L, L, L])
    with pytest.raises(ql.NotPositiveDefiniteError, match=r"A\[1\]"):
        ql.cholesky_downdate(factors, z)
    stack[2, 0, 3] = np.nan
    with pytest.raises(ql.NonFiniteError, match=r"Hinv\[2\]"):
        ql.inverse_remove(stack, 0)
