"""The shards of a run as one result file, put in place in one step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from quiplinalg.errors import FormatError
from quiplinalg.files.atomic import check_target, commit
from quiplinalg.files.durable import write_new
from quiplinalg.files.image import open_image
from quiplinalg.files.result_writer import ResultWriter
from quiplinalg.model.run_directory import RunDirectory

__all__ = ["check_output", "merge"]


def check_output(run: RunDirectory, target: str | os.PathLike, overwrite: bool = False) -> Path:
    """The absolute path that `merge` may write to: new, or to be replaced, or the run's own.

    A run with failed layers, or one that was killed right after `merge`, has put a file in place
    that it may replace when it goes on.

    Raises
    ------
    InvalidArgumentError
        The file exists and is somebody else's.
    """
    return check_target(target, overwrite or _identity(Path(target)) in _own(run))


def merge(
    run: RunDirectory,
    target: str | os.PathLike,
    keys: Iterable[str] | None = None,
    overwrite: bool = False,
) -> int:
    """Put the layers that are done into one result file; the shards stay.

    The file has the bytes that `ResultWriter` makes of these layers, added in name order.

    Parameters
    ----------
    run : RunDirectory
    target : path
        The result file; it appears, or is replaced, when all is written.
    keys : iterable of str, optional
        Which layers, each once; default: all that are done.
    overwrite : bool
        Replace a ``target`` that this run has not made.

    Returns
    -------
    int
        The size in bytes.

    Raises
    ------
    FormatError
        A shard is not what was written; it is removed, so that --resume does the layer again.
    InvalidArgumentError
        As `check_output`.
    OSError
        The disk is full or failing: ``target`` is as it was, and the run can be merged again.

    Notes
    -----
    In memory at a time: the largest layer, packed, twice.
    """
    place = check_output(run, target, overwrite)
    chosen = list(run.done if keys is None else keys)
    replaced = overwrite or place.exists()
    merged = run.path / "merged.h5"
    with ResultWriter(merged, overwrite=True) as writer:
        for name, key in sorted((run.done[key]["layer"], key) for key in chosen):
            try:
                data = run.read_shard(key)
            except FormatError:
                run.check_shards(sorted(chosen))  # so that one more run mends all of them
                raise
            with open_image(data, key) as shard:
                writer.add_stored(name, shard.stored(name))
    known = [each for each in _own(run) if each == _identity(place)]
    write_new(_note(run), json.dumps([*known, _identity(merged)]).encode())
    size = merged.stat().st_size
    commit(merged, place, replaced)
    return size


def _note(run: RunDirectory) -> Path:
    return run.path / "merged.json"


def _own(run: RunDirectory) -> list[dict[str, int]]:
    """The result files that the run has put in place, or was about to."""
    return json.loads(_note(run).read_bytes()) if _note(run).exists() else []


def _identity(path: Path) -> dict[str, int] | None:
    """What stays the same when a file is renamed, and tells it from others; None for no file."""
    if not path.exists():
        return None
    status = path.stat()
    return {"bytes": status.st_size, "inode": status.st_ino, "mtime_ns": status.st_mtime_ns}
