"""The nodes of a rotation, carried out by NumPy: no onnx is needed."""

import numpy as np
import pytest

from quiplinalg.export.onnx_graph import Graph, rotated
from quiplinalg.incoherence.hadamard import hadamard_orthogonal
from quiplinalg.incoherence.kronecker import kronecker_orthogonal


class Eager(Graph):
    """A graph whose names are arrays: every node is carried out when it is added."""

    def __init__(self):
        self.kinds, self.largest = [], 0

    def constant(self, array):
        self.largest = max(self.largest, np.asarray(array).size)
        return np.asarray(array)

    def node(self, kind, *inputs, axis=None):
        self.kinds.append(kind)
        if kind == "Slice":
            x, start, stop, along = inputs
            assert along == [1]
            return x[:, start[0] : stop[0]]
        return {
            "Mul": np.multiply, "MatMul": np.matmul, "Reshape": np.reshape,
            "Gather": lambda x, columns: np.take(x, columns, axis),
            "Concat": lambda *parts: np.concatenate(parts, axis),
        }[kind](*inputs)  # fmt: skip


SIZES = (1, 2, 3, 16, 44, 64, 96, 127, 134, 262, 514, 1024, 4096)


@pytest.mark.parametrize("make", [hadamard_orthogonal, kronecker_orthogonal])
@pytest.mark.parametrize("n", SIZES)
def test_rotations_are_those_of_the_library(make, n):
    rng = np.random.default_rng(n)
    X, scales, rotation = rng.standard_normal((3, n)), rng.uniform(0.5, 2, n), make(n, seed=5)
    for scaled in (None, scales):
        graph = Eager()
        found = rotated(graph, X, rotation, scaled)
        expected = rotation.apply(X, scales=scaled)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
        assert graph.largest <= max(128**2, n)  # never n x n
    back = rotated(Eager(), X, rotation, back=True)
    expected = rotation.apply_transposed(X)
    np.testing.assert_allclose(back, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_what_is_not_needed_is_not_there():
    graph = Eager()
    rotated(graph, np.ones((1, 1024)), hadamard_orthogonal(1024, 0))
    assert graph.kinds == ["Mul", "Reshape", "MatMul", "Reshape", "MatMul", "Reshape"]
