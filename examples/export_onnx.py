"""ONNX: the inputs of the MatMul and Gemm nodes become outputs, and onnxruntime computes them.

Works for any ``onnx.load("model.onnx")`` below 2 GB whose weights are initializers; here a
perceptron trained by scikit-learn.

Usage: ``python examples/export_onnx.py digits.h5``; needs onnx, onnxruntime and scikit-learn.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import train_digits
from onnx import numpy_helper
from walkthrough import batches, main

import quiplinalg as ql

GRAPH = """<ir_version: 9, opset_import: ["": 17]>
digits (float[N, 64] pixels) => (float[N, 10] logits) {
    z0 = MatMul(pixels, weight0)
    s0 = Add(z0, bias0)
    x1 = Relu(s0)
    s1 = Gemm <transB = 1> (x1, weight1, bias1)
    x2 = Relu(s1)
    logits = Gemm <transB = 1> (x2, weight2, bias2)
}"""


def build(arrays: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Return the graph with these arrays as its initializers."""
    model = onnx.parser.parse_model(GRAPH)
    model.graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    return model


def train(x: np.ndarray, y: np.ndarray) -> onnx.ModelProto:
    arrays = {}
    for k, (weight, bias) in enumerate(train_digits.train(16 * x, y)):
        arrays |= {f"weight{k}": weight, f"bias{k}": bias}
    arrays["weight0"] = np.ascontiguousarray(arrays["weight0"].T)  # (in, out), for the MatMul
    return build(arrays)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def predict(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return session(model).run(["logits"], {"pixels": x})[0]


def matrices(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    """For each weight of a MatMul or Gemm: the name of what it multiplies, its orientation."""
    weights = {array.name for array in model.graph.initializer if len(array.dims) == 2}
    found = {}
    for node in model.graph.node:
        if node.op_type in ("MatMul", "Gemm") and node.input[1] in weights:
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            found[node.input[1]] = node.input[0], "out_in" if transposed else "in_out"
    return found


def export(model: onnx.ModelProto, x: np.ndarray, file: ql.ProblemWriter) -> None:
    found = matrices(model)
    names = sorted({inputs for inputs, _ in found.values()})  # one Hessian for each tensor
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    watch = session(watched)
    hessians: dict[str, ql.Hessian] = {}
    for batch in batches(x):
        for name, rows in zip(names, watch.run(names, {"pixels": batch}), strict=True):
            if name not in hessians:
                hessians[name] = ql.Hessian(rows.shape[-1])
            hessians[name].add(rows)

    arrays = {array.name: numpy_helper.to_array(array) for array in model.graph.initializer}
    for weight, (inputs, orientation) in found.items():
        file.add(weight, arrays.pop(weight), hessians[inputs], orientation=orientation)
    for name, array in arrays.items():  # biases and all else: kept as they are
        file.add_array(name, array)


def put_back(problem: ql.ProblemReader, result: ql.ResultReader) -> onnx.ModelProto:
    arrays = {name: problem.array(name) for name in problem.arrays}
    for name in result.names:
        W = result.layer(name).dequantize()  # (out, in), whatever the orientation was
        arrays[name] = W if problem.info(name).orientation == "out_in" else W.T
    return build(arrays)


if __name__ == "__main__":
    main(train, predict, export, put_back)
