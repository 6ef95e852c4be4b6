"""The certificate: right results pass in every mode, and every kind of change is found."""

import dataclasses

import numpy as np
import pytest

import quiplinalg as ql

MODES = {
    "default": {},
    "plain": {"order": "natural", "clip": "minmax", "sym": True},
    "groups": {"group_size": 7},
    "static": {"group_size": 7, "static_groups": True},
    "stochastic": {"rounding": "stochastic", "seed": 2**40 + 3},
    "undamped": {"damp": 0.0},
    "heavy": {"damp": 0.5},
}


def layer(m=20, n=37, dtype=np.float32, dead=(), cond=1e4, seed=0):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    H = (Q * np.logspace(0, -np.log10(cond), n)) @ Q.T
    H[list(dead)] = 0
    H[:, list(dead)] = 0
    return (3 * rng.standard_normal((m, n))).astype(dtype), (H + H.T) / 2


def check(W, H, q):
    found = ql.verify(W, H, q)
    assert found.ok, found
    assert found.codes_wrong == 0 and found.first_wrong is None
    assert found.worst <= (1e-3 if W.dtype == np.float32 else 1e-8)
    assert found.stored_loss == q.loss
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [1, 2, 8])
def test_right_results_pass(mode, dtype, bits):
    W, H = layer(dtype=dtype)
    check(W, H, ql.ldlq(W, H, bits=bits, **MODES[mode]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
def test_unbounded_grids(dtype, rounding):
    W, H = layer(dtype=dtype)
    grid = ql.UniformGrid(np.full((1, 1), 0.3, dtype), np.full((1, 1), 0.5, dtype), None)
    check(W, H, ql.ldlq(W, H, grid=grid, rounding=rounding, seed=1))
    check(W, H, ql.nearest(W, H, grid=grid, rounding=rounding, seed=1))


@pytest.mark.parametrize("damp", [0.0, 0.01])
def test_dead_columns_and_half_integer_zeros(damp):
    W, H = layer(dead=(0, 5, 36))
    check(W, H, ql.ldlq(W, H, damp=damp))
    check(W, H, ql.gptq(W, H, grid=ql.rms_grid(W, 2, rho=1.6), damp=damp))


def test_no_live_column():
    W = np.ones((3, 4), np.float32)
    check(W, np.zeros((4, 4)), ql.ldlq(W, np.zeros((4, 4))))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (1, 1)])
def test_small_shapes(shape):
    W = np.full(shape, 0.3, np.float32)
    H = np.eye(shape[1], dtype=np.float32)
    check(W, H, ql.ldlq(W, H))


@pytest.mark.parametrize("options", [{}, {"group_size": 5}, {"rounding": "stochastic", "seed": 9}])
def test_nearest(options):
    W, H = layer()
    assert check(W, H, ql.nearest(W, H, 3, **options)).loss_error <= 1e-10
    without = ql.nearest(W, bits=3, **options)
    found = ql.verify(W, H, without)
    assert found.ok and np.isnan(found.loss_error)


