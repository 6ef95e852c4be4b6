"""QuIP: incoherence processing, rounding with feedback in the rotated basis, and back."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from math import inf, log2
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import (
    ConditioningWarning,
    InvalidArgumentError,
    NotPositiveDefiniteError,
    level_of_caller,
)
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.grids.codebook import uniform_grid
from quiplinalg.grids.search import check_flag, work_matrix
from quiplinalg.incoherence.process import ROTATIONS, Processing, make_processing, without_dead
from quiplinalg.kernels.record import select
from quiplinalg.losses import proxy_loss
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.descent import MAX_PASSES, descend_codes
from quiplinalg.rounding.driver import round_with_feedback
from quiplinalg.rounding.options import Options, check_passes
from quiplinalg.rounding.scale_search import check_rho, scale_steps
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["quip"]

_CHOICES = ("auto", *ROTATIONS)


@suggest_keywords()
def quip(
    W: Any,
    H: Any,
    bits: int = 2,
    *,
    rotation: str | None = "auto",
    sides: str = "input",
    rescale: bool | str = True,
    rho: float | str | None = "search",
    per_tensor: bool = False,
    group_size: int | None = None,
    refine: int | None = 0,
    order: str = "min-pivot",
    damp: float | str | AbsoluteDamp = 0.01,
    rounding: str = "nearest",
    seed: int = 0,
    block: int | None = None,
    backend: str = "auto",
) -> Quantized:
    """Round W after rescaling and rotating it, so that no outlier wastes the levels of the grid.

    W' = U W diag(s) V^T and H' = V diag(1/s) H diag(1/s) V^T; LDLQ on W' and H'; W_hat is
    U^T W'_hat V diag(1/s).  The loss tr((W_hat - W) H (W_hat - W)^T) is the same in both bases.

    Parameters
    ----------
    W : array, (m, n) = (out, in), floating
        As in `ldlq`.  Not changed.
    H : array, (n, n), floating
        As in `ldlq`.  Rotated and factored in float64.  Not changed.
    bits : int
        1 to 8.
    rotation : str or None
        "hadamard", "kronecker", None (rescaling only), or "auto": round with each of these two
        and without any processing (on a clipped or a min-max grid for each row where rho is
        searched), and keep the best at equal size: the least loss * 4**bits_per_weight, a bit
        being worth 6.02 dB (rotations take bits, which matters in small layers only).
        ``candidates`` of the result has the losses.
    sides : str
        "input", or "both" to rotate the rows of W as well (only of use with ``per_tensor``).
    rescale : bool or str
        Diagonal rescaling of the inputs: True, False, "mean", "trace" (the paper's), "volume";
        see `incoherence_process`.
    rho : float, "search" or None
        Half the range of the grid in units of the RMS of a row: "search" keeps the best of 6 for
        each row by its loss, None is the constant for Gaussian weights (1.6, 2.1 and 2.6 at 2, 3
        and 4 bits).  Nothing is clipped before it is rounded.
    per_tensor : bool
        One scale for all of W', as in the paper; else one a row.
    group_size : int, optional
        Columns of W' that share a scale; default: a row.
    refine : int or None
        Passes of coordinate descent after rounding (`descend`); None: until nothing changes.
    order : str
        "min-pivot", "act" or "natural", in the rotated basis.
    damp, rounding, block, backend
        As in `ldlq`; damping is a fraction of the mean diagonal of the rescaled H.  Stochastic
        rounding is unbiased only where nothing is chosen by the loss: give ``rho`` and
        ``rotation``.
    seed : int
        Of the rotations, and of stochastic rounding.

    Returns
    -------
    Quantized
        With its ``processing``, None where "auto" found none the best: `dequantize` gives W_hat in
        the original basis, and ``loss`` is that of the original W and H, without damping.
        ``bits_per_weight`` counts the rescaling and what the rotations need.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError,
    BackendUnavailableError
        As `ldlq`.

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.
    ConditioningWarning
        "auto" left out a rotation in whose basis H is not positive definite.

    Notes
    -----
    Per rotation: n^3/3 flops in float64 for the factor, m n^2 for each of the grids tried, and
    O((m + 2n) n sqrt(n)) at most for the processing; "auto" does it for three bases, and each pass
    of descent is 2 m n^2.  16 n^2 bytes for H' and the factor, beside those of `ldlq`.  The same
    codes for any number of threads.

    There is no guarantee that a rotation helps a given layer: on nearly Gaussian weights a plain
    clipped grid may win, and a two-factor Kronecker rotation leaves heavy tails where one weight
    has nearly all the energy.  This is why "auto" measures.  Dead columns (zero diagonal of H) cost
    nothing; where the inputs are rotated their weights are taken to be zero, and come back zero.

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304), algorithms 1 to 3.  The rescaling, the
    scale of each row by its loss, and min-pivot are this library's.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) * np.exp(rng.standard_normal(64))
    >>> W, H = rng.standard_t(4, (32, 64)), X.T @ X / 256
    >>> q = ql.quip(W, H, bits=2)
    >>> q.loss < ql.ldlq(W, H, bits=2).loss
    True
    >>> sorted(q.candidates)
    ['hadamard', 'kronecker', 'none']
    """
    if rotation is not None and rotation not in _CHOICES:
        raise InvalidArgumentError(
            f"rotation must be {', '.join(map(repr, _CHOICES))} or None; got "
            f"rotation={rotation!r}. 'auto' measures which is best."
        )
    check_passes(refine, "refine")
    options = Options(
        bits=bits, grid=None, group_size=group_size, static_groups=True, sym=False, clip="best",
        order=order, damp=damp, rounding=rounding, seed=seed, block=block,
    )  # fmt: skip
    check_flag(per_tensor, "per_tensor", "False gives every row its own scale.")
    layer = _Layer(work_matrix(W), symmetric_matrix(H, "H", select(backend)), backend)
    factor = check_rho(rho, bits)
    tried = ROTATIONS if rotation == "auto" else (rotation,)
    processings = {
        name or "none": make_processing(layer.weight, layer.hessian, name, sides, rescale, seed)
        for name in tried
    }
    if rotation == "auto":
        processings["none"] = Processing(layer.weight.shape, None, None, None)
    found: dict[str, Quantized] = {}
    for name, processing in processings.items():
        weight, hessian = layer.processed(processing)
        plain = rotation == "auto" and name == "none" and rho == "search" and not per_tensor
        steps = () if plain else scale_steps(weight, bits, factor, group_size, per_tensor)
        try:
            rounded = round_with_feedback(weight, hessian, "quip", options, backend, steps)
        except NotPositiveDefiniteError as error:
            if rotation != "auto" or name == "none":
                raise _in_basis(error, processing) from None
            warnings.warn(
                f"The {name} rotation was left out: {_in_basis(error, processing)}",
                ConditioningWarning,
                stacklevel=level_of_caller(),
            )
            continue
        kept = None if processing.is_nothing else processing
        found[name] = replace(rounded, processing=kept, dead=layer.dead)
    best = min(found.values(), key=_at_equal_size)
    losses = {name: q.loss for name, q in found.items()}
    best = replace(best, restore=like(W), candidates=losses if rotation == "auto" else None)
    if refine == 0:
        return best
    if rotation == "auto":  # the last one tried is not the one to refine, or may not be
        weight, hessian = layer.processed(best.processing)
    return _refined(best, weight, hessian, layer, refine)


@dataclass(frozen=True)
class _Layer:
    """What is rounded: weights, H, and the backend that processes them."""

    weight: np.ndarray
    hessian: np.ndarray
    backend: str

    @property
    def dead(self) -> np.ndarray:
        """Columns whose diagonal of H is zero."""
        return np.flatnonzero(self.hessian.diagonal() == 0)

    def processed(self, processing: Processing | None) -> tuple[np.ndarray, np.ndarray]:
        """Return W' and H'; rotated, without the weights of dead columns."""
        if processing is None or processing.is_nothing:
            return self.weight, self.hessian
        weight = self.weight
        if processing.input is not None:
            weight = without_dead(weight, self.hessian)
        return (
            processing.weight(weight, self.backend),
            processing.hessian(self.hessian, self.backend),
        )


def _in_basis(error: NotPositiveDefiniteError, processing: Processing) -> NotPositiveDefiniteError:
    """The error, with the name of the matrix that its index is a row of."""
    if processing.input is None:
        return error
    name = "H in the rotated basis"
    return NotPositiveDefiniteError(error.index, error.pivot, error.remedy, name)


def _at_equal_size(q: Quantized) -> tuple[float, float]:
    """log2 of the loss with what its bits are worth; then, between losses of 0, the bits."""
    loss = log2(q.loss) if q.loss > 0 else -inf
    return loss + 2 * q.bits_per_weight, q.bits_per_weight


def _refined(
    q: Quantized, weight: np.ndarray, hessian: np.ndarray, layer: _Layer, passes: int | None
) -> Quantized:
    """Coordinate descent in the basis that the codes are of."""
    most = MAX_PASSES if passes is None else passes
    grid, kernels = uniform_grid(q.grid), select(layer.backend)
    found = descend_codes(weight, hessian, q.codes, grid, most, kernels)
    refined = replace(
        q, codes=found.codes,
        near_tie_rows=min(q.near_tie_rows + int(found.ties.sum()), weight.shape[0]),
        passes=found.passes, changed=found.changed,
    )  # fmt: skip
    # by definition: the descent's own sum has the rounding errors of float32
    W_hat = refined.__array__(np.dtype(np.float64))
    return replace(refined, loss=proxy_loss(W_hat, layer.weight, layer.hessian))
