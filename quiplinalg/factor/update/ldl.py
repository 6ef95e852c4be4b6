"""The LDL^T factors of A + sigma X X^T from those of A."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import check_finite, to_numpy
from quiplinalg.errors import DTypeError, InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.update.checks import scaled, vectors
from quiplinalg.factor.update.turning import (
    copy_lower,
    factor_in,
    factor_into,
    rows_of,
    turn,
    unit_diagonal,
)
from quiplinalg.kernels.record import select

__all__ = ["ldl_update", "ldl_update_into"]

_REMEDY = "Take off less (a smaller |sigma|), or data that is in A; or add damping to A first."


def ldl_update(
    L: Any, D: Any, x: Any, sigma: float = 1.0, *, backend: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Return the factors of L diag(D) L^T + sigma x x^T, without a square root of D.

    With t = 1 / |sigma| at first, column by column (Fletcher and Powell's composite t)::

        sigma > 0:  alpha = 1 + x_j^2 / (t D_j),  beta = x_j / (t D_j alpha)
                    L_j, x = L_j / alpha + beta x,  x - x_j L_j
        sigma < 0:  alpha = 1 - x_j^2 / (t D_j),  beta = x_j / (t D_j alpha)
                    L_j = L_j / alpha - beta x,  then  x = alpha (x - x_j L_j) with the new L_j
        both:       D_j = alpha D_j,  t = alpha t

    Parameters
    ----------
    L : array, (n, n) or (b, n, n), floating
        Unit lower triangular; the upper triangle is not read.  float64 in float64, anything
        narrower in float32.  Not changed.
    D : array, (n,) or (b, n)
        Positive.  Not changed.
    x : array, (n,) or (n, k), for a stack (b, n) or (b, n, k)
        One vector, or k columns, for each factor.
    sigma : float
        Not 0; a negative one takes data off.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    L, D : ndarray, ndarray
        NumPy; each L in Fortran order with zeros above the diagonal.

    Raises
    ------
    NotPositiveDefiniteError
        The result is not positive definite; ``index`` is the first row whose pivot is not
        positive, ``pivot`` what is left there.  Or an element of D is not positive.
    NonFiniteError, InvalidArgumentError, DTypeError
        NaN or infinity in D, x or the lower triangle of L; shapes that do not fit, a diagonal of
        L that is not 1, a sigma of 0; not floating.

    Notes
    -----
    2.5 k n^2 flops; reads L once and writes the triangle once, whatever k is.  Both branches are
    rotations of L_j sqrt(D_j) and x / sqrt(t) (read backwards for sigma < 0), which are stable
    for any alpha: Fletcher and Powell change to the first form where alpha > 4 and use a cheaper
    one below that, which costs as much here, where memory is the limit.  The error of the result
    is a few n eps of the larger of the norms before and after.  Determinism as `cholesky_update`.

    References
    ----------
    Fletcher and Powell, On the modification of LDL^T factorizations, Math. Comp. 28 (1974).
    Gill, Golub, Murray and Saunders, Methods for modifying matrix factorizations,
    Math. Comp. 28 (1974), method C1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> L, D = ql.ldl_update(np.eye(2), np.ones(2), np.array([1.0, 1.0]))
    >>> L, D
    (array([[1. , 0. ],
           [0.5, 1. ]]), array([2. , 1.5]))
    """
    R, single = factor_in(L)
    pivots = _pivots(D, R, single).copy()
    columns = vectors(x, "x", R, single)
    sign = scaled(sigma, columns)
    unit_diagonal(R, single)
    out = np.zeros(R.shape, R.dtype)
    turn(R, pivots, columns, sign, out, select(backend), single=single, remedy=_REMEDY)
    out = out.swapaxes(1, 2)
    return (out[0], pivots[0]) if single else (out, pivots)


def ldl_update_into(
    L: np.ndarray, D: np.ndarray, x: Any, sigma: float = 1.0, *, backend: str = "auto"
) -> tuple[np.ndarray, np.ndarray]:
    """Overwrite L and D with the factors of L diag(D) L^T + sigma x x^T.

    Parameters
    ----------
    L : ndarray, (n, n) or (b, n, n), float32 or float64, writable
        As in `cholesky_update_into`.
    D : ndarray, (n,) or (b, n), the dtype of L, writable
        Any strides.
    x, sigma, backend
        As in `ldl_update`.

    Returns
    -------
    L, D : ndarray, ndarray
        The arguments themselves.

    Raises
    ------
    NotPositiveDefiniteError
        As `ldl_update`; L and D, changed up to the column that failed, have no meaning then.
    NonFiniteError, InvalidArgumentError, DTypeError
        As `ldl_update`.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> L, D = np.eye(2, order="F"), np.ones(2)
    >>> _ = ql.ldl_update_into(L, D, np.array([1.0, 1.0]))
    >>> D
    array([2. , 1.5])
    """
    R, single = factor_into(L)
    if type(D) is not np.ndarray or D.dtype != R.dtype or not D.flags.writeable:
        raise DTypeError(
            f"D must be a writable NumPy array of {R.dtype}, as L is, because it is written into; "
            f"got {getattr(D, 'dtype', type(D).__name__)}. Use the form that returns new arrays."
        )
    values = _pivots(D, R, single)
    columns = vectors(x, "x", R, single)
    sign = scaled(sigma, columns)
    unit_diagonal(R, single)
    out = R if rows_of(R) else np.empty(R.shape, R.dtype)
    pivots = values.copy()
    try:
        turn(R, pivots, columns, sign, out, select(backend), single=single, remedy=_REMEDY)
    finally:
        D[...] = pivots.reshape(D.shape)
    if out is not R:
        copy_lower(out, R)
    return L, D


def _pivots(D: Any, R: np.ndarray, single: bool) -> np.ndarray:
    """D as (b, n) in the dtype of R, checked."""
    d = to_numpy(D, "D")
    b, n, _ = R.shape
    if d.shape != ((n,) if single else (b, n)):
        raise InvalidArgumentError(
            f"D must be {(n,) if single else (b, n)}, as L is; got D.shape={d.shape}. "
            "Pass the diagonal as a vector."
        )
    check_finite(d, "D")
    d = np.ascontiguousarray(d, R.dtype).reshape(b, n)
    bad = np.argwhere(~(d > 0))
    if len(bad):
        m, i = (int(v) for v in bad[0])
        raise NotPositiveDefiniteError(
            i,
            float(d[m, i]),
            "D must be positive, and within the range of its dtype.",
            "L D L^T" if single else f"L[{m}] D[{m}] L[{m}]^T",
        )
    return d
