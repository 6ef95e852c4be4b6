"""What commands that turn a problem file into a result file share: paths, layers, the loop."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import Interrupts, UsageError, emit, fail, progress, typed, warn

if TYPE_CHECKING:
    from quiplinalg.files import ProblemReader, ResultWriter

__all__ = ["attempt", "check_paths", "compile_by", "run_layers", "select_layers"]

OneLayer = Callable[[str, Any, Any, "ResultWriter"], dict[str, Any]]


def check_paths(source: str, target: str, overwrite: bool) -> None:
    """Raise UsageError unless the result can be written under its name, apart from the input."""
    if os.path.realpath(source) == os.path.realpath(target) or (
        os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target)
    ):
        raise UsageError(
            f"OUT.h5 must be another file than IN.h5; got {target!r} for both. "
            "The input is never written to: choose another name"
        )
    if os.path.exists(target) and not overwrite:
        raise UsageError(
            f"OUT.h5 must be new; got {target!r}, which exists. "
            "Pass --overwrite to replace it when all is done, or choose another name"
        )
    folder = os.path.dirname(os.path.realpath(target))
    if not os.path.isdir(folder):
        raise UsageError(
            f"OUT.h5 must be in an existing directory; got {target!r}. Create {folder!r} first"
        )


def select_layers(problem: ProblemReader, include: list[str], exclude: list[str]) -> list[str]:
    """Return the layers asked for, those that share a Hessian one after the other."""
    from quiplinalg.errors import InvalidArgumentError
    from quiplinalg.model.selection import select_layers as select

    try:
        chosen, idle = select(problem.names, include, exclude)
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from None
    for text in idle:
        warn(text)
    return [name for group in problem.shared() for name in group if name in chosen]


def compile_by(function: Callable[[Any, Any], Any], infos: dict[str, Any], n: int) -> None:
    """Load or compile the kernels by calls at (n, n), so that no layer's seconds have it in them.

    One call for each pair of precisions that W and H come in.
    """
    import numpy as np

    kinds = {
        (info.dtype == np.float64, info.hessian_dtype == np.float64) for info in infos.values()
    }
    for pair in sorted(kinds):
        W, H = (np.eye(n, dtype=np.float64 if wide else np.float32) for wide in pair)
        function(W, H)


class _NothingToWrite(Exception):
    """Every layer failed: the file is abandoned."""


def run_layers(
    options: Any,
    overwrite: bool,
    label: str,
    problem: ProblemReader,
    infos: dict[str, Any],
    one_layer: OneLayer,
) -> tuple[list[dict[str, Any]], dict[str, str], float]:
    """Put each layer through ``one_layer``; return the facts of those done, errors, and seconds.

    ``one_layer`` gets the name, W, H and the writer, and returns its facts, with "warnings" (a
    list) and, where the layer failed, "error".  The file appears when all is done, without the
    layers that failed; not at all where every one did.
    """
    from quiplinalg.files import ResultWriter

    done: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    kept: tuple[str | None, Any] = (None, None)
    started = time.perf_counter()
    try:
        with ResultWriter(options.output, overwrite=overwrite) as writer:
            with Interrupts() as interrupts, progress(len(infos), label) as bar:
                for name, info in infos.items():
                    if kept[0] != info.hessian_key:
                        kept = (None, None)  # before the next is read: one H in memory
                        kept = (info.hessian_key, problem.hessian(name))
                    facts = one_layer(name, problem.weight(name), kept[1], writer)
                    interrupts.check()
                    for line in facts["warnings"]:
                        bar.clear()
                        warn(f"layer {name!r}: {line}")
                    if "error" in facts:
                        failed[name] = facts["error"]
                        bar.clear()
                        fail(f"layer {name!r}: {failed[name]}")
                    else:
                        done.append(facts)
                    if options.json:
                        emit("layer_failed" if "error" in facts else "layer", **facts)
                    bar.update()
                interrupts.check()
            if not done:
                raise _NothingToWrite
    except _NothingToWrite:
        pass
    return done, failed, time.perf_counter() - started


def attempt(work: Callable[[], Any], facts: dict[str, Any]) -> Any:
    """Run ``work``, note seconds, warnings and any error of the library in ``facts``."""
    from quiplinalg.errors import QuipLinalgError

    result = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        started = time.perf_counter()
        try:
            result = work()
            facts["seconds"] = time.perf_counter() - started
        except QuipLinalgError as error:
            facts["error"] = typed(str(error))
    facts["warnings"] = [str(w.message) for w in caught]
    return result
