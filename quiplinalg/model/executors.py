"""Where tasks run: here, in processes of this machine, on a dask cluster, in any Executor.

Each constructor gives a :class:`Workers`, for :func:`quiplinalg.quantize_model` or, as a context
manager, for :func:`quiplinalg.model.runner.run_tasks`::

    with processes(jobs=4) as workers:
        for index, outcome in run_tasks(run_task, tasks, workers):
            ...

Workers on other machines have quiplinalg installed and see the same files under the same paths.
A process whose parent is gone ends at once: nothing of a killed run writes on.

dask (``pip install 'quiplinalg[dask]'``): a scheduler, and workers with one task at a time and a
budget of threads each; then ``--dask tcp://HOST:8786``, or ``workers=dask("tcp://HOST:8786")``::

    dask scheduler
    QUIPLINALG_NUM_THREADS=8 dask worker --nthreads 1 --nworkers 4 tcp://HOST:8786

A worker that is lost costs its task a second run elsewhere.  A scheduler that is lost ends the
run, which can be resumed.

MPI (``pip install 'quiplinalg[mpi]'``, and an MPI library): a script whose rank 0 hands the tasks
to the other ranks, so that the size is the workers and one::

    # script.py
    import quiplinalg as ql
    from mpi4py.futures import MPIPoolExecutor
    from quiplinalg.model.executors import given

    if __name__ == "__main__":
        with MPIPoolExecutor() as executor:
            ql.quantize_model("model.h5", "out.h5", bits=2, resume=True, workers=given(executor))

    QUIPLINALG_NUM_THREADS=8 mpiexec -n 5 python -m mpi4py.futures script.py

MPI ends every rank when one is lost: start the same again, and it goes on.
"""

from __future__ import annotations

import os
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future
from typing import Any

from quiplinalg.errors import BackendUnavailableError, InvalidArgumentError, WorkerLostError
from quiplinalg.model.process_pool import ProcessPool
from quiplinalg.parallel import thread_count

__all__ = ["Workers", "dask", "given", "processes", "serial"]


class Workers:
    """An executor, how many tasks it gets at a time, and what to do when it breaks.

    Attributes: ``executor``, ``window`` (tasks in flight at most), ``losses`` (what a task raises
    whose worker was lost), ``loss`` (what became of that worker, where the last :meth:`renew`
    found out).
    """

    losses: tuple[type[BaseException], ...] = (BrokenExecutor, CancelledError)
    loss = "was lost"

    def __init__(self, executor: Executor, window: int):
        self.executor = executor
        self._window = window

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    @property
    def window(self) -> int:
        """Tasks in flight at most; it may change while a cluster grows."""
        return self._window

    def renew(self) -> bool:
        """Replace an executor that is broken; False where that cannot be done."""
        return False

    def close(self) -> None:
        """End the workers after their tasks."""

    def abandon(self) -> None:
        """End the workers without waiting for their tasks."""


def given(executor: Executor, window: int | None = None) -> Workers:
    """Return Workers for an executor of the caller's: threads, loky, MPIPoolExecutor, ...

    Parameters
    ----------
    executor : concurrent.futures.Executor
        Left open; the caller ends it.  Its workers import quiplinalg and see the same files.
        It cannot be renewed: where it does not replace lost workers itself, one ends the run.
    window : int, optional
        Tasks in flight at most, more than there are workers.  Default: 64, or twice the workers
        where the executor tells and that is more.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool, given(pool) as workers:
    ...     workers.executor.submit(pow, 2, 5).result()
    32
    """
    if window is None:
        known = [getattr(executor, name, 0) for name in ("num_workers", "_max_workers")]
        window = max(64, *(2 * count for count in known))
    return Workers(executor, _at_least_one("window", window))


def serial() -> Workers:
    """Return Workers that run each task in this thread when it is submitted.

    Examples
    --------
    >>> with serial() as workers:
    ...     workers.executor.submit(divmod, 7, 2).done()
    True
    """
    return Workers(_Here(), 1)


