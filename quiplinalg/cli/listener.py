"""What a run over a problem file tells people and programs while it goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    Interrupts,
    OutputError,
    Parser,
    UsageError,
    decibels,
    emit,
    fail,
    format_db,
    note,
    progress,
    typed,
    warn,
)
from quiplinalg.cli.summary import in_decibels

if TYPE_CHECKING:
    from quiplinalg.model.executors import Workers
    from quiplinalg.model.policy import Policy
    from quiplinalg.model.run import ModelRun

__all__ = ["add_run_options", "check_run_options", "listened_run"]


def add_run_options(parser: Parser) -> None:
    """Add the options of commands that run, beside those of `add_settings`."""
    add = parser.add_argument
    add(
        "--config",
        metavar="FILE.toml",
        help="options by name, as bits = 3, and [[rules]] for layers by name; flags come first",
    )
    add(
        "--compare-rows",
        metavar="N|all",
        help="rows of each layer that the dB are computed on; default: 128",
    )
    add("--resume", action="store_true", help="go on with the run of OUT.h5 that was stopped")
    add(
        "--retry-failed",
        action="store_true",
        help="go on, and do the layers that failed again, with the options given now",
    )
    add("--restart", action="store_true", help="throw away what an unfinished run has done")
    add("--dask", metavar="ADDRESS", help="work on the dask cluster with this scheduler")


def check_run_options(options: Any, policy: Policy) -> None:
    """Raise UsageError for flags that do not go together."""
    from quiplinalg.parallel import num_threads

    with num_threads(policy.settings.get("threads", 1)):  # is the count one?
        pass
    if options.restart and (options.resume or options.retry_failed):
        raise UsageError(
            "--restart throws a run away; got it with --resume or --retry-failed, which go on with "
            "it. Leave one of them out"
        )
    if options.dask and policy.settings.get("jobs", 1) != 1:
        raise UsageError(
            "--dask uses the workers of the cluster; got it with --jobs. Leave one of them out"
        )


def _compared_rows(options: Any) -> int | None:
    from quiplinalg.model.run import COMPARED_ROWS

    text = options.compare_rows
    if text is None:
        return COMPARED_ROWS
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--compare-rows must be a whole number or all; got {text!r}")
    return int(text)


def _workers(options: Any) -> Callable[[], Workers] | None:
    if options.dask is None:
        return None
    from quiplinalg.model.executors import dask

    return partial(dask, options.dask)  # connects when all else is checked


# the bar counts operations, so that the time left is right where layers differ
_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left{postfix}"


def listened_run(
    options: Any, policy: Policy, title: str, output: str | None = None, **how: Any
) -> ModelRun:
    """Run, with events on stdout or a bar on stderr; ``how`` is for `run_model`."""
    from quiplinalg.model.run import run_model

    listener = _Listener(options)
    with Interrupts() as interrupts, progress(1, title, bar_format=_BAR) as bar:
        listener.bar, listener.interrupts = bar, interrupts
        try:
            done = run_model(
                options.input, output or options.output, policy, listener=listener,
                resume=options.resume, retry_failed=options.retry_failed, restart=options.restart,
                compare_rows=_compared_rows(options), workers=_workers(options), **how,
            )  # fmt: skip
        except (KeyboardInterrupt, OutputError) as stop:
            bar.close()
            listener.stopped(interrupted=isinstance(stop, KeyboardInterrupt))
            raise
        interrupts.check()
    return done


class _Listener:
    """What a run tells people and programs while it goes on."""

    bar: Any
    interrupts: Interrupts
    what = "layers"

    def __init__(self, options: Any):
        self.json, self.output = options.json, options.output
        self.layers = self.done = self.failed = 0
        self.loss = self.energy = 0.0
        self.directory = ""

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        for text in facts.get("warnings", ()):
            self._clear()
            warn(f"layer {facts['layer']!r}: {text}")
        getattr(self, f"_{event}")(facts)
        self.interrupts.check()

    def _clear(self) -> None:
        self.bar.clear()

    def _warning(self, facts: dict[str, Any]) -> None:
        self._clear()
        warn(facts["text"])

    def _start(self, facts: dict[str, Any]) -> None:
        self.layers, self.done = facts["roundings"], facts["resumed"]
        if self.layers > facts["layers"]:
            self.what = "roundings"  # of layers at several widths
        self.directory = facts["run_directory"]
        self.bar.reset(total=facts["flops"])
        self.bar.update(facts["flops_done"])
        self.bar.initial = facts["flops_done"]  # of the rate, and so of the time left
        self._show()
        if self.json:
            emit("start", **{key: facts[key] for key in facts if key != "flops_done"})
        elif self.done:
            self._clear()
            note(f"quiplinalg: {self.done} of {self.layers} {self.what} were done before")

    def _layer(self, facts: dict[str, Any]) -> None:
        self.done += 1
        self.loss += facts["loss"]
        self.energy += facts["weight_energy"]
        if self.json:
            emit("layer", **_public(in_decibels(facts)))
        self._count(facts)

    def _layer_failed(self, facts: dict[str, Any]) -> None:
        self.failed += 1
        self._clear()
        fail(f"layer {facts['layer']!r}: {typed(facts['error'])}")
        if "traceback" in facts:
            for line in facts["traceback"].rstrip("\n").split("\n"):
                note(line)
        if self.json:
            emit("layer_failed", **_public(facts))
        self._count(facts)

    def _count(self, facts: dict[str, Any]) -> None:
        self._show()
        self.bar.update(facts["flops"])

    def _show(self) -> None:
        failed = f", {self.failed} failed" if self.failed else ""
        db = ""
        if self.energy and self.what == "layers":  # losses at several widths add up to nothing
            db = f", {format_db(decibels(self.loss, self.energy))} dB"
        count = f"{self.done}/{self.layers} {self.what}"
        self.bar.set_postfix_str(f"{count}{failed}{db}", refresh=False)

    def stopped(self, interrupted: bool) -> None:
        """Say what is kept."""
        if self.done and self.output is not None:  # a plan may be kept nowhere
            note(
                f"quiplinalg: {self.done} of {self.layers} {self.what} are done and kept in "
                f"{self.directory}; the same command with --resume does the rest"
            )
        if self.json and interrupted:
            with suppress(OutputError):  # Ctrl-C ends the reader of a pipe as well
                emit(
                    "interrupted", done=self.done, layers=self.layers, run_directory=self.directory
                )


_PRIVATE = ("flops", "inputs", "key", "shard", "path")


def _public(facts: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in facts.items() if key not in _PRIVATE}
