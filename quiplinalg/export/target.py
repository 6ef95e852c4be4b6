"""A new file of any format, which appears under its name when it is complete."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO

from quiplinalg.files.atomic import check_target, commit, discard, temporary_name
from quiplinalg.files.durable import create
from quiplinalg.files.leftovers import held, sweep

__all__ = ["new_file"]


@contextlib.contextmanager
def new_file(path: str | os.PathLike, overwrite: bool) -> Iterator[BinaryIO]:
    """Yield a file to write to; it gets its name at the end of the block, without an exception.

    Raises
    ------
    InvalidArgumentError
        The file exists and ``overwrite`` is False, or its directory does not.
    """
    target = check_target(path, overwrite)
    sweep(target)
    temporary = temporary_name(target)
    try:
        with os.fdopen(create(temporary), "w+b") as file, held(temporary):
            yield file
            file.flush()
            commit(temporary, target, overwrite)
    finally:
        with contextlib.suppress(OSError):
            discard(temporary)
