"""What a result must say of itself before its codes are checked, and what can be said of them."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.codebook import CodebookGrid
from quiplinalg.results import Quantized
from quiplinalg.rounding import verify_descent

__all__ = ["check_result", "claims", "has_targets", "is_descended", "objection"]

_METHODS = (
    "nearest", "ldlq", "gptq", "safe", "quip", "quip-authors", "sparsegpt", "obq", "kbest", "exact",
    "lnq",
)  # fmt: skip
_SEARCHED = ("kbest", "exact")


def check_result(quantized: Quantized) -> None:
    """Raise for a method that is not known, or a mask that is not that of the codes."""
    mask = quantized.mask
    boolean = isinstance(mask, np.ndarray) and mask.dtype == bool
    if mask is not None and not (boolean and mask.shape == quantized.shape):
        found = np.asarray(mask)
        raise InvalidArgumentError(
            f"quantized.mask must be a boolean array, {quantized.shape}; got a "
            f"{type(mask).__name__} of {found.dtype}, {found.shape}. Was it replaced? Prune again."
        )
    if quantized.method not in _METHODS:
        raise InvalidArgumentError(
            f"quantized.method must be one of {', '.join(_METHODS)}; got "
            f"{quantized.method!r}. Results of other methods have no such certificate."
        )


def _own_order(quantized: Quantized) -> bool:
    """Whether each row was rounded in an order of its own, which the result does not hold."""
    return quantized.method == "obq" and quantized.order in ("greedy", "masked")


def has_targets(quantized: Quantized) -> bool:
    """Whether each code is the rounding of a target that can be computed again."""
    fitted = quantized.refit is not None or isinstance(quantized.grid, CodebookGrid)
    return not (_own_order(quantized) or quantized.method in _SEARCHED or fitted)


def is_descended(quantized: Quantized) -> bool:
    """Whether what can be said of the codes is that coordinate descent ended with them."""
    fitted = quantized.refit is not None or isinstance(quantized.grid, CodebookGrid)
    return quantized.passes > 0 and not fitted


def objection(quantized: Quantized, n: int) -> str:
    """What is wrong with the result by itself; empty where nothing is."""
    order, permutation = quantized.order, quantized.permutation
    if permutation is None:
        if order != "natural" and quantized.method != "nearest" and not _own_order(quantized):
            return f"order is {order!r}, but the permutation of the columns is missing"
    elif not np.array_equal(np.sort(permutation), np.arange(n)):
        return f"permutation is not one of the {n} columns"
    elif order == "natural" and not np.array_equal(permutation, np.arange(n)):
        return "order is 'natural', but a permutation that changes the order is stored"
    fits = ("levels",) if isinstance(quantized.grid, CodebookGrid) else (None, "scale", "both")
    if quantized.refit not in fits:
        known = " or ".join(map(repr, fits))
        return f"refit must be {known} on this grid; it is {quantized.refit!r}"
    if not (np.isfinite(quantized.damp) and quantized.damp >= 0):
        return f"damp must be finite and at least 0; it is {quantized.damp!r}"
    if quantized.rounding == "stochastic" and quantized.seed is None:
        return "rounding is stochastic, but its seed is missing"
    bound = quantized.feedback_bound
    if quantized.method == "safe" and not (bound is not None and 0 <= bound < np.inf):
        return f"feedback_bound must be finite and at least 0; it is {bound!r}"
    return ""


def claims(quantized: Quantized) -> tuple[str, str]:
    """What is said of wrong codes, and of a layer without any."""
    if quantized.refit:
        what = {"scale": "scales", "both": "scales and zeros"}.get(quantized.refit, "levels")
        return (
            "codes are not on the grid",
            f"every code is on the grid, no other {what} lower the loss for the codes, and the "
            "loss is the stored one",
        )
    if is_descended(quantized):
        return verify_descent.claims(quantized)
    if has_targets(quantized):
        return (
            "codes are not the rounding of their targets",
            "every code is the rounding of its target, and the loss is the stored one",
        )
    why = "each row was rounded in an order of its own"
    if quantized.method in _SEARCHED:
        why = "they are the best that a search found, not roundings of targets"
    return (
        "codes are not on the grid",
        f"every code is on the grid, and the loss is the stored one; {why}, so that no more can "
        "be said of the codes",
    )
