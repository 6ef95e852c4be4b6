"""A run: the layers of a plan worked off, each on the disk before it is reported."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quiplinalg.errors import FormatError, InvalidArgumentError, QuipLinalgError
from quiplinalg.files.atomic import check_target
from quiplinalg.files.problem import ProblemReader, open_problem
from quiplinalg.model import executors
from quiplinalg.model.inputs import stamp
from quiplinalg.model.layer import run_task
from quiplinalg.model.merge import check_output, merge
from quiplinalg.model.plan import Plan, make_plan
from quiplinalg.model.policy import Policy
from quiplinalg.model.resume import check_inputs, open_run
from quiplinalg.model.run_directory import RunDirectory
from quiplinalg.model.runner import run_tasks
from quiplinalg.model.selection import select_layers

__all__ = ["COMPARED_ROWS", "Listener", "ModelRun", "plan_model", "run_model"]

COMPARED_ROWS = 128
Facts = dict[str, Any]
Listener = Callable[[str, Facts], None]


@dataclass(frozen=True)
class ModelRun:
    """What became of each layer.

    Attributes
    ----------
    output : str or None
        The result file; None where no layer could be done.
    done : list of dict
        Facts about each layer in it, in name order: "layer", "shape", "bits", "loss", ...
    failed : dict of str to str
        The error of each layer that is not in it.
    skipped : list of str
        Layers that the policy leaves as they are.
    resumed : int
        How many of ``done`` an earlier run had finished.
    seconds : float
        Of this run.
    run_directory : str or None
        What is kept to go on from, where layers failed.
    """

    output: str | None
    done: list[Facts] = field(repr=False)
    failed: dict[str, str]
    skipped: list[str]
    resumed: int
    seconds: float
    run_directory: str | None

    def __repr__(self) -> str:
        parts = [f"{len(self.done)} layers done"]
        if self.resumed:
            parts.append(f"{self.resumed} of them before")
        if self.failed:
            parts.append(f"{len(self.failed)} FAILED: {', '.join(self.failed)}")
        if self.skipped:
            parts.append(f"{len(self.skipped)} skipped")
        return f"ModelRun({self.output!r}, {', '.join(parts)}, {self.seconds:.1f} s)"


def run_model(
    source: str | os.PathLike,
    target: str | os.PathLike,
    policy: Policy,
    *,
    resume: bool = False,
    retry_failed: bool = False,
    restart: bool = False,
    compare_rows: int | None = COMPARED_ROWS,
    workers: executors.Workers | None = None,
    listener: Listener | None = None,
) -> ModelRun:
    """Round the layers of a problem file as a policy says; see `quantize_model`."""
    say = listener or (lambda event, facts: None)
    path = Path(os.path.realpath(target))
    where = path.with_name(path.name + ".run")
    overwrite = policy.settings.get("overwrite", False)
    jobs, threads = policy.settings.get("jobs", 1), policy.settings.get("threads")
    going_on = retry_failed or (resume and (where / "plan.json").exists())
    _check_apart(source, target)
    check_target(path, overwrite or going_on)
    with open_problem(source):  # it is there, and a problem file
        now = stamp(source)
    plan, broken = plan_model(source, policy, say, path.parent)
    with open_run(where, plan, now, going_on, retry_failed, restart, say) as directory:
        check_output(directory, path, overwrite)
        run = _Run(os.path.realpath(source), directory, plan, compare_rows, threads, say)
        try:
            run.work(broken, retry_failed, workers or _own(jobs, threads))
        except BaseException:
            if not directory.done:  # nothing to go on from
                directory.remove()
            raise
        return run.finish(path, overwrite, now)


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
        self.started = time.perf_counter()
        self.before = len(directory.done)
        self.failed = {name: facts["error"] for name, facts in directory.failed.items()}

    def work(self, broken: dict[str, str], again: bool, workers: executors.Workers) -> None:
        """Do every layer that is neither done nor, unless ``again``, failed."""
        directory, plan = self.directory, self.plan
        settled = set(directory.done) | (set() if again else set(directory.failed))
        tasks = [
            self._task(left, task.memory)
            for task in plan.tasks
            if (left := [layer for layer in task.layers if layer.name not in settled])
        ]
        layers = plan.layers
        self.say(
            "start",
            {
                "layers": len(layers) + len(broken),
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
                {"name": each.name, "options": each.options.to_json(), "path": each.path}
                for each in layers
            ],
        }

    def _settle(self, facts: Facts) -> None:
        """Record what became of a layer, and only then say so."""
        name = facts["layer"]
        try:
            self.directory.record(facts)
        except (OSError, QuipLinalgError) as error:
            if "error" not in facts:
                facts = {"layer": name, "error": f"it could not be recorded: {error}"}
        self.failed.pop(name, None)
        if "error" in facts:
            self.failed[name] = facts["error"]
        planned = self.plan.layers.get(name)
        cost = 0.0 if planned is None else planned.flops
        self.say("layer_failed" if "error" in facts else "layer", facts | {"flops": cost})

    def finish(self, target: Path, overwrite: bool, before: dict[str, int]) -> ModelRun:
        """Make the result file of all layers that are done."""
        directory = self.directory
        names = sorted(directory.done)
        if stamp(self.source) != before:
            check_inputs(self.source, directory.done, directory.path)
        done = [directory.done[name] for name in names]
        if done:
            try:
                merge(directory, target, names, overwrite)
            except OSError as error:
                raise QuipLinalgError(
                    f"{str(target)!r} could not be written ({error}). All {len(done)} layers are "
                    f"kept in {str(directory.path)!r}: mend that, then --resume"
                ) from error
        if not self.failed or not done:
            directory.remove()
        return ModelRun(
            output=str(target) if done else None,
            done=done,
            failed=dict(sorted(self.failed.items())),
            skipped=list(self.plan.skipped),
            resumed=self.before,
            seconds=time.perf_counter() - self.started,
            run_directory=str(directory.path) if self.failed and done else None,
        )


def _each(task: Facts, outcome: Any) -> list[Facts]:
    """The facts of each layer of a task, also where the task as a whole failed."""
    if not isinstance(outcome, BaseException):
        return outcome
    error = str(outcome)
    if not isinstance(outcome, QuipLinalgError):
        error = f"{type(outcome).__name__}: {error}"
    return [{"layer": each["name"], "error": error, "warnings": []} for each in task["layers"]]
