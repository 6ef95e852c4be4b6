"""Codes as other programs take them: whole zeros, what is left of them, and streams of bits."""

import dataclasses

import numpy as np
import pytest
from export_layers import GROUPED, make_layer

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export.codes import integer_codes, plain_codes, stored_scales, words
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.results import Quantized


def values(codes):
    """W_hat by definition."""
    zero = codes.zero.astype(np.float64) + (0 if codes.rest is None else codes.rest)
    return (codes.scale.astype(np.float64)[:, codes.group]) * (codes.codes - zero[:, codes.group])


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("bits", range(1, 9))
def test_the_values_are_those_of_the_layer(name, bits):
    q = make_layer(bits=bits, **GROUPED[name])
    codes = integer_codes(q)
    np.testing.assert_array_equal(values(codes), q.__array__(np.dtype(np.float64)))
    assert codes.bits == bits and codes.codes.max() < 2**bits and codes.zero.max() < 2**bits
    assert (codes.rest is not None) == (q.grid.kind == "rms")


@pytest.mark.parametrize("zero", [-3.0, 17.0, 2.25])
def test_zeros_that_are_no_codes_leave_a_rest(zero):
    q = make_layer(bits=4)
    grid = UniformGrid(q.grid.scale, np.full_like(q.grid.zero, zero), 4)
    q = dataclasses.replace(q, grid=grid)
    codes = integer_codes(q)
    np.testing.assert_array_equal(values(codes), q.__array__(np.dtype(np.float64)))
    with pytest.raises(InvalidArgumentError, match=rf"zero={zero:g}.*to='onnx'.*to='dense'"):
        plain_codes(q, "gptq")


def test_group_size_is_that_of_columns_in_order():
    sizes = [
        ({}, 64), ({"group_size": 16}, 16), ({"group_size": 24}, 24), ({"rows": 1}, 64),
        ({"group_size": 16, "act": True}, None),
    ]  # fmt: skip
    for options, size in sizes:
        assert integer_codes(make_layer(**options)).group_size == size
    q = make_layer(group_size=16)
    index = np.where(q.grid.group_index == 3, 2, q.grid.group_index)  # group 3 has no columns
    assert integer_codes(
        dataclasses.replace(q, grid=dataclasses.replace(q.grid, group_index=index))
    ).group_size is None  # fmt: skip


def test_what_has_no_codes_is_refused():
    q = make_layer()
    unbounded = UniformGrid(q.grid.scale, q.grid.zero, None)
    free = dataclasses.replace(q, grid=unbounded, codes=q.codes.astype(np.int32))
    empty = make_layer(m=0, n=4)
    masked = make_layer(kind="rms", pruned=0.5)
    for layer, text in ((free, "unbounded"), (empty, "have weights"), (masked, "level zero")):
        with pytest.raises(InvalidArgumentError, match=rf"{text}(.|\n)*to='dense'"):
            integer_codes(layer)
    with pytest.raises(InvalidArgumentError, match=r"rescaled or rotated.*to='onnx'"):
        plain_codes(make_layer(rescale=True), "gptq")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_scales_are_rounded_and_stay_positive(dtype):
    scale = np.array([[1 / 3, 2.0]])
    assert stored_scales(scale, None) is scale
    stored = stored_scales(scale, np.dtype(dtype))
    np.testing.assert_array_equal(stored, scale.astype(dtype))
    for bad in (1e-9, 1e9):
        with pytest.raises(InvalidArgumentError, match=r"dtype=float16.*dtype='float32'"):
            stored_scales(scale * bad, np.dtype(np.float16))


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("n", [1, 5, 32, 33])
def test_words_are_one_stream_of_bits(bits, n):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (3, n)).astype(np.uint8)
    packed = words(codes, bits)
    assert packed.dtype == np.int32 and packed.shape == (3, -(-n * bits // 32))
    for row, expected in zip(packed.tolist(), codes.tolist(), strict=True):
        stream = sum((word % 2**32) << (32 * i) for i, word in enumerate(row))
        assert [stream >> (bits * j) & (2**bits - 1) for j in range(n)] == expected
        assert stream >> (bits * n) == 0


def test_every_field_of_a_result_is_accounted_for():
    """A new part of W_hat must go into each export, or be refused there: then add it here."""
    used = {"codes", "grid", "dead", "precision", "processing", "mask", "correction"}
    told = {
        "method", "rounding", "order", "permutation", "loss", "trace_D", "damp", "near_tie_rows",
        "clipped", "seed", "feedback_bound", "passes", "changed", "candidates", "refit", "restore",
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(Quantized)} == used | told
    grid = {field.name for field in dataclasses.fields(UniformGrid)}
    assert grid == {"scale", "zero", "bits", "group_index", "kind"}