class _Here(Executor):
    """An executor whose tasks are done when ``submit`` returns; Ctrl-C passes through it."""

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(function(*arguments, **keywords))
        except Exception as error:
            future.set_exception(error)
        return future


def processes(jobs: int, threads: int | None = None) -> Workers:
    """Return Workers in processes of their own, which Ctrl-C does not reach.

    Parameters
    ----------
    jobs : int
        Processes.
    threads : int, optional
        Threads of each.  Default: those of this process shared out.

    Raises
    ------
    WorkerLostError
        On entering: a process ended before its first task.
    """
    jobs = _at_least_one("jobs", jobs)
    share = max(1, thread_count() // jobs)
    return _Processes(jobs, share if threads is None else _at_least_one("threads", threads))


class _Processes(Workers):
    executor: ProcessPool

    def __init__(self, jobs: int, threads: int):
        self._jobs, self._threads = jobs, threads
        super().__init__(self._pool(), jobs + 1)  # one is at hand when another ends

    def __enter__(self) -> Workers:
        try:
            self.executor.submit(os.getpid).result()
        except BrokenExecutor:
            raise WorkerLostError(
                f"the processes of jobs={self._jobs} must start; the first "
                f"{self.executor.bury()}. In a script, call this from under "
                "if __name__ == '__main__'; or use jobs=1."
            ) from None
        except BaseException:  # Ctrl-C before the block has begun
            self.abandon()
            raise
        return self

    def _pool(self) -> ProcessPool:
        return ProcessPool(self._jobs, self._threads)

    def renew(self) -> bool:
        self.loss = self.executor.bury()
        self.executor = self._pool()
        return True

    def close(self) -> None:
        self.executor.shutdown()

    def abandon(self) -> None:
        self.executor.kill()


def dask(address: str) -> Workers:
    """Return Workers on a dask cluster.

    Parameters
    ----------
    address : str
        Of its scheduler, as "tcp://HOST:8786", or the path of its scheduler file.

    Raises
    ------
    BackendUnavailableError
        The package ``distributed`` is not installed.
    InvalidArgumentError
        No scheduler answers there.
    """
    try:
        from distributed import Client, KilledWorker
    except ImportError as error:
        raise BackendUnavailableError(
            f"dask={address!r} needs the package distributed; {error}. "
            "Install it: pip install 'quiplinalg[dask]'."
        ) from error
    where = {"scheduler_file": address} if os.path.isfile(address) else {"address": address}
    try:
        client = Client(**where, set_as_default=False, timeout=_PATIENCE)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidArgumentError(
            f"dask must be the address of a running scheduler; got dask={address!r}: {error}. "
            "Start one with 'dask scheduler', and its workers with 'dask worker'."
        ) from error
    return _Dask(client, KilledWorker)


_PATIENCE = 10  # seconds for a scheduler to answer


class _Dask(Workers):
    def __init__(self, client: Any, killed: type[Exception]):
        self._client = client
        self.losses = (*Workers.losses, killed)
        # Not pure: a task that is submitted once more runs once more.
        super().__init__(client.get_executor(pure=False), 1)

    @property
    def window(self) -> int:
        """Two tasks a thread; a cluster that grows with its queue must see one to grow."""
        return max(8, 2 * sum(self._client.nthreads().values()))

    def renew(self) -> bool:
        return self._client.status == "running"  # dask itself replaces the worker

    def close(self) -> None:
        self._client.close()

    def abandon(self) -> None:
        self.executor.shutdown(wait=False)  # cancels; what runs is left to end, unrecorded
        self._client.close()


def _at_least_one(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidArgumentError(
            f"{name} must be a whole number of at least 1; got {name}={value!r}. "
            "Give the number of workers that the machine has memory for."
        )
    return value
