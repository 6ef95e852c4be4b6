"""LNQ: levels of each row's own, by turns fitted by least squares and chosen by descent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.grids.apply import dequantize
from quiplinalg.grids.codebook import CodebookGrid, uniform_grid
from quiplinalg.grids.search import work_matrix
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.losses import proxy_loss
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import plain_hessian
from quiplinalg.rounding.fitting import checked_layer
from quiplinalg.rounding.ldlq import ldlq
from quiplinalg.rounding.level_fit import Fitted, Start
from quiplinalg.rounding.levels import (
    dense_feedback,
    fit_levels,
    kmeans_levels,
    round_to_levels,
)
from quiplinalg.rounding.options import check_passes
from quiplinalg.rounding.prepared import PreparedHessian, prepare

__all__ = ["MAX_ROUNDS", "lnq"]

MAX_ROUNDS = 20  # of rounds=None
_COARSE = 1.01  # times the loss of the start: what storing its levels may do


@suggest_keywords()
def lnq(
    W: Any,
    H: Any,
    bits: int = 2,
    *,
    rounds: int | None = None,
    order: str = "act",
    damp: float | str | AbsoluteDamp = 0.01,
    clip: str = "mse",
    level_dtype: Any = "float16",
    backend: str = "auto",
) -> Quantized:
    """Round W to levels that each row has of its own, wherever its loss is least.

    Levels by k-means and codes by LDLQ's feedback; then by turns the levels that are best for the
    codes, by least squares under H, and coordinate descent on the codes for these levels; then
    both again from these levels.  No half step raises the loss of a row.

    Parameters
    ----------
    W : array, (m, n) = (out, in), floating
        As in `ldlq`, but for stacks.  Not changed.
    H : array, (n, n), floating, or PreparedHessian
        As in `ldlq`, but for stacks.  Not changed.
    bits : int
        1 to 8: 2**bits levels a row.
    rounds : int, optional
        The most turns of both, each of the two times.  Default: until a round gains less than 1e-4
        of a row's loss, at most 20.
    order, damp, clip, backend
        As in `ldlq`.
    level_dtype : dtype or str
        What levels are stored in: float16, float32 or float64.

    Returns
    -------
    Quantized
        On a `CodebookGrid`; its last half step was the levels, which are those of least squares as
        they are stored.  ``passes`` are the rounds, ``changed`` the codes that the last changed.
        No row has a larger loss than `ldlq` gives it, as far as ``level_dtype`` has its levels.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError,
    BackendUnavailableError
        As `ldlq`; and levels that ``level_dtype`` cannot hold.

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    Beside one `ldlq`: 2 m n^2 flops for two more roundings with feedback, 8 m n^2 for E H of two
    starts, twice, 2 m n^2 additions for the normal equations, m 2^(3 bits) / 3 flops in each round
    to solve them, and 6 n for each code that changes.  4 n^2 bytes for U; 32 MB a thread.  Levels
    take 2^bits numbers a row: in float16 at 4 bits, 1/16 bit a weight for n = 4096.  The same codes
    for any number of threads.  On a device 2^bits n elements a row, of as many rows at a time as
    take a quarter of its free memory, and at most as much again for a half step; products and
    systems of equations are those of cuBLAS, so that a row may part from the host's at a near tie.

    On heavy-tailed weights this is 1.4 to 3 dB below `ldlq` on a uniform grid at equal ``bits``.

    References
    ----------
    Kim et al., GuidedQuant (arXiv 2505.07004): layer-wise non-uniform quantisation, LNQ.  The
    start with feedback is this library's.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.standard_t(4, (32, 64)), X.T @ X / 256
    >>> q = ql.lnq(W, H, bits=3)
    >>> q.grid
    CodebookGrid(3 bits, rows=32, float16)
    >>> q.loss < 0.8 * ql.ldlq(W, H, bits=3).loss
    True
    """
    plain = plain_hessian(H)
    kernels = select(backend, W=W, H=plain)
    check_passes(rounds, "rounds")
    stored = _level_dtype(level_dtype)
    with kernels.running(W, plain):
        if isinstance(H, PreparedHessian):
            H.check(order, damp, kernels)
            ready, weight = H, H.weight(W)
        else:
            weight = work_matrix(W, kernels=kernels)  # on the device, where the backend is
            ready = prepare(H, order=order, damp=damp, backend=backend)
        start = ldlq(weight, ready, bits, order=order, damp=damp, clip=clip, backend=backend)
        weight, hessian = checked_layer(weight, ready, start, kernels)
        codebook = _codebook(start, stored, weight, hessian, kernels)
        most = MAX_ROUNDS if rounds is None else int(rounds)
        found = _fit(weight, hessian, ready, (codebook, start.codes), most, kernels)
        return replace(
            start,
            codes=kernels.back(W, found.codes),
            grid=CodebookGrid(kernels.back(W, found.grid.levels)),
            method="lnq",
            loss=proxy_loss(found.grid.values(found.codes, np.float64), weight, hessian),
            passes=found.rounds,
            changed=found.changed,
            refit="levels",
            restore=like(W),
        )


def _fit(
    W: Any,
    H: Any,
    ready: PreparedHessian,
    start: Start,
    rounds: int,
    kernels: Kernels,
) -> Fitted:
    """Both times: from the better of ldlq and k-means, then from the better codes on its levels."""
    if not W.size:
        return fit_levels(W, H, [start], rounds, kernels)
    bits, stored = start[0].bits, start[0].dtype
    U = dense_feedback(ready, W.dtype, kernels)

    def rounded(grid: CodebookGrid) -> Start:
        return grid, round_to_levels(W, U, ready.permutation, grid, kernels)

    means = CodebookGrid(kmeans_levels(W, bits, kernels).astype(stored))
    first = fit_levels(W, H, [start, rounded(means)], rounds, kernels)
    return fit_levels(W, H, [(first.grid, first.codes), rounded(first.grid)], rounds, kernels)


def _level_dtype(level_dtype: Any) -> np.dtype:
    try:
        found = np.dtype(level_dtype)
    except TypeError:
        found = np.dtype(object)
    if level_dtype is None or found not in (np.float16, np.float32, np.float64):
        raise InvalidArgumentError(
            f"level_dtype must be float16, float32 or float64; got level_dtype={level_dtype!r}. "
            "float16 takes 2**bits * 16 bits a row."
        )
    return found


def _codebook(start: Quantized, dtype: np.dtype, W: Any, H: Any, kernels: Kernels) -> CodebookGrid:
    """The levels of a uniform grid as they are stored; raise where that costs much."""
    grid, xp = uniform_grid(start.grid), kernels.xp
    count = int(grid.maxq) + 1
    every = xp.broadcast_to(xp.arange(count).astype(np.uint8), (start.shape[0], count))
    one = replace(grid, group_index=None)
    levels = dequantize(xp.ascontiguousarray(every), one, np.dtype(np.float64))
    with np.errstate(over="ignore"):
        levels = levels.astype(dtype)
    if xp.isfinite(levels).all():
        book = CodebookGrid(levels)
        loss = proxy_loss(book.values(start.codes, np.float64), W, H)
        energy = proxy_loss(xp.zeros_like(W), W, H)
        if loss <= _COARSE * start.loss + 1e-5 * energy:
            return book
    raise InvalidArgumentError(
        f"level_dtype must hold levels up to {float(abs(W).max()):.3g}; got {dtype.name}, whose "
        "rounding costs more than the codes do. Pass level_dtype='float32'."
    )
