"""Every public function against the table of bad inputs: a clear error, or a right answer."""

from __future__ import annotations

import re

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql

P = make_problem(6, 8, 0, 2, "well")
TAKES_BOTH = {"ldlq": ql.ldlq, "gptq": ql.gptq}
TAKES_W = {
    "minmax_grid": lambda W: ql.minmax_grid(W, 2),
    "mse_grid": lambda W: ql.mse_grid(W, 2),
    "rms_grid": lambda W: ql.rms_grid(W, 2, rho=1.6),
    "nearest": lambda W: ql.nearest(W),
    "ldlq": lambda W: ql.ldlq(W, P.H),
    "gptq": lambda W: ql.gptq(W, P.H),
}
TAKES_H = {
    "cholesky": (ql.cholesky, "A"),
    "ldl": (ql.ldl, "A"),
    "udu": (ql.udu, "H"),
    "ldlq": (lambda H: ql.ldlq(P.W, H), "H"),
    "gptq": (lambda H: ql.gptq(P.W, H), "H"),
}


def spoiled(a, value, place=(2, 3)):
    b = a.copy()
    b[place] = value
    return b


@pytest.mark.parametrize("name", TAKES_W)
def test_bad_weights(name):
    call = TAKES_W[name]
    for value in (np.nan, np.inf, -np.inf):
        with pytest.raises(ql.NonFiniteError, match=r"W must be finite.* W\[2, 3\]") as caught:
            call(spoiled(P.W, value))
        assert caught.value.index == (2, 3) and caught.value.count == 1
    for bad in (P.W + 1j, P.W.astype(int), P.W.astype(str), P.W.astype(object), None, "W"):
        with pytest.raises(ql.DTypeError, match="W must"):
            call(bad)
    deep = P.W[None, None] if name in TAKES_BOTH else P.W[None]  # stacks are taken by both
    for bad in (P.W[0], deep, np.float64(1.0)):
        with pytest.raises(ql.InvalidArgumentError, match="W must be"):
            call(bad)


@pytest.mark.parametrize("name", TAKES_H)
def test_bad_hessians(name):
    call, argument = TAKES_H[name]
    for place in ((2, 3), (3, 2), (4, 4)):  # both triangles are looked at
        for value in (np.nan, np.inf):
            with pytest.raises(ql.NonFiniteError, match=f"{argument} must be finite") as caught:
                call(spoiled(P.H, value, place))
            assert caught.value.index == place
    with pytest.raises(ql.InvalidArgumentError, match=f"{argument} must be symmetric"):
        call(spoiled(P.H, 5.0))
    for bad in (P.H + 1j, (P.H * 100).astype(int), P.H.astype(object)):
        with pytest.raises(ql.DTypeError, match=f"{argument} must"):
            call(bad)
    for bad in (P.H[0], P.H[:, :5], P.H[None]):
        with pytest.raises(ql.InvalidArgumentError, match=f"{argument} must be"):
            call(bad)
    with pytest.raises(ql.NotPositiveDefiniteError, match="row 4 is -2") as caught:
        call(spoiled(P.H, -2.0, (4, 4)))
    assert caught.value.index == 4
    ghost = spoiled(P.H, 0.0, (4, 4))
    with pytest.raises(ql.NotPositiveDefiniteError, match="row 4"):
        call(ghost)
    eigenvalues = np.ones(8)
    eigenvalues[3] = -5
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    with pytest.raises(ql.NotPositiveDefiniteError):
        call((Q * eigenvalues) @ Q.T + 3 * np.ones((8, 8)))


@pytest.mark.parametrize("name", TAKES_BOTH)
def test_bad_keywords(name):
    call = TAKES_BOTH[name]
    for kwargs, match in (
        (dict(bits=0), "bits must be .* got bits=0"),
        (dict(bits=9), "bits must be"),
        (dict(bits="2"), "bits must be"),
        (dict(bits=None), "bits must be"),
        (dict(grid="minmax"), "grid must be"),
        (dict(grid=ql.minmax_grid(P.W, 2), group_size=4), "group_size must be None"),
        (dict(grid=ql.minmax_grid(P.W[:4], 2)), "grid must have 1 or 6 rows"),
        (dict(grid=ql.minmax_grid(np.ones((6, 7)), 2, group_size=2)), "group of 8 columns"),
        (dict(group_size=0), "group_size must be"),
        (dict(group_size=-128), "group_size must be"),
        (dict(clip="max"), "clip must be"),
        (dict(order="desc_act"), "order must be"),
        (dict(rounding="floor"), "rounding must be"),
        (dict(rounding="stochastic"), "seed must be"),
        (dict(rounding="stochastic", seed=-1), "seed must be"),
        (dict(rounding="stochastic", seed=1.5), "seed must be"),
        (dict(damp=1.0), "damp must be"),
        (dict(damp=-0.01), "damp must be"),
        (dict(damp=np.nan), "damp must be"),
        (dict(block=0), "block must be"),
        (dict(backend="torch"), "backend must be"),
    ):
        with pytest.raises(ql.InvalidArgumentError, match=match):
            call(P.W, P.H, **kwargs)
    for wrong, right in (("percdamp", "damp"), ("desc_act", "order"), ("wbits", "bits"),
                         ("groupsize", "group_size"), ("symmetric", "sym")):  # fmt: skip
        with pytest.raises(TypeError, match=f"{wrong}.*{right}"):
            call(P.W, P.H, **{wrong: 1})
    with pytest.raises(ql.InvalidArgumentError, match=re.escape("Pass W.T for Keras")):
        call(P.W.T, P.H)


