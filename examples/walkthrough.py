"""What the exporters beside it share: the digits, and one command line for both directions.

``python export_torch.py digits.h5`` trains a small model and writes its problem file;
``python export_torch.py digits.h5 --quantized digits-4bit.h5`` puts the rounded weights into the
model and says what they cost.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from train_digits import load

import quiplinalg as ql

__all__ = ["batches", "digits", "main"]


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return pixels (N, 64) in float32, 0 to 1, and labels (N,): 1347 to train, 450 held out."""
    x, y, x_test, y_test = load()
    return np.float32(x / 16), y.astype(np.int64), np.float32(x_test / 16), y_test.astype(np.int64)


def batches(x: np.ndarray, size: int = 256) -> list[np.ndarray]:
    """Cut x into batches; where the cuts are does not change a Hessian."""
    return [x[start : start + size] for start in range(0, len(x), size)]


def main(
    train: Callable[[np.ndarray, np.ndarray], Any],
    predict: Callable[[Any, np.ndarray], np.ndarray],
    export: Callable[[Any, np.ndarray, ql.ProblemWriter], None],
    put_back: Callable[[ql.ProblemReader, ql.ResultReader], Any],
) -> None:
    """Run the command line of an exporter.

    Parameters
    ----------
    train : (pixels, labels) -> model
    predict : (model, pixels) -> logits (N, 10)
    export : (model, pixels, open problem file) -> None
        Writes the weights, the Hessians of their inputs, and all else that the model is made of.
    put_back : (problem file, result file) -> model
        The model of the problem file with the rounded weights of the result file.
    """
    script = sys.argv[0]
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__.splitlines()[0])
    parser.add_argument("problem", metavar="IN.h5", help="the problem file: weights and Hessians")
    parser.add_argument("--quantized", metavar="OUT.h5", help="put these weights into the model")
    args = parser.parse_args()
    x, y, x_test, y_test = digits()

    if args.quantized:
        with ql.open_problem(args.problem) as problem, ql.open_result(args.quantized) as result:
            model = put_back(problem, result)
    else:
        with ql.ProblemWriter(args.problem) as file:
            model = train(x, y)
            export(model, x, file)
    right = predict(model, x_test).argmax(axis=1) == y_test
    print(f"held-out accuracy: {100 * right.mean():.2f} %")

    if not args.quantized:
        source, target = shlex.quote(args.problem), "quantized.h5"
        print(f"\nNext:\n  quiplinalg inspect {source}")
        print(f"  quiplinalg quantize {source} {target} --bits 4")
        print(f"  python {shlex.quote(script)} {source} --quantized {target}")
