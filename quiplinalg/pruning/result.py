"""The result of pruning a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["PruneTrace", "Pruned"]


@dataclass(frozen=True, eq=False)
class PruneTrace:
    """What the exact methods did, step by step.

    Attributes
    ----------
    order : ndarray, (rows, steps), int32
        What each row removed at each step: columns, or the first columns of blocks; -1 beyond its
        last step.  One row for all where whole columns are removed.
    costs : ndarray, (rows, steps), float64
        What each step added to the loss under the damped H; 0 beyond the last.
    counts : ndarray, (rows,), int64
        How many of these steps were taken, in order from the first.
    """

    order: np.ndarray
    costs: np.ndarray
    counts: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class Pruned:
    """A pruned (m, n) weight: what is left, its mask, and what is known about the loss.

    Attributes
    ----------
    weights : ndarray, (m, n), float32 or float64
        W_hat: exactly 0 where pruned, elsewhere compensated.
    mask : ndarray, (m, n), bool
        True where pruned.
    pattern : str
        "unstructured", "2:4", "block:4" (any N:M and block size) or "columns".
    method : str
        "obs" (exact) or "sparsegpt" (one pass).
    loss : float
        tr((W_hat - W) H (W_hat - W)^T) under the H that was passed, without damping.
    damp : float
        What was added to the diagonal of H, in H's units.
    dead : ndarray, (k,), int64
        Columns whose diagonal of H is zero: they cost nothing, and go first.
    order : str
        "natural", "act" or "min-pivot": how "sparsegpt" went through the columns.
    trace : PruneTrace or None
        The steps of "obs".
    restore : callable or None
        Turns W_hat into the caller's kind of array; None after reading from a file.
    """

    weights: np.ndarray
    mask: np.ndarray
    pattern: str
    method: str
    loss: float
    damp: float
    dead: np.ndarray
    order: str = "natural"
    trace: PruneTrace | None = None
    restore: Callable[[np.ndarray], Any] | None = field(default=None)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.weights.shape  # type: ignore[return-value]

    @property
    def sparsity(self) -> float:
        """The share of weights that were pruned; NaN of an empty weight."""
        return float(np.count_nonzero(self.mask)) / self.mask.size if self.mask.size else np.nan

    def dense(self) -> Any:
        """Return a copy of W_hat, (m, n), in the kind and dtype of W."""
        values = self.weights.copy()
        return values if self.restore is None else self.restore(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        kind = self.weights.dtype if dtype is None else np.dtype(dtype)
        if copy is False:
            if kind != self.weights.dtype:
                raise ValueError(f"W_hat is {self.weights.dtype}: {kind} cannot be had uncopied.")
            return self.weights
        return self.weights.astype(kind)

    def __repr__(self) -> str:
        m, n = self.shape
        notes = [f"loss {self.loss:.4g}", f"{100 * self.sparsity:.4g}% pruned"]
        notes += [f"damp {self.damp:.3g}"] if self.damp else []
        notes += [f"{self.dead.size} dead columns"] if self.dead.size else []
        return f"Pruned({m}x{n}, {self.method}, {self.pattern}: {', '.join(notes)})"
