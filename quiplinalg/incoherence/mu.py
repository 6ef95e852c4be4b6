"""How incoherent a weight or a Hessian is: the mu of QuIP, measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix, check_finite
from quiplinalg.kernels.record import select
from quiplinalg.parallel import single_blas_thread
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["MuHessian", "mu_hessian", "mu_weight"]


@dataclass(frozen=True)
class MuHessian:
    """The incoherence of a Hessian, as far as its eigenvectors are determined.

    Attributes
    ----------
    upper : float
        sqrt(n) max |Q_ij| of the eigenbasis Q that was computed: H is upper-incoherent.
    lower : float
        No eigenbasis of H has a smaller mu.
    degenerate : int
        Eigenvectors that are not determined, because their eigenvalues are equal to rounding
        error; with 0, lower and upper are the same.
    """

    upper: float
    lower: float
    degenerate: int


def mu_weight(W: Any) -> float:
    """Return the smallest mu for which W is mu-incoherent, max |W_ij| sqrt(m n) / ||W||_F.

    Parameters
    ----------
    W : array, (m, n), floating

    Returns
    -------
    float
        1 where all weights have one magnitude, sqrt(m n) for a single non-zero weight; about
        sqrt(2 log(m n)) for Gaussian weights.  NaN for zero or empty weights.

    Raises
    ------
    NonFiniteError, DTypeError, InvalidArgumentError

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), definition 1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.mu_weight(np.array([[1.0, -1.0], [1.0, 1.0]]))
    1.0
    """
    weight = as_matrix(W, "W")
    check_finite(weight, "W")
    peak = float(np.abs(weight).max(initial=0))
    if not peak:
        return float("nan")
    total = sum(
        float(np.square(weight[i : i + 256].astype(np.float64) / peak).sum())
        for i in range(0, weight.shape[0], 256)
    )
    return float(np.sqrt(weight.size / total))


def mu_hessian(H: Any) -> MuHessian:
    """Measure the mu for which H is mu-incoherent: it has an eigenbasis with |Q_ij| <= mu/sqrt(n).

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite; both triangles are checked.

    Returns
    -------
    MuHessian
        With repeated eigenvalues the basis is a choice and mu only bounded: ``upper`` by the basis
        that was found, ``lower`` by sqrt(n P_ii / d) of each eigenspace, P its projector and d its
        dimension, since the d numbers Q_ij^2 of a row i add up to P_ii in any basis of it.

    Raises
    ------
    NonFiniteError, DTypeError, InvalidArgumentError, NotPositiveDefiniteError

    Notes
    -----
    About 9 n^3 flops in float64 (LAPACK's syevd).  Eigenvalues closer than 8 n eps ||H|| count as
    equal; those a little further apart have eigenvectors that are accurate to few digits.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), definition 1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> found = ql.mu_hessian(np.diag([3.0, 2.0, 1.0, 1.0]))
    >>> found.upper, round(found.lower, 9), found.degenerate
    (2.0, 2.0, 2)
    """
    hessian = symmetric_matrix(H, "H", select("generic")).astype(np.float64)
    n = hessian.shape[0]
    if n == 0:
        return MuHessian(float("nan"), float("nan"), 0)
    from scipy.linalg import eigh

    with single_blas_thread():  # the same bits for any number of threads
        values, Q = eigh(hessian)
    upper = float(np.sqrt(n) * np.abs(Q).max())
    gap = 8 * n * np.finfo(np.float64).eps * max(float(np.abs(values).max()), 1e-300)
    starts = np.flatnonzero(np.diff(values, prepend=-np.inf) > gap)
    sizes = np.diff(starts, append=n)
    degenerate = int(sizes[sizes > 1].sum())
    if not degenerate:
        return MuHessian(upper, upper, 0)
    shares = np.add.reduceat(np.square(Q), starts, axis=1) / sizes  # P_ii / d
    return MuHessian(upper, min(float(np.sqrt(n * shares.max())), upper), degenerate)
