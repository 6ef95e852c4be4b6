"""The best codes of all, on a finite or an unbounded grid, by trying every one that could be."""

from __future__ import annotations

import itertools

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference.grids import dequantise, per_column, quantise
from quiplinalg.reference.losses import row_losses
from quiplinalg.reference.precision import working_dtype

__all__ = ["exact"]

_MOST = 1 << 18


def exact(
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    group_index: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of each row with the least e H e^T.

    With L the loss of rounding to nearest, the best e has e H e^T <= L, and so, by Cauchy and
    Schwarz in the norm of H, ``e_k^2 <= L (H^-1)_kk``: only codes in that window are tried.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    H : ndarray, (n, n)
        Symmetric positive definite, damped already.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    maxq : float
        Largest code; inf for the unbounded grid.
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
        A row has more than 262144 candidates.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> exact(W, H, np.ones((1, 1)), np.zeros((1, 1)), np.inf)[0]
    array([[0, 1]])
    """
    dtype, (m, n) = working_dtype(W, H, scale, zero), np.shape(W)
    W = np.asarray(W, dtype)
    s, o = (np.broadcast_to(per_column(a, n, group_index), (m, n)) for a in (scale, zero))
    scale, zero = (np.broadcast_to(a, (m, np.shape(a)[1])) for a in (scale, zero))
    nearest = quantise(W, scale, zero, maxq, group_index=group_index)
    start = row_losses(dequantise(nearest, scale, zero, group_index=group_index), W, H)
    spread = np.sqrt(np.diag(np.linalg.inv(np.asarray(H, float)))) if n else np.zeros(0)
    codes, loss = np.zeros((m, n), np.int64), np.zeros(m, dtype)
    for r in range(m):
        reach = np.sqrt(float(start[r])) * spread * (1 + 1e-6) / s[r]
        centre = W[r] / s[r] + o[r]
        first, last = np.ceil(centre - reach), np.floor(centre + reach)
        if np.isfinite(maxq):
            first, last = np.maximum(first, 0), np.minimum(last, maxq)
        # nearest is in every window, but for rounding
        first, last = np.minimum(first, nearest[r]), np.maximum(last, nearest[r])
        if np.prod(last - first + 1) > _MOST:
            raise InvalidArgumentError(
                f"W must have rows of at most {_MOST} candidates; got "
                f"{np.prod(last - first + 1):.3g} in row {r}. Use fewer columns."
            )
        levels = [range(int(a), int(b) + 1) for a, b in zip(first, last, strict=True)]
        candidates = np.array(list(itertools.product(*levels)), np.int64).reshape(-1, n)
        row = slice(r, r + 1)
        points = dequantise(candidates, scale[row], zero[row], group_index=group_index)
        losses = row_losses(points, W[row], H)
        best = int(np.argmin(losses))
        codes[r], loss[r] = candidates[best], losses[best]
    return codes, loss
