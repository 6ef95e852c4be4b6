"""``quiplinalg quantize``: round the layers of a problem file, and lose none of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    FAILED,
    OK,
    SOME_FAILED,
    Parser,
    UsageError,
    emit,
    fail,
    format_bytes,
    print_table,
    warn,
)
from quiplinalg.cli.layers import check_paths
from quiplinalg.cli.listener import add_run_options, check_run_options, listened_run
from quiplinalg.cli.report import check_place, write_report
from quiplinalg.cli.settings import add_settings, layer_policy
from quiplinalg.cli.summary import report

if TYPE_CHECKING:
    from quiplinalg.model.plan import Plan
    from quiplinalg.model.policy import Policy

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {
    "description": "Round every layer of a problem file to a few bits, and write a result file.",
    "epilog": "Layers that are done are kept in OUT.h5.run until OUT.h5 appears, in one step: a "
    "run that was stopped, by whatever, goes on with --resume. A layer that fails is reported and "
    "left out (exit code 3). IN.h5 is only read.",
}


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("input", metavar="IN.h5", help="a problem file, from ProblemWriter")
    add("output", metavar="OUT.h5", help="the result file to write")
    add_settings(parser)
    add_run_options(parser)
    add("--report", metavar="FILE.html", help="also write a page with the figures of every layer")
    add("--dry-run", action="store_true", help="print what would be done; write nothing")
    add("--json", action="store_true", help="one JSON object a line on stdout")


def run(options: Any) -> int:
    """Run the command."""
    from quiplinalg.errors import InvalidArgumentError

    try:
        policy = layer_policy(options)
        _check(options, policy)
        if options.dry_run:
            return _dry_run(options, policy)
        done = listened_run(options, policy, "quantize")
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from None
    report(done, options.json)
    if options.report is not None and done.output is not None:
        write_report(done, options.input, options.report)
    return OK if not done.failed else SOME_FAILED if done.done else FAILED


def _check(options: Any, policy: Policy) -> None:
    """Raise for flags and paths that do not go together, before any file is opened."""
    check_run_options(options, policy)
    unfinished = os.path.realpath(options.output) + ".run"
    going_on = (options.resume or options.retry_failed) and os.path.exists(unfinished)
    overwrite = policy.settings.get("overwrite", False)
    if (
        os.path.exists(options.output)
        and os.path.exists(unfinished)
        and not (going_on or options.dry_run or options.restart)
    ):
        raise UsageError(
            f"OUT.h5 must be new; got {options.output!r}, of a run with layers that failed, which "
            f"is kept in {unfinished!r}. Go on with --retry-failed, or throw it away with --restart"
        )
    check_paths(options.input, options.output, overwrite or going_on or options.dry_run)
    if options.report is not None:
        check_place("--report", options.report, options.output)


def _dry_run(options: Any, policy: Policy) -> int:
    """Print what would be done."""
    from quiplinalg.model.rates import check_budget
    from quiplinalg.model.run import plan_model

    folder = Path(os.path.realpath(options.output)).parent
    plan, broken = plan_model(options.input, policy, lambda _, facts: warn(facts["text"]), folder)
    check_budget(plan, policy.settings.get("budget"))
    shared = _shared(plan)
    rows = []
    for layer in plan.layers.values():
        name, chosen = layer.name, layer.options
        m, n = layer.shape
        if options.json:
            emit(
                "plan", layer=name, shape=[m, n], dtype=str(layer.dtype),
                shares_hessian_of=shared[name], flops=layer.flops, memory=layer.memory,
                path=layer.path, **chosen.to_json(),
            )  # fmt: skip
        rows.append(
            (name, shared[name] or "-", chosen.method, f"{m} x {n}", layer.dtype, chosen.bits,
             f"{layer.flops / 1e9:.3g}", format_bytes(layer.memory), layer.path)
        )  # fmt: skip
    shapes = {layer.name: layer.shape for layer in plan.layers.values()}
    weights = sum(m * n for m, n in shapes.values())
    jobs = policy.settings.get("jobs", 1)
    for name, error in broken.items():
        fail(f"layer {name!r}: {error}")
    if options.json:
        emit(
            "summary", dry_run=True, layers=len(shapes), weights=weights, output=options.output,
            skipped=list(plan.skipped), failed=list(broken), flops=plan.flops,
            memory=plan.memory(jobs), scratch=plan.scratch(jobs),
        )  # fmt: skip
        return SOME_FAILED if broken else OK
    print_table(
        ("layer", "H shared with", "method", "shape", "dtype", "bits", "Gflop", "memory", "where"),
        rows,
        left=3,
    )
    skipped = f", {len(plan.skipped)} skipped" if plan.skipped else ""
    disk = f", {format_bytes(plan.scratch(jobs))} of tiles" if plan.scratch(jobs) else ""
    print(
        f"\n{len(shapes)} layers{skipped}, {weights} weights, {plan.flops / 1e9:.3g} Gflop in "
        f"{len(plan.tasks)} tasks, {format_bytes(plan.memory(jobs))} of memory{disk}: a dry run, "
        f"{options.output} was not written"
    )
    return SOME_FAILED if broken else OK


def _shared(plan: Plan) -> dict[str, str | None]:
    """The first layer with the Hessian of each layer, None for itself."""
    first: dict[str, str] = {}
    found: dict[str, str | None] = {}
    for layer in plan.layers.values():
        owner = first.setdefault(layer.hessian_key, layer.name)
        found[layer.name] = None if owner == layer.name else owner
    return found
