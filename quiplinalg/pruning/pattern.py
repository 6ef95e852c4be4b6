"""Which weights may go together, and how many of them: patterns, sparsities, budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.errors import InvalidArgumentError

__all__ = [
    "Pattern",
    "check_budget",
    "check_scale",
    "check_sparsity",
    "count_of",
    "parse_pattern",
]


@dataclass(frozen=True)
class Pattern:
    """A sparsity pattern along the rows of a weight.

    ``size`` consecutive weights make a unit: ``keep`` of them stay where ``keep`` > 0 ("2:4"), or
    they go together ("block:4", and "unstructured" with a unit of 1).
    """

    name: str
    size: int
    keep: int = 0

    @property
    def quota(self) -> bool:
        """Whether it is N:M."""
        return self.keep > 0


_UNSTRUCTURED = Pattern("unstructured", 1)


def parse_pattern(pattern: Any, n: int, blocks: bool) -> Pattern:
    """Return the `Pattern` of "unstructured" (or None), "N:M" or "block:c", checked to fit n.

    Raises
    ------
    InvalidArgumentError
        Another text, a block where ``blocks`` is False, or a unit that does not divide n.
    """
    if pattern is None or pattern == "unstructured":
        return _UNSTRUCTURED
    found = None
    if isinstance(pattern, str):
        left, colon, right = pattern.partition(":")
        if colon and right.isdecimal() and 1 <= int(right) < 2**31:
            if left.isdecimal() and 1 <= int(left) <= int(right):
                found = Pattern(f"{int(left)}:{int(right)}", int(right), int(left))
            elif left == "block" and blocks:
                found = Pattern(f"block:{int(right)}", int(right))
    if found is None:
        several = ', "block:c" (blocks of c)' if blocks else ""
        raise InvalidArgumentError(
            f'pattern must be None, "unstructured", "N:M" with 1 <= N <= M (N of M stay){several}; '
            f'got pattern={pattern!r}. "2:4" is what GPUs speed up.'
        )
    if n % found.size:
        more = -(-n // found.size) * found.size
        raise InvalidArgumentError(
            f"pattern must divide the columns of W into groups of {found.size}; got n={n} for "
            f"pattern={pattern!r}. Add columns of zeros to W, and rows and columns of zeros to H, "
            f"up to n={more}: they are pruned first and cost nothing."
        )
    return found


def check_sparsity(sparsity: Any, pattern: Pattern, budget: float | None = None) -> float:
    """Return the share of weights to prune, from 0 to 1: 0.5 by default.

    With a budget the default is 1.  With N:M it is what the pattern says, and another is an error.
    """
    implied = 1 - pattern.keep / pattern.size
    if sparsity is None:
        return implied if pattern.quota else (0.5 if budget is None else 1.0)
    share = as_float(sparsity)
    if not 0 <= share <= 1:
        raise InvalidArgumentError(
            f"sparsity must be a share of the weights from 0 to 1; got sparsity={sparsity!r}. "
            "0.5 prunes half of them."
        )
    if pattern.quota and abs(share - implied) > 1e-6:
        raise InvalidArgumentError(
            f"sparsity must be {implied:.4g} with pattern={pattern.name!r}; got "
            f"sparsity={sparsity!r}. Leave it out: the pattern says it."
        )
    return share


def check_budget(budget: Any, pattern: Pattern | None = None) -> float | None:
    """Return a loss budget as a float, checked, or None."""
    if budget is None:
        return None
    value = as_float(budget)
    if not 0 <= value < np.inf:
        raise InvalidArgumentError(
            "loss_budget must be a share of tr(W H W^T) of at least 0, or None; got "
            f"loss_budget={budget!r}. 0.01 allows a hundredth of what pruning everything costs."
        )
    if pattern is not None and pattern.quota:
        raise InvalidArgumentError(
            f"loss_budget must be None with pattern={pattern.name!r}, which says how many weights "
            f"go; got loss_budget={budget!r}. Leave one of them out."
        )
    return value


def check_scale(weight: np.ndarray, hessian: np.ndarray) -> None:
    """Raise where losses of removals, or tr(W H W^T), would over- or underflow in float64."""
    peak = float(max(weight.max(initial=0), -weight.min(initial=0)))
    largest = float(hessian.diagonal().max(initial=0))
    limits = np.finfo(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        square = np.float64(peak) ** 2
        most = square * max(largest, 1.0) * weight.size * weight.shape[1]
        least = square * min(largest, 1.0)
    if not (most <= limits.max and least >= limits.tiny / limits.eps) and peak and largest:
        raise InvalidArgumentError(
            "W must have weights whose squares, and these times the diagonal of H, float64 can "
            f"hold; got weights up to {peak:.3g} and a diagonal up to {largest:.3g}. Multiply W or "
            "H by a power of two: the mask does not depend on it."
        )


def count_of(share: float, total: int) -> int:
    """Return ``share`` of ``total``, rounded to the nearest whole number, halves up."""
    return min(int(np.floor(share * total + 0.5)), total)
