"""``quiplinalg verify --certificate``: how far each layer is from the best, as a JSON file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import UsageError, format_db, plain, print_table

if TYPE_CHECKING:
    from quiplinalg.files import ProblemReader, ResultReader
    from quiplinalg.theory.certificates import Certificate

__all__ = ["Draw", "certificate", "default_path", "options_of", "print_figures", "write"]

_ROWS = ((256, 16), (512, 4))  # up to so many columns, by default


@dataclass(frozen=True)
class Draw:
    """Where the certificates go, and which rows they sample."""

    path: str
    rows: int | None
    seed: int

    def rows_of(self, n: int) -> int:
        """Rows of a layer of n columns: what was asked for, else few seconds' worth of them."""
        if self.rows is not None:
            return self.rows
        return next((rows for most, rows in _ROWS if n <= most), 0)


def options_of(options: Any) -> Draw | None:
    """Return what --certificate asks for, checked before anything is computed; None without it."""
    if options.certificate is None:
        for name in ("rows", "seed", "overwrite"):
            value = getattr(options, name)
            if value is not None and value is not False:
                raise UsageError(f"--{name} needs --certificate; got it alone. Add --certificate")
        return None
    path = options.certificate or default_path(options.result)
    for name in ("problem", "result"):
        if os.path.realpath(path) == os.path.realpath(getattr(options, name)):
            raise UsageError(
                f"--certificate must be a file of its own; got {path!r}, the {name} file. "
                "Choose another name"
            )
    if path.endswith(".h5"):  # the option takes the next word: often one of the two files
        raise UsageError(
            f"--certificate must be a JSON file; got {path!r}. Name the problem and the result "
            "first, then --certificate"
        )
    from quiplinalg.errors import InvalidArgumentError
    from quiplinalg.files.atomic import check_target
    from quiplinalg.incoherence.draws import check_seed
    from quiplinalg.theory.pivots import check_count

    if os.path.exists(path) and not options.overwrite:
        raise UsageError(
            f"--certificate must be a new file; got {path!r}, which exists. Pass --overwrite to "
            "replace it when all is done, or choose another name"
        )
    try:
        check_target(path, options.overwrite)
        rows = None if options.rows is None else check_count(options.rows, "rows")
        return Draw(path, rows, check_seed(options.seed or 0))
    except InvalidArgumentError as error:
        raise UsageError(str(error)) from None


def default_path(result: str) -> str:
    """Where the certificates of a result are unless something else is asked for."""
    return f"{result.removesuffix('.h5')}.certificate.json"


def certificate(problem: ProblemReader, result: ResultReader, name: str, draw: Draw) -> Certificate:
    """Return the certificate of one layer."""
    from quiplinalg.theory.certificates import certify

    W = problem.weight(name)
    found = certify(
        W, problem.hessian(name), result.layer(name), rows=draw.rows_of(W.shape[1]), seed=draw.seed
    )
    if draw.rows is None and not draw.rows_of(W.shape[1]):
        remark = f"no dual bound: a row of {W.shape[1]} columns takes long; --rows 1 computes one"
        found = replace(found, notes=(*found.notes, remark))
    return found


def write(options: Any, draw: Draw, certified: Mapping[str, Certificate]) -> str:
    """Write the figures of all layers as one JSON object, whole or not at all; return its path.

    NaN and infinities are null.
    """
    import json

    from quiplinalg import __version__
    from quiplinalg.files.atomic import check_target, commit, discard, temporary_name

    content = {
        "quiplinalg-version": __version__,
        "problem": os.path.basename(options.problem),
        "result": os.path.basename(options.result),
        "seed": draw.seed,
        "layers": {name: plain(vars(found)) for name, found in certified.items()},
    }
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    target = check_target(draw.path, options.overwrite)
    part = temporary_name(target)
    try:
        part.write_text(text, encoding="utf-8")
        commit(part, target, options.overwrite)
    finally:
        discard(part)
    return str(target)


def print_figures(certified: Mapping[str, Certificate], path: str) -> None:
    """Print a table of the figures, and what they mean."""
    headers = ("layer", "loss dB", "dual gap dB", "rows", "model gap dB", "= cubes", "+ order",
               "+ rest", "R-D gap dB")  # fmt: skip
    print()
    print_table(headers, [
        (name, format_db(found.loss_db), format_db(found.dual_gap_db), len(found.rows),
         *(format_db(v) for v in (found.model_gap_db, found.cubes_db, found.order_db,
                                  found.rest_db, found.rate_distortion_gap_db)))
        for name, found in certified.items()
    ])  # fmt: skip
    print(
        "\ndual gap: no method can be better by more on the sampled rows, for these weights and "
        "this grid.\nmodel gap: against the mean of the best over weights with uniform fractional "
        "parts.\nR-D gap: against Gaussian weights at this rate; not a bound for others."
    )
    for name, found in certified.items():
        for remark in found.notes:
            print(f"layer {name!r}: {remark}")
    print(f"certificate: {path}")
