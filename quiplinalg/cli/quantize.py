"""``quiplinalg quantize``: round the layers of a problem file, and lose none of them."""

from __future__ import annotations

import os
from pathlib import Path
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
    note,
    print_table,
    progress,
    warn,
)
from quiplinalg.cli.layers import check_paths
from quiplinalg.cli.report import in_decibels, report
from quiplinalg.cli.settings import add_settings, layer_policy

if TYPE_CHECKING:
    from quiplinalg.model.executors import Workers
    from quiplinalg.model.plan import Plan
    from quiplinalg.model.policy import Policy
    from quiplinalg.model.run import ModelRun

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
    add(
        "--config",
        metavar="FILE.toml",
        help="options by name, as bits = 3, and [[rules]] for layers by name; flags come first",
    )
    add(
        "--compare-rows",
        metavar="N|all",
        help="rows of each layer that the dB are computed on; default: 128",
    )
    add("--resume", action="store_true", help="go on with the run of OUT.h5 that was stopped")
    add(
        "--retry-failed",
        action="store_true",
        help="go on, and do the layers that failed again, with the options given now",
    )
    add("--restart", action="store_true", help="throw away what an unfinished run has done")
    add("--dask", metavar="ADDRESS", help="work on the dask cluster with this scheduler")
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
        done = _run(options, policy)
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from None
    report(done, options.json)
    return OK if not done.failed else SOME_FAILED if done.done else FAILED


def _check(options: Any, policy: Policy) -> None:
    """Raise for flags and paths that do not go together, before any file is opened."""
    from quiplinalg.parallel import num_threads

    with num_threads(policy.settings.get("threads", 1)):  # is the count one?
        pass
    if options.restart and (options.resume or options.retry_failed):
        raise UsageError(
            "--restart throws a run away; got it with --resume or --retry-failed, which go on with "
            "it. Leave one of them out"
        )
    if options.dask and policy.settings.get("jobs", 1) != 1:
        raise UsageError(
            "--dask uses the workers of the cluster; got it with --jobs. Leave one of them out"
        )
    going_on = (options.resume or options.retry_failed) and os.path.exists(
        os.path.realpath(options.output) + ".run"
    )
    overwrite = policy.settings.get("overwrite", False)
    check_paths(options.input, options.output, overwrite or going_on or options.dry_run)


def _compared(options: Any) -> int | None:
    from quiplinalg.model.run import COMPARED_ROWS

    text = options.compare_rows
    if text is None:
        return COMPARED_ROWS
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--compare-rows must be a whole number or all; got {text!r}")
    return int(text)


def _workers(options: Any) -> Workers | None:
    if options.dask is None:
        return None
    from quiplinalg.model.executors import dask

    return dask(options.dask)


# the bar counts operations, so that the time left is right where layers differ
_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


def _run(options: Any, policy: Policy) -> ModelRun:
    from quiplinalg.model.run import run_model

    rows, workers = _compared(options), _workers(options)
    listener = _Listener(options)
    with Interrupts() as interrupts, progress(1, "quantize", bar_format=_BAR) as bar:
        listener.bar, listener.interrupts = bar, interrupts
        try:
            done = run_model(
                options.input, options.output, policy, resume=options.resume,
                retry_failed=options.retry_failed, restart=options.restart, compare_rows=rows,
                workers=workers, listener=listener,
            )  # fmt: skip
        except KeyboardInterrupt:
            bar.close()
            listener.interrupted()
            raise
        interrupts.check()
    return done


