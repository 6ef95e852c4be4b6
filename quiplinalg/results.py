"""Frozen result records: factorisations and quantised layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.uniform import UniformGrid

__all__ = ["LDL", "UDU", "Cholesky", "Quantized"]


@dataclass(frozen=True, eq=False)
class Cholesky:
    """A = L L^T, L (n, n) lower triangular with a positive diagonal."""

    L: np.ndarray

    def reconstruct(self) -> np.ndarray:
        """Return L L^T, (n, n)."""
        return self.L @ self.L.T

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return x with A x = b, for b (n,) or (n, k)."""
        return _solve(self.L, None, b, lower=True)


@dataclass(frozen=True, eq=False)
class LDL:
    """A = L diag(D) L^T, L (n, n) unit lower triangular, D (n,) positive."""

    L: np.ndarray
    D: np.ndarray

    def reconstruct(self) -> np.ndarray:
        """Return L diag(D) L^T, (n, n)."""
        return (self.L * self.D) @ self.L.T

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return x with A x = b, for b (n,) or (n, k)."""
        return _solve(self.L, self.D, b, lower=True)


@dataclass(frozen=True, eq=False)
class UDU:
    """H + damp I = T diag(D) T^T, T (n, n) unit upper triangular, D (n,) positive.

    ``damp`` is in H's units; ``dead`` are the columns of H whose diagonal is zero.
    """

    T: np.ndarray
    D: np.ndarray
    damp: float
    dead: np.ndarray

    def reconstruct(self) -> np.ndarray:
        """Return T diag(D) T^T, (n, n): H with its damping."""
        return (self.T * self.D) @ self.T.T

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return x with (H + damp I) x = b, for b (n,) or (n, k)."""
        return _solve(self.T, self.D, b, lower=False)


def _solve(R: np.ndarray, D: np.ndarray | None, b: Any, lower: bool) -> np.ndarray:
    """x with R diag(D) R^T x = b; R is unit triangular where D is given."""
    from scipy.linalg import solve_triangular

    right = np.asarray(b)
    if right.ndim not in (1, 2) or right.shape[0] != R.shape[0]:
        raise InvalidArgumentError(
            f"b must be ({R.shape[0]},) or ({R.shape[0]}, k); got shape {right.shape}. "
            "Each column of b is one right-hand side."
        )
    x = solve_triangular(R, right, lower=lower, unit_diagonal=D is not None)
    if D is not None:
        x = (x.T / D).T
    return solve_triangular(R, x, lower=lower, trans="T", unit_diagonal=D is not None)


@dataclass(frozen=True, eq=False, repr=False)
class Quantized:
    """A quantised (m, n) weight: codes on a grid, and what is known about their loss.

    Attributes
    ----------
    codes : ndarray, (m, n), uint8 (int32 on an unbounded grid), in the caller's column order
    grid : UniformGrid
    method : str
        "nearest", "ldlq" or "gptq".
    rounding : str
        "nearest" (ties to even) or "stochastic".
    order : str
        "natural" or "act".
    permutation : ndarray, (n,), int64, or None
        The columns in the order they were rounded; None for the natural order.
    loss : float
        tr((W_hat - W) H (W_hat - W)^T) under the H that was passed, without damping.
    trace_D : float
        tr D of the damped H in the order used.
    damp : float
        What was added to the diagonal of H, in H's units.
    dead : ndarray, (k,), int64
        Columns whose diagonal of H is zero: rounded to nearest, they cost nothing.
    near_tie_rows : int
        Rows with a weight so close to a rounding tie that another precision may round it apart.
    clipped : float
        Share of the weights whose target lies beyond the ends of the grid.
    seed : int or None
        The seed of stochastic rounding.
    """

    codes: np.ndarray
    grid: UniformGrid
    method: str
    rounding: str
    order: str
    permutation: np.ndarray | None
    loss: float
    trace_D: float
    damp: float
    dead: np.ndarray
    near_tie_rows: int
    clipped: float
    seed: int | None = None
    restore: Callable[[np.ndarray], Any] | None = field(default=None)

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape  # type: ignore[return-value]
