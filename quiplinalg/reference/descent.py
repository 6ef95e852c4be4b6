"""Coordinate descent on codes, one at a time, each judged by the definition of the loss."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiplinalg.reference.grids import dequantise, per_column
from quiplinalg.reference.losses import row_losses
from quiplinalg.reference.precision import working_dtype

__all__ = ["Descended", "descend"]


@dataclass(frozen=True, eq=False)
class Descended:
    """Codes after coordinate descent, and how they came about.

    Parameters
    ----------
    codes : ndarray, (m, n), int64
        Grid codes.
    losses : ndarray, (m, passes + 1)
        Loss of each row before, and after each pass.
    changed : list of int
        Codes changed in each pass; the last is 0 at a fixed point.
    steps : list of (int, float, float)
        Row of each change, the loss of that row before and after it.
    nearest_tie : float
        How near any decision came to a tie, in grid units: whether the code would be another.
    """

    codes: np.ndarray
    losses: np.ndarray
    changed: list[int]
    steps: list[tuple[int, float, float]]
    nearest_tie: float


def descend(
    W: np.ndarray,
    H: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    passes: int = 100,
    group_index: np.ndarray | None = None,
) -> Descended:
    """Change code after code to the best for the others, until a pass changes nothing.

    For column k of a row, with e = W_hat - w and g = e H::

        new = clamp(round(code - g_k / (H_kk s))),   d = s (new - code)
        accepted if 2 g_k d + H_kk d^2 < -16 eps H_kk d^2

    The left side is what the loss e H e^T changes by; e is computed from the codes for every
    decision.  With 0 on the right, rounding errors move a code at a tie back and forth for ever.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    H : ndarray, (n, n)
        Symmetric positive semidefinite; columns whose diagonal is zero are skipped.
    codes : ndarray, (m, n)
        Where to start.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    maxq : float
        Largest code; inf for the unbounded grid.
    passes : int
        The most passes.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    Descended

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, greedy updates; here each code is clamped before it is
    judged, which makes every step one down.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> descend(W, H, np.array([[0, 0]]), np.ones((1, 1)), np.zeros((1, 1)), 3.0).codes
    array([[1, 0]])
    """
    dtype, (m, n) = working_dtype(W, H, scale, zero), np.shape(W)
    W, H = np.asarray(W, dtype), np.asarray(H, dtype)
    s = np.broadcast_to(per_column(scale, n, group_index), (m, n)).astype(dtype)
    codes = np.array(codes, np.int64)
    least = 16 * np.finfo(dtype).eps
    low = -np.inf if np.isinf(maxq) else 0.0

    def loss() -> np.ndarray:
        return row_losses(dequantise(codes, scale, zero, group_index=group_index), W, H)

    losses, tie = [loss()], np.inf
    changed: list[int] = []
    steps: list[tuple[int, float, float]] = []
    for _ in range(passes):
        changed.append(0)
        for k in range(n):
            for r in range(m):
                if H[k, k] == 0:
                    continue
                e = (dequantise(codes, scale, zero, group_index=group_index) - W)[r]
                g, old = e @ H[:, k], codes[r, k]
                target = old - g / (H[k, k] * s[r, k])
                new = int(np.clip(np.rint(target), low, maxq))
                if low <= np.floor(target) and np.ceil(target) <= maxq:
                    tie = min(tie, float(abs(abs(target - np.floor(target)) - 0.5)))
                d = s[r, k] * (new - old)
                if 2 * g * d + H[k, k] * d**2 < -least * H[k, k] * d**2:
                    before = loss()[r]
                    codes[r, k] = new
                    changed[-1] += 1
                    steps.append((r, before, loss()[r]))
        losses.append(loss())
        if changed[-1] == 0:
            break
    return Descended(codes, np.stack(losses, axis=1), changed, steps, tie)
