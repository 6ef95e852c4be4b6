"""``quiplinalg verify``: check a result file against the problem it was made from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    FAILED,
    INVALID,
    OK,
    Parser,
    emit,
    fail,
    note,
    print_table,
    progress,
)

if TYPE_CHECKING:
    from quiplinalg.rounding.verify import Verification

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {
    "description": "Recompute, from the two files alone and in float64, that every code is the "
    "rounding of its target, lies on its grid, and that each stored loss is right.",
    "epilog": "exit codes: 0 all layers pass, 1 one does not, 4 a file is invalid or the files do "
    "not belong together",
}


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("problem", metavar="PROBLEM.h5")
    parser.add_argument("result", metavar="RESULT.h5")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


def run(options: Any) -> int:
    """Run the command."""
    from quiplinalg.errors import FormatError, QuipLinalgError
    from quiplinalg.files import open_problem, open_result
    from quiplinalg.rounding.verify import verify

    rows, bad, unchecked = [], [], 0
    with open_problem(options.problem) as problem, open_result(options.result) as result:
        missing = [name for name in result.names if name not in problem.names]
        if missing:
            fail(
                f"the layers of {options.result} must be in {options.problem}; {missing[0]!r} and "
                f"{len(missing) - 1} more are not. Pass the problem file it was made from"
            )
            return INVALID
        with progress(len(result.names), "verify") as bar:
            for name in result.names:
                try:
                    found = verify(problem.weight(name), problem.hessian(name), result.layer(name))
                except FormatError:
                    raise
                except QuipLinalgError as error:
                    bar.clear()
                    fail(f"layer {name!r}: {error}")
                    return INVALID
                if not found.ok:
                    bad.append(f"layer {name!r}: {found.reason}")
                if options.json:
                    emit("layer", layer=name, **vars(found))
                rows.append(
                    (name, _verdict(found), found.codes_wrong,
                     f"{found.worst:.2g}", f"{found.loss:.6g}", f"{found.loss_error:.1e}")
                )  # fmt: skip
                bar.update()
                unchecked += found.ok and not found.codes_checked
        left = len(problem.names) - len(result.names)
    if options.json:
        emit("summary", ok=not bad, layers=len(rows), failed=len(bad), not_in_result=left)
    else:
        headers = ("layer", "result", "wrong codes", "worst step", "loss", "loss error")
        print_table(headers, rows, left=2)
        verdict = "all pass" if not bad else f"{len(bad)} FAILED"
        others = f"; {left} layers of the problem are not in the result" if left else ""
        print(f"\n{options.result}: {len(rows)} layers, {verdict}{others}")
        if unchecked:
            print(
                f"loss only: the descent of {unchecked} layers was stopped before a fixed point; "
                "their codes are\nknown to be on the grid, no more: --refine all has them checked"
            )
    for line in bad:
        fail(line)
    if bad:
        note("The result is damaged, was edited, or comes from another problem: quantise it again.")
    return FAILED if bad else OK


def _verdict(found: Verification) -> str:
    if not found.ok:
        return "FAILED"
    return "ok" if found.codes_checked else "loss only"
