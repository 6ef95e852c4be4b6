"""Nodes of an ONNX graph, and rotations made of them: Reshape and MatMul, never n x n."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from quiplinalg.incoherence.rotation import Rotation

__all__ = ["Graph", "rotated"]

_LARGEST = 32  # Walsh-Hadamard matrix of one MatMul; larger ones are products of these


class Graph:
    """The nodes and constants of one layer; every name starts with the layer's."""

    def __init__(self, onnx: Any, layer: str):
        self._onnx, self._layer = onnx, layer
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Any) -> str:
        """Add a constant; return its name."""
        name = f"{self._layer}.constant{len(self.constants)}"
        values = np.ascontiguousarray(array)
        self.constants.append(self._onnx.numpy_helper.from_array(values, name))
        return name

    def node(self, kind: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; return the name of that."""
        name = f"{self._layer}.{kind}{len(self.nodes)}"
        make = self._onnx.helper.make_node
        self.nodes.append(make(kind, inputs, [name], name=name, domain=domain, **attributes))
        return name

    def times(self, x: str, factors: np.ndarray) -> str:
        """Multiply every column by its factor."""
        return self.node("Mul", x, self.constant(factors.astype(np.float32)))

    def gather(self, x: str, columns: np.ndarray) -> str:
        """Take these columns."""
        return self.node("Gather", x, self.constant(columns.astype(np.int64)), axis=1)

    def reshape(self, x: str, shape: Sequence[int]) -> str:
        """Lay out the same numbers in another shape."""
        return self.node("Reshape", x, self.constant(np.array(shape, np.int64)))

    def part(self, x: str, start: int, stop: int) -> str:
        """Take the columns from ``start`` to ``stop``."""
        edges = [self.constant(np.array([value], np.int64)) for value in (start, stop, 1)]
        return self.node("Slice", x, *edges)


def rotated(
    graph: Graph, x: str, rotation: Rotation, scales: np.ndarray | None = None, back: bool = False
) -> str:
    """Return Q diag(scales) x for every row x; with ``back``, Q^T x."""
    n, order = rotation.n, rotation.permutation
    moves = not np.array_equal(order, np.arange(n))
    signs = rotation.signs.astype(np.float64)
    if not back:
        x = graph.gather(x, order) if moves else x
        x = graph.times(x, signs if scales is None else signs * scales[order])
    steps = list(enumerate(rotation.windows))
    for number, window in reversed(steps) if back else steps:
        before = sum(len(w.sizes) for w in rotation.windows[:number])
        factors = rotation.factors[before : before + len(window.sizes)]
        matrices = [*_walsh(window.walsh), *factors]
        inner = rotation.inner_signs if number else None
        x = _window(graph, x, (window.start, window.length, n), matrices, inner, back)
    if back:
        x = graph.times(x, signs)
        x = graph.gather(x, np.argsort(order)) if moves else x
    return x


def _window(
    graph: Graph,
    x: str,
    place: tuple[int, int, int],
    matrices: list[np.ndarray],
    signs: np.ndarray | None,
    back: bool,
) -> str:
    """Rotate some consecutive columns."""
    start, length, n = place
    end = start + length
    middle = x if length == n else graph.part(x, start, end)
    if signs is not None and not back:
        middle = graph.times(middle, signs)
    middle = _kronecker(graph, middle, [M.T for M in matrices] if back else matrices)
    if signs is not None and back:
        middle = graph.times(middle, signs)
    sides = [graph.part(x, 0, start)] if start else []
    sides += [middle] + ([graph.part(x, end, n)] if end < n else [])
    return middle if len(sides) == 1 else graph.node("Concat", *sides, axis=1)


def _kronecker(graph: Graph, x: str, matrices: list[np.ndarray]) -> str:
    """Multiply every row by M_0 kron M_1 kron ..., one axis after the other."""
    length = inner = int(np.prod([len(M) for M in matrices], dtype=np.int64))
    for M in matrices:
        inner //= len(M)
        if inner > 1:
            x = graph.reshape(x, (-1, len(M), inner))
            x = graph.node("MatMul", graph.constant(M.astype(np.float32)), x)
        else:
            x = graph.reshape(x, (-1, len(M)))
            x = graph.node("MatMul", x, graph.constant(M.T.astype(np.float32)))
    return graph.reshape(x, (-1, length))


def _walsh(order: int) -> list[np.ndarray]:
    """Normalised Walsh-Hadamard matrices whose Kronecker product has this order, a power of two."""
    from scipy.linalg import hadamard

    sizes = []
    while order > 1:
        sizes.append(min(order, _LARGEST))
        order //= sizes[-1]
    return [hadamard(size) / np.sqrt(size) for size in sizes]
