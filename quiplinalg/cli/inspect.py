"""``quiplinalg inspect``: what a problem or a result file holds."""

from __future__ import annotations

import os
from typing import Any

from quiplinalg.cli.common import (
    INVALID,
    OK,
    Parser,
    decibels,
    emit,
    fail,
    format_bytes,
    format_db,
    print_table,
)

__all__ = ["ABOUT", "add_arguments", "run"]

ABOUT = {"description": "List what a problem, a result or a statistics file holds."}


def add_arguments(parser: Parser) -> None:
    """Add the options of the command."""
    parser.add_argument("file", metavar="FILE.h5")
    parser.add_argument("--json", action="store_true", help="one JSON object a line on stdout")


def run(options: Any) -> int:
    """Run the command."""
    from quiplinalg.files.elements import read_attribute
    from quiplinalg.files.guard import format_errors, open_file

    with open_file(options.file) as file, format_errors(options.file):
        encoding = read_attribute(file, "encoding-type")
    kinds = {"quiplinalg-problem": _problem, "quiplinalg-result": _result}
    if encoding == "quiplinalg-statistics":
        from quiplinalg.cli.hessian import info

        return info(options.file, options.json)
    if encoding not in kinds:
        fail(
            f"expected a file with encoding-type {' or '.join(kinds)}; got {encoding!r} in "
            f"{options.file!r}. ProblemWriter makes problem files of any weights and Hessians"
        )
        return INVALID
    kinds[encoding](options.file, options.json)
    return OK


def _problem(path: str, as_json: bool) -> None:
    from quiplinalg.files import open_problem

    with open_problem(path) as problem:
        first: dict[str, str] = {}
        rows, weights = [], 0
        for name in problem.names:
            info = problem.info(name)
            m, n = info.shape
            owner = first.setdefault(info.hessian_key, name)
            shared = None if owner == name else owner
            weights += m * n
            samples = "-" if info.n_samples is None else info.n_samples
            if as_json:
                emit(
                    "layer", layer=name, shape=[m, n], dtype=str(info.dtype),
                    orientation=info.orientation, hessian_dtype=str(info.hessian_dtype),
                    shares_hessian_of=shared, n_samples=info.n_samples,
                    normalization=info.normalization, storage=info.storage,
                    sensitivity=info.sensitivity,
                )  # fmt: skip
            rows.append(
                (name, shared or "-", f"{m} x {n}", info.dtype, info.hessian_dtype, info.storage,
                 samples, info.normalization, f"{info.sensitivity:g}")
            )  # fmt: skip
        size = os.path.getsize(path)
        if as_json:
            emit(
                "summary", kind="problem", layers=len(rows), weights=weights, hessians=len(first),
                arrays=list(problem.arrays), bytes=size,
            )  # fmt: skip
            return
        headers = ("layer", "H shared with", "shape", "weight", "H", "stored", "samples",
                   "normalization", "sensitivity")  # fmt: skip
        print_table(headers, rows, left=2)
        print(
            f"\n{path}: problem file, {format_bytes(size)}, {len(rows)} layers, {weights} weights, "
            f"{len(first)} Hessians"
        )
        if problem.arrays:
            print(f"other arrays: {', '.join(problem.arrays)}")


def _result(path: str, as_json: bool) -> None:
    from quiplinalg.files import open_result

    with open_result(path) as result:
        rows, pruned, weights, stored = [], [], 0, 0.0
        for name in result.names:
            known = result.attributes(name).get("weight_energy")
            energy = float(known) if isinstance(known, (int, float)) else float("nan")
            if result.kind(name) == "pruned":
                pruned.append(_pruned(name, result.pruned(name), energy, as_json))
                continue
            q = result.layer(name)
            m, n = q.shape
            weights += m * n
            stored += q.bits_per_weight * m * n
            db = decibels(q.loss, energy)
            groups = q.grid.groups
            rank = 0 if q.correction is None else q.correction.rank
            share = None if q.mask is None or not q.mask.size else float(q.mask.mean())
            if as_json:
                emit(
                    "layer", layer=name, shape=[m, n], method=q.method, bits=q.grid.bits,
                    bits_per_weight=q.bits_per_weight, groups=groups, dtype=str(q.codes.dtype),
                    scale_dtype=str(q.grid.dtype), order=q.order, rounding=q.rounding,
                    damp=q.damp, loss=q.loss, loss_db=db, near_tie_rows=q.near_tie_rows,
                    clipped=q.clipped, dead_columns=int(q.dead.size), seed=q.seed,
                    precision=q.precision, sparsity=share, refit=q.refit, rank=rank,
                )  # fmt: skip
            rows.append(
                (name, q.method, q.order, f"{m} x {n}", q.grid.dtype, q.grid.bits or "any",
                 f"{q.bits_per_weight:.3f}", groups, q.refit or "-", rank or "-",
                 "-" if share is None else f"{100 * share:.2f}", f"{q.loss:.4g}", format_db(db))
            )  # fmt: skip
        size = os.path.getsize(path)
        bits = stored / max(weights, 1)
        if as_json:
            emit(
                "summary", kind="result", layers=len(rows) + len(pruned), weights=weights,
                bits_per_weight=bits, bytes=size, pruned_layers=len(pruned),
            )  # fmt: skip
            return
        headers = ("layer", "method", "order", "shape", "scales", "bits", "bits/weight", "groups",
                   "refit", "rank", "pruned %", "loss", "loss dB")  # fmt: skip
        if rows:
            print_table(headers, rows, left=3)
        if pruned:
            print("\n" if rows else "", end="")
            columns = ("layer", "method", "pattern", "shape", "weight", "pruned %", "loss",
                       "loss dB")  # fmt: skip
            print_table(columns, pruned, left=3)
        print(f"\n{path}: result file, {format_bytes(size)}", end="")
        if rows:
            print(
                f", {len(rows)} layers, {weights} weights, {bits:.3f} bits/weight",
                end="",
            )
        print(f", {len(pruned)} pruned layers" if pruned else "")


def _pruned(name: str, layer: Any, energy: float, as_json: bool) -> tuple[object, ...]:
    """The row of a pruned layer."""
    m, n = layer.shape
    db = decibels(layer.loss, energy)
    if as_json:
        emit(
            "pruned_layer", layer=name, shape=[m, n], method=layer.method, pattern=layer.pattern,
            dtype=str(layer.weights.dtype), sparsity=layer.sparsity, damp=layer.damp,
            loss=layer.loss, loss_db=db, dead_columns=int(layer.dead.size), order=layer.order,
        )  # fmt: skip
    return (
        name, layer.method, layer.pattern, f"{m} x {n}", layer.weights.dtype,
        f"{100 * layer.sparsity:.2f}", f"{layer.loss:.4g}", format_db(db),
    )  # fmt: skip