@pytest.mark.parametrize("cond", [1e8, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ill_conditioned(cond, dtype):
    W, H = layer(48, 96, dtype, cond=cond)
    check(W, H, ql.ldlq(W, H, bits=3))


def test_narrow_floats_and_many_rows():
    W, H = layer(300, 24)
    W = W.astype(np.float16)
    check(W.astype(np.float32), H, ql.ldlq(W, H))
    assert ql.verify(W, H, ql.ldlq(W, H)).ok


def test_inputs_are_not_changed():
    W, H = layer()
    q = ql.ldlq(W, H)
    before = W.copy(), H.copy(), q.codes.copy()
    for a in (W, H, q.codes):
        a.flags.writeable = False
    ql.verify(W, H, q)
    for a, b in zip((W, H, q.codes), before, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("place", [(0, 0), (7, 20), (19, 36)])
def test_one_code_off_by_one_is_found(mode, place):
    W, H = layer()
    q = ql.ldlq(W, H, bits=3, **MODES[mode])
    codes = q.codes.astype(int)
    codes[place] += 1 if codes[place] < 7 else -1
    found = ql.verify(W, H, dataclasses.replace(q, codes=codes.astype(np.uint8)))
    assert not found.ok
    # the later columns of the row were rounded to make up for another error than this one
    assert found.codes_wrong >= 1 and found.first_wrong == place, found
    assert found.worst > 0.01 and str(place[0]) in found.reason
    # and the loss is another one too
    assert found.loss != pytest.approx(q.loss, rel=1e-9)


def test_a_clipped_code_must_be_at_the_right_end():
    W, H = np.array([[9.0, -9.0, 0.1]]), np.eye(3)
    grid = ql.UniformGrid(np.ones((1, 1)), np.ones((1, 1)), 2)
    q = ql.nearest(W, H, grid=grid)
    assert q.codes.tolist() == [[3, 0, 1]] and ql.verify(W, H, q).ok
    other = dataclasses.replace(q, codes=np.array([[0, 3, 1]], np.uint8))
    found = ql.verify(W, H, other)
    assert not found.ok and found.codes_wrong == 2 and found.first_wrong == (0, 0)
    off = ql.verify(W, H, dataclasses.replace(q, codes=np.array([[4, 0, 1]], np.uint8)))
    assert off.codes_wrong == 1 and off.worst >= 1.0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_wrong_field_is_found(dtype):
    W, H = layer(64, 64, dtype)
    q = ql.ldlq(W, H, bits=2)
    assert ql.verify(W, H, q).ok
    rtol = 1e-3 if dtype == np.float32 else 1e-8
    for changed, word in [
        ({"loss": q.loss * (1 + rtol)}, "loss"),
        ({"loss": float("nan")}, "loss"),
        ({"permutation": None}, "permutation"),
        ({"permutation": np.zeros(64, np.int64)}, "permutation"),
        ({"order": "natural"}, "natural"),
        ({"permutation": q.permutation[::-1]}, "rounding"),
        ({"damp": 2 * q.damp}, "rounding"),
        ({"damp": 0.0}, "rounding"),
        ({"damp": -1.0}, "damp"),
        ({"damp": float("nan")}, "damp"),
        ({"method": "nearest"}, "rounding"),
        ({"rounding": "stochastic", "seed": 1}, "rounding"),
        ({"rounding": "stochastic"}, "seed"),
        ({"grid": dataclasses.replace(q.grid, scale=q.grid.scale * 1.01)}, "rounding"),
        ({"grid": dataclasses.replace(q.grid, bits=1)}, "rounding"),
    ]:
        found = ql.verify(W, H, dataclasses.replace(q, **changed))
        assert not found.ok and word in found.reason, (changed.keys(), found)
    assert not ql.verify(W + dtype(0.2), H, q).ok
    assert not ql.verify(W, np.eye(64), q).ok


def test_not_positive_definite_with_the_stored_damp():
    W, H = layer()
    H -= 0.0005 * np.eye(37)
    q = ql.ldlq(W, H)
    found = ql.verify(W, H, dataclasses.replace(q, damp=0.0))
    assert not found.ok and "positive definite" in found.reason and np.isnan(found.worst)


def test_invalid_arguments():
    W, H = layer()
    q = ql.ldlq(W, H)
    with pytest.raises(ql.InvalidArgumentError, match=r"W\.T"):
        ql.verify(W[:, 1:], H, q)
    with pytest.raises(ql.InvalidArgumentError, match="H"):
        ql.verify(W, H[1:, 1:], q)
    with pytest.raises(ql.InvalidArgumentError, match="method"):
        ql.verify(W, H, dataclasses.replace(q, method="trellis"))
    with pytest.raises(ql.NonFiniteError):
        ql.verify(W * np.float32(np.nan), H, q)


# ---- after coordinate descent


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bits", [1, 2, 8])
@pytest.mark.parametrize("passes", [1, None])
def test_right_results_of_descent_pass(mode, dtype, bits, passes):
    W, H = layer(dtype=dtype, dead=(3,))
    q = ql.descend(W, H, ql.ldlq(W, H, bits=bits, **MODES[mode]), passes=passes)
    found = check(W, H, q)
    assert ("no change of one code" in found.reason) == (q.changed == 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_descent_from_nearest_and_on_other_grids(dtype):
    W, H = layer(dtype=dtype)
    grid = ql.UniformGrid(np.full((1, 1), 0.3, dtype), np.full((1, 1), 0.5, dtype), None)
    for q in (
        ql.ldlq(W, H, grid=grid),
        ql.nearest(W, bits=3),
        ql.nearest(W, H, 3, group_size=5),
        ql.ldlq(W, H, grid=ql.rms_grid(W, 2, rho=1.6)),
    ):
        check(W, H, ql.descend(W, H, q))


@pytest.mark.parametrize("cond", [1e8, 1e12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_descent_on_ill_conditioned(cond, dtype):
    W, H = layer(48, 96, dtype, cond=cond)
    check(W, H, ql.descend(W, H, ql.ldlq(W, H, bits=3)))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (1, 1)])
def test_descent_of_small_shapes(shape):
    W, H = np.full(shape, 0.3, np.float32), np.eye(shape[1], dtype=np.float32)
    check(W, H, ql.descend(W, H, ql.ldlq(W, H)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_code_off_a_fixed_point_is_found(dtype):
    """Its row is then no fixed point, as taking the change back lowers the loss; no other row is
    touched.
    """
    W, H = layer(64, 64, dtype)
    q = ql.descend(W, H, ql.ldlq(W, H, bits=3))
    assert ql.verify(W, H, q).ok
    rng = np.random.default_rng(0)
    for row, column in rng.integers(64, size=(20, 2)):
        codes = q.codes.astype(int)
        codes[row, column] += 1 if codes[row, column] < 7 else -1
        found = ql.verify(W, H, dataclasses.replace(q, codes=codes.astype(np.uint8)))
        assert not found.ok and found.codes_wrong >= 1 and found.first_wrong[0] == row, found
        assert found.worst > 1e-3 and "lower the loss" in found.reason


@pytest.mark.parametrize("passes", [1, None])
def test_wrong_fields_after_descent_are_found(passes):
    W, H = layer(64, 64)
    q = ql.descend(W, H, ql.ldlq(W, H, bits=2), passes=passes)
    for changed, word in [
        ({"loss": q.loss * (1 + 1e-3)}, "loss"),
        ({"loss": float("nan")}, "loss"),
        ({"codes": np.where(np.eye(64) > 0, 4, q.codes).astype(np.uint8)}, "not on the grid"),
        ({"permutation": None}, "permutation"),
        ({"passes": 0}, "rounding"),
        ({"grid": dataclasses.replace(q.grid, scale=q.grid.scale * 1.01)}, ""),
    ]:
        found = ql.verify(W, H, dataclasses.replace(q, **changed))
        assert not found.ok and word in found.reason, (changed.keys(), found)
    assert not ql.verify(W, np.eye(64), q).ok
    if passes == 1:  # a layer that was not at a fixed point says so; to claim it is one is found
        assert q.changed > 0
        found = ql.verify(W, H, dataclasses.replace(q, changed=0))
        assert not found.ok and "lower the loss" in found.reason
