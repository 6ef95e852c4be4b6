"""``quiplinalg prune``: set weights of the layers of a problem file to zero, and round the rest."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    FAILED,
    OK,
    SOME_FAILED,
    Parser,
    UsageError,
    decibels,
    emit,
    format_bytes,
    format_db,
    format_seconds,
    note,
    print_table,
)
from quiplinalg.cli.layers import attempt, check_paths, compile_by, run_layers, select_layers
from quiplinalg.cli.settings import damping

if TYPE_CHECKING:
    from quiplinalg.files import ResultWriter

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {
    "description": "Prune every layer of a problem file, and write a result file: weights with "
    "zeros, compensated for them, or with --bits the codes of those that stay.",
    "epilog": "A layer that fails is reported and left out (exit code 3); OUT.h5 appears only when "
    "all is done, in one step. IN.h5 is only read.",
}
_METHODS = ("sparsegpt", "obs", "columns")
_FUNCTIONS = {"sparsegpt": "sparsegpt", "obs": "obs_prune", "columns": "prune_columns"}
# options that mean something to some methods only
_ONLY = {
    "pattern": ("sparsegpt", "obs"),
    "order": ("sparsegpt",),
    "loss_budget": ("obs", "columns"),
    "bits": ("sparsegpt", "obs"),
}
_WITH_BITS = ("group_size", "sym", "clip")


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("input", metavar="IN.h5", help="a problem file, from ProblemWriter")
    add("output", metavar="OUT.h5", help="the result file to write")
    add(
        "--method",
        choices=_METHODS,
        default="sparsegpt",
        help="sparsegpt: one pass, the default; obs: exact, n times the work; columns: whole "
        "inputs",
    )
    add(
        "--sparsity",
        type=float,
        metavar="FLOAT",
        help="share to prune, 0 to 1; default: 0.5, or what the pattern says",
    )
    add(
        "--pattern",
        metavar="N:M|block:C",
        help="N of each M consecutive inputs stay, as 2:4; obs also: blocks of C go together; "
        "default: any weights",
    )
    add(
        "--loss-budget",
        type=float,
        metavar="FLOAT",
        help="obs, columns: share of tr(W H W^T) that the loss may reach",
    )
    add("--bits", type=int, metavar="N", help="round the weights that stay, 1 to 8 bits")
    add("--group-size", type=int, metavar="N", help="with --bits: columns that share a scale")
    add("--sym", action="store_true", default=None, help="with --bits: grid symmetric about 0")
    add("--clip", choices=("mse", "minmax"), help="with --bits: the range; default: mse")
    orders = ("natural", "act", "min-pivot")
    add("--order", choices=orders, help="sparsegpt without N:M; default: natural")
    add(
        "--damp",
        type=damping,
        default=0.01,
        metavar="FLOAT|auto",
        help="fraction of mean diag H; default: 0.01",
    )
    add(
        "--include",
        action="append",
        metavar="GLOB",
        help="only layers whose name matches; repeatable",
    )
    add("--exclude", action="append", metavar="GLOB", help="not these layers; repeatable")
    add("--threads", type=int, metavar="N", help="default: every core")
    add("--overwrite", action="store_true", help="replace OUT.h5 if it exists, at the end")
    add("--dry-run", action="store_true", help="print what would be done; write nothing")
    add("--json", action="store_true", help="one JSON object a line on stdout")


def run(options: Any) -> int:
    """Run the command."""
    check_paths(options.input, options.output, options.overwrite or options.dry_run)
    keywords = _keywords(options)

    from quiplinalg.errors import InvalidArgumentError
    from quiplinalg.files import open_problem
    from quiplinalg.parallel import num_threads

    def threads() -> Any:
        return nullcontext() if options.threads is None else num_threads(options.threads)

    try:
        with threads():  # is the count one?
            pass
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from None
    with open_problem(options.input) as problem, threads():
        names = select_layers(problem, options.include or [], options.exclude or [])
        infos = {name: problem.info(name) for name in names}
        if options.dry_run:
            return _plan(options, infos)
        _compile(options, keywords, infos)

        def one_layer(name: str, W: Any, H: Any, writer: ResultWriter) -> dict[str, Any]:
            return _layer(name, W, H, options, keywords, writer)

        done, failed, seconds = run_layers(
            options, options.overwrite, f"prune {options.method}", problem, infos, one_layer
        )
    _report(options, done, failed, seconds)
    return OK if not failed else SOME_FAILED if done else FAILED


def _keywords(options: Any) -> dict[str, Any]:
    """Return the keywords of the library's function, checked before any file is read."""
    import numpy as np

    from quiplinalg.errors import InvalidArgumentError
    from quiplinalg.factor.damping import diagonal_shift
    from quiplinalg.pruning.pattern import check_budget, check_sparsity, parse_pattern
    from quiplinalg.rounding.options import Options

    for key, methods in _ONLY.items():
        if getattr(options, key) is not None and options.method not in methods:
            raise UsageError(
                f"--{key.replace('_', '-')} is for --method {' or '.join(methods)}; got it with "
                f"{options.method}. Leave it out, or choose another method"
            )
    if options.bits is None:
        for key in _WITH_BITS:
            if getattr(options, key) is not None:
                raise UsageError(
                    f"--{key.replace('_', '-')} is for grids; got it without --bits. Leave it out, "
                    "or pass --bits to round the weights that stay"
                )
    elif options.loss_budget is not None:
        raise UsageError(
            "--loss-budget must not be given with --bits; got both. Prune to a --sparsity instead"
        )
    try:
        pattern = parse_pattern(options.pattern, 0, blocks=options.method == "obs")
        budget = check_budget(options.loss_budget, pattern)
        check_sparsity(options.sparsity, pattern, budget)
        list(diagonal_shift(options.damp, np.ones(1)))
        if options.bits is not None:
            Options(
                bits=options.bits, grid=None, group_size=options.group_size, static_groups=True,
                sym=bool(options.sym), clip=options.clip or "mse", order="natural",
                damp=options.damp, rounding="nearest", seed=None, block=None,
            )  # fmt: skip
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from None
    given = {key: getattr(options, key) for key in ("sparsity", "damp")}
    for key in (*_ONLY, *_WITH_BITS):
        if getattr(options, key) is not None:
            given[key] = getattr(options, key)
    return given


