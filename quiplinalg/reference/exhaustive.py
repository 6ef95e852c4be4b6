"""The best codes of all, by trying every one."""

from __future__ import annotations

import itertools

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference.grids import dequantise
from quiplinalg.reference.losses import row_losses
from quiplinalg.reference.precision import working_dtype

__all__ = ["exhaustive"]


def exhaustive(
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    group_index: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of each row with the least e H e^T over {0 .. maxq}^n.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    H : ndarray, (n, n)
        Symmetric positive semidefinite.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    maxq : float
        Largest code, finite; ``(maxq + 1)**n`` is at most 65536.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    codes : ndarray, (m, n), int64
        The best codes; of equally good ones the first in lexicographic order.
    loss : ndarray, (m,)
        Their losses.

    Raises
    ------
    InvalidArgumentError
        There are more than 65536 candidates.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> exhaustive(W, H, np.ones((1, 1)), np.zeros((1, 1)), 3.0)[0]
    array([[0, 1]])
    """
    dtype, (m, n) = working_dtype(W, H, scale, zero), np.shape(W)
    if not (maxq + 1) ** n <= 65536:
        raise InvalidArgumentError(
            f"(maxq + 1)**n must be at most 65536; got maxq={maxq}, n={n}. Use fewer columns."
        )
    levels = range(int(maxq) + 1)
    candidates = np.array(list(itertools.product(levels, repeat=n)), np.int64).reshape(-1, n)
    scale, zero = (np.broadcast_to(a, (m, np.shape(a)[1])) for a in (scale, zero))
    codes, loss = np.zeros((m, n), np.int64), np.zeros(m, dtype)
    for r in range(m):
        row = slice(r, r + 1)
        points = dequantise(candidates, scale[row], zero[row], group_index=group_index)
        losses = row_losses(points, np.asarray(W)[row], H)
        best = int(np.argmin(losses))
        codes[r], loss[r] = candidates[best], losses[best]
    return codes, loss
