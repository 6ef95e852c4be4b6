"""GPTQ: LDLQ under its better-known name, with GPTQ's usual width."""

from __future__ import annotations

from typing import Any

from quiplinalg.arguments import suggest_keywords
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.results import Quantized
from quiplinalg.rounding.options import Options
from quiplinalg.rounding.stack import round_layers

__all__ = ["gptq"]


@suggest_keywords()
def gptq(
    W: Any,
    H: Any,
    bits: int = 4,
    *,
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    static_groups: bool = False,
    sym: bool = False,
    clip: str = "mse",
    order: str = "act",
    damp: float | str | AbsoluteDamp = 0.01,
    rounding: str = "nearest",
    seed: int | None = None,
    block: int | None = None,
    backend: str = "auto",
) -> Quantized | Any:  # as `ldlq`
    """Round W column by column, each error compensated in the columns that follow.

    Parameters
    ----------
    W, H, bits, grid, group_size, static_groups, sym, clip, order, damp, rounding, seed, block, \
    backend
        As in `ldlq`, W (m, n) or (b, m, n), H (n, n) or (b, n, n); only the default width differs.

    Returns
    -------
    Quantized or QuantizedStack
        The latter for W (b, m, n): a sequence of b results.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError
        As `ldlq`.

    Notes
    -----
    GPTQ's update of all remaining columns through the Cholesky factor of H^-1 and LDLQ's feedback
    through T of H = T D T^T give the same targets (QuIP, theorem 6), so both run on one engine, a
    third of the factorisations, and no inverse.  ``clip="minmax", order="natural"`` is the plain
    algorithm of the paper.  The published code differs in three ways: its mean diagonal counts
    dead columns as 1, it sets their weights to zero, and inside a block of 128 it takes group
    scales from weights that are out of date.

    References
    ----------
    Frantar, Ashkboos, Hoefler, Alistarh, GPTQ (arXiv 2210.17323), algorithm 1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> W = np.array([[0.4, 0.6], [1.0, -0.2]])
    >>> H = np.array([[2.0, 1.0], [1.0, 2.0]])
    >>> (ql.gptq(W, H).codes == ql.ldlq(W, H, bits=4).codes).all()
    np.True_
    >>> ql.gptq(np.stack([W, W]), H).codes.shape
    (2, 2, 2)
    """
    options = Options(
        bits=bits, grid=grid, group_size=group_size, static_groups=static_groups, sym=sym,
        clip=clip, order=order, damp=damp, rounding=rounding, seed=seed, block=block,
    )  # fmt: skip
    return round_layers(W, H, "gptq", options, backend)
