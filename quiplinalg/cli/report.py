"""``quiplinalg report``: the figures of a result file, as a table, as JSON and as a page."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import (
    OK,
    Parser,
    UsageError,
    emit,
    format_bytes,
    note,
    print_table,
    warn,
)

if TYPE_CHECKING:
    from quiplinalg.cli.pages.figures import Report
    from quiplinalg.model.run import ModelRun

__all__ = ["ABOUT", "add_arguments", "check_place", "run", "write_report"]

ABOUT = {
    "description": "Show what every layer of a result file lost, against nearest and against the "
    "best, what it was made with, and what to look at.",
    "epilog": "The page is one file that opens offline. Seconds are not in result files: "
    "quantize --report has them.",
}


_PAGE_ONLY = ("damp", "model_gap_db")  # columns for which a terminal has no room
_NAMES = 4  # of layers in a line


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    add = parser.add_argument
    add("result", metavar="OUT.h5", help="a result file")
    add(
        "--problem", metavar="IN.h5",
        help="what it was made from: adds the number of samples, and what nearest costs where "
        "OUT.h5 does not say",
    )  # fmt: skip
    add(
        "--certificate", metavar="FILE.json",
        help="what verify --certificate wrote; default: OUT.certificate.json if it is there",
    )  # fmt: skip
    add("-o", "--output", metavar="FILE.html", help="write a page with tables and plots")
    add("--json", action="store_true", help="one JSON object a line on stdout")


def run(options: Any) -> int:
    """Run the command."""
    from quiplinalg.cli.pages.figures import collect

    if options.output is not None:
        check_place("--output", options.output, options.result)
    report = collect(options.result, options.problem, _certificates(options))
    if options.json:
        for each in report.layers:
            emit("layer", **each)
        emit("summary", **report.summary)
    else:
        _print(report)
    if options.output is not None:
        _write(report, options.output)
    return OK


def check_place(option: str, path: str, result: str) -> None:
    """Raise UsageError where a page may not be written: only earlier reports are replaced."""
    from quiplinalg.cli.pages.report_page import is_report
    from quiplinalg.errors import InvalidArgumentError
    from quiplinalg.files.atomic import check_target

    try:
        check_target(path, overwrite=True)
    except InvalidArgumentError as error:
        raise UsageError(f"{option}: {error}") from None
    other = os.path.realpath(path) == os.path.realpath(result)
    if other or (os.path.exists(path) and not is_report(path)):
        raise UsageError(
            f"{option} must be a new file or an earlier report; got {path!r}, which is neither. "
            "Choose another name"
        )


def write_report(run: ModelRun, problem: str, path: str) -> None:
    """Write the page of a run; nothing is printed but where it is."""
    from quiplinalg.cli.pages.figures import collect

    assert run.output is not None
    _write(collect(run.output, problem, run=run), path)


def _write(report: Report, path: str) -> None:
    from quiplinalg.cli.pages.page import write_page
    from quiplinalg.cli.pages.report_page import report_page

    write_page(path, report_page(report))
    note(f"quiplinalg: the report is in {path} ({format_bytes(os.path.getsize(path))})")


def _certificates(options: Any) -> dict[str, Any] | None:
    from quiplinalg.cli.certificates import default_path
    from quiplinalg.cli.pages.certificate_file import read_certificates

    path = options.certificate or default_path(options.result)
    if options.certificate is None and not os.path.exists(path):
        return None
    return read_certificates(path)


def _print(report: Report) -> None:
    """Print a row a layer, and one for all."""
    from quiplinalg.cli.pages.table import shown_columns

    columns = [c for c in shown_columns(report.layers) if c.key not in _PAGE_ONLY]
    rows = [(each["layer"], *(_plain(c.show(each[c.key])) for c in columns)) for each in
            report.layers]  # fmt: skip
    s = report.summary
    whole = {"loss_share": 1.0 if s["loss"] > 0 else None, **s}
    known = ("bits_per_weight", "loss_db", "nearest_db", "gain_db", "loss_share", "seconds")
    last = (_plain(c.show(whole[c.key])) if c.key in known else "" for c in columns)
    rows.append((f"all {s['layers']}", *last))
    print_table(("layer", *(c.title for c in columns)), rows)
    print("\nloss relative to tr(W H W^T), lower is better; nearest on the same grid")
    if "dual_gap_db" in [c.key for c in columns]:
        print("gap: no method is better by more, on the rows that were sampled")
    for remark, layers in report.remarks().items():
        names = ", ".join(repr(each["layer"]) for each in layers[:_NAMES])
        more = f" and {len(layers) - _NAMES} more" if len(layers) > _NAMES else ""
        warn(f"{remark}: layer{'s' if len(layers) > 1 else ''} {names}{more}")


def _plain(text: str) -> str:
    """The text of a page, for a terminal."""
    return text.translate({0x2212: "-", 0x2013: "-", 0x202F: None, 0x221E: "inf"})
