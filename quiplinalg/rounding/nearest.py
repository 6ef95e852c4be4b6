"""Rounding without feedback: to the nearest code, or stochastically."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.arrays import like
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import select
from quiplinalg.parallel import run_all
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import grid_before, tie_tolerance
from quiplinalg.rounding.losses import proxy_loss
from quiplinalg.rounding.options import Options

__all__ = ["nearest"]

_ROWS = 64


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
        Not changed.
    H : array, (n, n), optional
        Only to report the loss (a product of 2 m n^2 flops); without it the loss is NaN.
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
    kernels = select(backend)
    weight = work_matrix(W)
    m, n = weight.shape
    options.check_grid(m, n)
    found, _ = grid_before(weight, options, kernels)
    assert found is not None
    if found.scale.dtype == np.float64:
        weight = weight.astype(np.float64, copy=False)
    kind = weight.dtype
    codes = np.empty((m, n), found.code_dtype)
    columns = found.columns(n)
    scale, zero = (
        np.broadcast_to(a.astype(kind), (m, a.shape[1])) for a in (found.scale, found.zero)
    )
    stochastic = rounding == "stochastic"
    tolerance = tie_tolerance(n, kind)

    def round_rows(i: int) -> tuple[int, int]:
        rows = slice(i, min(i + _ROWS, m))
        s, o = scale[rows][:, columns], zero[rows][:, columns]
        whole = np.floor(o)
        y = weight[rows] / s + (o - whole)
        near = 0
        if stochastic:
            noise = np.empty((1, n, y.shape[0]), np.float32)
            kernels.philox(options.philox_key, i, np.arange(n), noise)
            k = np.floor(y + noise[0].T) + whole
        else:
            k = np.rint(y)
            tied = np.abs(0.5 - np.abs(y - k)) < tolerance
            y += whole
            k += whole
            near = int((tied & (y >= 0) & (y < found.maxq)).any(axis=1).sum())
        low = 0 if found.bits is not None else -np.inf
        clipped = int(((k < low) | (k > found.maxq)).sum())
        codes[rows] = np.clip(k, low, found.maxq)
        return near, clipped

    counts = run_all(round_rows, [(i,) for i in range(0, m, _ROWS)])
    result = Quantized(
        codes=codes,
        grid=found,
        method="nearest",
        rounding=rounding,
        order="natural",
        permutation=None,
        loss=float("nan"),
        trace_D=float("nan"),
        damp=0.0,
        dead=np.empty(0, np.int64),
        near_tie_rows=sum(near for near, _ in counts),
        clipped=sum(clipped for _, clipped in counts) / max(m * n, 1),
        seed=seed if stochastic else None,
        precision=kind.name,
        restore=like(W),
    )
    if H is None:
        return result
    return replace(result, loss=proxy_loss(result.__array__(kind), W, H))
