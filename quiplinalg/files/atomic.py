"""A file appears under its final name whole, or not at all."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from quiplinalg.errors import InvalidArgumentError

__all__ = ["check_target", "commit", "discard", "sync_directory", "temporary_name"]


def check_target(path: str | os.PathLike, overwrite: bool) -> Path:
    """The absolute path to write to, links resolved; raise where nothing may be written."""
    target = Path(os.path.realpath(os.fspath(path)))
    if not target.parent.is_dir():
        raise InvalidArgumentError(
            f"path must be in an existing directory; got path={str(path)!r}. "
            f"Create {str(target.parent)!r} first."
        )
    if target.is_dir():
        raise InvalidArgumentError(f"path must name a file; got the directory {str(path)!r}.")
    if target.exists() and not overwrite:
        raise InvalidArgumentError(
            f"path must be new; got path={str(path)!r}, which exists. "
            "Choose another name, or pass overwrite=True to replace the file at the end."
        )
    return target


def temporary_name(target: Path) -> Path:
    """A fresh hidden name in the directory of ``target``, so that a rename stays in one volume."""
    return target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")


def commit(temporary: Path, target: Path, overwrite: bool) -> None:
    """Make ``temporary``, which is closed, durable and give it its final name in one step.

    Without ``overwrite``, a file that has appeared at ``target`` in the meantime is kept and
    :class:`InvalidArgumentError` is raised.
    """
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    if overwrite:
        os.replace(temporary, target)
    else:
        _move_new(temporary, target)
    sync_directory(target.parent)


def discard(temporary: Path) -> None:
    """Remove the temporary file if it is there."""
    temporary.unlink(missing_ok=True)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    if os.name == "nt":  # directories cannot be opened there
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_new(temporary: Path, target: Path) -> None:
    try:
        os.link(temporary, target)  # fails where the target exists, as rename does not
    except FileExistsError:
        check_target(target, overwrite=False)
        raise
    except OSError:  # a file system without hard links
        check_target(target, overwrite=False)
        os.replace(temporary, target)
    else:
        temporary.unlink()
