"""SparseGPT: pruning in one pass, each removal compensated in the columns that follow."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.factor.orders import check_order
from quiplinalg.grids.search import work_matrix
from quiplinalg.kernels.record import select
from quiplinalg.losses import proxy_loss
from quiplinalg.pruning.one_pass import one_pass
from quiplinalg.pruning.pattern import Pattern, check_scale, check_sparsity, parse_pattern
from quiplinalg.pruning.result import Pruned
from quiplinalg.restore import like
from quiplinalg.rounding.plan import check_shapes
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["ALIASES", "check_block", "check_one_pass", "sparsegpt"]

_BLOCK = "block (columns whose mask is chosen together; changes the result)"
_PATTERN = 'pattern="2:4" (2 of each 4 weights stay)'
#: Names of SparseGPT's code.
ALIASES = {
    "blocksize": (_BLOCK, "group_size (columns that share a scale; changes the result)"),
    "block_size": (_BLOCK, "group_size (columns that share a scale; changes the result)"),
    "prunen": (_PATTERN,),
    "prunem": (_PATTERN,),
    "prune_n": (_PATTERN,),
    "prune_m": (_PATTERN,),
    "sparsity_ratio": ("sparsity",),
}


def check_one_pass(order: Any, block: Any, pattern: Pattern) -> None:
    """Raise InvalidArgumentError for an order or a block that one pass cannot take."""
    check_order(order)
    if pattern.quota and order != "natural":
        raise InvalidArgumentError(
            f"order must be 'natural' with pattern={pattern.name!r}, whose groups are consecutive "
            f"columns; got order={order!r}. Another order needs an unstructured pattern."
        )
    check_block(block)


def check_block(block: Any) -> None:
    """Raise InvalidArgumentError unless ``block`` is a number of columns."""
    whole = isinstance(block, (int, np.integer)) and not isinstance(block, bool)
    if not whole or block < 1:
        raise InvalidArgumentError(
            "block must be a whole number of columns of at least 1; got "
            f"block={block!r}. 128 is what SparseGPT uses."
        )


@suggest_keywords(ALIASES)
def sparsegpt(
    W: Any,
    H: Any,
    sparsity: float | None = None,
    *,
    pattern: str | None = None,
    block: int = 128,
    order: str = "natural",
    damp: float | str | AbsoluteDamp = 0.01,
    backend: str = "auto",
) -> Pruned:
    """Prune W in one pass so that tr((W_hat - W) H (W_hat - W)^T) is small.

    W_hat_k = 0 where pruned, else z_k = W_k + (W - W_hat)_{<k} U_{<k,k}, column by column, with
    H + damp I = T D T^T, T = I + U.  Pruned are the weights with the least w_k^2 D_k, w as
    compensated when their group of columns is reached.

    Parameters
    ----------
    W : array, (m, n) = (out, in), floating
        Any host array.  float64 is computed in float64, everything narrower in float32.  Not
        changed.
    H : array, (n, n), floating
        Symmetric second moment of the layer's inputs, in any units.  Factored in float64.  Not
        changed.
    sparsity : float, optional
        Share of the weights to prune, 0 to 1; the nearest whole number of weights, halves up.
        Default: 0.5, or what an N:M pattern says.
    pattern : str, optional
        None or "unstructured": in each block of columns the weights of all rows compete for one
        threshold.  "N:M", as "2:4": N of each M consecutive inputs stay in each row.
    block : int
        Columns whose unstructured mask is chosen together: this changes the result.  With N:M it
        changes nothing.
    order : str
        "natural", "act" (by decreasing diagonal of H) or "min-pivot"; "natural" with N:M.
    damp : float, "auto" or AbsoluteDamp
        Added to the diagonal of H, as in `ldlq`.
    backend : str
        "auto", "cpu" (Numba and Cython) or "generic" (NumPy).

    Returns
    -------
    Pruned
        Weights, mask, the loss under H without damping, and ``dense()``, which gives back the
        caller's kind of array.

    Raises
    ------
    NotPositiveDefiniteError
        H with its damping is not positive definite.
    NonFiniteError, DTypeError, InvalidArgumentError, BackendUnavailableError
        Also where M does not divide n.

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    n^3/3 flops in float64 for the factor and m n^2 for the feedback, as `gptq`; 8 n^2 bytes for
    the factor, 2 n^2 (4 n^2 in float64) for the packed feedback, and 8 MB a thread with N:M, a
    work copy of W without a pattern.  The same bits for any number of threads.  Of equal scores
    the first in row-major order goes.  Dead columns (zero diagonal of H) have the score 0.

    D_k is 1 / [(H_FF)^-1]_kk with F the columns from k on, as if no weight after k were pruned;
    and weights before k never change again.  So the mask and the weights are not those of least
    loss, and `obs_prune` is usually better, at a cost n times as high.  No bound holds against
    pruning by magnitude on a given W, but for a correlated H the loss is far smaller.

    References
    ----------
    Frantar and Alistarh, SparseGPT (arXiv 2301.00774), section 3.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.standard_normal((32, 64)), X.T @ X / 256
    >>> p = ql.sparsegpt(W, H, pattern="2:4")
    >>> p.sparsity, bool((p.mask.reshape(32, 16, 4).sum(axis=2) == 2).all())
    (0.5, True)
    """
    kernels = select(backend)
    weight = work_matrix(W)
    hessian = symmetric_matrix(H, "H", kernels)
    check_shapes(weight, hessian)
    check_scale(weight, hessian)
    found = parse_pattern(pattern, weight.shape[1], blocks=False)
    share = check_sparsity(sparsity, found)
    check_one_pass(order, block, found)
    done = one_pass(weight, hessian, found, share, int(block), order, damp, kernels)
    return Pruned(
        weights=done.values,
        mask=done.mask,
        pattern=found.name,
        method="sparsegpt",
        loss=proxy_loss(done.values, weight, hessian) if done.loss is None else done.loss,
        damp=done.damp,
        dead=done.dead,
        order=order,
        restore=like(W),
    )