def _plan(options: Any, infos: dict[str, Any]) -> int:
    """Print what would be done."""
    for name, info in infos.items():
        if options.json:
            emit(
                "plan", layer=name, shape=list(info.shape), dtype=str(info.dtype),
                method=options.method, pattern=options.pattern, sparsity=options.sparsity,
                bits=options.bits,
            )  # fmt: skip
    weights = sum(info.shape[0] * info.shape[1] for info in infos.values())
    if options.json:
        emit("summary", dry_run=True, layers=len(infos), weights=weights, output=options.output)
        return OK
    rows = [(name, "{} x {}".format(*info.shape), info.dtype) for name, info in infos.items()]
    print_table(("layer", "shape", "dtype"), rows)
    what = options.pattern or ("columns" if options.method == "columns" else "unstructured")
    print(
        f"\n{len(infos)} layers, {weights} weights, {options.method}, {what}: a dry run, "
        f"{options.output} was not written"
    )
    return OK


def _function(options: Any) -> Callable:
    import quiplinalg

    if options.bits is None:
        return getattr(quiplinalg, _FUNCTIONS[options.method])
    return partial(quiplinalg.prune_quantize, method=options.method)


def _compile(options: Any, keywords: dict[str, Any], infos: dict[str, Any]) -> None:
    """Compile the kernels: those of a pattern are the same for groups of two."""
    from quiplinalg.pruning.pattern import parse_pattern

    small = dict(keywords)
    pattern = parse_pattern(options.pattern, 0, blocks=True)
    if pattern.size > 1:
        small |= {"pattern": "1:2" if pattern.quota else "block:2", "sparsity": None}
    compile_by(partial(_function(options), **small), infos, 2)


