"""The pivots D of H = T diag(D) T^T in any order, of singular H too; steps of a grid."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.arrays import to_numpy
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.min_pivot import factor_min_pivot
from quiplinalg.factor.orders import check_order
from quiplinalg.kernels.record import select
from quiplinalg.parallel import single_blas_thread
from quiplinalg.symmetric import symmetric_matrix

__all__ = [
    "block_pivots",
    "check_count",
    "order_columns",
    "pivots",
    "pivots_and_order",
    "psd_matrix",
    "step_sums",
]

_NEGATIVE = 1e-4  # of the largest eigenvalue: what rounding H to 16 bits may have made of zero


def psd_matrix(H: Any, name: str = "H") -> np.ndarray:
    """Return H as a float64 matrix, (H + H^T) / 2, after the checks of `symmetric_matrix`."""
    matrix = symmetric_matrix(H, name, select("generic")).astype(np.float64)
    # symmetric as it comes, it stays so to the bit, near over- and underflow too
    return matrix if (matrix == matrix.T).all() else matrix / 2 + matrix.T / 2


def check_count(value: Any, name: str, least: int = 0) -> int:
    """Return a whole number of at least ``least`` as an int; InvalidArgumentError for others."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise InvalidArgumentError(
            f"{name} must be a whole number of at least {least}; got {name}={value!r}. Pass an int."
        )
    return int(value)


def step_sums(scale: Any, m: int, n: int, power: int = 2) -> np.ndarray:
    """Return sum_r s_rk^power for each column k, (n,).

    ``scale`` is a number, or broadcasts to (m, n): (m, 1) is one step a row, (1, n) one a column.
    """
    if np.ndim(scale) == 0:
        step = as_float(scale)
        steps = np.full((1, 1), step)
    else:
        steps = to_numpy(scale, "scale").astype(np.float64)
    if steps.ndim != 2 or steps.shape[0] not in (1, m) or steps.shape[1] not in (1, n):
        raise InvalidArgumentError(
            f"scale must be a number, or (m, 1), (1, n) or (m, n) for m={m}, n={n}; got shape "
            f"{steps.shape}. Use scale[:, None] for one step per row."
        )
    if not (np.isfinite(steps).all() and (steps > 0).all()):
        raise InvalidArgumentError(
            f"scale must be positive and finite; got scale={scale!r}. It is the step of the grid."
        )
    with np.errstate(over="ignore", under="ignore"):
        total = (steps**power).sum(axis=0) * (m / max(steps.shape[0], 1))
    return np.broadcast_to(total, (n,)).copy()


def order_columns(H: np.ndarray, order: Any) -> np.ndarray:
    """Return the columns in the order of rounding: a name of the library's orders, or itself.

    "min-pivot" of a singular H raises NotPositiveDefiniteError: its last choices are arbitrary.
    """
    n = H.shape[0]
    if not isinstance(order, str):
        columns = to_numpy(order, "order", integers=True)
        whole = columns.dtype.kind in "iu" and columns.ndim == 1
        if not whole or not np.array_equal(np.sort(columns), np.arange(n)):
            raise InvalidArgumentError(
                f"order must be a name or a permutation of the {n} columns; got order={order!r}. "
                'Names are "natural", "act" and "min-pivot".'
            )
        return columns.astype(np.int64)
    check_order(order)
    if order == "min-pivot":
        return factor_min_pivot(np.ascontiguousarray(H), np.zeros(n), select("generic"))[1]
    return np.argsort(-H.diagonal(), kind="stable") if order == "act" else np.arange(n)


