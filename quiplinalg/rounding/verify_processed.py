"""Check a layer that was rescaled and rotated: its codes there, its loss in the original basis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quiplinalg.grids.apply import clip_to_range
from quiplinalg.incoherence.process import without_dead
from quiplinalg.losses import proxy_loss
from quiplinalg.results import Quantized

if TYPE_CHECKING:
    from quiplinalg.rounding.verify import Verification

__all__ = ["verify_processed"]

_ROWS = 256
_ROUNDED = 4  # eps: rounding error of W' and W'_hat, relative to the RMS of its row
_SIGMAS = 8


def verify_processed(
    weight: np.ndarray,
    hessian: np.ndarray,
    quantized: Quantized,
    check: Callable[[np.ndarray, np.ndarray, Quantized, bool], Verification],
) -> Verification:
    """Verify the codes of a processed layer in its own basis, and its loss in the caller's.

    Parameters
    ----------
    weight : ndarray, (m, n), float32 or float64
    hessian : ndarray, (n, n), float64
        As the caller has them.
    quantized : Quantized
        With its processing.
    check : callable
        Verifies a layer without a processing, and its loss if the last argument is True.

    Notes
    -----
    The rotations are computed by the generic kernels.  tr(E H E^T) in float64 from
    W_hat = U^T W'_hat V diag(1/s) must be tr(E' H' E'^T), up to the rounding of W' to the working
    precision: independent errors of ``_ROUNDED`` eps move it by the root of
    sum_ij (2 (E' H')_ij error_i)^2.  4 m n^2 flops more.
    """
    processing = quantized.processing
    assert processing is not None
    theirs = quantized.method == "quip-authors"
    kept = weight.astype(quantized.precision, copy=False)
    if processing.input is not None and not theirs:
        kept = without_dead(kept, hessian)
    processed = processing.weight(kept, "generic")
    rotated = processing.hessian(hessian, "generic")
    inside = replace(quantized, processing=None)
    targets = processed
    if theirs and quantized.refit is None:
        targets = clip_to_range(processed, quantized.grid)  # type: ignore[arg-type]
    # what the authors' mode and the descent store is the loss by its definition
    defined = theirs or quantized.passes > 0 or quantized.refit is not None
    found = check(targets, rotated, inside, not defined)
    rounded = inside.__array__(np.dtype(np.float64))
    original = processing.undo(rounded, "generic")
    loss = proxy_loss(original, weight, hessian)
    there, moved = _loss_and_error(rounded, processed, rotated)
    stored, gap = float(quantized.loss), abs(there - loss)
    reason = found.reason
    if found.ok and not gap <= _SIGMAS * moved + 1e-9 * loss:
        reason = f"the loss is {there:.8g} in the rotated basis and {loss:.8g} in the original one"
    elif found.ok and defined and not abs(stored - loss) <= 1e-9 * loss:
        reason = f"the stored loss is {stored:.8g}; recomputed it is {loss:.8g}"
    return replace(
        found,
        ok=found.ok and reason == found.reason,
        loss=loss,
        stored_loss=stored,
        loss_error=abs(stored - loss) / loss if loss > 0 else abs(stored),
        reason=reason,
    )


def _loss_and_error(W_hat: np.ndarray, W: np.ndarray, H: np.ndarray) -> tuple[float, float]:
    """tr(E H E^T), and what rounding W to its precision moves it by (one standard deviation)."""
    eps = _ROUNDED * float(np.finfo(W.dtype).eps)
    loss = square = 0.0
    for i in range(0, W.shape[0], _ROWS):
        w, w_hat = W[i : i + _ROWS].astype(np.float64), W_hat[i : i + _ROWS]
        E = w_hat - w
        G = E @ H
        size = (np.square(w) + np.square(w_hat)).mean(axis=1, keepdims=True)
        loss += float((E * G).sum())
        square += float((np.square(2 * G) * size).sum()) * eps**2
        square += (float(size.sum()) * eps**2 * float(np.trace(H))) ** 2  # of second order
    return loss, float(np.sqrt(square))
