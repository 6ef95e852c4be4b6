"""``quiplinalg quantize``: round the layers of a problem file, one by one."""

from __future__ import annotations

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
    print_table,
)
from quiplinalg.cli.layers import attempt, check_paths, compile_by, run_layers, select_layers
from quiplinalg.cli.report import report
from quiplinalg.cli.settings import add_settings, settings

if TYPE_CHECKING:
    from quiplinalg.files import ProblemReader, ResultWriter

__all__ = ["ABOUT", "add_arguments", "layer_seed", "run"]

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


def run(options: Any) -> int:
    """Run the command."""
    chosen = settings(options.parser, options)
    check_paths(options.input, options.output, chosen["overwrite"] or options.dry_run)
    if chosen["method"] in ("nearest", "safe", "obq", "kbest"):  # groups of the original weights
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
        names = select_layers(problem, chosen["include"], chosen["exclude"])
        infos = {name: problem.info(name) for name in names}
        if options.dry_run:
            return _plan(options, chosen, infos)
        threads = num_threads(chosen["threads"]) if chosen["threads"] is not None else nullcontext()
        with threads:
            return _quantize(options, chosen, keywords, problem, infos)


_SHARED = ("bits", "group_size", "rounding", "seed")
_GRID = ("sym", "clip")
_FEEDBACK = ("static_groups", "order", "damp")
_KEYWORDS = {
    "nearest": (*_SHARED, *_GRID),
    "ldlq": (*_SHARED, *_GRID, *_FEEDBACK),
    "gptq": (*_SHARED, *_GRID, *_FEEDBACK),
    "obq": ("bits", "group_size", *_GRID, "order", "damp", "outliers_first"),
    "kbest": ("bits", "group_size", *_GRID, "order", "damp", "k"),
    "safe": (*_SHARED, *_GRID, "order", "damp", "c"),
    "quip": (
        *_SHARED,
        "rotation",
        "sides",
        "rescale",
        "per_tensor",
        "rho",
        "order",
        "damp",
        "refine",
    ),
}


def _keywords(chosen: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords of the library's function, checked before any file is read."""
    import numpy as np

    import quiplinalg
    from quiplinalg.factor.bounded import check_bound
    from quiplinalg.factor.damping import diagonal_shift
    from quiplinalg.incoherence.draws import check_seed
    from quiplinalg.rounding.options import Options, check_passes
    from quiplinalg.rounding.scale_search import check_rho

    if chosen["method"] in ("quip", "safe") and chosen["seed"] is None:
        chosen["seed"] = 0
    chosen["refine"] = None if chosen["refine"] == "all" else chosen["refine"]
    check_passes(chosen["refine"], "refine")
    chosen["rho"] = None if chosen["rho"] == "table" else chosen["rho"]
    checked = {key: chosen[key] for key in (*_SHARED, *_GRID, *_FEEDBACK)}
    if chosen["method"] == "obq" and chosen["order"] == "greedy":  # no order of columns
        checked["order"] = "natural"
    Options(grid=None, block=None, **checked)
    list(diagonal_shift(chosen["damp"], np.ones(1)))
    check_rho(chosen["rho"], chosen["bits"])
    check_bound(chosen["c"])
    for key in ("rotation", "rescale"):
        chosen[key] = None if chosen[key] == "none" else chosen[key]
    if chosen["rotation"] is None and chosen["sides"] == "both":
        raise UsageError(
            "--rotation must not be none with --sides both; got none. Leave out --sides, or choose "
            "a rotation"
        )
    if chosen["seed"] is not None:
        check_seed(chosen["seed"])
    keywords = {key: chosen[key] for key in _KEYWORDS[chosen["method"]]}
    if chosen["method"] in ("obq", "kbest"):  # the rules of their own, on a layer without rows
        getattr(quiplinalg, chosen["method"])(np.ones((0, 4)), np.eye(4), **keywords)
    return keywords


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
    import quiplinalg

    compile_by(partial(getattr(quiplinalg, chosen["method"]), **keywords), infos, 4)

    def one_layer(name: str, W: Any, H: Any, writer: ResultWriter) -> dict[str, Any]:
        return _layer(name, W, H, chosen, keywords, writer)

    done, failed, seconds = run_layers(
        options, chosen["overwrite"], chosen["method"], problem, infos, one_layer
    )
    report(options.output, options.json, done, failed, seconds)
    return OK if not failed else SOME_FAILED if done else FAILED


def layer_seed(seed: int, name: str) -> int:
    """Return the seed of one layer: its name in the upper half, so that no two share a stream."""
    import zlib

    return seed ^ ((zlib.crc32(name.encode()) & 0x7FFFFFFF) << 32)


def _layer(
    name: str,
    W: Any,
    H: Any,
    chosen: dict[str, Any],
    keywords: dict[str, Any],
    writer: ResultWriter,
) -> dict[str, Any]:
    """Quantise a layer into the writer; return what there is to say, with "error" if it failed."""
    import quiplinalg
    from quiplinalg.cli.losses import energy, nearest_loss

    method = chosen["method"]
    if keywords.get("seed") is not None:
        keywords = {**keywords, "seed": layer_seed(keywords["seed"], name)}
    facts: dict[str, Any] = {"layer": name, "shape": list(W.shape)}

    def work() -> Any:
        q = getattr(quiplinalg, method)(W, H, **keywords)
        if chosen["refine"] != 0 and method != "quip":
            q = quiplinalg.descend(W, H, q, passes=chosen["refine"])
        return q

    q = attempt(work, facts)
    if "error" in facts:
        return facts
    total = energy(W, H)
    plain = method == "nearest" and q.rounding == "nearest" and not q.passes
    other = q.loss if plain else nearest_loss(W, H, q)
    # the seconds stay out of the file: the same input makes the same bytes
    clip = {} if method == "quip" else {"clip": chosen["clip"]}
    writer.add(name, q, **clip, weight_energy=total, nearest_loss=other)
    return facts | {
        "method": method,
        "bits": q.grid.bits,
        "bits_per_weight": q.bits_per_weight,
        "loss": q.loss,
        "loss_db": decibels(q.loss, total),
        "nearest_loss": other,
        "nearest_db": decibels(other, total),
        "weight_energy": total,
        "near_tie_rows": q.near_tie_rows,
        "clipped": q.clipped,
        "dead_columns": int(q.dead.size),
        "damp": q.damp,
        "rotation": None if q.processing is None else q.processing.rotation,
        "candidates": q.candidates,
    }
