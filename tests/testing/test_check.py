"""check_quantizer passes what is right, and catches and names what is wrong, within seconds."""

from __future__ import annotations

import time

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import reference
from quiplinalg.testing import check_group_quantizer, check_quantizer
from quiplinalg.testing.suspects import SUSPECTS


def gptq(W, H, scale, zero, maxq, perm=None, **wrong):
    """GPTQ as its paper states it, in blocks, written as in other libraries; and its mistakes."""
    W, n, block = W.astype(np.float64), W.shape[1], wrong.get("block", 32)
    H = H.astype(np.float64) + wrong.get("damp", 0.0) * np.trace(H) / n * np.eye(n)
    perm = np.arange(n) if perm is None else perm
    H_in = H[np.ix_(perm, perm)] if wrong.get("permute", "both") != "weights" else H
    X = W[:, perm] if wrong.get("permute", "both") != "hessian" else W.copy()
    try:
        L = np.linalg.cholesky(np.linalg.inv(H_in))
    except np.linalg.LinAlgError:
        if not wrong.get("fall_back"):
            raise
        L = np.eye(n)
    if wrong.get("fall_back") and np.linalg.cond(H_in) > 1e6:
        L = np.eye(n)
    C = {"upper": L.T, "lower": L, "dense": L @ L.T}[wrong.get("factor", "upper")]
    C = C.astype(wrong.get("dtype", np.float64))
    X = X.astype(C.dtype)
    s, o = scale[:, 0].astype(C.dtype), zero[:, 0].astype(C.dtype)
    codes = np.zeros(X.shape, np.int64)
    rint = wrong.get("rint", np.rint)
    for j0 in range(0, n, block):
        j1 = min(j0 + block, n)
        errors = np.zeros((len(X), j1 - j0), C.dtype)
        for k in range(j0, j1):
            code = rint(X[:, k] / s) + o
            codes[:, k] = np.clip(code, 0, maxq)
            kept = code if wrong.get("late_clamp") else codes[:, k]
            power = 0 if wrong.get("undivided") else wrong.get("power", 1)
            e = (X[:, k] - s * (kept - o)) / C[k, k] ** power
            near = k + 1 + wrong.get("gap", 0)
            X[:, near:j1] -= np.outer(e, C[k, near:j1])
            errors[:, k - j0] = e
        start = j1 + wrong.get("skip", 0)
        X[:, start:] -= wrong.get("lazy", 1.0) * errors @ C[j0:j1, start:]
    if wrong.get("permute") == "not back":
        return codes
    if wrong.get("permute") == "hessian":
        return codes
    out = np.empty_like(codes)
    out[:, perm] = codes
    return out


def half_up(x):
    return np.floor(x + 0.5)


def act(H):
    return np.argsort(-H.diagonal(), kind="stable")


def in_act_order(W, H, scale, zero, maxq, **wrong):
    return gptq(W, H, scale, zero, maxq, act(H), **wrong)


@pytest.mark.parametrize("dtype", (np.float64, np.float32))
def test_the_right_ones_pass(dtype):
    narrow = {"dtype": np.float32} if dtype == np.float32 else {}
    check_quantizer(lambda *a: gptq(*a, **narrow), dtype=dtype).raise_if_broken()

    def ours(W, H, scale, zero, maxq):
        grid = ql.UniformGrid(scale, zero, int(maxq).bit_length())
        return ql.ldlq(W, H, grid=grid, damp=0.0, order="natural")

    report = check_quantizer(ours, dtype=dtype, returns="values")
    report.raise_if_broken()
    assert ("near ties" in report.checked) == (dtype == np.float64)
    ours_act = check_quantizer(
        lambda W, H, s, o, q: ql.gptq(
            W, H, grid=ql.UniformGrid(s, o, int(q).bit_length()), order="act", damp=0.01
        ).codes,
        order="act", damp=0.01, dtype=dtype,
    )  # fmt: skip
    ours_act.raise_if_broken()


@pytest.mark.parametrize("method", (reference.ldlq, reference.babai, reference.obq_fixed))
@pytest.mark.filterwarnings("ignore:invalid value")  # babai's square roots of an indefinite H
def test_the_twins_pass(method):
    report = check_quantizer(lambda *a: method(*a).codes, max_n=17)
    # the twins trust their H: all but LDLQ's, which has a factor to fail, take a singular one
    unguarded = {"refusal", "dead columns"} if method is not reference.ldlq else set()
    assert {b.guarantee for b in report.broken} <= unguarded, report