def _layer(
    name: str, W: Any, H: Any, options: Any, keywords: dict[str, Any], writer: ResultWriter
) -> dict[str, Any]:
    """Prune a layer into the writer; return what there is to say, with "error" if it failed."""
    from quiplinalg.cli.losses import energy, magnitude_loss

    facts: dict[str, Any] = {"layer": name, "shape": list(W.shape)}
    found = attempt(lambda: _function(options)(W, H, **keywords), facts)
    if "error" in facts:
        return facts
    grid = None if options.bits is None else found.grid
    pattern = "columns" if options.method == "columns" else (options.pattern or "unstructured")
    total, other = energy(W, H), magnitude_loss(W, H, pattern, found.mask, grid)
    # the seconds stay out of the file: the same input makes the same bytes
    extra: dict[str, Any] = {"weight_energy": total, "magnitude_loss": other}
    if grid is not None:
        extra |= {"clip": options.clip or "mse", "mask_pattern": pattern}
    writer.add(name, found, **extra)
    return facts | {
        "method": options.method,
        "pattern": pattern,
        "sparsity": float(found.mask.mean()) if found.mask.size else float("nan"),
        "bits": options.bits,
        "bits_per_weight": None if grid is None else found.bits_per_weight,
        "loss": found.loss,
        "loss_db": decibels(found.loss, total),
        "magnitude_loss": other,
        "magnitude_db": decibels(other, total),
        "weight_energy": total,
        "dead_columns": int(found.dead.size),
        "damp": found.damp,
    }


def _report(
    options: Any, done: list[dict[str, Any]], failed: dict[str, str], seconds: float
) -> None:
    """Print the table, or the JSON summary, of the layers done and failed."""
    total = sum(facts["weight_energy"] for facts in done)
    loss_db = decibels(sum(facts["loss"] for facts in done), total)
    magnitude_db = decibels(sum(facts["magnitude_loss"] for facts in done), total)
    sizes = [facts["shape"][0] * facts["shape"][1] for facts in done]
    gone = sum(f["sparsity"] * k for f, k in zip(done, sizes, strict=True) if k)
    share = gone / max(sum(sizes), 1)
    path = os.path.abspath(options.output)
    size = os.path.getsize(path) if done else 0
    if options.json:
        emit(
            "summary", layers=len(done), failed=list(failed), sparsity=share, loss_db=loss_db,
            magnitude_db=magnitude_db, seconds=seconds, output=path if done else None, bytes=size,
        )  # fmt: skip
    elif done:
        rows = [
            (f["layer"], f["pattern"], f"{100 * f['sparsity']:.2f}", format_db(f["loss_db"]),
             format_db(f["magnitude_db"]), format_seconds(f["seconds"]))
            for f in done
        ]  # fmt: skip
        rows.append(
            (f"all {len(done)}", "", f"{100 * share:.2f}", format_db(loss_db),
             format_db(magnitude_db), format_seconds(seconds))
        )  # fmt: skip
        headers = ("layer", "pattern", "pruned %", "loss dB", "magnitude dB", "seconds")
        print_table(headers, rows, left=2)
        print("loss relative to tr(W H W^T), lower is better; magnitude: the smallest weights of")
        rest = "nothing compensated" if options.bits is None else "the others rounded to nearest"
        print(f"the same pattern pruned, {rest}")
        print(f"\n{path}: {format_bytes(size)}, {len(done)} layers")
    if failed and done:
        note(
            f"quiplinalg: {len(failed)} of {len(failed) + len(done)} layers FAILED and are NOT in "
            f"{options.output}: {', '.join(failed)}. Mend them as the errors above say, then run "
            "these alone with --include"
        )
    elif failed:
        note(
            f"quiplinalg: all {len(failed)} layers failed; {options.output} was not written. "
            "Mend them as the errors above say"
        )
