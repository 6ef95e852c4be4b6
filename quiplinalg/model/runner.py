"""Run tasks on any executor: a bounded window, results as they come, no task lost with another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from typing import Any

from quiplinalg.errors import WorkerLostError
from quiplinalg.model.executors import Workers

__all__ = ["run_tasks"]

Job = dict[str, Any]
Task = tuple[int, Job]
Outcome = tuple[int, Any]  # the index of a job, and its result or its exception


def run_tasks(
    function: Callable[[Job], Any], jobs: Sequence[Job], workers: Workers
) -> Iterator[Outcome]:
    """Call ``function(job)`` for every job; yield ``(index, result or exception)`` as they end.

    Jobs begin in their order, at most ``workers.window`` of them at a time.  What a task raises is
    its outcome and stops no other.  When a lost worker breaks the executor, it is renewed, and the
    tasks that were in flight run once more, one at a time, so that the culprit breaks it alone;
    its outcome is a WorkerLostError, and the others go on.

    Closing the iterator, or an interrupt, cancels what has not begun.

    Parameters
    ----------
    function : callable
        Importable by its name where the workers are.
    jobs : sequence of dict
        Paths, names and numbers, never arrays: they travel to the workers.
    workers : Workers
        Of :mod:`quiplinalg.model.executors`, entered.

    Yields
    ------
    tuple of (int, object)

    Raises
    ------
    WorkerLostError
        The executor broke and cannot be renewed, as when a cluster's scheduler is gone.

    Examples
    --------
    >>> from quiplinalg.model.executors import serial
    >>> with serial() as workers:
    ...     list(run_tasks(len, [{}, {"name": "a"}], workers))
    [(0, 0), (1, 1)]
    """
    waiting: deque[Task] = deque(enumerate(jobs))
    suspects: deque[Task] = deque()
    while waiting or suspects:
        alone = bool(suspects)
        queue = deque([suspects.popleft()]) if alone else waiting
        lost = yield from _flow(function, queue, workers)
        if not lost and not queue:
            continue
        if not workers.renew():
            raise WorkerLostError(
                "the executor must work as long as there are tasks; this one broke and cannot be "
                "replaced. Start the workers again, and resume."
            )
        if alone and lost:
            yield lost[0][0], WorkerLostError(_blame(workers.loss))
        else:
            suspects.extend(sorted(lost))
        if alone:
            suspects.extendleft(queue)  # not begun: the executor broke while it was idle


def _flow(
    function: Callable[[Job], Any], queue: deque[Task], workers: Workers
) -> Generator[Outcome, None, list[Task]]:
    """Take tasks from the queue until it is empty or the executor breaks; return those lost."""
    flying: dict[Future, Task] = {}
    lost: list[Task] = []
    broken = False
    try:
        while flying or (queue and not broken):
            window = workers.window
            while queue and not broken and len(flying) < window:
                try:
                    future = workers.executor.submit(function, queue[0][1])
                except BrokenExecutor:
                    broken = True
                else:
                    flying[future] = queue.popleft()
            for future in wait(flying, return_when=FIRST_COMPLETED).done:
                task = flying.pop(future)
                try:
                    outcome = future.result()
                except workers.losses:
                    broken = True
                    lost.append(task)
                    continue
                except Exception as error:
                    outcome = error
                yield task[0], outcome
    finally:
        for future in flying:
            future.cancel()
    return lost


def _blame(loss: str) -> str:
    return (
        f"a task must leave its worker alive; the worker of this one {loss}, with no other task "
        "beside it. If memory ran out, give it more or a smaller max_memory; else its log has "
        "the reason."
    )
