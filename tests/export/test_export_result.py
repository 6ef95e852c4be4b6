"""Exports as files: dense weights, options, names, and that a failed one leaves nothing."""

import os
import sys

import h5py
import ml_dtypes
import numpy as np
import pytest
from export_layers import GROUPED, PROCESSED, make_layer, make_pruned, write_result

import quiplinalg as ql
from quiplinalg.errors import BackendUnavailableError, FormatError, InvalidArgumentError


@pytest.fixture
def source(tmp_path):
    layers = {"block/q": make_layer(seed=1), "block/k": make_layer(bits=2, seed=2)}
    return write_result(tmp_path / "result.h5", {**layers, "head": make_pruned()})


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_dense_weights_are_those_of_dequantize(tmp_path, suffix):
    layers = {name: make_layer(**options) for name, options in (GROUPED | PROCESSED).items()}
    layers |= {"deep/er/pruned": make_pruned()}
    source = write_result(tmp_path / "r.h5", layers)
    target = tmp_path / f"weights{suffix}"
    done = ql.export_result(source, target, to="dense")
    assert done.layers == tuple(sorted(layers)) and done.bytes == target.stat().st_size
    file = h5py.File(target) if suffix == ".h5" else np.load(target)
    with file:
        for name, layer in layers.items():
            found = file[f"layers/{name}/weight"][()] if suffix == ".h5" else file[name]
            assert found.dtype == np.float32
            expected = layer.dense() if isinstance(layer, ql.Pruned) else layer.dequantize()
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float16", "float64", np.float16, np.dtype("f8")])
def test_dense_weights_in_another_dtype(tmp_path, source, dtype):
    ql.export_result(source, tmp_path / "w.npz", to="dense", dtype=dtype, names=["block/q"])
    with np.load(tmp_path / "w.npz") as file, ql.open_result(source) as result:
        assert list(file) == ["block/q"]
        expected = result.layer("block/q").dequantize().astype(dtype)
        assert file["block/q"].dtype == expected.dtype
        np.testing.assert_array_equal(file["block/q"], expected)


def test_bfloat16_is_for_files_that_have_it(tmp_path, source):
    ql.export_result(source, tmp_path / "w.h5", to="dense", dtype="bfloat16", names=["head"])
    with h5py.File(tmp_path / "w.h5") as file, ql.open_result(source) as result:
        raw = file["layers/head/weight"]
        expected = result.pruned("head").weights.astype(ml_dtypes.bfloat16)
        np.testing.assert_array_equal(raw.astype(np.float32)[()], expected.astype(np.float32))
    with pytest.raises(InvalidArgumentError, match=r"bfloat16.*\.h5 or \.safetensors"):
        ql.export_result(source, tmp_path / "w.npz", to="dense", dtype="bfloat16")
    assert not (tmp_path / "w.npz").exists()


def test_the_same_layers_are_the_same_bytes(tmp_path, source):
    for name in ("a.npz", "b.npz"):
        ql.export_result(source, tmp_path / name, to="dense")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_weight_that_overflows_leaves_no_file(tmp_path, suffix):
    layer = make_pruned()
    big = make_pruned(seed=1)
    big.weights[:] = np.where(big.mask, 0, 1e6)
    source = write_result(tmp_path / "r.h5", {"a": layer, "b": big})
    target = tmp_path / f"w{suffix}"
    with pytest.raises(InvalidArgumentError, match=r"layer 'b': .*dtype=float16; got .*1e\+06"):
        ql.export_result(source, target, to="dense", dtype="float16")
    assert os.listdir(tmp_path) == ["r.h5"]
    target.write_bytes(b"precious")
    with pytest.raises(InvalidArgumentError, match="overwrite=True"):
        ql.export_result(source, target, to="dense")
    with pytest.raises(InvalidArgumentError, match="must fit"):
        ql.export_result(source, target, to="dense", dtype="float16", overwrite=True)
    assert target.read_bytes() == b"precious" and len(os.listdir(tmp_path)) == 2
    ql.export_result(source, target, to="dense", overwrite=True)
    assert target.read_bytes() != b"precious"


@pytest.mark.parametrize(
    "options, text",
    [
        ({"to": "gguf"}, "to must be one of onnx, safetensors, dense; got to='gguf'"),
        ({"to": "dense", "layout": "gptq"}, "layout must be left out with to='dense'"),
        ({"to": "dense", "accuracy_level": 4}, "accuracy_level must be left out"),
        ({"to": "safetensors", "layout": "awq"}, "layout must be one of compressed-tensors, gptq"),
        ({"to": "dense", "dtype": "int8"}, "dtype must be one of float16"),
        ({"to": "dense", "dtype": np.int8}, "dtype must be one of float16"),
        ({"to": "dense", "dtype": object()}, "dtype must be one of float16"),
        ({"to": "onnx", "dtype": "float16"}, "dtype must be float32 with to='onnx'"),
        ({"to": "onnx", "accuracy_level": 5}, "accuracy_level must be 0 to 4"),
        ({"to": "dense", "names": ["head", "neck"]}, "names must be layers of .*'neck'"),
        ({"to": "dense", "names": []}, "names must be layers of .*at least one; got 'none'"),
        ({"to": "dense"}, "must end in .h5, .npz, .safetensors with to='dense'; got 'out.bin'"),
    ],
)
def test_options_that_do_not_fit(tmp_path, source, options, text):
    with pytest.raises(InvalidArgumentError, match=text):
        ql.export_result(source, tmp_path / "out.bin", **options)
    assert os.listdir(tmp_path) == ["result.h5"]


@pytest.mark.parametrize("to, package", [("onnx", "onnx"), ("safetensors", "safetensors")])
def test_a_missing_package_is_named_with_its_install_line(
    tmp_path, source, monkeypatch, to, package
):
    monkeypatch.setitem(sys.modules, package, None)
    install = rf"(?s)'{package}'.*pip install 'quiplinalg\[{package}\]'"
    with pytest.raises(BackendUnavailableError, match=install):
        ql.export_result(source, tmp_path / "out", to=to, names=["block/q"])
    assert os.listdir(tmp_path) == ["result.h5"]


def test_what_is_no_result_file_is_refused(tmp_path):
    (tmp_path / "bad.h5").write_bytes(b"nothing")
    with pytest.raises((FormatError, OSError)):
        ql.export_result(tmp_path / "bad.h5", tmp_path / "w.npz", to="dense")
    assert os.listdir(tmp_path) == ["bad.h5"]
