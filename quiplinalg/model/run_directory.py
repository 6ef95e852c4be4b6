"""The directory of an unfinished run: what was planned, what is done, and who works on it.

::

    lock              held by the process that runs; the kernel frees it when that process dies
    holder            who that is, for people
    plan.json         written last when a run starts: no run without; over.json when it is over
    manifest.jsonl    facts about each layer, done or failed
    shards/           a result file of one layer each, named by the SHA-256 of the record's key
    merged.h5         all layers, before it gets its name
    merged.json       which result file the run has put in place

A layer is done when its shard is on the disk and then its record; only then is it reported.  The
key of a record is the layer's name, or where layers are done at several widths each, that and the
width.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from quiplinalg.errors import FormatError, InvalidArgumentError, QuipLinalgError
from quiplinalg.files.atomic import sync_directory
from quiplinalg.files.durable import write_new
from quiplinalg.model.manifest import Manifest, from_line, to_line

__all__ = ["RunDirectory", "key_of", "write_shard"]

Facts = dict[str, Any]
_SHARD = re.compile(r"[0-9a-f]{32}\.h5|\..*\.tmp")  # what is ours of what is in shards


def write_shard(run_path: str | os.PathLike, key: str, data: bytes) -> Facts:
    """Write the result file of one layer into a run directory; it is durable on return.

    Parameters
    ----------
    run_path : path
    key : str
        Of the layer's record.
    data : bytes
        From `layer_image`.

    Returns
    -------
    dict
        "file" (below ``shards``), "bytes" and "crc32": what the record of the layer has as "shard".

    Raises
    ------
    OSError
        Nothing is there then, or what was there before.
    """
    path = _shard_path(run_path, key)
    write_new(path, data)
    return {"file": path.name, "bytes": len(data), "crc32": zlib.crc32(data)}


def key_of(facts: Facts) -> str:
    """Return the key of a record."""
    return str(facts.get("key", facts["layer"]))


def _shards(path: Path) -> list[Path]:
    return list((path / "shards").glob("*.h5"))


def _shard_path(run_path: str | os.PathLike, key: str) -> Path:
    digest = hashlib.sha256(key.encode()).hexdigest()
    return Path(run_path) / "shards" / f"{digest[:32]}.h5"


class RunDirectory:
    """A run that this process has locked, until `close` or the end of a ``with`` block.

    Attributes
    ----------
    path : Path
    plan : dict
        As it was given to `create`.
    done : dict of str to dict
        Facts about each layer whose shard is there, by key.
    failed : dict of str to dict
        Facts, with "error", about each layer whose last attempt failed, by key.
    """

    path: Path
    plan: Facts
    done: dict[str, Facts]
    failed: dict[str, Facts]

    @classmethod
    def create(cls, path: str | os.PathLike, plan: Facts) -> Self:
        """Start a run in a directory that is not there, or has none in it.

        Raises
        ------
        InvalidArgumentError
            There is a run.
        QuipLinalgError
            Another process holds the directory.
        OSError
            The disk is full, or the directory cannot be written to.
        """
        path = Path(path)
        path.mkdir(exist_ok=True)
        known = (path / "plan.json").exists() or (path / "over.json").exists()
        if _shards(path) and not known:
            raise InvalidArgumentError(
                f"a new run must have a directory of its own; got {str(path)!r}, which has layers "
                "of a run whose plan is gone. Remove them (--restart)."
            )
        sync_directory(path.parent)
        self = cls(path)
        if (path / "plan.json").exists():
            self.close()
            raise InvalidArgumentError(
                f"a new run must have a directory of its own; got {str(path)!r}, which has an "
                "unfinished run. Go on with it (--resume), or remove it (--restart)"
            )
        try:
            self._clear()
            (path / "shards").mkdir(exist_ok=True)
            write_new(path / "plan.json", to_line(plan)[0])
            self._read()
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove()
            self.close()
            raise
        return self

    @classmethod
    def open(cls, path: str | os.PathLike) -> Self:
        """Go on with a run.

        Raises
        ------
        InvalidArgumentError
            There is none.
        FormatError
            The plan or the manifest is damaged.
        QuipLinalgError
            Another process holds the directory.
        """
        path = Path(path)
        if not (path / "plan.json").exists():
            raise InvalidArgumentError(
                f"there must be a run to go on with; got {str(path)!r}, which has none. "
                "Leave out --resume and --retry-failed"
            )
        self = cls(path)
        try:
            self._read()
        except BaseException:
            self.close()
            raise
        return self

    @classmethod
    def discard(cls, path: str | os.PathLike) -> None:
        """Remove a run, whatever state it is in, if no process holds it."""
        cls(Path(path)).remove()

    def __init__(self, path: Path):
        """Take the lock; `create` and `open` do the rest."""
        self.path = path
        self._manifest: Manifest | None = None
        self._lock = FileLock(path / "lock", timeout=0, thread_local=False)
        try:
            self._lock.acquire()
        except Timeout:
            raise QuipLinalgError(
                f"one process at a time may work on {str(path)!r}; got another, {self._holder()}. "
                "Wait for it, or stop it."
            ) from None
        try:
            who = f"process {os.getpid()} on {socket.gethostname()}"
            write_new(path / "holder", who.encode())
        except BaseException:
            self._lock.release()
            raise

    def record(self, facts: Facts) -> None:
        """Note what became of a layer; it is durable on return.

        Parameters
        ----------
        facts : dict
            "layer", "key" where it is not the same, and "error" if it failed or else "shard", what
            `write_shard` returned.

        Raises
        ------
        OSError
            Nothing is noted then.
        """
        if self._manifest is None:
            raise InvalidArgumentError("the run directory must be open; got a closed one.")
        if "error" not in facts and not self._has(facts):
            raise QuipLinalgError(
                f"the shard of layer {facts['layer']!r} must be in {str(self.path)!r}; got none. "
                "Do all workers see this directory under this path?"
            )
        self._manifest.append(facts)
        self._sort_in(self._manifest.records[-1])

    def replan(self, plan: Facts) -> None:
        """Put another plan in the place of this one, in one step."""
        write_new(self.path / "plan.json", to_line(plan)[0])
        self.plan = plan

    def read_shard(self, key: str) -> bytes:
        """The result file of a layer that is done.

        Raises
        ------
        FormatError
            It is not what was written; the next run with --resume does the layer again.
        """
        facts, path = self.done[key]["shard"], _shard_path(self.path, key)
        data = path.read_bytes()
        if (len(data), zlib.crc32(data)) != (facts["bytes"], facts["crc32"]):
            path.unlink()
            raise FormatError(
                f"expected layer {key!r} as it was written; got other bytes, so they are removed. "
                "--resume does this layer again",
                str(path),
            )
        return data

    def check_shards(self, keys: Iterable[str]) -> None:
        """Raise FormatError with all the layers whose result files are not what was written."""
        damaged = []
        for key in keys:
            try:
                self.read_shard(key)
            except (FormatError, FileNotFoundError):
                damaged.append(key)
        if damaged:
            raise FormatError(
                f"expected layers {', '.join(map(repr, damaged))} as they were written; got other "
                "bytes, so they are removed. --resume does these layers again",
                str(self.path),
            )

    def sweep(self) -> None:
        """Remove what killed processes left: temporary files, and shards without a record."""
        kept = {_shard_path(self.path, key) for key in self.done}
        here = [p for p in (self.path / "shards").iterdir() if _SHARD.fullmatch(p.name)]
        for path in {*here, *self._temporary()} - kept:
            path.unlink(missing_ok=True)

    def remove(self) -> None:
        """End the run: remove the directory, and with it what is done."""
        with contextlib.suppress(FileNotFoundError):
            os.replace(self.path / "plan.json", self.path / "over.json")
        sync_directory(self.path)
        self._clear()
        for name in ("holder", "lock"):  # while it is held, so that no other can have it
            with contextlib.suppress(PermissionError):  # an open file, on Windows
                (self.path / name).unlink(missing_ok=True)
        self.close()
        with contextlib.suppress(OSError):  # something of somebody else's is in it
            self.path.rmdir()

    def close(self) -> None:
        """Give the lock back; the run can go on later."""
        if self._manifest is not None:
            self._manifest.close()
            self._manifest = None
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _read(self) -> None:
        path = self.path / "plan.json"
        found = from_line(path.read_bytes())
        if found is None:
            raise FormatError(
                "expected a plan with its checksum; got another. Throw the run away (--restart)",
                str(path),
            )
        if not (self.path / "manifest.jsonl").exists() and _shards(self.path):
            raise FormatError(
                "expected the records of what is done; got none. Throw the run away (--restart)",
                str(self.path / "manifest.jsonl"),
            )
        (self.path / "shards").mkdir(exist_ok=True)
        self.plan = found[0]
        self.done, self.failed = {}, {}
        self._manifest = Manifest(self.path / "manifest.jsonl")
        for facts in self._manifest.records:
            self._sort_in(facts)

    def _sort_in(self, facts: Facts) -> None:
        key = key_of(facts)
        self.done.pop(key, None)
        self.failed.pop(key, None)
        if "error" in facts:
            self.failed[key] = facts
        elif self._has(facts):
            self.done[key] = facts

    def _has(self, facts: Facts) -> bool:
        try:
            size = _shard_path(self.path, key_of(facts)).stat().st_size
            return size == facts["shard"]["bytes"]
        except FileNotFoundError:
            return False

    def _clear(self) -> None:
        """Remove every file of a run that is over, but not the lock."""
        shards = self.path / "shards"
        if shards.is_dir():
            for path in shards.iterdir():
                if _SHARD.fullmatch(path.name):
                    path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something of somebody else's is in it
                shards.rmdir()
        names = ("manifest.jsonl", "merged.json", "merged.h5", "over.json")
        for path in (*(self.path / name for name in names), *self._temporary()):
            path.unlink(missing_ok=True)

    def _temporary(self) -> list[Path]:
        return list(self.path.glob(".*.tmp"))

    def _holder(self) -> str:
        try:
            return (self.path / "holder").read_text()
        except OSError:
            return "of which nothing is known"