def pivots(H: Any, order: Any = "natural") -> np.ndarray:
    """Return D of H = T diag(D) T^T, T unit upper triangular in the order of rounding.

    D_k = 1 / [(H_FF)^-1]_kk with F = {k and the columns rounded after it}: what is left of H_kk
    when the columns of F may still move freely.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite.  Not changed.
    order : str or array, (n,), integers
        "natural", "act", "min-pivot", or the columns in the order they are rounded.

    Returns
    -------
    ndarray, (n,), float64
        In the caller's column order; 0 where the column is one of the span of those after it, to
        rounding error.

    Raises
    ------
    NotPositiveDefiniteError
        H, scaled to a unit diagonal, has an eigenvalue below -1e-4 times the largest; or H is
        singular, with "min-pivot".
    NonFiniteError, DTypeError, InvalidArgumentError

    Notes
    -----
    A Cholesky, n^3/3 flops; for a singular H the QR factorisation of its root, which costs
    11 n^3.  tr D depends on the order, prod D does not.  The same for any number of threads.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 3.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.pivots(np.array([[4.0, 2.0], [2.0, 2.0]]))
    array([2., 2.])
    >>> ql.theory.pivots(np.ones((2, 2)))
    array([0., 1.])
    """
    return pivots_and_order(psd_matrix(H), order)[0]


def pivots_and_order(H: np.ndarray, order: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return `pivots` of a checked matrix, and the columns in the order of rounding."""
    columns = order_columns(H, order)
    D = np.empty(H.shape[0])
    D[columns] = _pivots(H[np.ix_(columns, columns)])
    return D, columns


def _pivots(H: np.ndarray) -> np.ndarray:
    """The pivots of H in its own order."""
    from scipy.linalg.lapack import dpotrf

    n = H.shape[0]
    if n == 0:
        return np.zeros(0)
    peak = H.diagonal().copy()
    with single_blas_thread():
        C, info = dpotrf(H[::-1, ::-1], lower=1, clean=1)
        D = np.square(C.diagonal())[::-1] if info == 0 else _singular(H, peak)
    floor = 8 * n * float(np.finfo(np.float64).eps) * peak
    return np.where(floor < D, D, 0.0)


def _singular(H: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Pivots from H = R^T R, whose columns lose what the columns after them span (a QR).

    Of H with a unit diagonal: what counts as zero must not depend on the units of the columns.
    """
    from scipy.linalg import eigh, qr

    unit = np.sqrt(np.where(peak > 0, peak, 1.0))
    values, Q = eigh(H / unit / unit[:, None])
    if values[0] < -_NEGATIVE * max(values[-1], 0.0):
        worst = int(np.argmax(np.abs(Q[:, 0])))
        raise NotPositiveDefiniteError(
            worst, float(values[0]),
            "A second moment has no negative eigenvalue (this one is of H with a unit diagonal): "
            "check H.",
        )  # fmt: skip
    values = np.where(values > 8 * len(values) * np.finfo(np.float64).eps * values[-1], values, 0.0)
    root = np.sqrt(values)[:, None] * Q.T
    (C,) = qr(root[:, ::-1], mode="r")
    return np.square(C.diagonal())[::-1] * peak


def block_pivots(H: Any, block: int) -> np.ndarray:
    """Return the diagonal blocks D of H = T D T^T, T unit block upper triangular (BlockLDLQ).

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive definite.  Not changed.
    block : int
        Columns that are rounded together, a divisor of n.

    Returns
    -------
    ndarray, (n // block, block, block), float64
        D_b = [(H_FF)^-1]_bb^-1, F = the columns of block b and all after it.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError

    Notes
    -----
    From the scalar factor H = R R^T, R upper triangular: D_b = R_bb R_bb^T.  n^3/3 flops.

    References
    ----------
    Tseng et al., QuIP# (arXiv 2402.04396), section 4.1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.block_pivots(np.array([[4.0, 2.0], [2.0, 2.0]]), 2)
    array([[[4., 2.],
            [2., 2.]]])
    """
    from quiplinalg.factor.cholesky import cholesky

    matrix = psd_matrix(H)
    n, size = matrix.shape[0], check_count(block, "block", 1)
    if n % size:
        raise InvalidArgumentError(
            f"block must divide the {n} columns of H; got block={block}. BlockLDLQ rounds whole "
            "blocks."
        )
    R = cholesky(matrix[::-1, ::-1]).L[::-1, ::-1]
    parts = [R[i : i + size, i : i + size] for i in range(0, n, size)]
    return np.array([part @ part.T for part in parts]).reshape(-1, size, size)
