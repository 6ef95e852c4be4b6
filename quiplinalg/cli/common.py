"""What the commands share: exit codes, messages, stdout, tables, JSON lines, a progress bar."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NoReturn, TextIO, cast

__all__ = [
    "FAILED",
    "INTERRUPTED",
    "INVALID",
    "OK",
    "SOME_FAILED",
    "USAGE",
    "Interrupts",
    "OutputError",
    "Parser",
    "UsageError",
    "decibels",
    "did_you_mean",
    "emit",
    "fail",
    "format_bytes",
    "format_db",
    "format_seconds",
    "harmless",
    "note",
    "plain",
    "print_table",
    "progress",
    "standard_streams",
    "typed",
    "warn",
]

OK, FAILED, USAGE, SOME_FAILED, INVALID, INTERRUPTED = 0, 1, 2, 3, 4, 130

# options of other programs, and of the library where the command line has another name
_ALIASES = {"output": ("OUT.h5",), "force": ("overwrite",), "jobs": ("threads",)}


class UsageError(Exception):
    """The command was not called as it can be; exit code 2."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError, and knows what an unknown option means."""

    def __init__(self, **options: Any):
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}. See '{self.prog} --help'")

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return the options; UsageError, with a suggestion, for one that there is not."""
        valid = [name[2:] for action in self._actions for name in action.option_strings]
        # before argparse, which complains about what is missing before what is unknown
        for argument in arguments:
            if argument == "--":
                break
            name = argument.partition("=")[0]
            if name.startswith("--") and name[2:] not in valid:
                raise UsageError(
                    f"{self.prog} has no option {name}{did_you_mean(name, valid, '--')}"
                )
        options, unknown = self.parse_known_args(arguments)
        if unknown:
            self.error(f"expected no more arguments; got {' '.join(unknown)}")
        return options


def did_you_mean(name: str, valid: Iterable[str], prefix: str = "") -> str:
    """Return "; did you mean ...?", or a list of what there is."""
    from quiplinalg.arguments import explain_keyword

    names = {v.replace("-", "_"): v for v in valid if v and not v.startswith("no-")}
    text = explain_keyword(name, names, _ALIASES)
    if "did you mean" not in text:
        return f"; there are {', '.join(prefix + v for v in names.values())}"
    hints = text.removeprefix("did you mean ").removesuffix("?").split(" or ")
    for i, hint in enumerate(hints):
        word = hint.partition(" ")[0].partition("=")[0]
        if word in names:  # damp=0.01 becomes --damp 0.01
            value = hint[len(word) :].replace("=", " ", 1).replace('"', "")
            hints[i] = prefix + names[word] + value
    return f"; did you mean {' or '.join(hints)}?"


def _color(stream: TextIO) -> bool:
    return bool(
        stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def _say(kind: str, code: int, message: str) -> None:
    if _color(sys.stderr):
        kind = f"\x1b[{code}m{kind}\x1b[0m"
    _tell(f"quiplinalg: {kind}: {harmless(message)}")


def _tell(line: str) -> None:
    with suppress(OSError):  # a run goes on where nobody can read what it says
        print(line, file=sys.stderr, flush=True)


def harmless(text: str) -> str:
    """The text with control characters escaped: names in a file must not drive the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def fail(message: str) -> None:
    """Print an error on stderr."""
    _say("error", 31, message)


def warn(message: str) -> None:
    """Print a warning on stderr."""
    _say("warning", 33, message)


def note(message: str) -> None:
    """Print a line for people on stderr, so that stdout stays for results."""
    _tell(harmless(message))


# what the library calls its options, in messages of its own, and what they are here
_TYPED = {
    'damp="auto"': "--damp auto",
    "Raise damp": "Raise --damp",
    "overwrite=True": "--overwrite",
    "max_memory must hold": "--max-memory must hold",
    "got max_memory=": "got --max-memory ",
    "smaller max_memory": "smaller --max-memory",
}


def typed(message: str) -> str:
    """The message of an error of the library, with its options as they are typed here.

    Whole phrases: a key of a configuration file is no flag.
    """
    for words, flag in _TYPED.items():
        message = message.replace(words, flag)
    return message


class Interrupts:
    """Ctrl-C that cannot get lost.

    Python drops a KeyboardInterrupt raised inside a callback of its own (a weak reference, say):
    the flag stays, and the next `check` raises it again.  SIGTERM is treated alike, so that a
    batch system that ends the job leaves no temporary file.
    """

    def __init__(self) -> None:
        self.seen = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        import signal
        import threading

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._raise)
        return self

    def __exit__(self, *error: object) -> None:
        import signal

        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise(self, number: int, frame: object) -> NoReturn:
        self.seen = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if there was one."""
        if self.seen:
            raise KeyboardInterrupt


class OutputError(Exception):
    """Stdout could not be written; no OSError, so that it is not taken for that of a file."""

    def __init__(self, error: OSError):
        if isinstance(error, BrokenPipeError):  # `quiplinalg inspect FILE.h5 | head`
            text = "the reader of stdout has gone"
        else:
            text = f"stdout could not be written ({error.strerror or error})"
        super().__init__(f"{text}: what was printed is not complete")


class _Stdout:
    """Stdout that raises OutputError, and escapes what its encoding does not have."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        encoding = self._stream.encoding or "utf-8"
        with self._told_apart():
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self._told_apart():
            self._stream.flush()

    @contextmanager
    def _told_apart(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            with suppress(OSError, ValueError):  # one error is enough, also for the flush at exit
                number = os.open(os.devnull, os.O_WRONLY)
                os.dup2(number, self._stream.fileno())
                os.close(number)
            raise OutputError(error) from error


@contextmanager
def standard_streams() -> Iterator[None]:
    """Let commands print whatever the shell has made of stdout and stderr."""
    # where one is closed (`>&-`), a result file must not get its number: libraries write there
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))
    before = sys.stdout
    sys.stdout = cast(TextIO, _Stdout(before))
    try:
        yield
    finally:
        sys.stdout = before


def plain(value: Any) -> Any:
    """The value as JSON has it: NaN and infinities are null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not (value - value == 0):
        return None
    return value


def emit(event: str, **fields: Any) -> None:
    """Print one JSON object on one line of stdout."""
    import json

    print(json.dumps({"event": event, **plain(fields)}), flush=True)


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> None:
    """Print a table; the first ``left`` columns are text, the others numbers."""
    cells = [[harmless(str(cell)) for cell in row] for row in [headers, *rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    for k, row in enumerate(cells):
        parts = [
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(parts).rstrip())
        if k == 0:
            print("  ".join("-" * width for width in widths))


@contextmanager
def progress(total: float, title: str, **options: Any) -> Iterator[Any]:
    """Yield a progress bar on stderr, shown on a terminal only."""
    from tqdm import tqdm

    options = {"unit": "layer", **options}
    with tqdm(total=total, desc=title, file=sys.stderr, leave=False, disable=None, **options) as b:
        yield b


def decibels(loss: float, energy: float) -> float:
    """Return 10 log10(loss / energy); -inf for no loss, NaN for no energy."""
    import math

    if not energy > 0 or not loss >= 0:
        return math.nan
    return 10 * math.log10(loss / energy) if loss > 0 else -math.inf


def format_db(value: float) -> str:
    """Return decibels with two digits, or "-" where there are none."""
    return "-" if value != value else f"{value:.2f}"


def format_seconds(value: float) -> str:
    """Return seconds with a few digits."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def format_bytes(count: int) -> str:
    """Return a size for people."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return f"{count} B" if unit == "B" else f"{size:.1f} {unit}"
