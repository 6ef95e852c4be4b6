"""``quiplinalg demo``: the main job on a small real network that ships with the package."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    OK,
    Parser,
    UsageError,
    decibels,
    format_bytes,
    format_db,
    print_table,
)

if TYPE_CHECKING:
    import numpy as np

    from quiplinalg.files import ProblemReader

__all__ = ["ABOUT", "accuracy", "add_arguments", "run"]

ABOUT = {
    "description": "Quantise a small network trained on handwritten digits with nearest, gptq, "
    "ldlq and quip at 4, 3 and 2 bits, print what each costs, and draw it."
}

_METHODS: dict[str, dict[str, Any]] = {
    "nearest": {"clip": "minmax"},
    "gptq": {"clip": "minmax", "order": "natural"},  # the plain algorithm
    "ldlq": {"clip": "best"},
    "quip": {"refine": None},
}
_BITS = (4, 3, 2)


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--output",
        metavar="FILE.h5",
        default="quiplinalg-demo.h5",
        help="where the 2-bit result is left; default: ./quiplinalg-demo.h5",
    )
    parser.add_argument(
        "--picture",
        metavar="FILE.html",
        help="where the picture is left; default: beside the result, with the ending .html",
    )


def run(options: Any) -> int:
    """Run the command."""
    from pathlib import Path

    import quiplinalg
    from quiplinalg.files import open_problem

    assert quiplinalg.__file__ is not None
    data = Path(quiplinalg.__file__).parent / "data" / "digits.h5"
    picture = options.picture or os.path.splitext(options.output)[0] + ".html"
    _check_place("--output", options.output)
    _check_place("--picture", picture)
    if os.path.realpath(picture) == os.path.realpath(options.output):
        raise UsageError(
            f"--picture must be another file than --output; got {picture!r} for both. "
            "Choose another name"
        )
    _check_output(options.output)
    _check_picture(picture)
    print(
        "Handwritten digits (UCI, E. Alpaydin and C. Kaynak, CC BY 4.0): a network of 3 dense "
        "layers,\nits Hessians from the training digits, accuracy on 450 held-out ones."
    )
    sys.stdout.flush()
    from quiplinalg.cli.warmup import warm

    warm(("float32",))
    with open_problem(data) as problem:
        losses = _compare(problem, options.output)
        _draw(problem, losses, picture)
    command = os.path.basename(sys.argv[0] or "quiplinalg")
    shown = _shown(options.output)
    size = format_bytes(os.path.getsize(options.output))
    print(f"\nThe 2-bit quip result is in {os.path.abspath(options.output)} ({size}),")
    print(f"a picture of weights and losses in {os.path.abspath(picture)}. Next:")
    for line in (f"verify {_shown(str(data))} {shown}", f"inspect {shown}", "quantize --help"):
        print(f"  {command if command.startswith('quiplinalg') else 'quiplinalg'} {line}")
    return OK


def _shown(path: str) -> str:
    """The path as it can be typed into a shell, relative where that is shorter."""
    import shlex

    relative = os.path.relpath(path)
    return shlex.quote(relative if len(relative) < len(os.path.abspath(path)) else path)


def _check_output(path: str) -> None:
    """Only a result file may be replaced without being asked to."""
    if not os.path.exists(path):
        return
    from quiplinalg.errors import QuipLinalgError
    from quiplinalg.files import open_result

    try:
        with open_result(path) as result:
            ours = result.names == ("dense0", "dense1", "dense2")
    except QuipLinalgError:
        ours = False
    if not ours:
        raise UsageError(
            f"--output must be new or an earlier demo's file; got {path!r}, which is neither. "
            "Choose another name"
        )


def _check_place(option: str, path: str) -> None:
    folder = os.path.dirname(os.path.realpath(path))
    if not os.path.isdir(folder):
        raise UsageError(
            f"{option} must be in an existing directory; got {path!r}. Create {folder!r} first"
        )


def _check_picture(path: str) -> None:
    from quiplinalg.cli.picture import is_picture

    if os.path.exists(path) and not is_picture(path):
        raise UsageError(
            f"--picture must be new or an earlier demo's picture; got {path!r}, which is neither. "
            "Choose another name"
        )


def _compare(problem: ProblemReader, output: str) -> list[tuple[str, int, float]]:
    """Print the table, write the last result; return (method, bits, dB) of each row."""
    import quiplinalg as ql
    from quiplinalg.files import ResultWriter

    layers = {name: (problem.weight(name), problem.hessian(name)) for name in problem.names}
    energy = sum(ql.proxy_loss(0 * W, W, H) for W, H in layers.values())
    before = accuracy(problem, {name: W for name, (W, _) in layers.items()})
    rows: list[tuple[object, ...]] = []
    losses: list[tuple[str, int, float]] = []
    for bits in _BITS:
        for method, keywords in _METHODS.items():
            started = time.perf_counter()
            function = getattr(ql, method)
            found = {n: function(W, H, bits=bits, **keywords) for n, (W, H) in layers.items()}
            seconds = time.perf_counter() - started
            loss = sum(q.loss for q in found.values())
            size = sum(q.bits_per_weight * q.codes.size / 8 for q in found.values())
            losses.append((method, bits, decibels(loss, energy)))
            after = accuracy(problem, {name: q.dequantize() for name, q in found.items()})
            rows.append(
                (method, bits, f"{size:.0f}", f"{loss / energy:.2e}",
                 format_db(decibels(loss, energy)), f"{before:.1%}", f"{after:.1%}",
                 f"{seconds:.3f}")
            )  # fmt: skip
    with ResultWriter(output, overwrite=True) as writer:  # of the last: quip at 2 bits
        for name, q in found.items():
            writer.add(name, q, weight_energy=ql.proxy_loss(0 * layers[name][0], *layers[name]))
    print_table(
        ("method", "bits", "bytes", "loss/tr(WHW')", "dB", "acc. before", "after", "seconds"), rows
    )
    floats = sum(W.size * 4 for W, _ in layers.values())
    print(
        f"bytes: codes, scales, zeros and rotations ({floats} in float32). nearest and gptq: "
        "min-max grids,\nnatural order; ldlq: columns of large H first, and of each row the better "
        "of a clipped and a min-max\ngrid; quip: rotated where that pays, and coordinate "
        "descent to a fixed point."
    )
    return losses


def _draw(problem: ProblemReader, losses: list[tuple[str, int, float]], path: str) -> None:
    import quiplinalg as ql
    from quiplinalg.cli.picture import Magnitudes, write_picture

    layers = []
    for name in problem.names:
        W, H = problem.weight(name), problem.hessian(name)
        W2, H2, _ = ql.incoherence_process(W, H)
        weights = ql.mu_weight(W), ql.mu_weight(W2)
        hessians = ql.mu_hessian(H).upper, ql.mu_hessian(H2).upper
        layers.append(Magnitudes(name, W, W2, weights, hessians))
    write_picture(path, layers, losses)


def accuracy(problem: ProblemReader, weights: dict[str, np.ndarray]) -> float:
    """Return the share of held-out digits that the network gets right."""
    import numpy as np

    x = problem.array("heldout_inputs").astype(np.float32) / 16
    for k, (name, W) in enumerate(weights.items()):
        x = x @ W.T + problem.array(f"{name}_bias")
        if k < len(weights) - 1:
            x = np.maximum(x, 0)
    return float(np.mean(x.argmax(axis=1) == problem.array("heldout_labels")))
