"""``quiplinalg quantize``: round the layers of a problem file, one by one."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    FAILED,
    OK,
    SOME_FAILED,
    Interrupts,
    Parser,
    UsageError,
    decibels,
    emit,
    fail,
    format_bytes,
    format_db,
    format_seconds,
    note,
    print_table,
    progress,
    warn,
)
from quiplinalg.cli.settings import add_settings, settings

if TYPE_CHECKING:
    from quiplinalg.files import ProblemReader, ResultWriter
    from quiplinalg.results import Quantized

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {
    "description": "Round every layer of a problem file to a few bits, and write a result file.",
    "epilog": "A layer that fails is reported and left out (exit code 3); OUT.h5 appears only when "
    "all is done, in one step. IN.h5 is only read.",
}


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("input", metavar="IN.h5", help="a problem file, from ProblemWriter")
    parser.add_argument("output", metavar="OUT.h5", help="the result file to write")
    add_settings(parser)
    parser.add_argument(
        "--config", metavar="FILE.toml", help="options by name, as bits = 3; flags come first"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done; write nothing"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")
    parser.set_defaults(parser=parser)


@dataclass
class Layer:
    """One row of the report."""

    name: str
    quantized: Quantized
    energy: float
    nearest_loss: float
    seconds: float


class _NothingToWrite(Exception):
    """Every layer failed: the file is abandoned."""


def run(options: Any) -> int:
    """Run the command."""
    chosen = settings(options.parser, options)
    _check_paths(options.input, options.output, chosen["overwrite"] or options.dry_run)
    if chosen["method"] == "nearest":  # knows groups of the original weights only
        chosen["static_groups"] = True

    from quiplinalg.errors import InvalidArgumentError
    from quiplinalg.files import open_problem
    from quiplinalg.parallel import num_threads

    try:
        keywords = _keywords(chosen)
        threads = num_threads(chosen["threads"]) if chosen["threads"] is not None else nullcontext()
        with threads:  # is the count one?
            pass
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from None
    with open_problem(options.input) as problem:
        names = _select(problem, chosen["include"], chosen["exclude"])
        infos = {name: problem.info(name) for name in names}
        if options.dry_run:
            return _plan(options, chosen, infos)
        threads = num_threads(chosen["threads"]) if chosen["threads"] is not None else nullcontext()
        with threads:
            return _quantize(options, chosen, keywords, problem, infos)


def _check_paths(source: str, target: str, overwrite: bool) -> None:
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


def _keywords(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of the library's function, checked before any file is read."""
    from quiplinalg.factor.damping import diagonal_shift
    from quiplinalg.rounding.options import Options

    shared = ("bits", "group_size", "sym", "clip", "rounding", "seed")
    feedback = ("static_groups", "order", "damp")
    keywords = {key: chosen[key] for key in shared + feedback}
    Options(grid=None, block=None, **keywords)
    import numpy as np

    list(diagonal_shift(chosen["damp"], np.ones(1)))
    if chosen["method"] == "nearest":
        keywords = {key: chosen[key] for key in shared}
    return keywords


def _select(problem: ProblemReader, include: list[str], exclude: list[str]) -> list[str]:
    """Return the layers asked for, those that share a Hessian one after the other."""
    from fnmatch import fnmatchcase

    def matches(pattern: str) -> set[str]:
        return {name for name in problem.names if fnmatchcase(name, pattern)}

    for option, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns:
            if not matches(pattern):
                some = ", ".join(problem.names[:5]) + (", ..." if len(problem.names) > 5 else "")
                message = (
                    f"--{option} must match a layer; got {pattern!r}, which fits none of {some}. "
                    f"'quiplinalg inspect {problem.path}' lists them all"
                )
                if option == "include":
                    raise UsageError(message)
                warn(message)
    chosen = set(problem.names) if not include else set().union(*map(matches, include))
    chosen -= set().union(*map(matches, exclude)) if exclude else set()
    if not chosen:
        raise UsageError(
            f"at least one of the {len(problem.names)} layers must be left; got none. "
            "Check --include and --exclude"
        )
    return [name for group in problem.shared() for name in group if name in chosen]


