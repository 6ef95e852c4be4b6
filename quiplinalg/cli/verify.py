"""``quiplinalg verify``: check a result file against the problem it was made from."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from quiplinalg.cli import certificates
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
    from quiplinalg.pruning.verify import PrunedVerification
    from quiplinalg.results import Quantized
    from quiplinalg.rounding.verify import Verification

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {
    "description": "Recompute, from the two files alone and in float64, that every code is the "
    "rounding of its target, lies on its grid, that pruned weights are zero, in their pattern, and "
    "the others as they should be, and that each stored loss is right.",
    "epilog": "exit codes: 0 all layers pass, 1 one does not, 4 a file is invalid or the files do "
    "not belong together",
}


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("problem", metavar="PROBLEM.h5")
    parser.add_argument("result", metavar="RESULT.h5")
    parser.add_argument(
        "--certificate", nargs="?", const="", metavar="OUT.json",
        help="also bound how far each layer is from the best codes, and store the figures as JSON; "
        "default RESULT.certificate.json",
    )  # fmt: skip
    parser.add_argument(
        "--rows", type=int, default=None, metavar="N",
        help="rows of each layer for the certificate's dual bound; default 16, 4 beyond 256 "
        "columns, none beyond 512; a row takes about 0.3 s at 256 columns and 8 times that at 512",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=None, metavar="N", help="of the draw of these rows, default 0"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace the certificate's file if it exists"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


def run(options: Any) -> int:
    """Run the command."""
    from quiplinalg.errors import FormatError, QuipLinalgError
    from quiplinalg.files import open_problem, open_result
    from quiplinalg.pruning.verify import pattern_objection, verify_pruned
    from quiplinalg.rounding.verify import verify

    draw = certificates.options_of(options)
    rows: list[tuple[object, ...]] = []
    bad: list[str] = []
    certified: dict[str, Any] = {}
    stopped = searched = fitted = 0  # layers of which the codes could not be checked, and why
    unbounded = 0  # that there are no certificates for
    pruned = 0
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
                    W, H = problem.weight(name), problem.hessian(name)
                    if result.kind(name) == "pruned":
                        pruned += 1
                        rows.append(_pruned(name, verify_pruned(W, H, result.pruned(name)),
                                            options.json, bad))  # fmt: skip
                        bar.update()
                        continue
                    layer = result.layer(name)
                    found = verify(W, H, layer)
                    pattern = result.attributes(name).get("mask_pattern")
                    if found.ok and layer.mask is not None and isinstance(pattern, str):
                        broken = pattern_objection(layer.mask, pattern)
                        found = replace(found, ok=not broken, reason=broken or found.reason)
                except FormatError:
                    raise
                except QuipLinalgError as error:
                    bar.clear()
                    fail(f"layer {name!r}: {error}")
                    return INVALID
                if draw is not None and not _has_bounds(layer):
                    unbounded += 1
                elif draw is not None:
                    try:
                        certified[name] = certificates.certificate(problem, result, name, draw)
                    except QuipLinalgError as error:
                        bad.append(f"layer {name!r}: no certificate: {error}")
                if not found.ok:
                    bad.append(f"layer {name!r}: {found.reason}")
                if options.json:
                    figures = {"certificate": vars(certified[name])} if name in certified else {}
                    emit("layer", layer=name, **vars(found), **figures)
                rows.append(
                    (name, _verdict(found, layer), found.codes_wrong,
                     f"{found.worst:.2g}", f"{found.loss:.6g}", f"{found.loss_error:.1e}")
                )  # fmt: skip
                bar.update()
                if found.ok and not found.codes_checked:
                    fitted += layer.refit is not None
                    stopped += layer.refit is None and bool(layer.passes)
                    searched += layer.refit is None and not layer.passes
        left = len(problem.names) - len(result.names)
    written = None if draw is None else certificates.write(options, draw, certified)
    if options.json:
        where = {} if written is None else {"certificate": written}
        emit("summary", ok=not bad, layers=len(rows), failed=len(bad), not_in_result=left,
             **where)  # fmt: skip
    else:
        headers = ("layer", "result", "wrong codes", "worst step", "loss", "loss error")
        print_table(headers, rows, left=2)
        verdict = "all pass" if not bad else f"{len(bad)} FAILED"
        others = f"; {left} layers of the problem are not in the result" if left else ""
        print(f"\n{options.result}: {len(rows)} layers, {verdict}{others}")
        if stopped:
            print(
                f"loss only: the descent of {stopped} layers was stopped before a fixed point; "
                "their codes are\nknown to be on the grid, no more: --refine all has them checked"
            )
        if fitted:
            print(
                f"loss and fit only: the grids of {fitted} layers were fitted to their codes. No "
                "other scales or\nlevels are better for them; of the codes it is known that they "
                "are on the grid, no more"
            )
        if searched:
            print(
                f"loss only: the codes of {searched} layers come from a search, or from an order "
                "of each row's own;\nthey are known to be on the grid, no more"
            )
        if written is not None:
            certificates.print_figures(certified, written)
            if unbounded:
                print(
                    f"no certificate for {unbounded} layers with levels of their own or a low-rank "
                    "correction: the\nbounds are of codes on a uniform grid"
                )
            if pruned:
                print(f"no certificate for {pruned} pruned layers: their weights are on no grid")
    for line in bad:
        fail(line)
    if bad:
        note("The result is damaged, was edited, or comes from another problem: quantise it again.")
    return FAILED if bad else OK


def _pruned(
    name: str, found: PrunedVerification, as_json: bool, bad: list[str]
) -> tuple[object, ...]:
    """Report a pruned layer; return its row of the table."""
    if not found.ok:
        bad.append(f"layer {name!r}: {found.reason}")
    if as_json:
        emit("pruned_layer", layer=name, **vars(found))
    verdict = "ok" if found.ok else "FAILED"
    return name, verdict, "-", "-", f"{found.loss:.6g}", f"{found.loss_error:.1e}"


def _has_bounds(layer: Quantized) -> bool:
    """Whether `certify` knows how good the codes of a layer can be."""
    return layer.grid.kind != "codebook" and layer.correction is None


def _verdict(found: Verification, layer: Quantized) -> str:
    if not found.ok:
        return "FAILED"
    if found.codes_checked:
        return "ok"
    return "loss only" if layer.refit is None else "loss, fit"
