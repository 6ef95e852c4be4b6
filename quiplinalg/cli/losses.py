"""What a result is compared with: doing nothing, nearest, and pruning by magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.pruning.one_pass import least
from quiplinalg.results import Quantized

__all__ = ["energy", "magnitude_loss", "nearest_loss"]

_ROWS = 256


def energy(W: Any, H: Any) -> float:
    """Return tr(W H W^T), the loss of rounding everything to zero.

    A ratio for people needs no float64: the products are in W's precision, half the time of
    `quiplinalg.proxy_loss`.  Fixed pieces, so that the bits do not depend on the threads.
    """
    weight = work_matrix(W)
    hessian = np.asarray(H).astype(weight.dtype, copy=False)

    def part(i: int) -> float:
        rows = weight[i : i + _ROWS]
        return float(np.einsum("ij,ij->i", rows @ hessian, rows).sum(dtype=np.float64))

    with single_blas_thread():
        return float(sum(run_all(part, [(i,) for i in range(0, weight.shape[0], _ROWS)])))


def nearest_loss(W: Any, H: Any, quantized: Quantized) -> float:
    """Return the loss of rounding every weight by itself on the same grid, in the same basis."""
    from quiplinalg.grids.apply import rounded_to_nearest

    weight, processing = work_matrix(W), quantized.processing
    processed = weight if processing is None else processing.weight(weight)
    rounded = rounded_to_nearest(processed, quantized.grid)
    if quantized.mask is not None:
        rounded[quantized.mask] = 0
    if processing is not None:
        rounded = processing.undo(rounded)
    return energy(rounded - weight, H)


def magnitude_loss(
    W: Any, H: Any, pattern: str, mask: np.ndarray, grid: UniformGrid | None = None
) -> float:
    """Return the loss of pruning as many weights in the same pattern, the smallest ones.

    Nothing is compensated; with a grid, what stays is rounded to nearest.
    """
    from quiplinalg.rounding.nearest import nearest

    weight = work_matrix(W)
    m, n = weight.shape
    smallest = np.zeros((m, n), bool)
    kind, _, size = pattern.partition(":")
    if not weight.size:
        return 0.0
    if kind == "columns":
        norms = np.square(weight).sum(axis=0, dtype=np.float64)
        smallest[:, least(norms[None, :], int(mask[0].sum()))[0]] = True
    elif kind == "block":
        blocks = np.square(weight).reshape(m, -1, int(size)).sum(axis=2)
        smallest |= np.repeat(least(blocks, int(mask.sum()) // int(size)), int(size), axis=1)
    elif size:
        groups = np.abs(weight).reshape(m, -1, int(size))
        ranks = np.argsort(np.argsort(groups, axis=2, kind="stable"), axis=2)
        smallest |= (ranks < int(size) - int(kind)).reshape(m, n)
    else:
        smallest = least(np.abs(weight), int(mask.sum()))
    kept = weight if grid is None else nearest(weight, grid=grid).__array__(weight.dtype)
    return energy(np.where(smallest, 0, kept) - weight, H)
