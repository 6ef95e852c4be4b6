"""A run: the layers of a plan worked off, each on the disk before it is reported."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from quiplinalg.errors import FormatError, InvalidArgumentError, QuipLinalgError
from quiplinalg.files.atomic import check_target
from quiplinalg.files.problem import ProblemReader, open_problem
from quiplinalg.model import executors
from quiplinalg.model.inputs import stamp
from quiplinalg.model.layer import names, run_task
from quiplinalg.model.merge import check_output, merge
from quiplinalg.model.outcome import Facts, ModelRun
from quiplinalg.model.plan import Plan, make_plan
from quiplinalg.model.policy import Policy
from quiplinalg.model.rates import BitPlan, check_budget, measured_rates
from quiplinalg.model.resume import check_inputs, open_run
from quiplinalg.model.run_directory import RunDirectory, key_of
from quiplinalg.model.runner import run_tasks
from quiplinalg.model.selection import select_layers
from quiplinalg.model.size_target import SizeTarget

__all__ = ["COMPARED_ROWS", "Listener", "ModelRun", "plan_model", "run_model"]

COMPARED_ROWS = 128
Listener = Callable[[str, Facts], None]


def run_model(
    source: str | os.PathLike,
    target: str | os.PathLike,
    policy: Policy,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    restart: bool = False,
    measure: bool = False,
    compare_rows: int | None = COMPARED_ROWS,
    workers: executors.Workers | Callable[[], executors.Workers] | None = None,
    listener: Listener | None = None,
) -> ModelRun:
    """Round the layers of a problem file as a policy says; see `quantize_model`.

    Parameters
    ----------
    measure : bool
        Do every layer at every width, choose, and keep all that for a run with ``resume``.
    workers : Workers or callable, optional
        Or what makes them, called when all is checked.
    """
    say = listener or (lambda event, facts: None)
    path = Path(os.path.realpath(target))
    where = path.with_name(path.name + ".run")
    overwrite = policy.settings.get("overwrite", False)
    jobs, threads = policy.settings.get("jobs", 1), policy.settings.get("threads")
    if restart and (resume or retry_failed):
        raise InvalidArgumentError(
            "restart throws a run away, resume and retry_failed go on with it; got both. "
            "Leave one of them out."
        )
    going_on = retry_failed or (resume and (where / "plan.json").exists())
    _check_apart(source, target)
    check_target(path, overwrite or going_on or measure)
    with open_problem(source):  # it is there, and a problem file
        now = stamp(source)
    plan, broken = plan_model(source, policy, say, path.parent)
    budget = policy.settings.get("budget")
    check_budget(plan, budget, measure)
    with open_run(
        where, plan, compare_rows, now, going_on, retry_failed, restart, say
    ) as directory:
        if not measure:
            check_output(directory, path, overwrite)
        run = _Run(os.path.realpath(source), directory, plan, compare_rows, threads, say)
        try:
            found = workers() if callable(workers) else workers
            run.work(broken, retry_failed, found or _own(jobs, threads))
        except BaseException:
            if not directory.done:  # nothing to go on from
                directory.remove()
            raise
        return run.measured(budget, now) if measure else run.finish(path, overwrite, now, budget)


def _own(jobs: int, threads: int | None) -> executors.Workers:
    return executors.serial() if jobs == 1 else executors.processes(jobs, threads)


def _check_apart(source: str | os.PathLike, target: str | os.PathLike) -> None:
    same = os.path.realpath(source) == os.path.realpath(target)
    if same or (
        os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target)
    ):
        raise InvalidArgumentError(
            f"target must be another file than source; got {os.fspath(target)!r} for both. "
            "The input is never written to: choose another name."
        )


def plan_model(
    source: str | os.PathLike, policy: Policy, say: Listener, folder: Path
) -> tuple[Plan, dict[str, str]]:
    """Return the plan of a run, and the errors of the layers that cannot be planned."""
    settings = policy.settings
    with open_problem(source) as problem:
        names, texts = select_layers(
            problem.names, settings.get("include", ()), settings.get("exclude", ())
        )
        for text in [*texts, *policy.unused(problem.names), *policy.overridden()]:
            say("warning", {"text": text})
        broken = dict(_broken(problem, names))
        sound = [name for name in names if name not in broken]
        plan = make_plan(
            problem,
            policy,
            sound,
            max_memory=settings.get("max_memory"),
            jobs=settings.get("jobs", 1),
            threads=settings.get("threads"),
            scratch=str(folder),
        )
    if not plan.tasks and not broken:
        raise InvalidArgumentError(
            f"at least one layer must be rounded; got rules that skip all {len(plan.skipped)}. "
            "Take skip out of one of them."
        )
    return plan, broken


def _broken(problem: ProblemReader, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            problem.info(name)
        except FormatError as error:
            yield name, str(error)


class _Run:
    """A plan, worked off into a directory."""

    def __init__(
        self,
        source: str,
        directory: RunDirectory,
        plan: Plan,
        rows: int | None,
        threads: int | None,
        say: Listener,
    ):
        self.source, self.directory, self.plan = source, directory, plan
        self.rows, self.threads, self.say = rows, threads, say
        self._layers = plan.layers
        self.started = time.perf_counter()
        self.before = len(directory.done)
        self.failed = dict(directory.failed)

    def work(self, broken: dict[str, str], again: bool, workers: executors.Workers) -> None:
        """Do every layer that is neither done nor, unless ``again``, failed."""
        directory, plan = self.directory, self.plan
        asked = {*self._layers, *broken}  # a failure that is not asked for again is no failure
        self.failed = {key: facts for key, facts in self.failed.items() if key in asked}
        settled = set(directory.done) | (set() if again else set(directory.failed))
        tasks = [
            self._task(left, task.memory)
            for task in plan.tasks
            if (left := [layer for layer in task.layers if layer.key not in settled])
        ]
        layers = self._layers
        self.say(
            "start",
            {
                "layers": len({layer.name for layer in layers.values()}) + len(broken),
                "roundings": len(layers) + len(broken),
                "resumed": len(directory.done),
                "flops": sum(layer.flops for layer in layers.values()),
                "flops_done": sum(layers[name].flops for name in settled if name in layers),
                "skipped": list(plan.skipped),
                "run_directory": str(directory.path),
            },
        )
        for name, error in broken.items():
            if name not in settled:
                self._settle({"layer": name, "error": error, "warnings": []})
        with workers:
            for index, outcome in run_tasks(run_task, tasks, workers):
                for facts in _each(tasks[index], outcome):
                    self._settle(facts)

    def _task(self, layers: Sequence[Any], memory: int) -> Facts:
        return {
            "source": self.source,
            "run": str(self.directory.path),
            "threads": self.threads,
            "memory": memory,
            "rows": self.rows,
            "layers": [
                {
                    "name": each.name,
                    "key": each.key,
                    "options": each.options.to_json(),
                    "path": each.path,
                }
                for each in layers
            ],
        }

    def _settle(self, facts: Facts) -> None:
        """Record what became of a layer, and only then say so."""
        key = key_of(facts)
        try:
            self.directory.record(facts)
        except (OSError, QuipLinalgError) as error:
            if "error" not in facts:
                names = {name: facts[name] for name in ("layer", "key") if name in facts}
                facts = names | {"error": f"it could not be recorded: {error}"}
        self.failed.pop(key, None)
        if "error" in facts:
            self.failed[key] = facts
        planned = self._layers.get(key)
        cost = 0.0 if planned is None else planned.flops
        self.say("layer_failed" if "error" in facts else "layer", facts | {"flops": cost})

    def measured(self, budget: SizeTarget | None, before: dict[str, int]) -> ModelRun:
        """Choose the widths of the layers that are done at each, and keep everything."""
        directory = self.directory
        self._check_inputs(before)
        if not directory.done:
            directory.remove()
            return self._report(None, [], None, None)
        done = sorted(directory.done.values(), key=lambda facts: (facts["layer"], facts["bits"]))
        return self._report(None, done, str(directory.path), self._choose(budget))

    def finish(
        self, target: Path, overwrite: bool, before: dict[str, int], budget: SizeTarget | None
    ) -> ModelRun:
        """Make the result file of all layers that are done, each at the width chosen for it."""
        directory = self.directory
        self._check_inputs(before)
        bits = self._choose(budget) if self.plan.mixed else None
        keys = sorted(directory.done) if bits is None else bits.keys()
        done = [directory.done[key] for key in keys]
        if done:
            try:
                merge(directory, target, keys, overwrite)
            except OSError as error:
                raise QuipLinalgError(
                    f"{str(target)!r} could not be written ({error}). All {len(done)} layers are "
                    f"kept in {str(directory.path)!r}: mend that, then --resume"
                ) from error
        kept = bool(self.failed and directory.done)
        if not kept:
            directory.remove()
        output = str(target) if done else None
        return self._report(output, done, str(directory.path) if kept else None, bits)

    def _check_inputs(self, before: dict[str, int]) -> None:
        if stamp(self.source) != before:
            check_inputs(self.source, self.directory.done, self.directory.path)

    def _choose(self, budget: SizeTarget | None) -> BitPlan:
        """The widths of the layers of which no width failed, and so none is missing."""
        failed = {facts["layer"] for facts in self.failed.values()}
        whole = [facts for facts in self.directory.done.values() if facts["layer"] not in failed]
        sensitivities = {layer.name: layer.sensitivity for layer in self._layers.values()}
        try:
            return BitPlan.of(measured_rates(whole, sensitivities), budget)
        except InvalidArgumentError as error:
            raise InvalidArgumentError(
                f"{error} What was measured is kept in {str(self.directory.path)!r}: with --resume "
                "nothing is computed again."
            ) from None

    def _report(
        self, output: str | None, done: list[Facts], kept: str | None, bits: BitPlan | None
    ) -> ModelRun:
        failed: dict[str, str] = {}
        for key in sorted(self.failed):
            failed.setdefault(self.failed[key]["layer"], self.failed[key]["error"])
        return ModelRun(
            output=output,
            done=done,
            failed=dict(sorted(failed.items())),
            skipped=list(self.plan.skipped),
            resumed=self.before,
            seconds=time.perf_counter() - self.started,
            run_directory=kept,
            bits=bits,
        )


def _each(task: Facts, outcome: Any) -> list[Facts]:
    """The facts of each layer of a task, also where the task as a whole failed."""
    if not isinstance(outcome, BaseException):
        return outcome
    error = str(outcome)
    if not isinstance(outcome, QuipLinalgError):
        error = f"{type(outcome).__name__}: {error}"
    return [names(each) | {"error": error, "warnings": []} for each in task["layers"]]
