"""Temporary files of writers that were killed: found by a lock that nobody holds any more."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing is swept there
    fcntl = None  # type: ignore[assignment]

__all__ = ["held", "sweep"]

_JUST_MADE = 60.0  # seconds in which an empty file may be between its creation and its lock


@contextlib.contextmanager
def held(temporary: Path) -> Iterator[None]:
    """Keep :func:`sweep` away from a file, until the block ends or the process does.

    To be entered before anything is written to the file.
    """
    with contextlib.ExitStack() as stack:
        if fcntl is not None:
            descriptor = os.open(temporary, os.O_RDWR)
            stack.callback(os.close, descriptor)
            _try_lock(descriptor)
        yield


def sweep(target: Path) -> None:
    """Remove the temporary files of ``target`` that no process holds.

    Where the file system has no locks, and files that cannot be opened or removed, all stay.
    """
    if fcntl is None:
        return
    pattern = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{16}}\.tmp")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name):
            with contextlib.suppress(OSError):
                _remove_unless_held(path)


def _remove_unless_held(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        status = os.fstat(descriptor)
        just_made = not status.st_size and time.time() - status.st_mtime < _JUST_MADE
        if not just_made and _try_lock(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    """Lock the file against every other descriptor; False where it is held, or has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
