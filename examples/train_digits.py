"""Train the small digits network behind the quickstart and write it as one problem file.

The 8 x 8 handwritten digits ship with scikit-learn (UCI, "Optical Recognition of Handwritten
Digits", E. Alpaydin and C. Kaynak, CC BY 4.0).  A multilayer perceptron 64 -> 128 -> 64 -> 10 is
trained on 1347 of them; the other 450 are held out, stratified.  For each layer the file has the
weight (out, in) and H = mean x x^T over the layer's inputs on the TRAINING digits, accumulated in
float64; the held-out digits go along, to see what rounding costs on data it never saw.

Usage: ``python examples/train_digits.py [--overwrite] [digits.h5]``; needs scikit-learn.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from quiplinalg.files import ProblemWriter

HIDDEN = (128, 64)
SEED = 0
HELD_OUT = 450


def load() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return train and held-out pixels (uint8, 0..16) and labels (uint8), split by class."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    x, x_test, y, y_test = train_test_split(
        pixels.astype(np.uint8),
        labels.astype(np.uint8),
        test_size=HELD_OUT,
        random_state=SEED,
        stratify=labels,
    )
    return x, y, x_test, y_test


def train(x: np.ndarray, y: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (weight (out, in), bias (out,)) of each layer in float32, trained with Adam."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    net = MLPClassifier(HIDDEN, alpha=1e-4, max_iter=60, learning_rate_init=2e-3, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        net.fit(x / 16, y)
    return [
        (np.ascontiguousarray(w.T, dtype=np.float32), b.astype(np.float32))
        for w, b in zip(net.coefs_, net.intercepts_, strict=True)
    ]


def forward(layers: list[tuple[np.ndarray, np.ndarray]], pixels: np.ndarray) -> list[np.ndarray]:
    """Return the inputs of every layer and, last, the logits, in float32."""
    values = [pixels.astype(np.float32) / 16]
    for k, (weight, bias) in enumerate(layers):
        z = values[-1] @ weight.T + bias
        values.append(z if k == len(layers) - 1 else np.maximum(z, 0))
    return values


def accuracy(
    layers: list[tuple[np.ndarray, np.ndarray]], pixels: np.ndarray, labels: np.ndarray
) -> float:
    """Return the share of right answers."""
    return float(np.mean(forward(layers, pixels)[-1].argmax(axis=1) == labels))


def nearest(weight: np.ndarray, bits: int) -> np.ndarray:
    """Round each row to a min-max grid of 2**bits levels, with no regard to H."""
    low = weight.min(axis=1, keepdims=True)
    step = (weight.max(axis=1, keepdims=True) - low) / (2**bits - 1)
    return low + step * np.rint((weight - low) / step)


def main() -> None:
    """Train, write the problem file, and print what nearest rounding does to the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", nargs="?", default="digits.h5", type=Path)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing file")
    args = parser.parse_args()
    path = args.path

    # One BLAS thread: the order of the sums, and so the file, must not depend on the machine's
    # number of cores.  scikit-learn's own libraries load in the first call.
    x, y, x_test, y_test = load()
    with threadpool_limits(1):
        layers = train(x, y)
        inputs = forward(layers, x)

    with ProblemWriter(path, overwrite=args.overwrite) as out:
        for k, (weight, bias) in enumerate(layers):
            a = inputs[k].astype(np.float64)
            with threadpool_limits(1):
                hessian = (a.T @ a / len(a)).astype(np.float32)
            # A product of BLAS is symmetric up to rounding only; the file's H is exactly so.
            hessian = np.tril(hessian) + np.tril(hessian, -1).T
            out.add(f"dense{k}", weight, hessian, n_samples=len(a), normalization="mean")
            out.add_array(f"dense{k}_bias", bias)
        out.add_array("heldout_inputs", x_test)
        out.add_array("heldout_labels", y_test)

    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB, layers {[w.shape for w, _ in layers]}")
    print(f"held-out accuracy, float32:           {accuracy(layers, x_test, y_test):.4f}")
    for bits in (4, 3, 2):
        rounded = [(nearest(w, bits), b) for w, b in layers]
        print(f"held-out accuracy, nearest at {bits} bits: {accuracy(rounded, x_test, y_test):.4f}")


if __name__ == "__main__":
    main()
