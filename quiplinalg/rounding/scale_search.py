"""The range of each row, searched by the loss itself: rows are independent, so this is exact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.search import rms_grid
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.rounding.driver import GridStep

__all__ = ["RHO", "check_rho", "scale_steps"]

#: Half the range in units of the RMS, for Gaussian weights rounded with feedback, by bits.
RHO = {1: 0.85, 2: 1.6, 3: 2.1, 4: 2.6, 5: 3.0, 6: 3.4, 7: 3.8, 8: 4.2}
_COARSE = (1.0, 0.85, 1.18, 1.4)  # of RHO, tried on all rows
_FINE = (0.92, 1.085)  # of the best coarse one of each row


def check_rho(rho: Any, bits: int) -> float | None:
    """Return the rho to use, or None for a search."""
    if isinstance(rho, str) and rho == "search":
        return None
    if rho is None:
        return RHO[bits]
    if not 0 < as_float(rho) < np.inf:
        raise InvalidArgumentError(
            "rho must be positive and finite (half the range in units of the RMS), None or "
            f"'search'; got rho={rho!r}. None is {RHO[bits]} at {bits} bits."
        )
    return float(rho)


def scale_steps(
    weight: np.ndarray, bits: int, rho: float | None, group_size: int | None, per_tensor: bool
) -> Sequence[GridStep]:
    """Return the grids to try on a weight: one for a given rho, else a search in two stages.

    Parameters
    ----------
    weight : ndarray, (m, n)
        What is rounded, after its processing.
    bits : int
    rho : float or None
        None: 4 multiples of RHO[bits] for all rows, then 2 of the best of each row.
    group_size, per_tensor
        As in `rms_grid`.

    Notes
    -----
    Every grid costs one feedback pass, m n^2 flops.  With one scale for all rows or groups the
    best is kept as a whole for the rows that share it.
    """
    at = RHO[bits] if rho is None else rho
    base = rms_grid(weight, bits, rho=at, group_size=group_size, per_tensor=per_tensor)
    if rho is not None:
        return (lambda _: base,)
    coarse: list[UniformGrid] = []

    def first(factor: float) -> GridStep:
        return lambda _: _scaled(base, factor)

    def second(factor: float) -> GridStep:
        def step(best: UniformGrid | None) -> UniformGrid:
            assert best is not None
            if not coarse:
                coarse.append(best)  # both fine steps start here
            return _scaled(coarse[0], factor)

        return step

    return (*map(first, _COARSE), *map(second, _FINE))


def _scaled(grid: UniformGrid, factor: float) -> UniformGrid:
    scale = grid.scale.astype(np.float64) * factor
    return replace(grid, scale=scale.astype(grid.scale.dtype))
