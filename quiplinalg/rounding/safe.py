"""Rounding with bounded feedback: QuIP's algorithm 5, for grids that end."""

from __future__ import annotations

from typing import Any

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.bounded import check_bound
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import round_with_feedback
from quiplinalg.rounding.options import Options

__all__ = ["safe"]


@suggest_keywords()
def safe(
    W: Any,
    H: Any,
    bits: int = 2,
    *,
    c: float = 1.0,
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    sym: bool = False,
    clip: str = "minmax",
    order: str = "natural",
    damp: float | str | AbsoluteDamp = 0.01,
    rounding: str = "stochastic",
    seed: int | None = 0,
    block: int | None = None,
    backend: str = "auto",
) -> Quantized:
    """Round W with feedback that is bounded, so that the ends of the grid are rarely met.

    W_hat_k = Q(W_k + (W - W_hat)_{<k} U_{<k,k}), U = R^-1 - I, with the R = I + X that minimises
    tr(R H R^T) over unit upper triangular matrices with ||X e_j||^2 <= c (`bounded_feedback`).

    Parameters
    ----------
    W, H, bits, grid, order, damp, block, backend
        As in `ldlq`.
    c : float
        Bound of the feedback, at least 0: 0 is none, and where LDLQ's own is within the bound,
        it is used as it is.
    group_size : int, optional
        Columns that share a scale, consecutive ones of the original W.
    sym : bool
        Grid symmetric about 0.
    clip : str
        "minmax" spans the weights; "mse" and "best" as in `ldlq`, but they clip.
    rounding : str
        "stochastic", which the guarantee is for, or "nearest".
    seed : int
        0 to 2**63 - 1.

    Returns
    -------
    Quantized
        With c as ``feedback_bound`` and tr(R (H + damp I) R^T) as ``trace_D``; the loss is computed
        from its definition.

    Raises
    ------
    ConvergenceError
        H with its damping is so close to singular that no bounded feedback was certified.
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError,
    BackendUnavailableError
        As `ldlq`.

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    With eta = W_hat - z the errors of the single roundings, E = W_hat - W = eta R, and the targets
    are z = W + eta X.  An unclamped stochastic rounding has, given those before it, mean error 0
    in an interval of length s, the step (the largest of the row, where groups differ).  So, by
    Azuma and Hoeffding, |z_ij - W_ij| reaches t steps with probability at most
    2 exp(-2 t^2 / ||X e_j||^2), and for 0 < delta < 1:

    * If every weight is at least t = (c log(2mn / delta) / 2)^1/2 steps inside the ends of its
      grid, then nothing is clamped with probability 1 - delta at least.
    * With t = (c log(4mn / delta) / 2)^1/2 the loss is also, with the same probability, at most
      (1/2) log(4mn / delta) J sum_i s_i^2, J = tr(R (H + damp I) R^T) (``trace_D``).
    * Its mean without clamping is at most (J/4) sum_i s_i^2, and (J/6) sum_i s_i^2 where the
      fractional parts of the weights are uniform.

    This is the paper's theorem 7, where c ~ 1/log(mn / delta) makes t a constant.  It does NOT
    hold for weights at the ends of the grid (as the extremes are in a min-max grid), for a margin
    below t (of c = 1, 4096 x 4096 and delta = 0.01: 3.3 steps; the whole grid is 3 steps wide at 2
    bits), or for nearest rounding, where |z - W| <= (nc)^1/2 s/2.  Nor for what floating point adds
    to it: the uniforms have 24 bits, and targets are rounded.  Bounded feedback is of use without
    the guarantee too: on the paper's matrix, for which a clamped LDLQ is 58 times worse than
    nearest at n = 64 and 508 times at n = 512, it is within 5 % of nearest.

    Beside `ldlq`, the solver of `bounded_feedback` (10 to 30 n^3 flops where the bound is reached,
    n^3/3 where it is not; 48 n^2 bytes) and 2 m n^2 for the loss.  The same codes for any block and
    number of threads.  Where no column reaches its bound, the codes are those of `ldlq`.

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304), section 5.2, algorithm 5 and theorem 7.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.uniform(-1, 1, (32, 64)), X.T @ X / 256

    A grid of 15 steps with the weights t steps inside, and nothing is clamped:

    >>> c = 0.5
    >>> t = np.sqrt(c * np.log(2 * W.size / 0.01) / 2)
    >>> step = np.full((1, 1), 2 / (15 - 2 * t))
    >>> grid = ql.UniformGrid(step, np.full((1, 1), 7.5), bits=4)
    >>> q = ql.safe(W, H, grid=grid, c=c)
    >>> q.clipped, bool(q.loss <= q.trace_D / 4 * (W.shape[0] * step[0, 0] ** 2))
    (0.0, True)
    """
    options = Options(
        bits=bits, grid=grid, group_size=group_size, static_groups=True, sym=sym, clip=clip,
        order=order, damp=damp, rounding=rounding, seed=seed, block=block,
    )  # fmt: skip
    bound = check_bound(c)
    if bound == 0 and clip == "best":
        raise InvalidArgumentError(
            "clip must be 'minmax' or 'mse' with c=0; got clip='best'. It compares losses that "
            "only rounding with feedback gives."
        )
    return round_with_feedback(W, H, "safe", options, backend, bound=bound)
