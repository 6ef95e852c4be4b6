"""Threads: one pool of our own, one BLAS thread inside it, results that do not depend on either.

Every kernel is a single-threaded function that releases the GIL; the drivers cut the work into
independent pieces whose boundaries do not change the result, and hand them to Python threads.
No other pool runs beside ours: BLAS is held at one thread while we work, because the workers of a
BLAS pool keep spinning after a call and take the cores from the next one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

from quiplinalg.errors import InvalidArgumentError

__all__ = ["num_threads", "on_pool", "run_all", "single_blas_thread", "thread_count"]

_requested: ContextVar[int | None] = ContextVar("quiplinalg_num_threads", default=None)


def _available() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count() -> int:
    """Return the number of threads: of `num_threads`, else QUIPLINALG_NUM_THREADS, else all."""
    requested = _requested.get()
    if requested is not None:
        return requested
    text = os.environ.get("QUIPLINALG_NUM_THREADS", "")
    if not text:
        return _available()
    if not text.isdigit() or int(text) < 1:
        raise InvalidArgumentError(
            "QUIPLINALG_NUM_THREADS must be a whole number of at least 1; got "
            f"QUIPLINALG_NUM_THREADS={text!r}. Unset it to use every core."
        )
    return int(text)


@contextmanager
def num_threads(count: int) -> Iterator[None]:
    """Use ``count`` threads inside the ``with`` block, in this thread only.

    Parameters
    ----------
    count : int
        At least 1.

    Examples
    --------
    >>> import quiplinalg as ql
    >>> with ql.num_threads(1):
    ...     ql.parallel.thread_count()
    1
    """
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise InvalidArgumentError(
            f"count must be a whole number of at least 1; got count={count!r}. "
            "Leave the block out to use every core."
        )
    token = _requested.set(count)
    try:
        yield
    finally:
        _requested.reset(token)


_NAME = "quiplinalg"


@cache
def _pool(workers: int, _process: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, thread_name_prefix=_NAME)


def on_pool() -> bool:
    """Tell whether this thread is one of the pool, for whose work others wait."""
    return threading.current_thread().name.startswith(f"{_NAME}_")


def run_all(function: Callable[..., Any], tasks: Iterable[tuple]) -> list[Any]:
    """Call ``function(*task)`` for every task, on `thread_count` threads; results in task order.

    Of several errors the first in task order is raised; tasks that have not begun by then never do.
    """
    tasks = list(tasks)
    workers = min(thread_count(), len(tasks))
    if workers <= 1:
        return [function(*task) for task in tasks]
    pool = _pool(workers, os.getpid())  # per process: after a fork the parent's do not exist
    futures: list[Future] = []
    try:
        for task in tasks:
            futures.append(pool.submit(function, *task))
        return [future.result() for future in futures]
    except BaseException:  # Ctrl-C too
        for future in futures:
            future.cancel()
        wait(futures)  # a task still running owns views of our buffers
        raise


_blas_lock = threading.Lock()
_blas_users = 0
_blas_limiter: Any = None


@cache
def _controller() -> ThreadpoolController:
    import scipy.linalg  # noqa: F401  - its OpenBLAS must be loaded to be found

    return ThreadpoolController()


@contextmanager
def single_blas_thread() -> Iterator[None]:
    """Hold every BLAS at one thread; nested and concurrent blocks share one hold."""
    global _blas_users, _blas_limiter
    with _blas_lock:
        if _blas_users == 0:
            _blas_limiter = _controller().limit(limits=1, user_api="blas")
            _blas_limiter.__enter__()
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limiter.__exit__(None, None, None)
