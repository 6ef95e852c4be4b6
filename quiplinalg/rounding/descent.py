"""Coordinate descent on the codes of a quantised layer: one code at a time, never uphill."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.codebook import uniform_grid
from quiplinalg.grids.search import work_matrix
from quiplinalg.kernels.record import DeviceKernels, Kernels, select
from quiplinalg.results import Quantized
from quiplinalg.rounding.descent_driver import Descent, descend_codes
from quiplinalg.rounding.driver import grid_there
from quiplinalg.rounding.members import check_layer
from quiplinalg.rounding.options import check_passes
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["MAX_PASSES", "Descent", "descend", "descend_codes", "symmetric_hessian"]

MAX_PASSES = 50  # of passes=None; heavy-tailed layers at 2 bits take about 20
_SAME_LOSS = 1e-3  # relative: a stored loss within it of ours is of this W and H


@suggest_keywords()
def descend(
    W: Any, H: Any, quantized: Quantized, *, passes: int | None = None, backend: str = "auto"
) -> Quantized:
    """Refine codes by coordinate descent: change one code at a time while that lowers the loss.

    W_hat_k = s (clamp(round(code - g_k / (H_kk s))) - zero), g = (W_hat - W) H, column by column
    in the caller's order, accepted only where 2 g_k d + H_kk d^2 < 0 for the change d of W_hat_k.

    Parameters
    ----------
    W : array, (m, n), floating
        What was quantised, of any kind as in `ldlq`.  Not changed.
    H : array, (n, n), floating
        Symmetric positive semidefinite, without damping.  Not changed.
    quantized : Quantized
        From `ldlq`, `gptq` or `nearest`, or from here.  Its grid is kept.
    passes : int, optional
        The most passes over the columns.  Default: until one changes nothing, at most 50.
    backend : str
        "auto", "cpu" (Numba), "generic" (NumPy) or "cuda" (CuPy); "auto" works where W and H are.

    Returns
    -------
    Quantized
        ``quantized`` with other codes, its loss less what was gained, ``passes`` more passes, and
        in ``changed`` the codes that the last of them changed: 0 at a fixed point, where no change
        of one code lowers the loss.  ``near_tie_rows`` counts a row near a tie here once more.

    Raises
    ------
    InvalidArgumentError
        Shapes that do not fit, a code beyond the grid, or a result whose weights were processed
        before rounding (its codes are not of W, and `quip` refines them by ``refine``) or pruned.
    NonFiniteError, DTypeError, NotPositiveDefiniteError, BackendUnavailableError

    Notes
    -----
    2 m n^2 flops for g = E H, once, and 2 n for every code that changes, about 1 % of the codes in
    a first pass and fewer in each that follows; rows that a pass left alone are done.  Memory: n^2
    elements for H in panels, as many again where H is not of the precision of W, and 20 MB a
    thread.  The same codes for any number of threads.

    A change must gain more than 16 eps H_kk d^2: so every pass lowers the loss, and rounding errors
    cannot move a code at a tie back and forth.  Columns with H_kk = 0 are left alone.  Where the
    stored loss is not that of this W and H (it is NaN, or of another H), it is computed.

    No row gets worse, so that what is known of the start still holds.  How good the end is depends
    on the start: this is a polish of `ldlq`, of 0.2 to 0.4 dB at 2 bits on heavy-tailed weights
    where H is incoherent, of 0.05 dB where some columns stand out, nearly all of it in 3 passes;
    from `nearest` it ends a dB above `ldlq`.

    ``ldlq(order="act")`` followed by this is what QuIP calls LDLQ-RG.  There the codes are clamped
    only after a whole pass, whose residual is stale by then, so that a pass can raise the loss;
    here each code is clamped before it is judged.

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304): greedy updates, and LDLQ-RG.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.standard_normal((32, 64)), X.T @ X / 256
    >>> rounded = ql.ldlq(W, H, bits=2)
    >>> refined = ql.descend(W, H, rounded)
    >>> refined.loss < rounded.loss, refined.changed
    (True, 0)
    """
    kernels = select(backend, W=W, H=H, codes=getattr(quantized, "codes", None))
    check_passes(passes, "passes")
    _check_result(quantized)
    with kernels.running(W, H):
        return _descend(W, H, quantized, MAX_PASSES if passes is None else int(passes), kernels)


def _descend(W: Any, H: Any, quantized: Quantized, most: int, kernels: Kernels) -> Quantized:
    weight = work_matrix(W, kernels=kernels).astype(quantized.precision, copy=False)
    hessian = symmetric_hessian(H, kernels)
    m, n = quantized.shape
    if weight.shape != (m, n) or hessian.shape[0] != n:
        raise InvalidArgumentError(
            f"W must be {(m, n)}, as the codes are, and H ({n}, {n}); got W {weight.shape} and H "
            f"{hessian.shape}. Pass the W and H that were quantised, W.T for Keras or Flax kernels."
        )
    grid = uniform_grid(quantized.grid, "descent", "lnq has its own descent, on levels.")
    there = grid_there(grid, kernels)
    assert there is not None
    codes = kernels.xp.asarray(quantized.codes)
    if grid.bits is not None and codes.size:
        least, largest = int(codes.min()), int(codes.max())
        if not 0 <= least <= largest <= grid.maxq:
            raise InvalidArgumentError(
                f"quantized.codes must be 0 to {grid.maxq:g}, on its grid; got {least} to "
                f"{largest}. Was the grid replaced? Quantise again."
            )
    codes = kernels.xp.ascontiguousarray(codes, grid.code_dtype)
    found = descend_codes(weight, hessian, codes, there, most, kernels)
    before, stored = float(found.loss.sum()), float(quantized.loss)
    same = abs(stored - before) <= _SAME_LOSS * max(stored, before)
    return replace(
        quantized,
        codes=kernels.back(W, found.codes),
        loss=max((stored if same else before) - float(found.decrease.sum()), 0.0),
        near_tie_rows=min(quantized.near_tie_rows + int(found.ties.sum()), m),
        passes=quantized.passes + found.passes,
        changed=found.changed,
        refit=None,  # what was fitted to other codes
    )


def symmetric_hessian(H: Any, kernels: Kernels) -> np.ndarray:
    """Return H checked as everywhere, and (H + H^T) / 2 where its triangles differ at all."""
    if isinstance(kernels, DeviceKernels):
        halves = symmetric_matrix(H, "H", kernels) / 2
        return halves + halves.T  # the same bits where they are equal
    differences = []

    def asymmetry(matrix: np.ndarray, i: int, j: int) -> tuple[float, bool]:
        found = kernels.asymmetry(matrix, i, j)
        differences.append(float(found[0]))  # the check looks at every pair: once is enough
        return found

    hessian = symmetric_matrix(H, "H", replace(kernels, asymmetry=asymmetry))
    if max(differences, default=0.0) == 0:
        return hessian
    halves = hessian / 2
    return halves + halves.T


def _check_result(quantized: Any) -> None:
    check_layer(
        quantized, "ldlq, gptq and nearest return one, and so does the layer of a result file."
    )
    if getattr(quantized, "processing", None) is not None:
        raise InvalidArgumentError(
            "quantized must hold codes of W itself; its weights were rotated or rescaled before "
            "they were rounded. Pass refine= to quip, which refines them where they were rounded."
        )
    if quantized.correction is not None:
        raise InvalidArgumentError(
            "quantized must have no low-rank correction yet; got one of rank "
            f"{quantized.correction.rank}. Descend first, and correct what is left."
        )
    if quantized.mask is not None:
        raise InvalidArgumentError(
            "quantized must not be pruned: a step of descent may move a weight away from 0; got "
            f"{int(quantized.mask.sum())} pruned weights. Keep the result as it is."
        )
