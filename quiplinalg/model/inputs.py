"""Whether the input of a run is still what the finished layers were made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from quiplinalg.errors import FormatError
from quiplinalg.files.problem import open_problem

__all__ = ["changed_layers", "stamp"]


def stamp(path: str | os.PathLike) -> dict[str, int]:
    """What a file system notes of every change to a file; nothing is read."""
    status = os.stat(path)
    return {
        "bytes": status.st_size,
        "inode": status.st_ino,
        "mtime_ns": status.st_mtime_ns,
        "ctime_ns": status.st_ctime_ns,
    }


def changed_layers(path: str | os.PathLike, done: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The finished layers whose stored weight or Hessian is not what it was.

    Parameters
    ----------
    path : path
        The problem file as it is now.
    done : mapping of a key to the facts of a layer
        With "inputs", the digests of then.

    Notes
    -----
    Reads every one of these layers.
    """
    changed: list[str] = []
    with open_problem(path) as problem:
        digests: dict[str, list[str]] = {}
        for facts in done.values():
            name = facts["layer"]
            if name not in digests:
                try:
                    digests[name] = list(problem.digests(name))
                except FormatError:  # no longer there, or no longer readable
                    digests[name] = []
            if digests[name] != facts["inputs"] and name not in changed:
                changed.append(name)
    return changed
