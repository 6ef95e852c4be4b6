"""Worst and average losses in closed form, without feedback; feedback_losses.py has LDLQ's.

All are of tr(E H E^T), E = W_hat - W, on an UNBOUNDED grid of step s (the unit of W; the loss is
in units of H times that squared).  "Average" is over weights whose fractional parts on the grid
are independent and uniform; "worst" is the supremum over all weights.  A grid that ends breaks
every one of them for methods with feedback: QuIP, section 5.2.

``scale`` is a number, or an array that broadcasts to (m, n): a step for each row (m, 1), each
column (1, n), or each weight.  Steps of columns are absorbed by H' = S H S.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.parallel import single_blas_thread
from quiplinalg.theory.pivots import check_count, psd_matrix, step_sums

__all__ = [
    "nearest_average",
    "nearest_worst",
    "nearest_worst_bound",
    "stochastic_average",
    "stochastic_worst",
]

_MOST = 22  # columns whose signs are enumerated
_CHUNK = 1 << 14


def nearest_average(H: Any, m: int = 1, scale: Any = 1.0) -> float:
    """Return the average loss of rounding to nearest, (m/12) s^2 tr H.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite.
    m : int
        Rows of W.
    scale : float or array
        The step s; see the module.

    Returns
    -------
    float

    Notes
    -----
    Unbounded grid, uniform fractional parts.  An outlier or a clipped weight is not uniform.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 3.2.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.nearest_average(np.eye(3), m=4)
    1.0
    """
    return _diagonal(H, m, scale) / 12


def nearest_worst(H: Any, m: int = 1, scale: Any = 1.0) -> float:
    """Return the worst loss of rounding to nearest, (m/4) s^2 max over signs of sigma^T H sigma.

    It is not (m/4) s^2 tr H, which is what LDLQ's would be with D = diag(H).

    Parameters
    ----------
    H, m, scale
        As in `nearest_average`; n is at most 22.

    Returns
    -------
    float
        Attained in the limit, by weights half a step from their levels on the worst sides.

    Raises
    ------
    InvalidArgumentError
        n > 22: the maximum over signs is the max-cut problem, NP-hard.  `nearest_worst_bound`
        bounds it for any n.

    Notes
    -----
    Enumerates 2^(n-1) signs, n^2 flops each, for every row of steps that differs.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 3.2.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.nearest_worst(np.ones((2, 2)))  # both half a step off: tr H / 4 is 0.5
    1.0
    """
    matrix, m = psd_matrix(H), check_count(m, "m")
    if matrix.shape[0] > _MOST:
        raise InvalidArgumentError(
            f"n must be at most {_MOST} for the maximum over all signs; got n={matrix.shape[0]}. "
            "nearest_worst_bound is an upper bound for any n."
        )
    return _over_rows(matrix, m, scale, _largest_sign_form) / 4


def nearest_worst_bound(H: Any, m: int = 1, scale: Any = 1.0) -> float:
    """Return an upper bound of the worst loss of rounding to nearest, for any n.

    (m/4) s^2 min(sum_ij |H_ij|, n lambda_max(H)), both above max over signs of sigma^T H sigma.

    Parameters
    ----------
    H, m, scale
        As in `nearest_average`.

    Returns
    -------
    float
        An upper bound, not the maximum (`nearest_worst`); exact where no H_ij is negative, or
        where a sign vector is the eigenvector of lambda_max.

    Notes
    -----
    4 n^3 / 3 flops for the largest eigenvalue.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 3.2.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.nearest_worst_bound(np.ones((2, 2)))
    1.0
    """
    return _over_rows(psd_matrix(H), check_count(m, "m"), scale, _sign_form_bound) / 4


def stochastic_average(H: Any, m: int = 1, scale: Any = 1.0) -> float:
    """Return the average loss of stochastic rounding, (m/6) s^2 tr H.

    Parameters
    ----------
    H, m, scale
        As in `nearest_average`.

    Returns
    -------
    float
        Averaged over the weights and over the draws.

    Notes
    -----
    A weight with fractional part p has error variance p (1 - p) s^2, on average s^2 / 6.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 3.2.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.stochastic_average(np.eye(3), m=4)
    2.0
    """
    return _diagonal(H, m, scale) / 6


def stochastic_worst(H: Any, m: int = 1, scale: Any = 1.0) -> float:
    """Return the worst mean loss of stochastic rounding, (m/4) s^2 tr H.

    Parameters
    ----------
    H, m, scale
        As in `nearest_average`.

    Returns
    -------
    float
        The supremum over weights of the mean over draws, reached half-way between levels.  A
        single draw may lose up to 4 times `nearest_worst`.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 3.2.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.stochastic_worst(np.eye(3), m=4)
    3.0
    """
    return _diagonal(H, m, scale) / 4


def _diagonal(H: Any, m: int, scale: Any) -> float:
    """sum_rk s_rk^2 H_kk."""
    diagonal = psd_matrix(H).diagonal()
    return float(step_sums(scale, check_count(m, "m"), diagonal.shape[0]) @ diagonal)


def _over_rows(H: np.ndarray, m: int, scale: Any, form: Any) -> float:
    """The sum over rows of form(S H S), S the steps of a row."""
    n = H.shape[0]
    if n == 0 or m == 0:
        return 0.0
    total = step_sums(scale, m, n)
    steps = np.full((1, 1), float(scale)) if np.ndim(scale) == 0 else to_numpy(scale, "scale")
    if steps.shape[1] == 1:
        return form(H) * float(total[0])
    rows, counts = np.unique(steps.astype(np.float64), axis=0, return_counts=True)
    parts = [form(s[:, None] * H * s) * k for s, k in zip(rows, counts, strict=True)]
    return float(sum(parts)) * (m / steps.shape[0])


def _largest_sign_form(H: np.ndarray) -> float:
    """The maximum of sigma^T H sigma over signs; the last sign is +1, as -sigma gives the same."""
    n = H.shape[0]
    best = -np.inf
    with single_blas_thread():
        for first in range(0, 1 << (n - 1), _CHUNK):
            number = np.arange(first, min(first + _CHUNK, 1 << (n - 1)))
            signs = 1.0 - 2.0 * ((number[:, None] >> np.arange(n)) & 1)
            best = max(best, float(((signs @ H) * signs).sum(axis=1).max()))
    return best


def _sign_form_bound(H: np.ndarray) -> float:
    from scipy.linalg import eigvalsh

    n = H.shape[0]
    with single_blas_thread():
        largest = float(eigvalsh(H, subset_by_index=(n - 1, n - 1))[0])
    # the eigenvalue is known to n eps: an upper bound has to stay one
    largest += 4 * n * float(np.finfo(np.float64).eps) * abs(largest)
    return min(float(np.abs(H).sum()), n * largest)
