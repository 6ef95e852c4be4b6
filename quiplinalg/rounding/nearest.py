"""Rounding without feedback: to the nearest code, or stochastically."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.apply import round_to_grid
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.losses import proxy_loss
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import grid_back, grid_before, grid_there
from quiplinalg.rounding.options import Options

__all__ = ["nearest"]


@suggest_keywords()
def nearest(
    W: Any,
    H: Any = None,
    bits: int = 4,
    *,
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    sym: bool = False,
    clip: str = "mse",
    rounding: str = "nearest",
    seed: int | None = None,
    backend: str = "auto",
) -> Quantized:
    """Round every weight by itself, W_hat = Q(W): the baseline.

    Parameters
    ----------
    W : array, (m, n), floating
        As in `ldlq`, but for stacks.  Not changed.
    H : array, (n, n) or (n,), optional
        Only to report the loss (a product of 2 m n^2 flops); without it the loss is NaN.  A vector
        is the diagonal of a diagonal H.
    bits, grid, group_size, sym, clip, rounding, seed, backend
        As in `ldlq`; groups are of consecutive columns.

    Returns
    -------
    Quantized

    Raises
    ------
    NonFiniteError, DTypeError, InvalidArgumentError

    Notes
    -----
    Average loss (m/12) s^2 tr H on an unbounded grid, (m/6) s^2 tr H with stochastic rounding.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.nearest(np.array([[0.0, 0.4, 3.0]]), bits=2, clip="minmax").codes
    array([[0, 0, 3]], dtype=uint8)
    """
    options = Options(
        bits=bits, grid=grid, group_size=group_size, static_groups=True, sym=sym, clip=clip,
        order="natural", damp=0.0, rounding=rounding, seed=seed, block=None,
    )  # fmt: skip
    if clip == "best":
        raise InvalidArgumentError(
            "clip must be 'mse' or 'minmax' without feedback; got clip='best'. It compares losses "
            "that only rounding with feedback gives."
        )
    kernels = select(backend, W=W, H=H)
    with kernels.running(W, H):
        return _round(W, H, options, kernels)


def _round(W: Any, H: Any, options: Options, kernels: Kernels) -> Quantized:
    weight = work_matrix(W, kernels=kernels)
    m, n = weight.shape
    options.check_grid(m, n)
    given = options.grid
    options = replace(options, grid=grid_there(given, kernels))
    found = grid_before(weight, options, kernels)
    if found.scale.dtype == np.float64:
        weight = weight.astype(np.float64, copy=False)
    stochastic = options.rounding == "stochastic"
    key = options.philox_key if stochastic else None
    codes, near_tie_rows, clipped = round_to_grid(weight, found, kernels, key)
    result = Quantized(
        codes=kernels.back(W, codes),
        grid=grid_back(found, given, W, kernels),
        method="nearest",
        rounding=options.rounding,
        order="natural",
        permutation=None,
        loss=float("nan"),
        trace_D=float("nan"),
        damp=0.0,
        dead=np.empty(0, np.int64),
        near_tie_rows=near_tie_rows,
        clipped=clipped / max(m * n, 1),
        seed=options.seed if stochastic else None,
        precision=weight.dtype.name,
        restore=like(W),
    )
    if H is None:
        return result
    return replace(result, loss=proxy_loss(result.values(weight.dtype), W, H))
