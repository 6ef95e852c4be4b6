"""Assertions on factors and inverses, by the ratios of LAPACK's testers: any library's factors."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.errors import InvalidArgumentError

__all__ = ["assert_cholesky", "assert_inverse", "assert_udu", "residual_ratio"]


def residual_ratio(product: Any, A: Any, unit: float) -> float:
    """Return LAPACK's ||product - A||_1 / (n ||A||_1 u), computed in longdouble.

    Parameters
    ----------
    product, A : array, (n, n)
    unit : float
        Unit roundoff of what made the factors: 2**-53 for float64, 2**-24 for float32.

    Returns
    -------
    float
        Below 2 for a good factorisation, above 30 for a faulty one; 0 for n = 0.

    Examples
    --------
    >>> residual_ratio(np.eye(2), np.eye(2), 2.0**-53)
    0.0
    """
    left, right = (a.astype(np.longdouble) for a in _squares(product=product, A=A))
    norm = np.abs(right).sum(axis=0).max(initial=0)
    return _ratio(np.abs(left - right).sum(axis=0).max(initial=0), len(right) * norm * unit)


def _squares(**matrices: Any) -> list[np.ndarray]:
    """Square matrices, all of the size of the last."""
    found = [to_numpy(matrix, name) for name, matrix in matrices.items()]
    n = len(found[-1]) if found[-1].ndim else 0
    for name, matrix in zip(matrices, found, strict=True):
        if matrix.shape != (n, n):
            raise InvalidArgumentError(
                f"{name} must be ({n}, {n}), square and of the size of {[*matrices][-1]}; got "
                f"{name}.shape={matrix.shape}. One matrix a call: take those of a batch in turn."
            )
    return found


def _ratio(error: float, size: float) -> float:
    """Their ratio; no error is 0 of any size, and NaN stays."""
    return 0.0 if error == 0 else float(error / size) if size > 0 or error != error else np.inf


def _check(value: float, limit: float, what: str) -> float:
    if not value <= limit:
        raise AssertionError(f"{what}: the ratio is {value:.3g}; it must be at most {limit:g}")
    return value


def _unit(*arrays: np.ndarray) -> float:
    """The unit roundoff of the narrowest array."""
    return max(float(np.finfo(a.dtype).eps) / 2 for a in arrays)


def assert_cholesky(L: Any, A: Any, limit: float = 30.0) -> float:
    """Assert that L is the Cholesky factor of A: A = L L^T, lower, with a positive diagonal.

    Parameters
    ----------
    L, A : array, (n, n), floating
        The precision of L decides what is asked of it.
    limit : float
        Of ||L L^T - A||_1 / (n ||A||_1 u); LAPACK's own limit is 30, and 1.3 has been seen.

    Returns
    -------
    float
        The ratio.

    Raises
    ------
    AssertionError

    Examples
    --------
    >>> assert_cholesky(np.array([[2.0, 0.0], [1.0, 1.0]]), np.array([[4.0, 2.0], [2.0, 2.0]]))
    0.0
    """
    factor, A = _squares(L=L, A=A)
    if not (np.array_equal(factor, np.tril(factor)) and (np.diag(factor) > 0).all()):
        raise AssertionError("L must be lower triangular with a positive diagonal")
    wide = factor.astype(np.longdouble)
    return _check(residual_ratio(wide @ wide.T, A, _unit(factor)), limit, "L L^T = A")


def assert_udu(T: Any, D: Any, H: Any, limit: float = 30.0) -> float:
    """Assert that H = T diag(D) T^T with T unit upper triangular and D positive.

    Parameters
    ----------
    T : array, (n, n), floating
    D : array, (n,), floating
    H : array, (n, n), floating
        With its damping, in the order of rounding.
    limit : float
        Of ||T diag(D) T^T - H||_1 / (n ||H||_1 u).

    Returns
    -------
    float
        The larger of that ratio and, times ``limit``, the componentwise one, |T diag(D) T^T - H|
        over 2 (n + 1) u |T| diag(D) |T|^T, whose limit is 1: it sees errors in small rows too.

    Raises
    ------
    AssertionError

    Examples
    --------
    >>> T, D = np.array([[1.0, 0.5], [0.0, 1.0]]), np.array([3.0, 4.0])
    >>> assert_udu(T, D, np.array([[4.0, 2.0], [2.0, 4.0]]))
    0.0
    """
    factor, matrix = _squares(T=T, H=H)
    pivots = to_numpy(D, "D")
    if pivots.shape != (len(matrix),):
        raise InvalidArgumentError(
            f"D must be ({len(matrix)},), the pivots; got D.shape={pivots.shape}. Pass a diagonal."
        )
    if not (np.array_equal(factor, np.triu(factor)) and (np.diag(factor) == 1).all()):
        raise AssertionError("T must be upper triangular with ones on its diagonal")
    if not (pivots > 0).all():
        raise AssertionError(f"D must be positive; its least element is {pivots.min():.3g}")
    unit = _unit(factor, pivots)
    wide = factor.astype(np.longdouble)
    product = (wide * pivots) @ wide.T
    ratio = _check(residual_ratio(product, matrix, unit), limit, "T diag(D) T^T = H")
    size = (np.abs(wide) * pivots) @ np.abs(wide).T * (2 * (len(matrix) + 1) * unit)
    with np.errstate(invalid="ignore", divide="ignore"):
        each = np.where(size > 0, np.abs(product - matrix) / size, 0)
    return max(ratio, limit * _check(float(each.max(initial=0.0)), 1.0, "each element of H"))


def assert_inverse(P: Any, A: Any, limit: float = 30.0) -> float:
    """Assert that P is the inverse of A as far as its condition lets anyone know it.

    Parameters
    ----------
    P, A : array, (n, n), floating
    limit : float
        Of ||A P - I||_1 / (n ||A||_1 ||P||_1 u).

    Returns
    -------
    float
        The ratio.

    Raises
    ------
    AssertionError

    Notes
    -----
    Tells nothing where n u cond(A) is above 0.1; assert that yourself.

    Examples
    --------
    >>> assert_inverse(np.diag([0.5, 0.25]), np.diag([2.0, 4.0]))
    0.0
    """
    inverse, matrix = _squares(P=P, A=A)
    n, wide, matrix = len(matrix), inverse.astype(np.longdouble), matrix.astype(np.longdouble)
    size = np.abs(matrix).sum(axis=0).max(initial=0) * np.abs(wide).sum(axis=0).max(initial=0)
    error = np.abs(matrix @ wide - np.eye(n)).sum(axis=0).max(initial=0)
    return _check(_ratio(error, n * size * _unit(inverse)), limit, "A P = I")
