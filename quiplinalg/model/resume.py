"""Whether a run may go on: with the same options, on the same inputs, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.model.identity import differences, identity
from quiplinalg.model.inputs import changed_layers
from quiplinalg.model.plan import Plan
from quiplinalg.model.run_directory import RunDirectory

__all__ = ["check_inputs", "open_run"]

_NAMED = 5  # layers that a message names


def open_run(
    path: Path,
    plan: Plan,
    rows: int | None,
    stamp: Mapping[str, int],
    going_on: bool,
    retry_failed: bool,
    restart: bool,
    say: Callable[[str, dict[str, Any]], None],
) -> RunDirectory:
    """Begin a run, or go on with the one that is there.

    Parameters
    ----------
    path : Path
        The run directory.
    plan : Plan
        What is to be done now.
    rows : int or None
        That each layer is compared on.
    stamp : mapping
        Of the input now, from `stamp`.
    going_on : bool
        With the run that is there.
    retry_failed : bool
        Layers that are not done may have other options than before.
    restart : bool
        Remove the run that is there.

    Raises
    ------
    InvalidArgumentError
        A run that is there but not wanted, or not the same.
    """
    now: dict[str, Any] = {
        "identity": identity(plan, rows),
        "source": os.path.realpath(plan.source),
        "stamp": stamp,
    }
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise InvalidArgumentError(
            f"the run must have a directory beside its result; got {str(path)!r}, which is "
            f"{'a link' if path.is_symlink() else 'a file'}. Move it away."
        )
    if restart and path.exists():
        RunDirectory.discard(path)
    if not going_on:
        return RunDirectory.create(path, now)
    run = RunDirectory.open(path)
    try:
        before = run.plan["identity"]
        layers = {*before["layers"], *now["identity"]["layers"]}
        changes = differences(before, now["identity"], layers if retry_failed else ())
        missing = [name for name in run.done if name not in now["identity"]["layers"]]
        if missing and not changes:
            changes = [f"{_some(missing)}: done in the run, but not asked for now"]
        if changes:
            other = " (--retry-failed: what is not done gets those of now)" if run.failed else ""
            raise InvalidArgumentError(
                f"a run must go on as it began; the one in {str(path)!r} differs: "
                f"{'; '.join(changes)}. Give the options that it began with{other}, or throw away "
                "what it has done (--restart)."
            )
        if run.plan["stamp"] != stamp or run.plan["source"] != now["source"]:
            check_inputs(plan.source, run.done, path)
        if retry_failed:
            others = layers - set(run.done)
            for text in differences(before, now["identity"], others):
                say("warning", {"text": f"layers that are done stay as they are: {text}"})
            kept = {name: before["layers"][name] for name in run.done}
            now["identity"]["layers"] |= kept
        run.replan(now)
        run.sweep()
    except BaseException:
        run.close()
        raise
    return run


def check_inputs(source: str | os.PathLike, done: Mapping[str, Any], path: Path) -> None:
    """Raise unless every layer that is done has the weight and the Hessian it was made from."""
    changed = changed_layers(source, done)
    if changed:
        raise InvalidArgumentError(
            f"the input must stay the same while a run goes on; in {os.fspath(source)!r} "
            f"{_some(changed)} changed after being done. Bring the old file back, or throw away "
            f"what the run has done (--restart, or remove {str(path)!r})."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"layer{'s' if len(names) > 1 else ''} {', '.join(names[:_NAMED])}{more}"
