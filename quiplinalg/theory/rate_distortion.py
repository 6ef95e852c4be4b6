"""Reverse water-filling: the loss that Gaussian weights have at a rate, at best."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.parallel import single_blas_thread
from quiplinalg.theory.pivots import psd_matrix

__all__ = ["rate_distortion"]

_NEGATIVE = 1e-4


def rate_distortion(H: Any, variance: float = 1.0, bits: float = 2.0) -> float:
    """Return the least loss of a Gaussian row at a rate of ``bits`` a weight.

    sum_i min(theta, variance lambda_i) with sum_i (1/2) log2 max(1, variance lambda_i / theta)
    = n bits, lambda the eigenvalues of H.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite.
    variance : float
        Of the weights of the row, which are independent and normal.
    bits : float
        At least 0.

    Returns
    -------
    float
        For one row; the limit of codes over many rows, whatever the codebook.

    Raises
    ------
    NotPositiveDefiniteError
        H has an eigenvalue below -1e-4 times the largest.
    NonFiniteError, DTypeError, InvalidArgumentError

    Notes
    -----
    NOT a bound for weights that are not Gaussian: heavy tails, zeros or few distinct values may be
    coded in less.  4 n^3 / 3 flops.

    References
    ----------
    Cover and Thomas, Elements of information theory, 2nd edition, theorem 10.3.3.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.rate_distortion(np.eye(4), bits=2)
    0.25
    """
    matrix = psd_matrix(H)
    spread, rate = as_float(variance), as_float(bits)
    for name, value in (("variance", spread), ("bits", rate)):
        if not 0 <= value < math.inf:
            raise InvalidArgumentError(
                f"{name} must be finite and at least 0; got {name}={value!r}."
            )
    n = matrix.shape[0]
    if n == 0 or spread == 0:
        return 0.0
    from scipy.linalg import eigvalsh

    with single_blas_thread():
        values = eigvalsh(matrix)[::-1]
    if values[-1] < -_NEGATIVE * max(values[0], 0.0):
        raise NotPositiveDefiniteError(
            int(np.argmin(matrix.diagonal())), float(values[-1]),
            "A second moment has no negative eigenvalue (this is its least one): check H.",
        )  # fmt: skip
    values = values * spread
    floor = 8 * n * float(np.finfo(np.float64).eps) * max(float(values[0]), 0.0)
    values = values[values > floor]
    if not values.size:
        return 0.0
    # with the k largest above the water, log theta_k = (sum of their logs - 2 n bits log 2) / k
    k = np.arange(1, values.size + 1)
    levels = (np.cumsum(np.log(values)) - 2 * n * rate * math.log(2)) / k
    above = int(np.flatnonzero(np.log(values) >= levels)[-1]) + 1
    return above * math.exp(levels[above - 1]) + float(values[above:].sum())
