"""The least-squares weights of a mask: what is kept makes up for what is pruned."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.factor.recursive import REMEDY, factor_reversed
from quiplinalg.kernels.record import Kernels
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["refit", "refit_columns"]

_ROWS = 64


def refit(
    weight: np.ndarray, hessian: np.ndarray, shift: np.ndarray, mask: np.ndarray, kernels: Kernels
) -> np.ndarray:
    """Return the minimiser of tr((W_hat - W) (H + diag(shift)) (W_hat - W)^T), W_hat 0 on a mask.

    Parameters
    ----------
    weight : ndarray, (m, n), float32 or float64
    hessian : ndarray, (n, n)
    shift : ndarray, (n,), float64
    mask : ndarray, (m, n), bool
    kernels : Kernels

    Returns
    -------
    ndarray, (m, n), the dtype of ``weight``

    Notes
    -----
    Per row, with F kept and S pruned: x_F = w_F + w_S H_SF (H_FF)^-1, by a Cholesky factorisation
    of H_FF in float64, f^3 / 3 flops and f^2 floats a thread.  The same bits for any number of
    threads.
    """
    from scipy.linalg.lapack import dpotrs

    m = weight.shape[0]
    out = np.zeros_like(weight)
    wide = hessian.astype(np.float64, copy=False)

    def part(first: int) -> None:
        rows = slice(first, min(first + _ROWS, m))
        right = np.where(mask[rows], weight[rows], 0).astype(np.float64) @ wide
        for i, b in enumerate(right, first):
            kept = np.flatnonzero(~mask[i])
            f = kept.size
            if f == weight.shape[1] or f == 0:
                out[i, kept] = weight[i, kept]
                continue
            A = np.empty((f, f))  # the lower triangle of A.T is what is factored
            backwards = kept[::-1].copy()
            kernels.reverse_rows(hessian, backwards, shift[backwards], A, 0, f)
            info = kernels.factor_tile(A.T, 0, f)
            if info:
                pivot = float(A[info - 1, info - 1])
                raise NotPositiveDefiniteError(int(kept[info - 1]), pivot, REMEDY)
            x, _ = dpotrs(A.T, b[kept], lower=1)
            out[i, kept] = weight[i, kept] + x

    with single_blas_thread():
        run_all(part, [(i,) for i in range(0, m, _ROWS)])
    return out


def refit_columns(
    weight: np.ndarray,
    hessian: np.ndarray,
    shift: np.ndarray,
    kept: np.ndarray,
    kernels: Kernels,
) -> np.ndarray:
    """Return `refit` for a mask of whole columns: one factorisation for all rows.

    ``kept`` (f,) are the columns that stay, in ascending order.
    """
    from scipy.linalg.lapack import dpotrs

    m, n = weight.shape
    out = np.zeros_like(weight)
    out[:, kept] = weight[:, kept]
    pruned = np.setdiff1d(np.arange(n), kept)
    if not (m and kept.size and pruned.size):
        return out
    backwards = np.arange(kept.size)[::-1].copy()
    try:
        L = factor_reversed(hessian[np.ix_(kept, kept)], backwards, shift[kept], kernels).T
    except NotPositiveDefiniteError as error:
        raise NotPositiveDefiniteError(int(kept[error.index]), error.pivot, REMEDY) from None
    cross = hessian[np.ix_(pruned, kept)].astype(np.float64)
    with single_blas_thread():
        for first in range(0, m, _ROWS):
            rows = slice(first, first + _ROWS)
            right = weight[rows][:, pruned].astype(np.float64) @ cross
            x, _ = dpotrs(L, right.T, lower=1)
            out[rows, kept] = weight[rows][:, kept] + x.T
    return out
