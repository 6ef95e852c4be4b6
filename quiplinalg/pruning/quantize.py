"""Prune and quantise in one call: pruned weights are exactly zero, the others on the grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.factor.orders import check_order
from quiplinalg.grids.apply import check_range, tie_tolerance
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import select
from quiplinalg.losses import proxy_loss
from quiplinalg.pruning.obs import choose_mask
from quiplinalg.pruning.one_pass import one_pass
from quiplinalg.pruning.pattern import check_scale, check_sparsity, parse_pattern
from quiplinalg.pruning.sparsegpt import ALIASES, check_block, check_one_pass
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import grid_before, grid_there
from quiplinalg.rounding.elimination import damped_inverse
from quiplinalg.rounding.obq import obq_masked
from quiplinalg.rounding.options import Options
from quiplinalg.rounding.plan import check_shapes
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["prune_quantize"]

_METHODS = ("sparsegpt", "obs")


@suggest_keywords(ALIASES)
def prune_quantize(
    W: Any,
    H: Any,
    bits: int = 4,
    sparsity: float | None = None,
    *,
    pattern: str | None = None,
    method: str = "sparsegpt",
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    sym: bool = False,
    clip: str = "mse",
    block: int = 128,
    order: str | None = None,
    damp: float | str | AbsoluteDamp = 0.01,
    backend: str = "auto",
) -> Quantized:
    """Prune W and round what stays to a grid, with tr((W_hat - W) H (W_hat - W)^T) small.

    Column by column W_hat_k = 0 where pruned, else Q(z_k), z_k = W_k + (W - W_hat)_{<k} U_{<k,k},
    H + damp I = T D T^T, T = I + U ("sparsegpt"); or the mask of `obs_prune`, and rounding with
    exact compensation within it ("obs").

    Parameters
    ----------
    W : array, (m, n) = (out, in), floating
        Any host array.  Not changed.
    H : array, (n, n), floating
        Symmetric second moment of the layer's inputs, in any units.  Not changed.
    bits : int
        1 to 8.  Ignored where ``grid`` is given.
    sparsity, pattern, damp, backend
        As in `sparsegpt`; with "obs" as in `obs_prune`, blocks too.
    method : str
        "sparsegpt": one pass that prunes and rounds; m n^2 flops.  "obs": exact removals, then
        OBQ of the rest, which compensates in the weights that stay only; about 2 m n^3 / 3 flops.
    grid : UniformGrid, optional
        Default: found from the original W, pruned weights included.
    group_size : int, optional
        Consecutive columns that share a scale.  Default: one scale per row.
    sym : bool
        Grid symmetric about 0.
    clip : str
        "mse" or "minmax", as in `ldlq`.
    block : int
        As in `sparsegpt`; of no use to "obs".
    order : str, optional
        The columns in the order of rounding.  "sparsegpt": as there, by default "natural".
        "obs": one of `obq`'s, by default "act"; "greedy" is often worse, since it leaves the
        weights of large errors for the end, when little is left to compensate them.

    Returns
    -------
    Quantized
        With its ``mask``: ``dequantize()`` is exactly 0 there, whatever the grid.  Codes of
        pruned weights are that of zero where the grid has one, else 0.  The method is "sparsegpt"
        or "obq".

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError, \
BackendUnavailableError
        As `sparsegpt` and `obs_prune`.  With "obs" also for a grid without a code for zero.

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    The same codes and mask for any number of threads.  Rounding errors are fed back into the
    choice of the mask in "sparsegpt"; "obs" chooses the mask first, from unrounded weights.

    References
    ----------
    Frantar and Alistarh, SparseGPT (arXiv 2301.00774), section 3.5.
    Frantar, Singh, Alistarh, Optimal Brain Compression (arXiv 2208.11580).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.standard_normal((32, 64)), X.T @ X / 256
    >>> q = ql.prune_quantize(W, H, bits=4, pattern="2:4")
    >>> float(q.mask.mean()), float(np.abs(q.dequantize()[q.mask]).max())
    (0.5, 0.0)
    """
    if not isinstance(method, str) or method not in _METHODS:
        raise InvalidArgumentError(
            f"method must be 'sparsegpt' or 'obs'; got method={method!r}. 'sparsegpt' is the fast "
            "one."
        )
    if clip == "best":
        raise InvalidArgumentError(
            "clip must be 'mse' or 'minmax' where weights are pruned; got clip='best'. Call twice, "
            "and keep the result of the smaller loss."
        )
    options = Options(
        bits=bits, grid=grid, group_size=group_size, static_groups=True, sym=sym, clip=clip,
        order="natural", damp=damp, rounding="nearest", seed=None, block=None,
    )  # fmt: skip
    kernels = select(backend)
    grid_there(grid, kernels)  # raises for one on a device
    weight = work_matrix(W)
    hessian = symmetric_matrix(H, "H", kernels)
    check_shapes(weight, hessian)
    check_scale(weight, hessian)
    m, n = weight.shape
    found = parse_pattern(pattern, n, blocks=method == "obs")
    share = check_sparsity(sparsity, found)
    if method == "obs":
        order = "act" if order is None else order
        check_block(block)
        if order != "greedy":
            check_order(order)
        inverse = damped_inverse(hessian, damp, kernels)
        mask, _ = choose_mask(weight, hessian, inverse.Hinv, found, share, None, kernels)
        del inverse
        rounded = obq_masked(
            W, H, mask, bits, grid=grid, group_size=group_size, sym=sym, clip=clip, order=order,
            damp=damp, backend=backend,
        )  # fmt: skip
        return replace(rounded.quantized, mask=mask)

    order = "natural" if order is None else order
    check_one_pass(order, block, found)
    options.check_grid(m, n)
    grid = grid_before(weight, options, kernels)
    if grid.scale.dtype == np.float64:
        weight = weight.astype(np.float64, copy=False)
    check_range(weight, grid)
    done = one_pass(weight, hessian, found, share, int(block), order, damp, kernels, grid)
    result = Quantized(
        codes=done.values,
        grid=grid,
        method="sparsegpt",
        rounding="nearest",
        order=order,
        permutation=None if order == "natural" else done.permutation,
        loss=0.0 if done.loss is None else done.loss,
        trace_D=done.trace_D,
        damp=done.damp,
        dead=done.dead,
        near_tie_rows=int((done.ties < tie_tolerance(n, weight.dtype)).sum()),
        clipped=done.clipped / max(m * n, 1),
        precision=weight.dtype.name,
        restore=like(W),
        mask=done.mask,
    )
    if done.loss is not None:
        return result
    return replace(result, loss=proxy_loss(result.__array__(weight.dtype), weight, hessian))
