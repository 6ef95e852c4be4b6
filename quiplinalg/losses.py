"""The proxy loss tr(E H E^T)."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix
from quiplinalg.device_arrays import common_device
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.kernels.record import DeviceKernels, Kernels, select
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["proxy_loss"]

_ROWS = 256


def proxy_loss(W_hat: Any, W: Any, H: Any) -> float:
    """Return tr((W_hat - W) H (W_hat - W)^T) in float64.

    Parameters
    ----------
    W_hat, W : array, (m, n), floating
        W_hat may be a `Quantized`.
    H : array, (n, n) or (n,), floating
        Symmetric; both triangles are read.  A vector is the diagonal of a diagonal H.

    Returns
    -------
    float
        With W_hat = 0 this is tr(W H W^T), the loss of rounding everything to zero.

    Raises
    ------
    InvalidArgumentError, DTypeError
        Shapes that do not fit; not real floating arrays.

    Notes
    -----
    Computed where the arrays are, a CUDA device included.  2 m n^2 flops, 3 m n for a diagonal H;
    the result of `ldlq` carries its own loss at no cost.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.proxy_loss(np.zeros((1, 2)), np.array([[1.0, 2.0]]), np.eye(2))
    5.0
    """
    values = getattr(W_hat, "codes", W_hat)  # where a Quantized is
    there = common_device(W_hat=values, W=W, H=H) is not None
    kernels = select("cuda", W=W) if there else select("generic")  # compiles nothing
    with kernels.running(values, W, H):
        return _loss(W_hat, W, H, kernels)


def _loss(W_hat: Any, W: Any, H: Any, kernels: Kernels) -> float:
    read, device = kernels.read, isinstance(kernels, DeviceKernels)
    if hasattr(W_hat, "codes"):
        W_hat = W_hat.values(np.dtype(W_hat.precision))
    rounded, weight = as_matrix(W_hat, "W_hat", read=read), as_matrix(W, "W", read=read)
    hessian = read(H, "H")
    if hessian.ndim != 1:
        hessian = as_matrix(hessian, "H", square=True, read=read)
    hessian = hessian.astype(np.float64, copy=False)
    if rounded.shape != weight.shape or weight.shape[1] != hessian.shape[0]:
        raise InvalidArgumentError(
            f"W_hat and W must be (m, n) and H (n, n) or (n,); got {rounded.shape}, {weight.shape} "
            f"and {hessian.shape}. Pass W.T for Keras or Flax kernels."
        )

    def part(i: int) -> float:
        rows = slice(i, i + _ROWS)
        E = rounded[rows].astype(np.float64) - weight[rows].astype(np.float64)
        weighted = E * hessian if hessian.ndim == 1 else E @ hessian
        return (weighted * E).sum() if device else float(np.einsum("ij,ij->", weighted, E))

    if device:
        parts = [part(i) for i in range(0, weight.shape[0], _ROWS)]
        return float(sum(parts)) if parts else 0.0
    with single_blas_thread():  # fixed pieces: the same bits for any number of threads
        return float(sum(run_all(part, [(i,) for i in range(0, weight.shape[0], _ROWS)])))
