"""The figures of one layer, from the result, the problem, its certificate and the run."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from quiplinalg.cli.common import decibels

if TYPE_CHECKING:
    from quiplinalg.files import ProblemReader, ResultReader
    from quiplinalg.pruning.result import Pruned
    from quiplinalg.results import Quantized

__all__ = ["kind_of", "layer_figures", "remarks"]

Figures = dict[str, Any]


def kind_of(name: str) -> str:
    """The name with a star for each number on the way to the layer, as of its block.

    Examples
    --------
    >>> kind_of("model.layers.17.mlp.fc2"), kind_of("block0/q")
    ('model.layers.*.mlp.fc2', 'block*/q')
    """
    *way, last = re.split(r"(?<=[./])", name)
    return re.sub(r"[0-9]+", "*", "".join(way)) + re.sub(r"^[0-9]+$", "*", last)


def layer_figures(
    result: ResultReader,
    problem: ProblemReader | None,
    name: str,
    certificate: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Figures:
    """Return what is known of a layer; None or NaN stand for what is not.

    Raises
    ------
    FormatError
        A problem file that the result was not made from.
    """
    pruned = result.kind(name) == "pruned"
    layer = result.pruned(name) if pruned else result.layer(name)
    found = _pruned(layer) if pruned else _quantized(layer)  # type: ignore[arg-type]
    m, n = found["shape"]
    stored = result.attributes(name)
    for key in ("weight_energy", "nearest_loss", "compared_rows"):
        value = stored.get(key)
        found[key] = value if isinstance(value, (int, float)) else None
    found |= {"n_samples": None, "samples_verdict": None}
    if problem is not None:
        _add_problem(found, problem, name, layer)
    found["loss_db"] = _decibels(found["loss"], found["weight_energy"])
    found["nearest_db"] = _decibels(found["nearest_loss"], found["weight_energy"])
    found["gain_db"] = -_decibels(found["loss"], found["nearest_loss"])
    found["stale_certificate"] = bool(certificate) and not _is_of(certificate, found)
    if found["stale_certificate"]:
        certificate = {}
    for key in ("dual_gap_db", "model_gap_db"):
        found[key] = certificate.get(key)
    found["certified_rows"] = len(certificate["rows"]) if certificate else None
    found["seconds"] = facts.get("seconds")
    return {"layer": name, "kind": kind_of(name), "weights": m * n, **found}


def _decibels(loss: float | None, energy: float | None) -> float:
    return float("nan") if loss is None or energy is None else decibels(loss, energy)


def _quantized(q: Quantized) -> Figures:
    m, n = q.shape
    mean_pivot = q.trace_D / max(n, 1)
    return {
        "shape": [m, n],
        "method": q.method,
        "made": _made(q),
        "bits": q.grid.bits,
        "bits_per_weight": None if q.grid.bits is None else q.bits_per_weight,
        "loss": q.loss,
        "damp": q.damp,
        "damp_share": q.damp / mean_pivot if mean_pivot > 0 else None,
        "near_tie_rows": q.near_tie_rows,
        "clipped": q.clipped,
        "dead_columns": int(q.dead.size),
        "sparsity": None if q.mask is None or not q.mask.size else float(q.mask.mean()),
    }


def _pruned(p: Pruned) -> Figures:
    unknown = dict.fromkeys(
        ("bits", "bits_per_weight", "damp_share", "near_tie_rows", "clipped"), None
    )
    return unknown | {
        "shape": list(p.shape),
        "method": p.method,
        "made": f"{p.method}, pruned only ({p.pattern})",
        "loss": p.loss,
        "damp": p.damp,
        "dead_columns": int(p.dead.size),
        "sparsity": p.sparsity,
    }


def _made(q: Quantized) -> str:
    """How the codes came about."""
    parts = [q.method]
    if q.method != "nearest":
        parts.append(f"{q.order} order")
    if q.rounding != "nearest":
        parts.append(f"{q.rounding} rounding")
    if q.processing is not None:
        rotation = q.processing.rotation
        parts.append("rescaled" if rotation == "none" else f"{rotation} rotation")
    if q.passes:
        end = "not at a fixed point" if q.changed else "to a fixed point"
        parts.append(f"descent {end}")
    if q.refit:
        parts.append(f"{q.refit} refitted")
    if q.correction is not None:
        parts.append(f"corrected by rank {q.correction.rank}")
    if q.mask is not None and q.mask.any():
        parts.append(f"{q.mask.mean():.1%} pruned")
    return ", ".join(parts)


def _add_problem(
    found: Figures, problem: ProblemReader, name: str, layer: Quantized | Pruned
) -> None:
    """Add what the problem file knows; compute what the result file lacks."""
    from quiplinalg.cli.losses import energy
    from quiplinalg.errors import FormatError
    from quiplinalg.hessian.diagnostics import sample_verdict
    from quiplinalg.results import Quantized

    if name not in problem.names or list(problem.info(name).shape) != found["shape"]:
        raise FormatError(
            f"expected a problem file with layer {name!r} of shape {tuple(found['shape'])}; got "
            "none. Pass the problem file that the result was made from",
            problem.path,
        )
    samples = problem.info(name).n_samples
    found["n_samples"] = samples
    if samples is not None:
        found["samples_verdict"] = sample_verdict(
            samples, found["shape"][1] - found["dead_columns"]
        )
    compute = found["nearest_loss"] is None and isinstance(layer, Quantized)
    if compute or found["weight_energy"] is None:
        W, H = problem.weight(name), problem.hessian(name)
        found["weight_energy"], found["compared_rows"] = energy(W, H), found["shape"][0]
        if isinstance(layer, Quantized):
            found["nearest_loss"] = layer.nearest_loss(W, H)


def _is_of(certificate: Mapping[str, Any], found: Figures) -> bool:
    """Whether a certificate is of these codes: its loss was computed again, and in float64."""
    loss, stored = certificate["loss"], found["loss"]
    same = abs(loss - stored) <= 0.01 * max(loss, stored)
    return same and certificate["shape"] == found["shape"]


def remarks(found: Figures, facts: Mapping[str, Any]) -> Iterable[str]:
    """What somebody should look at."""
    if found["gain_db"] < -0.005:
        yield f"{-found['gain_db']:.2f} dB worse than nearest"
    elif found["nearest_loss"] == 0 < found["loss"]:
        yield "worse than nearest, which has no loss"
    verdict = found["samples_verdict"]
    if verdict not in (None, "ok"):
        live = found["shape"][1] - found["dead_columns"]
        yield f"{verdict}: {found['n_samples']} for {live} live inputs"
    if found["stale_certificate"]:
        yield "the certificate is of other codes: run verify --certificate --overwrite again"
    yield from facts.get("warnings", ())
