"""What a result is compared with: doing nothing, and pruning by magnitude."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.model.comparison import column_blocks, quadratic_forms
from quiplinalg.pruning.one_pass import least

__all__ = ["energy", "magnitude_loss"]


def energy(W: Any, H: Any) -> float:
    """Return tr(W H W^T), the loss of rounding everything to zero.

    A ratio for people needs no float64: the products are in W's precision, half the time of
    `quiplinalg.proxy_loss`.  Fixed pieces, so that the bits do not depend on the threads.
    """
    weight = work_matrix(W)
    return quadratic_forms([weight], column_blocks(np.asarray(H), weight.dtype))[0]


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
