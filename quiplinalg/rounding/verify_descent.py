"""Check codes after coordinate descent: at a fixed point no single code may be better by one."""

from __future__ import annotations

import numpy as np

from quiplinalg.grids.apply import tie_tolerance
from quiplinalg.grids.codebook import uniform_grid
from quiplinalg.results import Quantized

__all__ = ["claims", "off_grid", "unsettled"]

_ROUNDED = 16  # eps: what a change had to gain relative to H_kk d^2, and roundings of H and s


def unsettled(
    quantized: Quantized, W_hat: np.ndarray, E: np.ndarray, H: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far the best value of each code lies beyond half a step, what is allowed, and the step.

    With g = (W_hat - W) H, moving code k by one up or down changes the loss by H_kk s^2 (1 + 2 y)
    or H_kk s^2 (1 - 2 y), y = g_k / (H_kk s): the code is settled where y >= -1/2, or it is the
    largest, and y <= 1/2, or it is 0.

    Parameters
    ----------
    quantized : Quantized, (rows, n)
    W_hat, E : ndarray, (rows, n), float64
        Its values, and W - W_hat.
    H : ndarray, (n, n), float64

    Returns
    -------
    excess, allowed, step : ndarray, (rows, n)
        In steps, but for the step.  Before a fixed point only codes off the grid have an excess.

    Notes
    -----
    The descent knew g to within the rounding errors of the sum it is, sqrt(n) eps ||E|| ||H_k||,
    and of W_hat, eps ||W_hat|| ||H_k||.
    """
    grid = uniform_grid(quantized.grid, "steps", "Its levels are verified instead.")
    n = H.shape[0]
    columns = grid.columns(n)
    scale = np.broadcast_to(grid.scale.astype(np.float64)[:, columns], E.shape)
    codes = quantized.codes.astype(np.float64)
    diagonal = H.diagonal()
    curve = np.where(diagonal > 0, diagonal, np.inf) * scale  # a dead column is always settled
    y = -(E @ H) / curve
    up, down = -y - 0.5, y - 0.5
    excess = np.zeros(E.shape)
    if not quantized.changed:
        excess = np.maximum(np.where(codes < grid.maxq, up, 0), np.where(codes > 0, down, 0))
        if grid.bits is None:
            excess = np.maximum(up, down)
    excess = np.maximum(excess, off_grid(quantized))

    dtype = np.dtype(quantized.precision)
    eps = float(np.finfo(dtype).eps)
    size, error = (np.sqrt(np.square(a).sum(axis=1, keepdims=True)) for a in (W_hat, E))
    known = tie_tolerance(n, dtype) * error + 4 * eps * size
    reach = np.sqrt(np.square(H).sum(axis=0))
    return excess, _ROUNDED * eps + known * reach / curve, scale


def off_grid(quantized: Quantized) -> np.ndarray:
    """How far each code lies beyond the ends of the grid, (rows, n)."""
    codes, grid = quantized.codes.astype(np.float64), quantized.grid
    below = 0 if grid.bits is None else -codes
    return np.maximum(np.maximum(codes - grid.maxq, below), 0)


def claims(quantized: Quantized) -> tuple[str, str]:
    """What is said of wrong codes, and of a layer without any."""
    if quantized.changed:
        return (
            "codes are not on the grid",
            "every code is on the grid, and the loss is the stored one; the descent was stopped "
            "before a fixed point, so that no more can be said of the codes",
        )
    return (
        "codes are not on the grid, or would lower the loss if changed by one",
        "no change of one code lowers the loss, and the loss is the stored one",
    )
