"""Exports in the hands of the programs they are for: onnxruntime, compressed-tensors, safetensors.

Skipped where they are not installed; see test_frameworks for what may not be missing.
"""

import json

import numpy as np
import pytest
from export_layers import GROUPED, PROCESSED, make_layer, make_pruned, write_result
from test_frameworks import framework

import quiplinalg as ql
from quiplinalg.errors import InvalidArgumentError

ALL = GROUPED | PROCESSED
PLAIN = [name for name in GROUPED if "rms" not in name]


@pytest.fixture
def export(tmp_path):
    def made(layers, suffix, **options):
        source = write_result(tmp_path / "result.h5", layers)
        target = tmp_path / f"target{suffix}"
        ql.export_result(source, target, overwrite=True, **options)
        source.unlink()
        return str(target)

    return made


def products(path, layers, rows=3):
    """What onnxruntime makes of random inputs, and the exact products."""
    onnxruntime = framework("onnxruntime")
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    inputs = {
        f"{name}.input": rng.standard_normal((rows, q.shape[1])).astype(np.float32)
        for name, q in layers.items()
    }
    assert {i.name for i in session.get_inputs()} == set(inputs)
    found = session.run([f"{name}.output" for name in layers], inputs)
    for (name, q), y in zip(layers.items(), found, strict=True):
        weight = q.__array__(np.dtype(np.float64))
        yield name, y, inputs[f"{name}.input"].astype(np.float64) @ weight.T


def relative(found, expected):
    return np.linalg.norm(found - expected) / (np.linalg.norm(expected) or 1)


@pytest.mark.parametrize("bits", range(1, 9))
def test_onnxruntime_gives_our_product(export, bits):
    onnx = framework("onnx")
    layers = {name: make_layer(bits=bits, **options) for name, options in ALL.items()}
    path = export(layers, ".onnx", to="onnx")
    onnx.checker.check_model(path, full_check=True)
    for name, y, expected in products(path, layers):
        assert y.shape == expected.shape and y.dtype == np.float32
        assert relative(y, expected) < 1e-5, name


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_onnxruntime_computes_in_int8_when_told(export, bits):
    framework("onnx")
    layers = {name: make_layer(bits=bits, **GROUPED[name]) for name in ("row", "act-order groups")}
    path = export(layers, ".onnx", to="onnx", accuracy_level=4)
    for name, y, expected in products(path, layers):
        assert relative(y, expected) < 2e-2, name


def test_onnxruntime_gives_our_product_of_layers_that_were_rounded(export):
    framework("onnx")
    rng = np.random.default_rng(3)
    W = rng.standard_t(4, (48, 96)).astype(np.float32)
    X = rng.standard_normal((300, 96)) * np.exp(rng.standard_normal(96))
    X[:, 7] = 0
    H = X.T @ X
    layers = {
        "ldlq": ql.ldlq(W, H, bits=2, group_size=32, order="act"),
        "quip": ql.quip(W, H, bits=2, rotation="hadamard"),
        "quip both": ql.quip(W, H, bits=3, rotation="kronecker", sides="both", per_tensor=True),
        "pruned": ql.prune_quantize(W, H, bits=4, pattern="2:4"),
    }
    for name, y, expected in products(export(layers, ".onnx", to="onnx"), layers, rows=1):
        assert relative(y, expected) < 1e-5, name


