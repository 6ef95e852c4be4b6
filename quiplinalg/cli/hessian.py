"""``quiplinalg hessian``: merge the statistics files of shards, and say what they are good for."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    INVALID,
    OK,
    Interrupts,
    Parser,
    UsageError,
    did_you_mean,
    emit,
    fail,
    format_bytes,
    note,
    print_table,
    progress,
)
from quiplinalg.cli.layers import check_paths

if TYPE_CHECKING:
    from quiplinalg.files import StatisticsReader
    from quiplinalg.hessian.diagnostics import HessianDiagnostics

__all__ = ["ABOUT", "add_arguments", "info", "run"]

ABOUT = {
    "usage": "quiplinalg hessian merge A.h5 B.h5 ... -o OUT.h5 [--overwrite] [--json]\n"
    "       quiplinalg hessian info FILE.h5 [--json]",
    "description": "merge: add up the statistics files of shards, in the order given; the same "
    "files in the same order\ngive the same bits. info: tokens, rank and dead columns of each "
    "entry of a statistics or a problem\nfile, and whether the tokens are enough.",
    "epilog": "Damping is never part of these files. Statistics files are made with "
    "quiplinalg.Hessian and\nquiplinalg.StatisticsWriter.",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
}
_ACTIONS = ("merge", "info")


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("action", metavar="merge|info")
    parser.add_argument("files", metavar="FILE.h5", nargs="+")
    parser.add_argument("-o", "--output", metavar="OUT.h5", help="the merged file to write")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace OUT.h5 when all is merged"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


def run(options: Any) -> int:
    """Run the command."""
    if options.action not in _ACTIONS:
        raise UsageError(
            f"expected merge or info after 'quiplinalg hessian'; got {options.action!r}"
            f"{did_you_mean(options.action, _ACTIONS)}"
        )
    if options.action == "merge":
        return _merge(options)
    if options.output is not None or options.overwrite:
        raise UsageError("info takes no -o and no --overwrite: it writes nothing")
    if len(options.files) > 1:
        raise UsageError(f"info takes one file; got {len(options.files)}")
    return info(options.files[0], options.json)


def _merge(options: Any) -> int:
    if options.output is None:
        raise UsageError(
            "merge needs -o OUT.h5, the file to write. See 'quiplinalg hessian --help'"
        )
    seen: dict[str, str] = {}
    for path in options.files:
        check_paths(path, options.output, overwrite=True)
        other = seen.setdefault(os.path.realpath(path), path)
        if other is not path:
            raise UsageError(
                f"every file must be given once; got {path!r} twice: its tokens would count double"
            )
    check_paths(options.files[0], options.output, options.overwrite)

    from quiplinalg.files import StatisticsWriter, open_statistics

    rows = []
    with ExitStack() as stack:
        readers = [stack.enter_context(open_statistics(path)) for path in options.files]
        objection = _objection(readers)
        if objection:
            fail(objection)
            return INVALID
        first = readers[0]
        with (
            Interrupts() as interrupts,
            progress(len(first.names), "merge") as bar,
            StatisticsWriter(options.output, options.overwrite) as writer,
        ):
            for name in first.names:
                info = first.info(name)
                total: Any = None
                for reader in readers:
                    interrupts.check()
                    part = reader.cross(name) if info.kind == "cross" else reader.hessian(name)
                    if total is None:
                        total = part
                    else:
                        total.merge(part)
                writer.add(name, total)
                if options.json:
                    emit("layer", layer=name, kind=info.kind, n=info.n, tokens=total.count)
                rows.append((name, info.kind, info.n, total.count))
                bar.update()
            interrupts.check()
    if options.json:
        emit("summary", output=options.output, layers=len(rows), files=len(options.files))
        return OK
    print_table(("layer", "kind", "n", "tokens"), rows, left=2)
    print(
        f"\n{options.output}: {len(rows)} layers of {len(options.files)} files, "
        f"{format_bytes(os.path.getsize(options.output))}"
    )
    return OK


def _objection(readers: list[StatisticsReader]) -> str | None:
    """The first thing that does not fit between the files, or None."""
    first = readers[0]
    for reader in readers[1:]:
        for one, other in ((first, reader), (reader, first)):
            missing = [name for name in one.names if name not in set(other.names)]
            if missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                return (
                    f"expected the same layers in every file; {missing[0]!r}{more} of {one.path} "
                    f"is not in {other.path}. Add an empty Hessian for layers without tokens"
                )
        for name in first.names:
            a, b = first.info(name), reader.info(name)
            for what in ("kind", "n", "tracks_mean"):
                if getattr(a, what) != getattr(b, what):
                    return (
                        f"layer {name!r} must be the same in every file; got "
                        f"{what}={getattr(a, what)} in {first.path} and "
                        f"{what}={getattr(b, what)} in {reader.path}. Merge shards of one model"
                    )
    return None


def info(path: str, as_json: bool) -> int:
    """Print what the entries of a statistics or a problem file are good for."""
    from quiplinalg.files.elements import read_attribute
    from quiplinalg.files.guard import format_errors, open_file

    with open_file(path) as file, format_errors(path):
        encoding = read_attribute(file, "encoding-type")
    kinds = {"quiplinalg-statistics": _of_statistics, "quiplinalg-problem": _of_problem}
    if encoding not in kinds:
        fail(
            f"expected a file with encoding-type {' or '.join(kinds)}; got {encoding!r} in "
            f"{path!r}. StatisticsWriter makes statistics files of any activations"
        )
        return INVALID
    rows, poor = [], []
    with Interrupts() as interrupts:
        for name, kind, known, found in kinds[encoding](path):
            interrupts.check()
            tokens = found.count if known else None
            samples = found.effective_samples if known else None
            if as_json:
                emit(
                    "layer", layer=name, kind=kind, n=found.n, tokens=tokens,
                    weight=found.weight if known else None, effective_samples=samples,
                    rank=found.rank, effective_rank=found.effective_rank,
                    smallest=found.smallest, largest=found.largest, condition=found.condition,
                    dead_columns=int(found.dead.size), precision=found.precision,
                    verdict=found.verdict, message=found.message,
                )  # fmt: skip
            rows.append(
                (name, kind, found.n, "-" if tokens is None else tokens,
                 "-" if samples is None else f"{samples:.6g}", found.rank,
                 f"{found.effective_rank:.1f}", f"{found.smallest:.2g}", f"{found.largest:.2g}",
                 found.dead.size, found.verdict)
            )  # fmt: skip
            if not found.ok:
                poor.append(f"{name}: {found.message}")
    if as_json:
        emit("summary", layers=len(rows), not_ok=len(poor), bytes=os.path.getsize(path))
        return OK
    headers = ("layer", "kind", "n", "tokens", "eff. samples", "rank", "eff. rank", "smallest",
               "largest", "dead", "verdict")  # fmt: skip
    print_table(headers, rows, left=2)
    print(f"\n{path}: {format_bytes(os.path.getsize(path))}, {len(rows)} layers")
    for line in poor[:5]:
        note(line)
    if len(poor) > 5:
        note(f"... and {len(poor) - 5} more layers that are not ok")
    return OK


def _of_statistics(path: str) -> Iterator[tuple[str, str, bool, HessianDiagnostics]]:
    from quiplinalg.files import open_statistics

    with open_statistics(path) as reader, progress(len(reader.names), "info") as bar:
        for name in reader.names:
            yield name, reader.info(name).kind, True, reader.hessian(name).diagnostics()
            bar.update()


def _of_problem(path: str) -> Iterator[tuple[str, str, bool, HessianDiagnostics]]:
    """Each Hessian once, under the first of its layers; tokens as far as the file knows them."""
    import numpy as np

    from quiplinalg.files import open_problem
    from quiplinalg.hessian.diagnostics import diagnose

    with open_problem(path) as problem:
        groups = problem.shared()
        with progress(len(groups), "info") as bar:
            for name, *others in groups:
                info = problem.info(name)
                count = info.n_samples
                tokens = 2 * info.shape[1] if count is None else count
                precision = "float64" if info.hessian_dtype == np.float64 else "float32"
                H = problem.hessian(name).astype(np.float64)
                label = f"{name} (+{len(others)})" if others else name
                yield (
                    label,
                    "hessian",
                    count is not None,
                    diagnose(H, tokens, float(tokens), float(tokens), precision),
                )
                bar.update()