def _plan(options: Any, chosen: dict[str, Any], infos: dict[str, Any]) -> int:
    """Print what would be done."""
    first: dict[str, str] = {}
    rows = []
    for name, info in infos.items():
        owner = first.setdefault(info.hessian_key, name)
        shared = None if owner == name else owner
        m, n = info.shape
        if options.json:
            emit(
                "plan", layer=name, shape=[m, n], dtype=str(info.dtype), shares_hessian_of=shared,
                **{key: chosen[key] for key in ("method", "bits", "group_size")},
            )  # fmt: skip
        rows.append((name, shared or "-", f"{m} x {n}", info.dtype, chosen["bits"]))
    weights = sum(info.shape[0] * info.shape[1] for info in infos.values())
    if options.json:
        emit("summary", dry_run=True, layers=len(infos), weights=weights, output=options.output)
        return OK
    print_table(("layer", "H shared with", "shape", "dtype", "bits"), rows, left=2)
    print(
        f"\n{len(infos)} layers, {weights} weights, {chosen['method']} at {chosen['bits']} bits: "
        f"a dry run, {options.output} was not written"
    )
    return OK


def _quantize(
    options: Any,
    chosen: dict[str, Any],
    keywords: dict[str, Any],
    problem: ProblemReader,
    infos: dict[str, Any],
) -> int:
    from quiplinalg.files import ResultWriter

    failed: dict[str, str] = {}
    done: list[Layer] = []
    started = time.perf_counter()
    try:
        with ResultWriter(options.output, overwrite=chosen["overwrite"]) as writer:
            with Interrupts() as interrupts, progress(len(infos), chosen["method"]) as bar:
                for name, message in _layers(chosen, keywords, problem, infos, writer, done):
            if not done:
                raise _NothingToWrite
    except _NothingToWrite:
        pass
    _report(options, chosen, done, failed, time.perf_counter() - started)
    return OK if not failed else SOME_FAILED if done else FAILED


def _layers(
    options: Any,
    chosen: dict[str, Any],
    keywords: dict[str, Any],
    problem: ProblemReader,
    infos: dict[str, Any],
    writer: ResultWriter,
    done: list[Layer],
    failed: dict[str, str],
    bar: Any,
) -> None:
    """Quantise each layer into the writer; note those that fail."""
    import warnings

    from quiplinalg.errors import FormatError, QuipLinalgError

    kept: tuple[str | None, Any] = (None, None)
    for name, info in infos.items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                if kept[0] != info.hessian_key:
                    kept = (None, None)  # before the next is read: one H in memory
                    kept = (info.hessian_key, problem.hessian(name))
                layer = _one(name, problem.weight(name), kept[1], chosen["method"], keywords)
            except FormatError:
                raise  # nothing of a damaged file is to be trusted
            except QuipLinalgError as error:
                failed[name] = _explain(error)
        messages = [str(w.message) for w in caught]
        for message in messages:
            bar.clear()
            warn(f"layer {name!r}: {message}")
        if name in failed:
            bar.clear()
            fail(f"layer {name!r}: {failed[name]}")
            if options.json:
                emit("layer_failed", layer=name, error=failed[name], warnings=messages)
        else:
            # the seconds stay out of the file: the same input makes the same bytes
            extra = {"clip": chosen["clip"], "weight_energy": layer.energy}
            writer.add(name, layer.quantized, nearest_loss=layer.nearest_loss, **extra)
            if options.json:
                emit("layer", **_fields(layer), warnings=messages)
            done.append(_slim(layer))
        bar.update()


def _one(name: str, W: Any, H: Any, method: str, keywords: dict[str, Any]) -> Layer:
    import quiplinalg
    from quiplinalg.cli.losses import energy, nearest_loss

    started = time.perf_counter()
    quantized = getattr(quiplinalg, method)(W, H, **keywords)
    seconds = time.perf_counter() - started
    plain = method == "nearest" and quantized.rounding == "nearest"
    other = quantized.loss if plain else nearest_loss(W, H, quantized.grid)
    return Layer(name, quantized, energy(W, H), other, seconds)


