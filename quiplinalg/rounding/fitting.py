"""Least squares of a few parameters a row: W_hat = x B, where only x is free.

With e = W_hat - w of a row, r = B H e^T and S = B H B^T, a change d of x changes the loss by
2 r d + d S d^T: least at d = -S^-1 r.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.search import work_matrix
from quiplinalg.kernels.record import DeviceKernels, Kernels
from quiplinalg.rounding.descent import symmetric_hessian
from quiplinalg.rounding.members import check_layer

__all__ = ["best_step", "change_of_loss", "checked_layer"]

_RIDGE = 1e-12  # of the scaled S, which has a unit diagonal: parameters that H cannot tell apart


def best_step(S: Any, r: Any, xp: Any = np) -> Any:
    """Return -S^-1 r of each row, 0 for parameters that have no weight.

    Parameters
    ----------
    S : array, (rows, p, p), float64, positive semidefinite
    r : array, (rows, p), float64
    xp : module
        Of both: NumPy or CuPy, which solves up to 256 unknowns as one batch.
    """
    size = xp.sqrt(xp.maximum(S.diagonal(axis1=1, axis2=2), 0))
    empty = size == 0
    size = xp.where(empty, 1.0, size)
    A = S / size[:, :, None] / size[:, None, :]
    own = xp.arange(size.shape[1])
    A[:, own, own] = 1 + _RIDGE  # of empty ones too
    step = -xp.linalg.solve(A, (r / size)[:, :, None])[:, :, 0] / size
    return xp.where(empty, 0.0, step)


def change_of_loss(S: Any, r: Any, d: Any, xp: Any = np) -> Any:
    """Return 2 r d + d S d^T of each row."""
    return xp.einsum("ip,ip->i", d, 2 * r + xp.einsum("ipq,iq->ip", S, d))


def checked_layer(
    W: Any, H: Any, quantized: Any, kernels: Kernels
) -> tuple[np.ndarray, np.ndarray]:
    """Return W in the precision of a result of it, and H; raise where they do not fit."""
    check_layer(
        quantized,
        "ldlq, gptq, quip and nearest return one, and so does the layer of a result file.",
    )
    if not isinstance(kernels, DeviceKernels):
        quantized.check_on_host()
    if quantized.correction is not None:
        raise InvalidArgumentError(
            "quantized must have no low-rank correction yet; got one of rank "
            f"{quantized.correction.rank}. Correct the layer last, from what was rounded."
        )
    if quantized.grid.bits is None:
        raise InvalidArgumentError(
            f"quantized must be on a grid of 1 to 8 bits; got {quantized.grid!r}."
        )
    weight = work_matrix(W, kernels=kernels).astype(quantized.precision, copy=False)
    hessian = symmetric_hessian(getattr(H, "hessian", H), kernels)
    m, n = quantized.shape
    if weight.shape != (m, n) or hessian.shape[0] != n:
        raise InvalidArgumentError(
            f"W must be {(m, n)}, as the codes are, and H ({n}, {n}); got W {weight.shape} and H "
            f"{hessian.shape}. Pass the W and H that were quantised, W.T for Keras or Flax kernels."
        )
    return weight, hessian
