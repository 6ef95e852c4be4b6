"""NumPy: whatever has weights and lets you compute the inputs of its layers; here scikit-learn.

Works for anything: a layer is a matrix W (out, in) or (in, out), and the rows x that it multiplies.

Usage: ``python examples/export_numpy.py digits.h5``; needs scikit-learn.
"""

from __future__ import annotations

import numpy as np
import train_digits
from walkthrough import batches, main

import quiplinalg as ql

Layers = list[tuple[np.ndarray, np.ndarray]]  # weight (out, in) and bias of each


def train(x: np.ndarray, y: np.ndarray) -> Layers:
    return train_digits.train(16 * x, y)  # it takes pixels from 0 to 16


def forward(layers: Layers, x: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the inputs of each layer, and the logits."""
    inputs = []
    for weight, bias in layers:
        inputs.append(x)
        z = x @ weight.T + bias
        x = np.maximum(z, 0)
    return inputs, z


def predict(layers: Layers, x: np.ndarray) -> np.ndarray:
    return forward(layers, x)[1]


def export(layers: Layers, x: np.ndarray, file: ql.ProblemWriter) -> None:
    hessians = [ql.Hessian(weight.shape[1]) for weight, _ in layers]
    for batch in batches(x):
        for H, rows in zip(hessians, forward(layers, batch)[0], strict=True):
            H.add(rows)
    for k, (weight, bias) in enumerate(layers):
        file.add(f"dense{k}", weight, hessians[k])
        file.add_array(f"bias{k}", bias)


def put_back(problem: ql.ProblemReader, result: ql.ResultReader) -> Layers:
    count = len(problem.names)
    return [
        (result.layer(f"dense{k}").dequantize(), problem.array(f"bias{k}")) for k in range(count)
    ]


if __name__ == "__main__":
    main(train, predict, export, put_back)
