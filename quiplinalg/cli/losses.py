"""The two losses that a result is compared with, in the precision of the weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.grids.search import work_matrix
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.results import Quantized

__all__ = ["energy", "nearest_loss"]

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
    from quiplinalg.rounding.nearest import nearest

    weight, processing = work_matrix(W), quantized.processing
    processed = weight if processing is None else processing.weight(weight)
    rounded = nearest(processed, grid=quantized.grid).__array__(weight.dtype)
    if quantized.mask is not None:
        rounded[quantized.mask] = 0
    if processing is not None:
        rounded = processing.undo(rounded)
    return energy(rounded - weight, H)