@pytest.mark.parametrize(
    "wrong, word, guarantee",
    (
        ({"factor": "lower"}, "bit-identical to nearest", "feedback"),
        ({"factor": "dense"}, "dense rows of H^-1", "targets"),
        ({"fall_back": True}, "falls back to nearest, without an error", "refusal"),
        ({"rint": half_up}, "rounded up, not to even", "ties"),
        ({"dtype": np.float32}, "float32", "near ties"),
        ({"late_clamp": True}, "after the loop", "targets"),
        ({"skip": 1, "block": 128}, "wrong from n = 129 on, where step 128", "targets"),
        ({"skip": 0, "block": 32, "lazy": 2.0}, "wrong from n = 33 on, where step 32", "targets"),
        ({"power": 2}, "divided by the diagonal of the factor once too often", "units"),
        ({"undivided": True}, "not divided by the diagonal", "targets"),
        ({"damp": 0.05}, "pass damp=0.05", "targets"),
    ),
    ids=str,
)
def test_the_wrong_ones_are_caught_and_named(wrong, word, guarantee):
    start = time.perf_counter()
    report = check_quantizer(lambda *a: gptq(*a, **wrong))
    seconds = time.perf_counter() - start
    assert word in report.diagnosis, report
    assert guarantee in [b.guarantee for b in report.broken], report
    assert seconds <= 30, seconds  # about 1; other programs may be using the machine
    with pytest.raises(AssertionError, match="Diagnosis"):
        report.raise_if_broken()


@pytest.mark.parametrize(
    "permute, word",
    (
        ("weights", "applied to W and not to H"),
        ("hessian", "applied to H and not to W"),
        ("not back", "is not undone"),
    ),
)
def test_a_permutation_applied_once_is_caught(permute, word):
    check_quantizer(in_act_order, order="act", max_n=17).raise_if_broken()
    report = check_quantizer(lambda *a: in_act_order(*a, permute=permute), order="act", max_n=65)
    assert word in report.diagnosis, report
    assert "from 0 to n - 1" in check_quantizer(gptq, order="reversed", max_n=17).diagnosis
    assert not check_quantizer(gptq, order="act", max_n=17).ok


@pytest.mark.parametrize("name", SUSPECTS)
@pytest.mark.filterwarnings("ignore:invalid value")  # "rows of H" divides by a dead diagonal
def test_every_known_mistake_is_caught_under_its_own_name(name):
    """Each as the quantiser itself; those that only an order shows, in act order."""
    order = "act" if "permutation" in name or "from 0" in name else "natural"

    def quantize(W, H, scale, zero, maxq):
        perm = act(H) if order == "act" else np.arange(len(H))
        return SUSPECTS[name](W, H, scale, zero, maxq, perm)

    report = check_quantizer(quantize, order=order, max_n=17)
    assert not report.ok
    assert name.partition(":")[0] in report.diagnosis, report


@pytest.mark.parametrize(
    "wrong, word",
    (
        ({"factor": "lower"}, "bit-identical to nearest"),
        ({"factor": "dense"}, "dense rows of H^-1"),
        ({"late_clamp": True}, "after the loop"),
        ({"rint": half_up}, "rounded up, not to even"),
        ({"fall_back": True}, "where H is not positive definite"),
    ),
    ids=str,
)
def test_the_wrong_ones_have_their_names_in_float32_too(wrong, word):
    """Symmetric min-max grids put a tie into every row; where it falls is the precision's."""
    report = check_quantizer(lambda *a: gptq(*a, dtype=np.float32, **wrong), dtype=np.float32)
    assert word in report.diagnosis, report


def test_what_is_said_about_the_call_is_said():
    """Not a wrong quantiser, but one whose damping, order or results are others than announced."""
    for keywords, quantize, word in (
        ({}, in_act_order, "pass order='act'"),
        ({"damp": 0.01}, gptq, "but damp=0.01 was passed"),
        ({}, lambda *a: gptq(*a).astype(float), "pass returns='codes'"),
        ({}, lambda *a: gptq(*a).astype(np.int8), "codes must be in 0 .. 255"),
        ({}, lambda *a: (gptq(*a), None), "the result is a tuple"),
        ({}, lambda *a: None, "the result is a NoneType"),
    ):
        report = check_quantizer(quantize, max_n=17, **keywords)
        assert word in report.diagnosis, report
    codes = check_quantizer(lambda *a: gptq(*a).astype(float), max_n=17, returns="codes")
    codes.raise_if_broken()
    # the next column is left out: up to n = 2 that is nearest, and later it is not
    for dtype in (np.float32, np.float64):
        report = check_quantizer(lambda *a, d=dtype: gptq(*a, dtype=d, gap=1), dtype=dtype)
        assert not report.ok and "nearest" not in report.diagnosis, report
    # wrong from the start, and so not between blocks
    report = check_quantizer(lambda W, H, *a: gptq(W, H[::-1, ::-1], *a), max_n=33)
    assert "known mistakes" in report.diagnosis and "blocks" not in report.diagnosis


