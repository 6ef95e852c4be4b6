"""Say once, on a terminal, that kernels are being compiled: it takes seconds, the first time."""

from __future__ import annotations

import sys

from numba.core import event

__all__ = ["announce_compilation"]

_MESSAGE = "quiplinalg: compiling kernels for this machine, once: later runs take them from a cache"


class _Announcer(event.Listener):
    said = False

    def on_start(self, started: event.Event) -> None:
        module = started.data["dispatcher"].py_func.__module__
        if not self.said and module.startswith("quiplinalg.") and sys.stderr.isatty():
            self.said = True
            print(_MESSAGE, file=sys.stderr, flush=True)

    def on_end(self, ended: event.Event) -> None:
        """Nothing to say."""


def announce_compilation() -> None:
    """Print a line on stderr when the first kernel is compiled, if stderr is a terminal."""
    event.register("numba:compile", _Announcer())
