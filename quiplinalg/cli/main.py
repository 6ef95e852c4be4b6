"""The ``quiplinalg`` command: find the command, run it, turn errors into exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from quiplinalg.cli.common import (
    FAILED,
    INTERRUPTED,
    INVALID,
    OK,
    USAGE,
    OutputError,
    Parser,
    UsageError,
    did_you_mean,
    fail,
    standard_streams,
    typed,
)

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "quantize": "round the layers of a problem file to a few bits each",
    "plan": "choose the bits of each layer for a size, and show what other sizes cost",
    "prune": "set weights to zero, any or in a pattern, and round the rest",
    "hessian": "merge the statistics of calibration shards, and judge them",
    "export": "write a result file as ONNX, safetensors or plain weights",
    "report": "show what every layer lost and why, also as a page with plots",
    "inspect": "list the layers of a problem or a result file",
    "verify": "check every code and loss of a result file from scratch",
    "demo": "quantise a small real network, and print what each method costs",
    "info": "versions, kernels, threads and CPU features",
    "warmup": "compile the kernels for this machine, and cache them",
}


def _top() -> Parser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    parser = Parser(
        prog="quiplinalg",
        usage="quiplinalg COMMAND ...",
        description="Round neural-network weights to a few bits, with the loss of every layer.",
        epilog="commands:\n"
        + "\n".join(lines)
        + "\n\n'quiplinalg COMMAND --help' has the options of each.\n"
        "exit codes: 0 ok, 1 failure, 2 usage, 3 some layers failed, 4 unsafe or invalid input, "
        "130 interrupted",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    return parser


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        parser = _top()
        options = parser.parse(arguments)
        if options.version:
            from quiplinalg import __version__

            print(f"quiplinalg {__version__}")
            return OK
        parser.print_help(sys.stderr)
        return USAGE
    name, *rest = arguments
    if name not in COMMANDS:
        raise UsageError(
            f"expected a command ({', '.join(COMMANDS)}); got {name!r}"
            f"{did_you_mean(name, COMMANDS)}"
        )
    module = import_module(f"quiplinalg.cli.{name}")
    parser = Parser(prog=f"quiplinalg {name}", **module.ABOUT)
    module.add_arguments(parser)
    return module.run(parser.parse(rest))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; default ``sys.argv[1:]``.

    Returns
    -------
    int
        0 ok, 1 failure, 2 usage, 3 some layers failed, 4 unsafe or invalid input, 130 interrupted.
    """
    with standard_streams():
        return _guarded(list(sys.argv[1:] if argv is None else argv))


def _guarded(arguments: list[str]) -> int:
    """Run, and turn errors into messages and exit codes."""
    try:
        try:
            code = _run(arguments)
        except SystemExit as stop:  # argparse after --help
            code = OK if stop.code in (None, 0) else USAGE
        sys.stdout.flush()
        return code
    except UsageError as error:
        fail(typed(str(error)))
        return USAGE
    except KeyboardInterrupt:
        fail("interrupted; nothing half-written is left")
        return INTERRUPTED
    except OutputError as error:
        fail(str(error))
        return FAILED
    except Exception as error:
        from quiplinalg.errors import FormatError, QuipLinalgError

        if isinstance(error, QuipLinalgError):  # before MemoryError: one of ours has its remedy
            fail(typed(str(error)))
            return INVALID if isinstance(error, FormatError) else FAILED
        if isinstance(error, MemoryError):
            fail(f"out of memory: {error}. Use fewer --threads, or a machine with more memory")
            return FAILED
        if isinstance(error, OSError):
            fail(str(error))
            return FAILED
        raise


if __name__ == "__main__":
    raise SystemExit(main())
