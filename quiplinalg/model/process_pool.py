"""Processes for tasks: Ctrl-C does not reach them, they can be killed, and no orphan works on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from threading import Thread
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["ProcessPool"]


class ProcessPool(ProcessPoolExecutor):
    """Spawned processes with a budget of threads; they start when there is work for them."""

    def __init__(self, jobs: int, threads: int):
        super().__init__(jobs, get_context("spawn"), _begin, (threads,))

    def submit(self, function: Any, /, *arguments: Any, **keywords: Any) -> Future:
        with _no_interrupt():  # this may start a process, which inherits the mask
            return super().submit(function, *arguments, **keywords)

    def bury(self) -> str:
        """Shut down a broken pool; return what became of the process that broke it."""
        mourned = list(self._processes.values())
        self.shutdown()
        codes = {process.exitcode or 0 for process in mourned}
        # The pool itself ends the others by SIGTERM.
        return _cause_of_death(min(codes - {0, -signal.SIGTERM}, default=0))

    def kill(self) -> None:
        """End every process at once, and wait until none is left."""
        killed = list((self._processes or {}).values())
        self.shutdown(wait=False, cancel_futures=True)
        for process in killed:
            process.kill()
        for process in killed:
            connection.wait([process.sentinel])


def _cause_of_death(code: int) -> str:
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code}" if code else "ended"


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold SIGINT back, in this thread and in the processes that it starts."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(threads: int) -> None:
    """Make a new process ready for tasks."""
    import scipy.linalg  # noqa: F401  - its BLAS must be loaded to be limited

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["QUIPLINALG_NUM_THREADS"] = str(threads)
    ThreadpoolController().limit(limits=threads)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Leave as soon as the parent is gone: it may have been killed, and resumed elsewhere."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
