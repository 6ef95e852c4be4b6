"""An ONNX model of the layers: MatMulNBits, with nodes for whatever else there is.

The model has an input ``<layer>.input`` (rows, n) and an output ``<layer>.output`` (rows, m),
float32, for every layer; the layers do not depend on each other.  A layer is, each node only where
it is needed::

    Mul                        dead inputs, rescaling, and the signs of the rotation
    Reshape, MatMul, ...       the rotation of the inputs
    Pad, Gather                inputs in the order of their groups
    MatMulNBits                com.microsoft, for onnxruntime 1.27 or newer
    ReduceSum, MatMul, Sub     what is left of zeros that are not whole numbers
    Reshape, MatMul, ...       the rotation of the outputs, back

Codes of 3 bits take 4, and those of 5 to 7 bits 8.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.export.blocks import Blocks, lay_out
from quiplinalg.export.codes import integer_codes, naming
from quiplinalg.export.extras import require
from quiplinalg.export.onnx_graph import Graph, rotated
from quiplinalg.export.target import new_file
from quiplinalg.results import Quantized

__all__ = ["write_onnx"]

_OPSET, _IR = 17, 8
_LARGEST = 2**31 - 2**20  # bytes of a model in one file, by protobuf


def write_onnx(
    target: Path,
    layers: Iterable[tuple[str, Quantized]],
    accuracy_level: int,
    overwrite: bool,
) -> None:
    """Write the ONNX model of some layers, which are read one after the other.

    Raises
    ------
    InvalidArgumentError
        An unbounded grid, a layer without weights, more than 2 GiB.
    BackendUnavailableError
        onnx is not installed.
    """
    onnx = require("onnx", "onnx")
    model = onnx.ModelProto(ir_version=_IR, producer_name="quiplinalg")
    for domain, version in (("", _OPSET), ("com.microsoft", 1)):
        model.opset_import.add(domain=domain, version=version)
    whole = model.graph
    whole.name = "quiplinalg"
    size = 0
    for name, q in layers:
        graph = Graph(onnx, name)
        with naming(name):
            _layer(graph, f"{name}.input", q, accuracy_level)
        graph.nodes[-1].output[0] = f"{name}.output"
        whole.node.extend(graph.nodes)
        whole.initializer.extend(graph.constants)
        m, n = q.shape
        whole.input.append(_matrix(onnx, f"{name}.input", n))
        whole.output.append(_matrix(onnx, f"{name}.output", m))
        size += sum(constant.ByteSize() for constant in graph.constants)
        if size > _LARGEST:
            raise InvalidArgumentError(
                f"an ONNX model must be smaller than 2 GiB; got more at layer {name!r}. Export "
                "fewer layers to each file: names=..., or --include."
            )
    with new_file(target, overwrite) as file:
        file.write(model.SerializeToString())


def _matrix(onnx: Any, name: str, width: int) -> Any:
    """A float32 input or output of any number of rows."""
    kind = onnx.TensorProto.FLOAT
    return onnx.helper.make_tensor_value_info(name, kind, ["rows", width])


def _layer(graph: Graph, x: str, q: Quantized, accuracy_level: int) -> None:
    """Add the nodes of x -> W_hat x; the last one has the result."""
    processing = q.processing
    if processing is not None:
        scales = None if processing.scales is None else 1 / processing.scales
        if processing.input is not None:
            scales = np.ones(q.shape[1]) if scales is None else scales.copy()
            scales[q.dead] = 0
            x = rotated(graph, x, processing.input, scales)
        elif scales is not None:
            x = graph.times(x, scales)
    y = _product(graph, x, lay_out(integer_codes(q)), q.shape, accuracy_level)
    if processing is not None and processing.output is not None:
        rotated(graph, y, processing.output, back=True)


def _product(
    graph: Graph, x: str, blocks: Blocks, shape: tuple[int, int], accuracy_level: int
) -> str:
    """Multiply every row by the matrix on the grid."""
    m, n = shape
    if blocks.columns is not None:
        if n in blocks.columns:  # a zero after the last input
            x = graph.node("Pad", x, graph.constant(np.array([0, 0, 0, 1], np.int64)))
        x = graph.gather(x, blocks.columns)
    arrays = [blocks.codes, blocks.scale] + ([] if blocks.zero is None else [blocks.zero])
    y = graph.node(
        "MatMulNBits", x, *map(graph.constant, arrays), domain="com.microsoft",
        K=n if blocks.columns is None else len(blocks.columns), N=m, bits=blocks.bits,
        block_size=blocks.size, accuracy_level=accuracy_level,
    )  # fmt: skip
    if blocks.rest is None:
        return y
    parts = graph.reshape(x, (-1, blocks.rest.shape[1], blocks.size))
    sums = graph.node("ReduceSum", parts, graph.constant(np.array([2], np.int64)), keepdims=0)
    return graph.node("Sub", y, graph.node("MatMul", sums, graph.constant(blocks.rest.T)))
