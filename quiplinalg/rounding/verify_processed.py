"""Check a layer that was rescaled and rotated: its codes there, its loss in the original basis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from quiplinalg.losses import proxy_loss
from quiplinalg.results import Quantized
from quiplinalg.rounding.quip_authors import clip_to_range

if TYPE_CHECKING:
    from quiplinalg.rounding.verify import Verification

__all__ = ["verify_processed"]

_LOSS_RTOL = {"float32": 1e-5, "float64": 1e-10}
_DRIFT = 16  # eps: rounding error of a processed weight, relative to the RMS of its row


def verify_processed(
    weight: np.ndarray,
    hessian: np.ndarray,
    quantized: Quantized,
    check_codes: Callable[[np.ndarray, np.ndarray, Quantized], Verification],
) -> Verification:
    """Verify the codes of a processed layer in its own basis, and its loss in the caller's.

    Parameters
    ----------
    weight : ndarray, (m, n), float32 or float64
    hessian : ndarray, (n, n), float64
        As the caller has them.
    quantized : Quantized
        With its processing.
    check_codes : callable
        Verifies a layer without a processing; what it says of the loss is not used.

    Notes
    -----
    tr(E H E^T) is computed in float64 from W_hat = U^T W'_hat V diag(1/s), 2 m n^2 flops more.
    The stored loss belongs to W' as it was rounded to the working precision; that rounding moves
    it by 2 sqrt(loss * d) at most, d = eps^2 ||W'||_F^2 tr(H') / n up to a constant.
    """
    processing = quantized.processing
    assert processing is not None
    processed = processing.weight(weight.astype(quantized.precision, copy=False))
    rotated = processing.hessian(hessian)
    inside = replace(quantized, processing=None)
    if quantized.method == "quip-authors":
        grid = quantized.grid
        processed = clip_to_range(processed, grid.scale, grid.zero, grid.maxq)
    found = check_codes(processed, rotated, inside)
    loss = proxy_loss(quantized.__array__(np.dtype(np.float64)), weight, hessian)
    stored = float(quantized.loss)
    gap = abs(stored - loss)
    eps = float(np.finfo(quantized.precision).eps)
    energy = float(np.square(processed, dtype=np.float64).sum()) * float(np.trace(rotated))
    moved = _DRIFT * eps * np.sqrt(energy / max(weight.shape[1], 1))
    size = max(loss, 1e-9 * energy / max(weight.shape[1], 1))
    right = gap <= _LOSS_RTOL[quantized.precision] * size + 2 * np.sqrt(loss) * moved + moved**2
    reason = found.reason
    if found.ok and not right:
        reason = f"the stored loss is {stored:.8g}; recomputed it is {loss:.8g}"
    return replace(
        found,
        ok=found.ok and bool(right),
        loss=loss,
        stored_loss=stored,
        loss_error=gap / size if size > 0 else gap,
        reason=reason,
    )
