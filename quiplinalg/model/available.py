"""How much memory this process may still use: what is free, and what its control group leaves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["available_memory"]

_GROUPS = "/sys/fs/cgroup"


def available_memory(root: str | os.PathLike = "/") -> int | None:
    """Return the bytes that may be allocated before something is swapped out or killed.

    Parameters
    ----------
    root : str or path-like
        Where ``proc`` and ``sys`` are found.

    Returns
    -------
    int or None
        The least of the free memory of the machine (with what the kernel would give back) and of
        what the control groups of this process, v1 or v2, and those above them leave.  Elsewhere
        than on Linux the physical memory, or None where the system does not tell.

    Examples
    --------
    >>> available_memory() is None or available_memory() > 0
    True
    """
    free = _free(Path(root))
    if free is None:
        return _physical()
    return max(0, min((free, *_left_by_groups(Path(root)))))


def _free(root: Path) -> int | None:
    """MemAvailable, in bytes; None without Linux's /proc."""
    for line in (_text(root / "proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _left_by_groups(root: Path) -> Iterator[int]:
    """Yield what each control group of this process, up to the top, leaves of its limit."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, names = _GROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = f"{_GROUPS}/memory"
            names = (
                "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
            )  # fmt: skip
        else:
            continue
        folder = root / top.lstrip("/")
        # inside a container the group of the process is the top itself, whatever its path says
        own = Path(path.lstrip("/"))
        for inside in (own, *own.parents):
            left = _left(folder / inside, *names)
            if left is not None:
                yield left


def _left(group: Path, limit: str, usage: str, reclaimable: str) -> int | None:
    """The limit of a group less what it uses; pages of files that nobody uses do not count."""
    most, used = _text(group / limit), _text(group / usage)
    if most is None or used is None or not most.strip().isdigit():  # "max": none
        return None
    cached = 0
    for line in (_text(group / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == reclaimable:
            cached = int(value)
    return int(most) - int(used) + cached


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except OSError:
        return None
