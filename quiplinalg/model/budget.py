"""Where a layer fits: in memory, on tiles of the disk, or nowhere."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import numpy as np

from quiplinalg.errors import InsufficientMemoryError
from quiplinalg.model.available import available_memory
from quiplinalg.model.cost import KEPT, base_memory, file_memory, memory

if TYPE_CHECKING:
    from quiplinalg.files.reader import LayerInfo
    from quiplinalg.model.options import LayerOptions

__all__ = ["Budget", "check_scratch", "processes"]

_FREE = 0.9  # of the available memory that is used where nobody says how much


def processes(jobs: int) -> int:
    """Return how many processes ``jobs`` workers are, with the one that waits for them."""
    return jobs + (jobs > 1)


class Budget:
    """The memory of each of some jobs.

    Parameters
    ----------
    max_memory : int or None
        Bytes of all jobs together, interpreters with them; None for nine tenths of what is
        available.
    jobs, threads : int
        Jobs, and threads of each.
    """

    def __init__(self, max_memory: int | None, jobs: int, threads: int):
        self.jobs, self.threads = jobs, threads
        if max_memory is not None:
            self.source = f"max_memory={max_memory}"
        else:
            available = available_memory()
            max_memory = None if available is None else int(_FREE * available)
            self.source = f"{_FREE:g} of the memory that is available"
        self.total = max_memory
        self.share: float = np.inf
        if max_memory is not None:
            self.share = max(0, max_memory - processes(jobs) * base_memory()) // jobs
        self._misfits: list[tuple[int, str, bool]] = []  # the least that they need, in words

    def place(self, info: LayerInfo, options: LayerOptions, shares: int) -> tuple[str, int, int]:
        """Return the path of a layer, its bytes of memory, and those on disk.

        A layer that fits nowhere is noted for `check`.
        """
        whole = memory(options, info, self.threads, shares)
        if whole <= self.share:
            return "memory", whole, 0
        m, n = info.shape
        least, text = whole, f"needs {size(whole)}"
        on_tiles = can_use_tiles(options)
        if on_tiles:
            from quiplinalg.rounding.out_of_core import scratch_bytes

            least = least_on_tiles(options, info, self.threads)
            if least <= self.share:
                return "tiles", int(self.share) - KEPT, scratch_bytes(n)
            text += f", or {size(least)} with the factor on disk"
        name = f"layer {info.name!r} ({m} x {n}, {options.method})"
        self._misfits.append((least, f"{name} {text}", on_tiles))
        return "memory", whole, 0

    def check(self) -> None:
        """Raise InsufficientMemoryError if a layer fitted nowhere, with the largest one."""
        if not self._misfits:
            return
        _, worst, on_tiles = max(self._misfits)
        others = len(self._misfits) - 1
        count = processes(self.jobs)
        beside = f"{count} processes of {size(base_memory())} each" if count > 1 else "the process"
        remedies = ["fewer jobs"] * (self.jobs > 1) + ["more memory"]
        if not on_tiles:
            remedies.append(
                "method ldlq or gptq without refine, refit and rank and in natural or act order, "
                "which can keep the factor on disk"
            )
        raise InsufficientMemoryError(
            f"max_memory must hold every layer; got {self.source}, which leaves {size(self.share)} "
            f"for a layer beside {beside}, but {worst}"
            f"{f'; {others} more do not fit' if others else ''}. Use {', or '.join(remedies)}."
        )


def can_use_tiles(options: LayerOptions) -> bool:
    """Whether a layer can be rounded with its factor on disk."""
    return (
        options.method in ("ldlq", "gptq")
        and options.keywords["order"] in ("natural", "act")
        and options.rounds_only
        and options.backend != "cuda"
    )


def least_on_tiles(options: LayerOptions, info: LayerInfo, threads: int) -> int:
    """Return the bytes that a layer takes at least, W with them, if its factor is on disk."""
    from quiplinalg.rounding.out_of_core import least_memory

    m, n = info.shape
    itemsize = 8 if info.dtype == np.float64 else 4
    rounding = least_memory(m, n, itemsize, threads)
    group, static = options.keywords["group_size"], options.keywords["static_groups"]
    if group is not None and not static:  # a group is read as a whole
        rounding += (8 + itemsize) * n * min(group, n)
    making = file_memory(options, m, n)  # the file, afterwards
    return int(m * n * info.dtype.itemsize + max(rounding, making)) + KEPT


def check_scratch(needed: int, folder: str | os.PathLike) -> None:
    """Raise InsufficientMemoryError unless ``needed`` bytes are free in a directory."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InsufficientMemoryError(
            f"the disk of {os.fspath(folder)!r} must have room for factors that do not fit in "
            f"memory; got {size(free)} free, and {size(needed)} are needed. Free some, or use "
            "more memory or fewer jobs."
        )


def size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