def _slim(layer: Layer) -> Layer:
    """The layer without its codes' memory: the report needs none of it."""
    layer.quantized = _Report(layer.quantized)  # type: ignore[assignment]
    return layer


class _Report:
    """What the report says of a quantised layer."""

    def __init__(self, q: Quantized):
        self.loss, self.bits_per_weight = q.loss, q.bits_per_weight
        self.near_tie_rows, self.shape = q.near_tie_rows, q.shape


def _explain(error: Exception) -> str:
    from quiplinalg.errors import NotPositiveDefiniteError

    text = str(error)
    if isinstance(error, NotPositiveDefiniteError):
        text = text.replace('pass damp="auto"', "pass --damp auto").replace(
            "Raise damp", "Raise --damp"
        )
    return text


def _fields(layer: Layer) -> dict[str, Any]:
    q = layer.quantized
    return {
        "layer": layer.name,
        "shape": list(q.shape),
        "method": q.method,
        "bits": q.grid.bits,
        "bits_per_weight": q.bits_per_weight,
        "loss": q.loss,
        "loss_db": decibels(q.loss, layer.energy),
        "nearest_loss": layer.nearest_loss,
        "nearest_db": decibels(layer.nearest_loss, layer.energy),
        "weight_energy": layer.energy,
        "seconds": layer.seconds,
        "near_tie_rows": q.near_tie_rows,
        "clipped": q.clipped,
        "dead_columns": int(q.dead.size),
        "damp": q.damp,
    }


def _report(
    options: Any, chosen: dict[str, Any], done: list[Layer], failed: dict[str, str], seconds: float
) -> None:
    energy = sum(layer.energy for layer in done)
    total = {
        "loss_db": decibels(sum(layer.quantized.loss for layer in done), energy),
        "nearest_db": decibels(sum(layer.nearest_loss for layer in done), energy),
    }
    weights = sum(layer.quantized.shape[0] * layer.quantized.shape[1] for layer in done)
    bits = sum(
        layer.quantized.bits_per_weight * layer.quantized.shape[0] * layer.quantized.shape[1]
        for layer in done
    ) / max(weights, 1)
    size = os.path.getsize(options.output) if done else 0
    if options.json:
        emit(
            "summary",
            layers=len(done),
            failed=list(failed),
            **total,
            bits_per_weight=bits,
            near_tie_rows=sum(layer.quantized.near_tie_rows for layer in done),
            seconds=seconds,
            output=os.path.abspath(options.output) if done else None,
            bytes=size,
        )
    elif done:
        rows: list[tuple[object, ...]] = [
            (
                layer.name,
                f"{layer.quantized.bits_per_weight:.3f}",
                format_db(decibels(layer.quantized.loss, layer.energy)),
                format_db(decibels(layer.nearest_loss, layer.energy)),
                format_seconds(layer.seconds),
            )
            for layer in done
        ]
        both = (format_db(total["loss_db"]), format_db(total["nearest_db"]))
        rows.append((f"all {len(done)}", f"{bits:.3f}", *both, format_seconds(seconds)))
        print_table(("layer", "bits/weight", "loss dB", "nearest dB", "seconds"), rows)
        print(f"\n{os.path.abspath(options.output)}: {format_bytes(size)}, {len(done)} layers")
        print("loss relative to tr(W H W^T), lower is better; nearest on the same grid")
    if failed and done:
        note(
            f"quiplinalg: {len(failed)} of {len(failed) + len(done)} layers FAILED and are NOT in "
            f"{options.output}: {', '.join(failed)}. Mend them as the errors above say (--damp "
            "auto where H is not positive definite), then run these alone with --include"
        )
    elif failed:
        note(
            f"quiplinalg: all {len(failed)} layers failed; {options.output} was not written. "
            "Mend them as the errors above say"
        )
