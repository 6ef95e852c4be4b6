"""The plan of a run: which layers go together, in which order, and where each of them fits."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.model.budget import Budget, check_scratch, processes
from quiplinalg.model.cost import base_memory, factor_flops, flops
from quiplinalg.model.options import is_plain_nearest
from quiplinalg.parallel import thread_count

if TYPE_CHECKING:
    from quiplinalg.files import LayerInfo, ProblemReader
    from quiplinalg.model.options import LayerOptions
    from quiplinalg.model.policy import Policy

__all__ = ["LayerPlan", "Plan", "Task", "make_plan"]

_FACTOR = 0.1  # of a task that its factor may take before the task is long enough
_ROUNDING = 1e-9  # of sums of flops


@dataclass(frozen=True)
class LayerPlan:
    """One layer of a plan.

    Attributes
    ----------
    name : str
    shape : (int, int)
    dtype : dtype
        Of the weight in the file.
    hessian_key : str
        Equal for layers that share a stored Hessian.
    options : LayerOptions
    flops : float
        As if it were alone.
    memory : int
        Bytes, beyond the interpreter, that it needs; or with "tiles" that its arrays may use.
    path : str
        "memory", or "tiles" where the factor is kept on disk.
    scratch : int
        Bytes of that.
    sensitivity : float
        From the file.
    mixed : bool
        Whether it is of a plan in which layers are done at several widths each, to choose from.
    """

    name: str
    shape: tuple[int, int]
    dtype: np.dtype
    hessian_key: str
    options: LayerOptions
    flops: float
    memory: int
    path: str = "memory"
    scratch: int = 0
    sensitivity: float = 1.0
    mixed: bool = False

    @property
    def key(self) -> str:
        """What tells it from others of the plan: the name, in a mixed plan with its bits."""
        return f"{self.name} at {self.options.bits} bits" if self.mixed else self.name


@dataclass(frozen=True)
class Task:
    """Layers that one worker does one after the other, with one Hessian, read and factored once.

    All layers have the same ``hessian_key``, ``path`` and ``options.shared_factor``.
    """

    layers: tuple[LayerPlan, ...]

    @property
    def flops(self) -> float:
        """Operations, the factor counted once."""
        first = self.layers[0]
        again = factor_flops(first.options, first.shape[1]) * (len(self.layers) - 1)
        return sum(layer.flops for layer in self.layers) - again

    @property
    def memory(self) -> int:
        """Bytes at the peak, beyond the interpreter."""
        return max(layer.memory for layer in self.layers)

    @property
    def path(self) -> str:
        """ "memory" or "tiles"."""
        return self.layers[0].path


@dataclass(frozen=True)
class Plan:
    """What a run will do; made by `make_plan`.

    Attributes
    ----------
    source : str
        Path of the problem file.
    tasks : tuple of Task
        The longest first.
    skipped : tuple of str
        Layers that the policy leaves out.
    """

    source: str
    tasks: tuple[Task, ...]
    skipped: tuple[str, ...] = ()

    @property
    def layers(self) -> dict[str, LayerPlan]:
        """Every layer by its key: in name order, and by bits."""
        found = (layer for task in self.tasks for layer in task.layers)
        ordered = sorted(found, key=lambda layer: (layer.name, layer.options.bits))
        return {layer.key: layer for layer in ordered}

    @property
    def mixed(self) -> bool:
        """Whether the bits of some layer are to be chosen."""
        return any(layer.mixed for task in self.tasks for layer in task.layers)

    @property
    def flops(self) -> float:
        """Operations of all tasks."""
        return sum(task.flops for task in self.tasks)

    def memory(self, jobs: int = 1) -> int:
        """Return the bytes of ``jobs`` workers at their peak, the interpreters with them."""
        largest = heapq.nlargest(jobs, (task.memory for task in self.tasks))
        return processes(jobs) * base_memory() + sum(largest)

    def scratch(self, jobs: int = 1) -> int:
        """Return the bytes on disk that ``jobs`` workers need for their tiles."""
        layers = (layer.scratch for task in self.tasks for layer in task.layers)
        return sum(heapq.nlargest(jobs, layers))


def make_plan(
    problem: ProblemReader,
    policy: Policy,
    names: Iterable[str],
    *,
    max_memory: int | None = None,
    jobs: int = 1,
    threads: int | None = None,
    scratch: str | None = None,
) -> Plan:
    """Plan a run; no array is read.

    Parameters
    ----------
    problem : ProblemReader
    policy : Policy
        What each layer gets.
    names : iterable of str
        The layers to do.
    max_memory : int, optional
        Bytes that all jobs together may use, interpreters with them; each job may use the same
        share.  Default: nine tenths of `available_memory`.
    jobs : int
        Workers at a time.
    threads : int, optional
        Threads of each.  Default: `thread_count` shared out among the jobs.
    scratch : str, optional
        Directory of the tiles; where it is given, what is free there must be enough.

    Returns
    -------
    Plan
        A layer whose bits are to be chosen is in it once for each width, next to each other.
        Layers that share a Hessian and how it is factored are one task, or several: of which the
        factor is about a tenth, so that what is done is soon recorded, and which are about a job's
        part of everything at most, so that nobody waits for the last one.

    Raises
    ------
    InsufficientMemoryError
        A layer fits on no path, or its tiles do not fit on the disk.
    InvalidArgumentError
        jobs, threads or max_memory below 1.
    """
    for name, value in (("jobs", jobs), ("threads", threads), ("max_memory", max_memory)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise InvalidArgumentError(
                f"{name} must be a whole number of at least 1; got {name}={value!r}. "
                "Leave it out for the default."
            )
    threads = threads or max(1, thread_count() // jobs)
    budget = Budget(max_memory, jobs, threads)
    groups: dict[Any, list[tuple[LayerInfo, LayerOptions]]] = {}
    skipped, mixed = [], False
    for name in names:
        options = policy.for_layer(name)
        if options is None:
            skipped.append(name)
            continue
        info = problem.info(name)
        _check_diagonal(info, options)
        group = groups.setdefault((info.hessian_key, options.shared_factor), [])
        group.extend((info, each) for each in options.at_each_width())
        mixed |= bool(options.widths)
    tasks = [
        task
        for group in groups.values()
        for task in _by_path([_layer(*each, len(group), budget, mixed) for each in group])
    ]
    budget.check()
    most = (1 + _ROUNDING) * sum(task.flops for task in tasks) / jobs
    tasks = [part for task in tasks for part in _split(task, most)]
    tasks.sort(key=lambda task: (-task.flops, task.layers[0].name))
    plan = Plan(problem.path, tuple(tasks), tuple(skipped))
    if scratch is not None:
        check_scratch(plan.scratch(jobs), scratch)
    return plan


def _check_diagonal(info: LayerInfo, options: LayerOptions) -> None:
    if info.storage != "diagonal" or is_plain_nearest(options):
        return
    raise InvalidArgumentError(
        f"method must be nearest, without refinement, for layer {info.name!r}, as its file has "
        f"only the diagonal of its Hessian; got method={options.method!r}. The others round by "
        "how inputs go together, which is off the diagonal: store the whole Hessian for them."
    )


def _layer(
    info: LayerInfo, options: LayerOptions, shares: int, budget: Budget, mixed: bool
) -> LayerPlan:
    path, memory, scratch = budget.place(info, options, shares)
    return LayerPlan(
        name=info.name,
        shape=info.shape,
        dtype=info.dtype,
        hessian_key=info.hessian_key,
        options=options,
        flops=flops(options, *info.shape),
        memory=memory,
        path=path,
        scratch=scratch,
        sensitivity=info.sensitivity,
        mixed=mixed,
    )


def _by_path(layers: list[LayerPlan]) -> Iterator[Task]:
    """Yield the layers in memory as one task, and each on tiles, at all widths, as its own."""
    together = tuple(layer for layer in layers if layer.path == "memory")
    if together:
        yield Task(together)
    for _, same in groupby((layer for layer in layers if layer.path != "memory"), _name):
        yield Task(tuple(same))


def _name(layer: LayerPlan) -> str:
    return layer.name


def _split(task: Task, most: float) -> Iterator[Task]:
    """Yield parts of about equal length, as many as the factor allows or ``most`` flops ask for.

    A layer is in one part at all its widths, from one factor, and these do not make for more parts
    than one width does.
    """
    layers = [tuple(same) for _, same in groupby(task.layers, _name)]
    factor = factor_flops(task.layers[0].options, task.layers[0].shape[1])
    costs = [sum(each.flops - factor for each in same) for same in layers]
    whole = sum(costs)
    widths = len(task.layers) / len(layers)
    least = widths * factor * (1 - _FACTOR) / _FACTOR  # of a part, beside its factor
    count = max(
        ceil(task.flops / most) if most else 1, int(whole / least) if least else len(layers)
    )
    parts: dict[int, list[LayerPlan]] = {}
    before = 0.0
    for same, cost in zip(layers, costs, strict=True):
        middle = (before + cost / 2) / whole if whole else 0.0
        parts.setdefault(int(count * middle), []).extend(same)
        before += cost
    yield from (Task(tuple(part)) for part in parts.values())