class _Listener:
    """What a run tells people and programs while it goes on."""

    bar: Any
    interrupts: Interrupts

    def __init__(self, options: Any):
        self.json, self.output = options.json, options.output
        self.layers = self.done = self.failed = 0
        self.loss = self.energy = 0.0
        self.directory = ""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        for text in facts.get("warnings", ()):
            self._clear()
            warn(f"layer {facts['layer']!r}: {text}")
        getattr(self, f"_{event}")(facts)
        self.interrupts.check()

    def _clear(self) -> None:
        self.bar.clear()

    def _warning(self, facts: dict[str, Any]) -> None:
        self._clear()
        warn(facts["text"])

    def _start(self, facts: dict[str, Any]) -> None:
        self.layers, self.done = facts["layers"], facts["resumed"]
        self.directory = facts["run_directory"]
        self.bar.reset(total=facts["flops"])
        self.bar.update(facts["flops_done"])
        self.bar.initial = facts["flops_done"]  # of the rate, and so of the time left
        self._show()
        if self.json:
            emit("start", **{key: facts[key] for key in facts if key != "flops_done"})
        elif self.done:
            self._clear()
            note(f"quiplinalg: {self.done} of {self.layers} layers were done before")

    def _layer(self, facts: dict[str, Any]) -> None:
        self.done += 1
        self.loss += facts["loss"]
        self.energy += facts["weight_energy"]
        if self.json:
            emit("layer", **_public(in_decibels(facts)))
        self._count(facts)

    def _layer_failed(self, facts: dict[str, Any]) -> None:
        self.failed += 1
        self._clear()
        fail(f"layer {facts['layer']!r}: {_remedy(facts)}")
        if "traceback" in facts:
            note(facts["traceback"])
        if self.json:
            emit("layer_failed", **_public(facts))
        self._count(facts)

    def _count(self, facts: dict[str, Any]) -> None:
        self._show()
        self.bar.update(facts["flops"])

    def _show(self) -> None:
        failed = f", {self.failed} failed" if self.failed else ""
        db = f", {format_db(decibels(self.loss, self.energy))} dB" if self.energy else ""
        self.bar.set_postfix_str(f"{self.done}/{self.layers} layers{failed}{db}", refresh=False)

    def interrupted(self) -> None:
        """Say what is kept."""
        if self.json:
            emit("interrupted", done=self.done, layers=self.layers, run_directory=self.directory)
        if self.done:
            note(
                f"quiplinalg: {self.done} of {self.layers} layers are done and kept in "
                f"{self.directory}; the same command with --resume does the rest"
            )


_PRIVATE = ("flops", "inputs", "shard", "path")


def _public(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in _PRIVATE}


def _remedy(facts: dict[str, Any]) -> str:
    """The error, with the remedy as it is typed here."""
    return (
        facts["error"].replace('damp="auto"', "--damp auto").replace("Raise damp", "Raise --damp")
    )


def _dry_run(options: Any, policy: Policy) -> int:
    """Print what would be done."""
    from quiplinalg.model.run import plan_model

    folder = Path(os.path.realpath(options.output)).parent
    plan, broken = plan_model(options.input, policy, lambda _, facts: warn(facts["text"]), folder)
    shared = _shared(plan)
    rows = []
    for name, layer in plan.layers.items():
        m, n = layer.shape
        chosen = layer.options
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
    weights = sum(m * n for m, n in (layer.shape for layer in plan.layers.values()))
    jobs = policy.settings.get("jobs", 1)
    for name, error in broken.items():
        fail(f"layer {name!r}: {error}")
    if options.json:
        emit(
            "summary", dry_run=True, layers=len(rows), weights=weights, output=options.output,
            skipped=list(plan.skipped), failed=list(broken), flops=plan.flops,
            memory=plan.memory(jobs), scratch=plan.scratch(jobs),
        )  # fmt: skip
        return OK
    print_table(
        ("layer", "H shared with", "method", "shape", "dtype", "bits", "Gflop", "memory", "where"),
        rows,
        left=3,
    )
    skipped = f", {len(plan.skipped)} skipped" if plan.skipped else ""
    disk = f", {format_bytes(plan.scratch(jobs))} of tiles" if plan.scratch(jobs) else ""
    print(
        f"\n{len(rows)} layers{skipped}, {weights} weights, {plan.flops / 1e9:.3g} Gflop in "
        f"{len(plan.tasks)} tasks, {format_bytes(plan.memory(jobs))} of memory{disk}: a dry run, "
        f"{options.output} was not written"
    )
    return OK


def _shared(plan: Plan) -> dict[str, str | None]:
    """The first layer with the Hessian of each layer, None for itself."""
    first: dict[str, str] = {}
    found: dict[str, str | None] = {}
    for name, layer in plan.layers.items():
        owner = first.setdefault(layer.hessian_key, name)
        found[name] = None if owner == name else owner
    return found