def without_dead(W, H, *grid, order="natural", **wrong):
    """GPTQ with dead columns as its authors have them: a diagonal of 1, damped after that."""
    dead, H = H.diagonal() == 0, H.copy()
    H[dead, dead] = wrong.get("diagonal", 1.0)
    perm = act(H) if order == "act" else np.arange(len(H))
    H += wrong.get("damp", 0.0) * H.diagonal().mean() * np.eye(len(H))
    return gptq(W, H, *grid, perm)


@pytest.mark.parametrize("order", ("natural", "act"))
def test_dead_columns(order):
    for damp in (0.0, 0.01):
        check_quantizer(
            lambda *a, d=damp: without_dead(*a, order=order, damp=d), order=order, damp=damp,
            max_n=17,
        ).raise_if_broken()  # fmt: skip

    def refuses(W, H, *grid):  # plain damping makes dead columns live
        H = H + 0.01 * np.trace(H) / len(H) * np.eye(len(H))
        return gptq(W, H, *grid, act(H) if order == "act" else None)

    check_quantizer(refuses, order=order, damp=0.01, max_n=17).raise_if_broken()

    def closes_up(W, H, *grid):
        live = np.flatnonzero(H.diagonal())
        codes = np.zeros(W.shape, int)
        part = without_dead(W[:, live], H[np.ix_(live, live)], *grid, order=order)
        codes[:, : len(live)] = part  # back where the dead columns were not
        return codes

    def falls_back(W, H, scale, zero, maxq):
        if (H.diagonal() == 0).any():
            return reference.nearest(W, scale, zero, maxq)
        return without_dead(W, H, scale, zero, maxq, order=order)

    for wrong, word in ((closes_up, "not dead"), (falls_back, "falls back to nearest")):
        report = check_quantizer(wrong, order=order, max_n=17)
        assert [b.guarantee for b in report.broken] == ["dead columns"], report
        assert word in report.diagnosis, report


def test_a_conversion_that_narrows_is_refused():
    """JAX without x64: float32 is what it makes of float64, in silence."""
    with pytest.raises(ql.InvalidArgumentError, match="convert must keep float64"):
        check_quantizer(gptq, convert=lambda a: a.astype(np.float32))
    with pytest.raises(ql.InvalidArgumentError, match="order must hold each of"):
        check_quantizer(gptq, order=lambda H: np.zeros(len(H), int), max_n=5)


def grouped(W, H, bits, size, block):
    """GPTQ in blocks, group scales from the weights at hand: out of date where block > size."""
    X, n = W.copy(), W.shape[1]
    C = np.linalg.cholesky(np.linalg.inv(H)).T
    codes = np.zeros(X.shape, np.int64)
    scales, zeros = [], []
    for j0 in range(0, n, block):
        j1 = min(j0 + block, n)
        inner, errors = X[:, j0:j1].copy(), np.zeros((len(X), j1 - j0))
        for k in range(j0, j1):
            if k % size == 0:
                s, o = reference.minmax_grid(X[:, k : k + size], bits)
                scales.append(s)
                zeros.append(o)
            s, o = scales[-1][:, 0], zeros[-1][:, 0]
            codes[:, k] = np.clip(np.rint(inner[:, k - j0] / s) + o, 0, 2**bits - 1)
            e = (inner[:, k - j0] - s * (codes[:, k] - o)) / C[k, k]
            inner[:, k - j0 + 1 :] -= np.outer(e, C[k, k + 1 : j1])
            errors[:, k - j0] = e
        X[:, j1:] -= errors @ C[j0:j1, j1:]
    return codes, np.concatenate(scales, axis=1), np.concatenate(zeros, axis=1)


def test_stale_group_scales_are_caught_and_named():
    check_group_quantizer(lambda *a: grouped(*a, block=1)).raise_if_broken()
    for block in (64, 128):
        report = check_group_quantizer(lambda *a, b=block: grouped(*a, block=b))
        assert [b.guarantee for b in report.broken] == ["group scales"], report
        assert f"inside blocks of {block} columns" in report.diagnosis, report

    def ours(W, H, bits, size):
        q = ql.gptq(W, H, bits, group_size=size, clip="minmax", order="natural", damp=0.0)
        return q.codes, q.grid.scale, q.grid.zero

    check_group_quantizer(ours).raise_if_broken()


