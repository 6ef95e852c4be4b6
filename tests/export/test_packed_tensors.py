"""The tensors of compressed-tensors and GPTQ, unpacked by their definitions in NumPy."""

import re

import numpy as np
import pytest
from export_layers import GROUPED, PROCESSED, make_layer

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export import compressed_tensors, gptq

LEFT_OUT = {  # what each format cannot hold, and what the error must say
    "compressed-tensors": {
        "row, rms": "zero=7.5.*to='onnx'", "uneven groups": "layout='gptq'.*static_groups=True",
        "uneven groups, rms": "zero=7.5", "act-order groups": "layout='gptq'",
        "act-order, uneven": "layout='gptq'", "act-order, rms": "zero=7.5",
        "pruned groups": "layout='gptq'",
    },
    "gptq": {
        "row, rms": "zero=7.5.*to='onnx'", "row, odd width": "multiples of 32.*compressed-tensors",
        "row, wide": "multiples of 32", "narrow": "multiples of 32", "single": "multiples of 32",
        "uneven groups": "multiples of 32", "uneven groups, rms": "zero=7.5",
        "act-order, uneven": "multiples of 32", "act-order, rms": "zero=7.5",
    },
}  # fmt: skip


def stream(words, bits, count):
    """The codes in each row of int32 words, lowest bits first."""
    raw = np.ascontiguousarray(words).astype("<i4").view(np.uint8)
    single = np.unpackbits(raw, axis=1, count=count * bits, bitorder="little")
    weights = 1 << np.arange(bits)
    return (single.reshape(len(words), count, bits) * weights).sum(axis=2)


def from_compressed_tensors(tensors, scheme):
    bits, size, symmetric = scheme
    m, n = tensors["weight_shape"].tolist()
    codes = stream(tensors["weight_packed"], bits, n)
    scale = tensors["weight_scale"]
    assert ("weight_zero_point" not in tensors) == symmetric
    zero = np.full(scale.shape, 1 << (bits - 1))
    if not symmetric:
        zero = stream(tensors["weight_zero_point"].T, bits, m).T
    each = np.arange(n) // (n if size < 0 else size)
    return codes, scale[:, each].astype(np.float64) * (codes - zero[:, each])


def from_gptq(tensors, scheme):
    bits, size, sym, desc_act = scheme
    n, m = len(tensors["g_idx"]), tensors["qweight"].shape[1]
    codes = stream(tensors["qweight"].T, bits, n)
    zero, each = stream(tensors["qzeros"], bits, m), tensors["g_idx"]
    assert tensors["qweight"].shape == (n * bits // 32, m)
    assert tensors["qzeros"].shape == (len(tensors["scales"]), m * bits // 32)
    assert len(tensors["scales"]) == (1 if size < 0 else -(-n // size))
    assert sym == bool((zero == 1 << (bits - 1)).all())
    assert desc_act == bool((np.diff(each) < 0).any())
    return codes, (tensors["scales"][each].astype(np.float64) * (codes.T - zero[each])).T


CASES = {
    "compressed-tensors": (compressed_tensors, from_compressed_tensors, range(1, 9)),
    "gptq": (gptq, from_gptq, (2, 3, 4, 8)),
}


@pytest.mark.parametrize("layout", CASES)
@pytest.mark.parametrize("name", GROUPED)
def test_the_tensors_are_the_layer(layout, name):
    module, unpacked, widths = CASES[layout]
    if name in LEFT_OUT[layout]:
        with pytest.raises(InvalidArgumentError, match=f"(?s){LEFT_OUT[layout][name]}"):
            module.layer_tensors(make_layer(bits=4, **GROUPED[name]), None)
        return
    for bits in widths:
        q = make_layer(bits=bits, **GROUPED[name])
        codes, weights = unpacked(*module.layer_tensors(q, None))
        np.testing.assert_array_equal(weights, q.__array__(np.dtype(np.float64)))
        kept = slice(None) if q.mask is None else ~q.mask
        np.testing.assert_array_equal(codes[kept], q.codes[kept])


@pytest.mark.parametrize("layout", CASES)
@pytest.mark.parametrize("name", PROCESSED)
def test_processed_layers_are_refused(layout, name):
    with pytest.raises(InvalidArgumentError, match=r"(?s)to='onnx'.*to='dense'"):
        CASES[layout][0].layer_tensors(make_layer(**PROCESSED[name]), None)


def test_bits_that_gptq_has_not_are_refused():
    for bits in (1, 5, 6, 7):
        with pytest.raises(InvalidArgumentError, match=f"bits={bits}.*compressed-tensors"):
            gptq.layer_tensors(make_layer(bits=bits), None)


@pytest.mark.parametrize("layout", CASES)
def test_scales_in_another_dtype(layout):
    module, unpacked, _ = CASES[layout]
    q = make_layer()
    tensors, scheme = module.layer_tensors(q, np.dtype(np.float16))
    scale = tensors["weight_scale" if layout == "compressed-tensors" else "scales"]
    assert scale.dtype == np.float16
    _, weights = unpacked(tensors, scheme)
    error = np.abs(weights - q.__array__(np.dtype(np.float64))).max()
    assert 0 < error < 2.0**-11 * 16 * q.grid.scale.max()


def test_the_configuration_of_compressed_tensors_has_a_group_for_each_scheme():
    found = compressed_tensors.config({"a": (4, 32, True), "b": (2, -1, False), "c": (4, 32, True)})
    assert found["quant_method"] == "compressed-tensors" and found["format"] == "pack-quantized"
    by_targets = {tuple(g["targets"]): g["weights"] for g in found["config_groups"].values()}
    assert by_targets == {
        ("a", "c"): {
            "num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32
        },
        ("b",): {"num_bits": 2, "type": "int", "symmetric": False, "strategy": "channel"},
    }  # fmt: skip


def test_the_configuration_of_gptq_has_the_exceptions_apart():
    common, other = (4, 128, True, False), (2, -1, False, False)
    found = gptq.config({"a.b": common, "a.c": other, "d": common})
    assert (found["bits"], found["group_size"], found["sym"]) == (4, 128, True)
    assert found["checkpoint_format"] == "gptq_v2" and found["desc_act"] is False
    ((pattern, settings),) = found["dynamic"].items()
    assert pattern.startswith("+:") and re.match(pattern[2:], "a.c")
    assert not re.match(pattern[2:], "a.cd") and not re.match(pattern[2:], "aXc")
    assert settings == {"bits": 2, "group_size": -1, "sym": False, "desc_act": False}
    assert "dynamic" not in gptq.config({"a": common})
