"""An inverse computed from its matrix, and how far an inverse is from it."""

from __future__ import annotations

import numpy as np

from quiplinalg.factor.cholesky import cholesky
from quiplinalg.kernels.record import Kernels
from quiplinalg.parallel import single_blas_thread
from quiplinalg.symmetric import mirror

__all__ = ["energy_residual", "inverse_of"]


def inverse_of(H: np.ndarray, kernels: Kernels, backend: str = "auto") -> np.ndarray:
    """Return H^-1, (n, n) float64 in C order, both triangles the same: potrf and potri."""
    from scipy.linalg import lapack

    n = len(H)
    if n == 0:
        return np.empty((0, 0))
    L = cholesky(H, backend=backend).L
    with single_blas_thread():
        lower, info = lapack.dpotri(L, lower=1, overwrite_c=1)
    assert info == 0, "a Cholesky factor has no zero pivot"
    return mirror(np.ascontiguousarray(lower.T), kernels)


def energy_residual(B: np.ndarray, H: np.ndarray, backend: str = "auto") -> float:
    """Return ||L^T B L - I||_2, H = L L^T: the spectral radius of B H - I for a symmetric B."""
    if len(H) == 0:
        return 0.0
    L = cholesky(H, backend=backend).L
    with single_blas_thread():
        M = L.T @ B @ L
        M.flat[:: len(M) + 1] -= 1
        return float(np.abs(np.linalg.eigvalsh((M + M.T) / 2)).max())