def test_group_checks_see_stale_zeros_and_say_where_codes_are_wrong():
    def stale_zero(W, H, bits, size):
        r = reference.gptq(W, H, group_size=size, bits=bits)
        zero = reference.minmax_grid(W, bits, group_size=size)[1]
        group = np.arange(W.shape[1]) // size
        codes = reference.ldlq(W, H, r.scale, zero, 2**bits - 1, group_index=group).codes
        return codes, r.scale, zero

    assert "group scales" in [b.guarantee for b in check_group_quantizer(stale_zero).broken]

    def nearest(W, H, bits, size):
        r = reference.gptq(W, H, group_size=size, bits=bits)
        group = np.arange(W.shape[1]) // size
        codes = reference.nearest(W, r.scale, r.zero, 2**bits - 1, group_index=group)
        return codes, r.scale, r.zero

    assert "try check_quantizer" in check_group_quantizer(nearest).diagnosis

    def nan(W, H, bits, size):
        r = reference.gptq(W, H, group_size=size, bits=bits)
        return r.codes, r.scale * np.nan, r.zero

    assert "scale must be positive" in check_group_quantizer(nan).diagnosis
    for keywords in ({"rtol": 0.0}, {"damp": -1}, {"fit": 5}, {"convert": 5}):
        with pytest.raises(ql.InvalidArgumentError, match=next(iter(keywords))):
            check_group_quantizer(nan, **keywords)
    with pytest.raises(TypeError, match="did you mean damp"):
        check_group_quantizer(nan, percdamp=0.01)


def test_bad_behaviour_is_reported_and_not_raised():
    def raises(*arguments):
        raise RuntimeError("out of memory")

    assert "out of memory" in check_quantizer(raises, max_n=5).diagnosis

    def writes(W, H, scale, zero, maxq):
        codes = reference.ldlq(W, H, scale, zero, maxq).codes
        W[:] = 0
        return codes

    assert [b.guarantee for b in check_quantizer(writes, max_n=5).broken] == ["inputs"]

    def off_grid(W, H, scale, zero, maxq):
        return reference.ldlq(W, H, scale, zero, maxq).W_hat + 0.1 * scale

    assert "grid" in [b.guarantee for b in check_quantizer(off_grid, max_n=5).broken]

    def noisy(W, H, scale, zero, maxq):
        noisy.seed += 1
        u = reference.uniforms(noisy.seed, *W.shape)
        return reference.ldlq(W, H, scale, zero, maxq, uniforms=u).codes

    noisy.seed = 0
    broken = [b.guarantee for b in check_quantizer(noisy, max_n=5).broken]
    assert "repeat" in broken and "targets" in broken

    def nan(W, H, scale, zero, maxq):
        return np.full(W.shape, np.nan)

    assert "grid" in [b.guarantee for b in check_quantizer(nan, max_n=5).broken]
    report = check_quantizer(lambda *a: np.zeros((1, 1), int), max_n=5)
    assert "runs" in [b.guarantee for b in report.broken]


@pytest.mark.parametrize("dtype", (np.float64, np.float32))
def test_torch_tensors_go_in_and_come_out(dtype):
    torch = pytest.importorskip("torch")

    def quantize(W, H, scale, zero, maxq):
        assert isinstance(W, torch.Tensor)
        return torch.from_numpy(gptq(*(a.numpy() for a in (W, H, scale, zero)), maxq))

    check_quantizer(quantize, convert=torch.from_numpy, dtype=dtype, max_n=17).raise_if_broken()


@pytest.mark.parametrize(
    "keywords, word",
    (
        ({"bits": ()}, "bits"),
        ({"bits": (9,)}, "bits"),
        ({"order": "random"}, "order"),
        ({"dtype": np.float16}, "dtype"),
        ({"damp": 1.5}, "damp"),
        ({"returns": "both"}, "returns"),
        ({"ties": "up"}, "ties"),
        ({"max_n": 0}, "max_n"),
        ({"max_n": 17.0}, "max_n"),
        ({"bits": "23"}, "bits"),
        ({"dtype": "foo"}, "dtype"),
        ({"dtype": None}, "dtype"),
        ({"damp": "x"}, "damp"),
        ({"convert": 5}, "convert"),
    ),
)
def test_bad_arguments(keywords, word):
    with pytest.raises(ql.InvalidArgumentError, match=word):
        check_quantizer(gptq, **keywords)
    with pytest.raises(ql.InvalidArgumentError, match="quantize"):
        check_quantizer(None)
    with pytest.raises(TypeError, match="did you mean order"):
        check_quantizer(gptq, desc_act=True)
    check_quantizer(gptq, max_n=1, bits=4).raise_if_broken()
