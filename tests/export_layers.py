"""Layers with every feature that a result file can have, of random codes: nothing is rounded."""

import numpy as np

from quiplinalg.files import ResultWriter
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.incoherence.hadamard import hadamard_orthogonal
from quiplinalg.incoherence.kronecker import kronecker_orthogonal
from quiplinalg.incoherence.process import Processing
from quiplinalg.pruning.result import Pruned
from quiplinalg.results import Quantized

KINDS = {"asym": None, "sym": lambda bits: 2.0 ** (bits - 1), "rms": lambda bits: (2**bits - 1) / 2}


def make_layer(
    m=32, n=64, bits=4, *, group_size=None, act=False, kind="asym", rows=None, pruned=0.0,
    rotation=None, output=None, rescale=False, dead=(), dtype=np.float32, seed=0,
):  # fmt: skip
    """A layer; ``act``: groups in the order of a permutation; ``rotation``: its maker."""
    rng = np.random.default_rng(seed)
    groups = 1 if group_size is None else -(-n // group_size)
    index = None
    permutation = rng.permutation(n) if act else None
    if groups > 1:
        index = (np.arange(n) // group_size).astype(np.int32)
        if act:
            index[permutation] = index.copy()
    shape = (m if rows is None else rows, groups)
    middle = KINDS[kind]
    zero = rng.integers(0, 2**bits, shape) if middle is None else np.full(shape, middle(bits))
    grid = UniformGrid(
        scale=rng.uniform(0.05, 0.1, shape).astype(dtype),
        zero=zero.astype(dtype), bits=bits, group_index=index, kind=kind,
    )  # fmt: skip
    scales = np.exp(rng.standard_normal(n)).astype(np.float16).astype(np.float64)
    parts = (
        scales if rescale else None,
        None if rotation is None else rotation(n, seed),
        None if output is None else output(m, seed + 1),
    )
    processing = Processing((m, n), *parts)
    return Quantized(
        codes=rng.integers(0, 2**bits, (m, n)).astype(np.uint8), grid=grid, method="ldlq",
        rounding="nearest", order="act" if act else "natural", permutation=permutation, loss=1.0,
        trace_D=1.0, damp=0.0, dead=np.array(dead, np.int64), near_tie_rows=0, clipped=0.0,
        processing=None if processing.is_nothing else processing,
        mask=rng.random((m, n)) < pruned if pruned else None,
    )  # fmt: skip


def make_pruned(m=6, n=10, seed=0):
    """A pruned layer: weights, and no codes."""
    rng = np.random.default_rng(seed)
    mask = rng.random((m, n)) < 0.5
    weights = np.where(mask, 0, rng.standard_normal((m, n))).astype(np.float32)
    return Pruned(weights, mask, "unstructured", "obs", 1.0, 0.0, np.empty(0, np.int64))


GROUPED = {
    "row": {},
    "row, sym": {"kind": "sym"},
    "row, rms": {"kind": "rms"},
    "row, odd width": {"m": 7, "n": 45},
    "row, wide": {"m": 5, "n": 600},
    "narrow": {"m": 3, "n": 5},
    "single": {"m": 1, "n": 1},
    "tensor": {"rows": 1},
    "groups": {"group_size": 16, "n": 96},
    "small groups": {"group_size": 8},
    "uneven groups": {"group_size": 24, "n": 80},
    "uneven groups, rms": {"group_size": 24, "n": 80, "kind": "rms"},
    "act-order groups": {"group_size": 16, "act": True},
    "act-order, uneven": {"group_size": 12, "n": 50, "act": True},
    "act-order, rms": {"group_size": 16, "act": True, "kind": "rms"},
    "act-order, static groups": {"act": True},
    "pruned": {"pruned": 0.5},
    "pruned groups": {"pruned": 0.5, "group_size": 16, "act": True},
    "half scales": {"dtype": np.float16},
    "double scales": {"dtype": np.float64},
}
PROCESSED = {
    "rescaled": {"rescale": True},
    "hadamard": {"rotation": hadamard_orthogonal, "rescale": True, "kind": "rms"},
    "hadamard, large": {"rotation": hadamard_orthogonal, "n": 4096, "m": 4, "kind": "rms"},
    "hadamard, odd factor": {"rotation": hadamard_orthogonal, "n": 96},
    "hadamard, two windows": {"rotation": hadamard_orthogonal, "n": 514, "kind": "rms"},
    "kronecker, dense": {"rotation": kronecker_orthogonal, "n": 60, "dead": (3, 7)},
    "kronecker": {"rotation": kronecker_orthogonal, "n": 192, "rescale": True, "dead": (0, 191)},
    "kronecker, two windows": {"rotation": kronecker_orthogonal, "n": 262, "kind": "rms"},
    "both sides": {
        "rotation": hadamard_orthogonal, "output": kronecker_orthogonal, "rescale": True,
        "m": 158, "n": 134, "dead": (5,), "kind": "rms",
    },
    "both, two windows": {
        "rotation": kronecker_orthogonal, "output": hadamard_orthogonal, "m": 262, "n": 64,
        "group_size": 16, "act": True,
    },
}  # fmt: skip


def write_result(path, layers):
    """Write a result file of named layers; return its path."""
    with ResultWriter(path) as writer:
        for name, layer in layers.items():
            writer.add(name, layer)
    return path