def layouts(a):
    """The same numbers in awkward memory."""
    wide = np.empty((a.shape[0] * 2, a.shape[1] * 2), a.dtype)
    wide[::2, ::2] = a
    frozen = a.copy()
    frozen.flags.writeable = False
    shifted = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)
    return {
        "Fortran order": np.asfortranarray(a),
        "strided": wide[::2, ::2],
        "negative strides": a[::-1, ::-1].copy()[::-1, ::-1],
        "big-endian": a.astype(a.dtype.newbyteorder(">")),
        "read-only": frozen,
        "unaligned": shifted,
        "list": a.tolist(),
    }


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_awkward_layouts_give_the_same_answer(dtype):
    W, H = P.W.astype(dtype), P.H.astype(dtype)
    expected = ql.ldlq(W, H, group_size=4)
    for name in layouts(W):
        if name == "list" and dtype is np.float32:
            continue  # a list of Python floats is float64
        q = ql.ldlq(layouts(W)[name], layouts(H)[name], group_size=4)
        assert (q.codes == expected.codes).all(), name
        assert (ql.udu(layouts(H)[name]).T == ql.udu(H).T).all(), name


def test_nothing_the_caller_passed_is_changed():
    W, H = P.W.copy(), P.H.copy()
    H[1] = H[:, 1] = 0
    grid = ql.minmax_grid(W, 2)
    before = [a.copy() for a in (W, H, grid.scale, grid.zero)]
    for dtype in (np.float32, np.float64):
        ql.ldlq(W.astype(dtype), H.astype(dtype), group_size=3)
    ql.ldlq(W, H, grid=grid)
    ql.nearest(W, H)
    ql.udu(H, damp=0.1)
    ql.cholesky(P.H)
    ql.proxy_loss(W, W, H)
    for was, now in zip(before, (W, H, grid.scale, grid.zero), strict=True):
        assert was.tobytes() == now.tobytes()


@pytest.mark.parametrize("shape", ((0, 0), (0, 5), (5, 0), (1, 1), (1, 70), (70, 1)))
def test_every_shape(shape):
    n = shape[1]
    for kwargs in ({}, dict(group_size=3), dict(group_size=3, static_groups=True),
                   dict(rounding="stochastic", seed=0), dict(order="natural")):  # fmt: skip
        for dtype in (np.float16, np.float32, np.float64):
            W = np.random.default_rng(0).standard_normal(shape).astype(dtype)
            q = ql.ldlq(W, np.eye(n, dtype=dtype), **kwargs)
            assert q.codes.shape == shape and q.dequantize().dtype == dtype
            assert "Quantized" in repr(q) and q.bits_per_weight >= 0


@pytest.mark.host  # of a device denormal float32 are zeros
def test_denormal_and_huge_weights():
    """The scale as stored decides; one that is 0 or inf is refused by name."""
    for size in (1e-37, 1e-20, 1e20, 1e37):
        W = (P.W * size).astype(np.float32)
        q = ql.ldlq(W, P.H)
        same = ql.ldlq(P.W.astype(np.float32), P.H)
        assert np.isfinite(q.dequantize()).all()
        assert (q.codes == same.codes).mean() > 0.95
    with pytest.raises(ql.InvalidArgumentError, match="scale must be positive and finite"):
        ql.ldlq(np.full((2, 8), 1e-45, np.float32), P.H, bits=8, clip="minmax")


def test_errors_survive_pickling():
    import pickle

    for call in (lambda: ql.ldlq(spoiled(P.W, np.nan), P.H), lambda: ql.udu(-P.H)):
        with pytest.raises(ql.QuipLinalgError) as caught:
            call()
        again = pickle.loads(pickle.dumps(caught.value))
        assert str(again) == str(caught.value) and again.index == caught.value.index
