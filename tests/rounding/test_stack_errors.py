"""Errors and warnings of stacks name the member."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
from stacked import assert_alone, grid, indefinite, layers, spoiled

import quiplinalg as ql

W3, H3 = layers(4, 6, 8, dtype=np.float64, h_dtype=np.float64)
NARROW = spoiled(W3, (2, 1, 1), 1e30)


@pytest.mark.parametrize("threads", (1, 2))
@pytest.mark.parametrize(
    "W,H,keywords,error,message",
    (
        (spoiled(W3, (3, 2, 1), np.nan), H3, {}, ql.NonFiniteError, r"W\[3, 2, 1\]"),
        (W3, spoiled(H3, (3, 2, 1), np.inf), {}, ql.NonFiniteError, r"at H\[3\]\[2, 1\]"),
        (W3, spoiled(H3[0], (2, 1), np.inf), {}, ql.NonFiniteError, r"at H\[2, 1\]"),
        (W3, spoiled(H3, (2, 2, 1), 9.0), {}, ql.InvalidArgumentError,
         r"H\[2\] must be symmetric.*Pass \(H\[2\] \+ H\[2\]\.T\)"),
        (W3, spoiled(H3, (1, 4, 4), -2.0), {}, ql.NotPositiveDefiniteError,
         r"H\[1\] must be positive definite; the pivot of row 4 is -2"),
        (W3, spoiled(H3, 2, indefinite(8, 0.5)), {}, ql.NotPositiveDefiniteError,
         r"H\[2\] must be .*Raise damp"),
        (W3, spoiled(H3, 2, indefinite(8, 5)), {"damp": "auto"}, ql.NotPositiveDefiniteError,
         r"H\[2\] must be"),
        (W3, indefinite(8, 5), {}, ql.NotPositiveDefiniteError, "H must be"),
        (W3, H3[:3], {}, ql.InvalidArgumentError, r"for each of its 4; got W \(4, 6, 8\)"),
        (W3, H3[:, :7, :7], {}, ql.InvalidArgumentError, r"H must be \(b, n, n\).*W.swapaxes"),
        (W3, H3[0, 0], {}, ql.InvalidArgumentError, r"H must be \(b, n, n\)"),
        (W3, H3[None], {}, ql.InvalidArgumentError, r"H must be \(b, n, n\)"),
        (W3[0], H3, {}, ql.InvalidArgumentError, r"H must be \(n, n\) for one W .*\(4, 8, 8\)"),
        (W3[None], H3, {}, ql.InvalidArgumentError, r"W must be a matrix"),
        (W3.astype(int), H3, {}, ql.DTypeError, "W must hold"),
        (W3, H3.astype(complex), {}, ql.DTypeError, "H must hold"),
        (W3, H3, {"grid": grid(5, 8, 2)}, ql.InvalidArgumentError, "grid must have 1 or 6 rows"),
        (NARROW, H3, {"grid": grid(1, 8, None)}, ql.InvalidArgumentError,
         r"^grid must have steps .*\(Member 2 of the stack\.\)$"),
        (W3, H3, {"damp": 2}, ql.InvalidArgumentError, r"got damp=2\. 0\.01 is the usual .*\.$"),
        (W3, H3, {"bits": 9}, ql.InvalidArgumentError, "bits must be"),
        (W3, H3, {"backend": "tpu"}, ql.InvalidArgumentError, "backend must be"),
        (W3, ql.prepare(H3[0]), {"order": "natural"}, ql.InvalidArgumentError,
         r"order must be that of the prepared H, 'act'.*'natural'\.$"),
        (W3, [ql.prepare(h) for h in H3], {}, ql.DTypeError, "H must"),
    ),
)  # fmt: skip
def test_errors_say_which_member(W, H, keywords, error, message, threads):
    with ql.num_threads(threads), pytest.raises(error, match=message) as caught:
        ql.ldlq(W, H, **keywords)
    again = pickle.loads(pickle.dumps(caught.value))  # as it comes from a worker process
    assert type(again) is type(caught.value) and str(again) == str(caught.value)


def test_the_first_member_that_fails_is_named():
    H = H3.copy()
    H[1:] = indefinite(8, 5)
    with pytest.raises(ql.NotPositiveDefiniteError) as caught:
        ql.ldlq(W3, H)
    assert caught.value.name == "H[1]" and 0 <= caught.value.index < 8


def test_other_functions_take_no_stacks():
    for call in (ql.nearest, lambda W: ql.minmax_grid(W, 2), lambda W: ql.quip(W, H3)):
        with pytest.raises(ql.InvalidArgumentError, match=r"W must be a matrix.*\(4, 6, 8\)"):
            call(W3)
    with pytest.raises(ql.InvalidArgumentError, match=r"H must be a square matrix.*\(4, 8, 8\)"):
        ql.prepare(H3)


def test_auto_damping_warns_once_for_each_member_by_name():
    n = 12
    W, H = layers(5, 3, n, dtype=np.float64, h_dtype=np.float64)
    H[1], H[3] = indefinite(n, 0.02), 3 * indefinite(n, 0.3)
    for threads in (1, 2):
        with warnings.catch_warnings(record=True) as caught, ql.num_threads(threads):
            warnings.simplefilter("default")
            stack = ql.ldlq(W, H, damp="auto")
        assert [str(w.message)[:29] for w in caught] == [
            f"H[{i}] was not positive definite"[:29] for i in (1, 3)
        ]
        assert "damp=0.04 was used (0.04 in" in str(caught[0].message)
        assert "damp=0.64 was used (1.92 in" in str(caught[1].message)
        assert {w.filename for w in caught} == {__file__}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_alone(stack, W, H, damp="auto")
    with pytest.warns(ql.DampingWarning, match="^H was not") as caught:
        stack = ql.ldlq(W, H[1], damp="auto")
    assert len(caught) == 1 and set(stack.damp) == {0.04}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ql.DampingWarning, match=r"H\[1\]"):
            ql.ldlq(W, H, damp="auto")


def test_nearest_loss_says_what_it_takes():
    W, H = layers(3, 4, 6)
    stack = ql.ldlq(W, H)
    with pytest.raises(ql.InvalidArgumentError, match=r"W must be .*\(3, 4, 6\); got \(2, 4, 6\)"):
        stack.nearest_loss(W[:2], H)
    with pytest.raises(ql.InvalidArgumentError, match=r"H must be \(3, 6, 6\)"):
        stack.nearest_loss(W, H[:2])
    with pytest.raises(ql.NonFiniteError, match=r"W\[1, 0, 0\]"):
        stack.nearest_loss(spoiled(W, (1, 0, 0), np.nan), H)
