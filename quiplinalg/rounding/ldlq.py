"""LDLQ: rounding with the linear feedback that is optimal for a quadratic loss (QuIP)."""

from __future__ import annotations

from typing import Any

from quiplinalg.arguments import suggest_keywords
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.results import Quantized
from quiplinalg.rounding.options import Options
from quiplinalg.rounding.stack import round_layers

__all__ = ["ldlq"]


@suggest_keywords()
def ldlq(
    W: Any,
    H: Any,
    bits: int = 2,
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
) -> Quantized | Any:  # QuantizedStack of a stack; a union would hide the attributes of one
    """Round W to a grid so that tr((W_hat - W) H (W_hat - W)^T) is small.

    W_hat_k = Q(W_k + (W - W_hat)_{<k} U_{<k,k}) column by column, H + damp I = T D T^T, T = I + U.

    Parameters
    ----------
    W : array, (m, n) = (out, in) or (b, m, n), floating
        Any array: NumPy, torch, JAX, anything with ``__array__`` or DLPack, and on a CUDA device
        CuPy, torch or JAX, without a copy.  float64 is rounded in float64, everything narrower in
        float32.  Not changed.
    H : array, (n, n) or (b, n, n), floating
        Symmetric second moment of the layer's inputs, in any units; both triangles are checked.
        Factored in float64.  Not changed.  Or what `prepare` makes of it, for several layers.
        For a stack W, (n, n) is the H of all members, checked and factored once.
    bits : int
        1 to 8.  Ignored where ``grid`` is given.
    grid : UniformGrid, optional
        From `minmax_grid`, `mse_grid`, `rms_grid` or your own.  Default: see ``clip``.  With 1 or
        m rows; the same for every member of a stack.
    group_size : int, optional
        Columns that share a scale, consecutive in rounding order.  Default: one scale per row.
    static_groups : bool
        Groups of the caller's consecutive columns, with scales from the original W; else each
        group's scales are found when its first column is reached, from the weights as
        compensated by then.
    sym : bool
        Grid symmetric about 0.
    clip : str
        "mse" searches the range of least sum |error|**2.4 per row (min-max grids collapse at 2
        bits where weights have outliers); "minmax" spans the weights; "best" rounds with both and
        keeps the better of each row by its loss under H, for a second feedback pass.
    order : str
        "act" rounds columns by descending diagonal of H; "natural" from 0 to n-1; "min-pivot"
        chooses from the last to the first, each time the column with the least Schur complement
        of those chosen before: usually the least tr D, for up to twice the time of the factor.
        Codes always come back in the caller's column order.
    damp : float, "auto" or AbsoluteDamp
        Added to the diagonal of H: a fraction of its mean over live columns; "auto" raises it from
        0.01 until H is positive definite, with a DampingWarning.
    rounding : str
        "nearest" (ties to even) or "stochastic" (needs ``seed``).
    seed : int, optional
        0 to 2**63 - 1.
    block : int, optional
        Columns rounded between two updates.  Changes the speed, never the result.
    backend : str
        "cpu" (Numba and Cython), "generic" (NumPy) or "cuda" (CuPy).  "auto" works where W and H
        are, both in host memory or both on one device; "cuda" takes host arrays to the device and
        the result back.

    Returns
    -------
    Quantized or QuantizedStack
        Codes, grid, the loss under H without damping, and ``dequantize()``, which gives back the
        caller's kind of array.  For W (b, m, n) a `QuantizedStack`: a sequence of b results,
        each that of a call for its member alone (with the same ``seed``), to the last bit; on a
        device but for the rounding errors of the factor.

    Raises
    ------
    NotPositiveDefiniteError
        H with its damping is not positive definite: never a silent fall-back to nearest.
    BackendMismatchError
        W and H are not on one device: nothing is moved silently.
    NonFiniteError, DTypeError, InvalidArgumentError, BackendUnavailableError

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01; for each member of a stack on its own.

    Notes
    -----
    n^3/3 flops in float64 for the factor and m n^2 for the feedback; 8 n^2 bytes for the factor,
    2 n^2 (4 n^2 in float64) for the packed feedback and 8 MB a thread.  The same codes for any
    block and number of threads: rows are independent and each target is one chain of fused
    multiply-adds.  Dead columns (zero diagonal of H) are rounded to nearest; they cost nothing.
    Small members of a stack are rounded side by side, each on one thread, large ones one by one.

    On a device: 8 n^2 bytes for the factor, 4 n^2 (8 n^2) for the feedback and 13 m n (25 m n) for
    W, its targets and codes, in CuPy's pool and on its current stream; as many members of a stack
    at once as fit into 0.7 of what is free.  The codes are those of the host but for targets within
    a tie (`near_tie_rows`), since the factor differs by rounding errors, and for rows where two
    ranges of the clip search are as good; numbers below 2^-126 count as 0 in float32; min-pivot
    orders are for the host only.  What is read back are some small arrays a call (checks, the
    diagonal of H, whether it was factored, sums of the rows), nothing for each column or block.

    On an unbounded grid the loss is at most (m/4) s^2 tr D, and (m/12) s^2 tr D on average, the
    least possible for this kind of feedback.  Clipping voids both: there are W and H for which a
    clamped grid makes LDLQ worse than nearest (``nearest_loss`` of the result tells).

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304), theorem 1 and section 3.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.standard_normal((32, 64)), X.T @ X / 256
    >>> q = ql.ldlq(W, H, bits=2)
    >>> q.loss < 0.8 * q.nearest_loss(W, H)
    True

    The experts of a mixture in one call:

    >>> experts = ql.ldlq(np.stack([W, -W, 2 * W]), np.stack([H, H, H]))
    >>> experts.shape, experts.dequantize().shape, len(experts)
    ((3, 32, 64), (3, 32, 64), 3)
    >>> experts[0].loss == q.loss == experts.loss[0]
    np.True_
    """
    options = Options(
        bits=bits, grid=grid, group_size=group_size, static_groups=static_groups, sym=sym,
        clip=clip, order=order, damp=damp, rounding=rounding, seed=seed, block=block,
    )  # fmt: skip
    return round_layers(W, H, "ldlq", options, backend)