@pytest.mark.parametrize("bits", range(1, 9))
def test_compressed_tensors_gives_our_codes_and_weights(export, bits):
    torch, safe = framework("torch"), framework("safetensors.torch")
    framework("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized.base import PackedQuantizationCompressor
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from compressed_tensors.quantization import QuantizationConfig

    layers = {
        f"block/{name}": make_layer(bits=bits, **GROUPED[name])
        for name in PLAIN
        if "uneven" not in name and not name.startswith(("act-order g", "pruned g"))
    }
    path = export(layers, ".safetensors", to="safetensors")
    tensors = safe.load_file(path)
    settings = QuantizationConfig.model_validate(quantization_config(path))
    assert settings.format == "pack-quantized"
    schemes = {target: s for s in settings.config_groups.values() for target in s.targets}
    assert set(schemes) == {name.replace("/", ".") for name in layers}
    for name, q in layers.items():
        dotted = name.replace("/", ".")
        own = {k[len(dotted) + 1 :]: t for k, t in tensors.items() if k.startswith(dotted + ".")}
        codes = unpack_from_int32(own["weight_packed"], bits, torch.Size(q.shape))
        kept = slice(None) if q.mask is None else ~q.mask
        found = codes.numpy().astype(int) + (1 << (bits - 1))
        np.testing.assert_array_equal(found[kept], q.codes[kept])
        weight = PackedQuantizationCompressor.decompress(own, schemes[dotted])["weight"].numpy()
        assert weight.dtype == q.grid.scale.dtype
        kind = np.dtype(np.float32) if weight.dtype == np.float16 else weight.dtype
        expected = q.__array__(kind).astype(weight.dtype)
        np.testing.assert_array_equal(weight, expected)


def test_compressed_tensors_loads_a_model_by_our_configuration(export):
    torch, safe = framework("torch"), framework("safetensors.torch")
    framework("compressed_tensors")
    from compressed_tensors.compressors.base import compress_module, decompress_module
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config

    layers = {
        "block/q": make_layer(bits=4, group_size=16),
        "block/k": make_layer(bits=2, kind="sym"),
        "head": make_layer(m=16, n=32, bits=3),
    }
    path = export(layers, ".safetensors", to="safetensors")
    model = torch.nn.ModuleDict({"block": torch.nn.ModuleDict()})
    for name, q in layers.items():
        *parents, last = name.split("/")
        parent = model.get_submodule(".".join(parents))
        parent[last] = torch.nn.Linear(*reversed(q.shape), bias=False)
    settings = quantization_config(path) | {"quantization_status": "initialized"}
    apply_quantization_config(model, QuantizationConfig.model_validate(settings))
    modules = {name: model.get_submodule(name.replace("/", ".")) for name in layers}
    for module in modules.values():
        compress_module(module)
    model.load_state_dict(safe.load_file(path), strict=True)
    for name, module in modules.items():
        decompress_module(module)
        np.testing.assert_array_equal(module.weight.detach().numpy(), layers[name].dequantize())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq_tensors_in_torch_give_our_weights(export, bits):
    """As GPTQ's loaders unpack them: word by word, with shifts of int32."""
    torch, safe = framework("torch"), framework("safetensors.torch")
    names = ("row", "row, sym", "tensor", "groups", "act-order groups", "pruned groups")
    layers = {name: make_layer(bits=bits, **GROUPED[name]) for name in names}
    path = export(layers, ".safetensors", to="safetensors", layout="gptq")
    settings = quantization_config(path)
    assert settings["checkpoint_format"] == "gptq_v2" and settings["bits"] == bits
    tensors = safe.load_file(path)

    def unpacked(words):  # along the last axis, 32 codes in `bits` words
        groups = words.reshape(len(words), -1, bits).to(torch.int64) & 0xFFFFFFFF
        codes = []
        for j in range(32):
            word, shift = divmod(j * bits, 32)
            code = groups[..., word] >> shift
            if shift + bits > 32:
                code = code | groups[..., word + 1] << (32 - shift)
            codes.append(code & (2**bits - 1))
        return torch.stack(codes, -1).reshape(len(words), -1)

    for name, q in layers.items():
        own = {key: tensors[f"{name}.{key}"] for key in ("qweight", "qzeros", "scales", "g_idx")}
        codes = unpacked(own["qweight"].T.contiguous())
        zeros, each = unpacked(own["qzeros"]), own["g_idx"].long()
        kept = slice(None) if q.mask is None else ~q.mask
        np.testing.assert_array_equal(codes.numpy()[kept], q.codes[kept])
        weight = own["scales"][each] * (codes.T - zeros[each])
        np.testing.assert_array_equal(weight.T.numpy(), q.dequantize())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_dense_safetensors_in_torch_are_dequantize(export, dtype):
    torch, safe = framework("torch"), framework("safetensors.torch")
    layers = {"block/a": make_layer(**PROCESSED["both sides"]), "b": make_pruned()}
    tensors = safe.load_file(export(layers, ".safetensors", to="dense", dtype=dtype))
    assert set(tensors) == {"block.a.weight", "b.weight"}
    for name, layer in layers.items():
        dense = layer.dense() if isinstance(layer, ql.Pruned) else layer.dequantize()
        found = tensors[name.replace("/", ".") + ".weight"]
        assert found.dtype == getattr(torch, dtype)
        assert torch.equal(found, torch.from_numpy(dense).to(found.dtype))


def test_safetensors_in_numpy_are_in_c_order(export):
    """safetensors writes strided arrays in the order of their memory, whatever their shape."""
    load = framework("safetensors.numpy").load_file
    q = make_layer(m=64, n=32, bits=8, group_size=16)
    tensors = load(export({"a": q}, ".safetensors", to="safetensors", layout="gptq"))
    np.testing.assert_array_equal(tensors["a.scales"], q.grid.scale.T)
    packed = np.ascontiguousarray(tensors["a.qweight"].T).view(np.uint8)
    np.testing.assert_array_equal(packed, q.codes)


@pytest.mark.parametrize(
    "to, layout", [("onnx", None), ("safetensors", "compressed-tensors"), ("safetensors", "gptq")]
)
def test_the_same_layers_are_the_same_bytes(tmp_path, to, layout):
    """safetensors itself writes the metadata in an order that changes with every call."""
    framework(to)
    source = write_result(tmp_path / "r.h5", {"a": make_layer(), "b": make_layer(bits=2)})
    images = set()
    for _ in range(8):
        ql.export_result(source, tmp_path / "t", to=to, layout=layout, overwrite=True)
        images.add((tmp_path / "t").read_bytes())
    assert len(images) == 1


@pytest.mark.parametrize("to, package", [("onnx", "onnx"), ("safetensors", "safetensors")])
def test_a_layer_that_does_not_fit_is_named_and_leaves_no_file(tmp_path, to, package):
    framework(package)
    source = write_result(tmp_path / "r.h5", {"a": make_layer(), "block/pruned": make_pruned()})
    with pytest.raises(InvalidArgumentError, match=r"(?s)'block[/.]pruned'.*to='dense'.*--exclude"):
        ql.export_result(source, tmp_path / "t", to=to)
    source = write_result(tmp_path / "s.h5", {"a": make_layer(), "block/q": make_layer(m=0)})
    with pytest.raises(InvalidArgumentError, match=r"(?s)'block[/.]q'.*to='dense'"):
        ql.export_result(source, tmp_path / "t", to=to)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.h5", "s.h5"]


def test_names_that_become_one_are_refused(tmp_path):
    framework("safetensors")
    source = write_result(tmp_path / "r.h5", {"a/b": make_layer(), "a.b": make_layer()})
    for to in ("safetensors", "dense"):
        with pytest.raises(InvalidArgumentError, match=r"'a\.b' twice"):
            ql.export_result(source, tmp_path / "t.safetensors", to=to)


def quantization_config(path):
    """What the header of a safetensors file says about its tensors."""
    with framework("safetensors").safe_open(path, "np") as file:
        return json.loads(file.metadata()["quantization_config"])
