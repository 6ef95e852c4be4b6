"""The error of an updated inverse B of H, in the norm ||H^(1/2) B H^(1/2) - I||_2, step by step.

d and h are the diagonals of B and H, T = sum_i d_i h_i, and spread >= ||corr(H)||_2 where corr(H)
= diag(h)^(-1/2) H diag(h)^(-1/2).  B is positive definite, so |B_ij| <= sqrt(d_i d_j), and an
error of c u sqrt(d_i d_j) in each element has the norm c u g at most, for two reasons: |H^(1/2) x|
has elements of at most sqrt(h_i), which gives g = (sum_i sqrt(d_i h_i))^2; and it is at most its
Frobenius norm after scaling, c u T, times ||corr(H)||_2.  Everything is invariant to the scales of
the rows of H, and costs O(n), but for `spread` and `fresh`, O(n^2).
"""

from __future__ import annotations

import math

import numpy as np

from quiplinalg.parallel import single_blas_thread

__all__ = ["after_adjoin", "after_data", "after_remove", "fresh", "spread"]

_UNIT = 2.0**-53
_PROBES = 8
_SAFETY = 4.0  # of a norm estimated from so many probes


def spread(H: np.ndarray) -> float:
    """Return an upper bound of ||corr(H)||_2, and so of that of every principal submatrix."""
    if len(H) == 0:
        return 0.0
    h = np.sqrt(np.maximum(H.diagonal(), 0))
    scale = np.divide(1, h, out=np.zeros_like(h), where=h > 0)
    rows, squares = 0.0, 0.0
    for i in range(0, len(H), 256):
        part = np.abs(H[i : i + 256] * scale) * scale[i : i + 256, None]
        rows = max(rows, float(part.sum(axis=1).max()))
        squares += float(np.square(part).sum())
    return min(rows, math.sqrt(squares))


def fresh(B: np.ndarray, H: np.ndarray) -> float:
    """Return an upper estimate for a B that was just computed: ||corr-scaled B H - I||_F.

    A Frobenius norm is above the spectral radius of B H - I in any scaling; it is estimated by
    E ||M z||^2 = ||M||_F^2 over vectors z of random signs, the same each time.
    """
    n = len(H)
    if n == 0:
        return 0.0
    scale = np.sqrt(H.diagonal())[:, None]
    z = np.random.default_rng(n).choice((-1.0, 1.0), (n, _PROBES)) / scale
    with single_blas_thread():
        error = (B @ (H @ z) - z) * scale
    norm = math.sqrt(float(np.square(error).sum()) / _PROBES)
    return _SAFETY * norm + 8 * _UNIT


def after_remove(bound: float, d: np.ndarray, h: np.ndarray, wide: float, count: int) -> float:
    """Return the bound after B_FF - B_FS B_SS^-1 B_SF, of d and h before it.

    Without rounding: (1 - bound) H^-1 <= B <= (1 + bound) H^-1 (as quadratic forms), and the Schur
    complement is monotone and homogeneous.  The rounding of the k x k factorisation is that of the
    elements of B_SS and B_SF; each element of the result has a product and a difference more.
    """
    return bound + (4 * count + 8) * _UNIT * _weight(d, h, wide)


def after_adjoin(
    bound: float,
    d: np.ndarray,
    h: np.ndarray,
    a: np.ndarray,
    s: float,
    schur: float,
    wide: float,
) -> float:
    """Return the bound after adjoining (a, s); d and h are of the rows before.

    Without rounding: the result is the inverse of [[B^-1, a], [a^T, s]], and |B^-1 - H_F| <=
    x H_F, x = bound / (1 - bound), with H_F (padded by zeros) <= s / schur H.  Rounding u = B a by
    du: the same with a off by H_F du, whose norm is at most sqrt(wide sum_i h_i du_i^2), |du_i| <=
    e sqrt(d_i) omega, omega = sum_j sqrt(d_j) |a_j|.
    """
    omega = float(np.sqrt(d) @ np.abs(a)) / math.sqrt(s)
    T = float(d @ h)
    e = _sum_error(len(d))
    rounding = e * (2 * omega * min(math.sqrt(wide * T), _root(d, h)) + 2 * omega**2 + 3)
    growth = s / schur
    inverse_error = growth * (_inverted(bound) + 2 * rounding)
    after = _weight(np.append(d, 1 / schur), np.append(h, s), wide) + growth * omega**2
    return _inverted(inverse_error) + 12 * _UNIT * after


def after_data(
    bound: float,
    d: np.ndarray,
    after: np.ndarray,
    h: np.ndarray,
    new: np.ndarray,
    U: np.ndarray,
    values: np.ndarray,
    sign: int,
    wide: float,
) -> float:
    """Return the bound after H + sign U^T U; ``after`` and ``new`` are the diagonals after it.

    Without rounding: the inverse of B^-1 + sign U^T U, whose error is at most x H, and H is at most
    H' (data added), or H' / lambda_min(C) (taken off), C = I + sign U B U^T, eigenvalues
    ``values``.  Rounding W = U B by dW, in all of (W + dW)^T (C + dC)^-1 (W + dW); and that of H'.
    """
    k, n = U.shape
    if k == 0 or n == 0:
        return bound
    least = float(values.min())
    tau = float(np.abs(values - 1).max())
    omega = float(np.linalg.norm(np.abs(U) @ np.sqrt(d)))
    e = _sum_error(n) + k * _UNIT
    T = float(d @ new)
    outer = min(math.sqrt(wide * T), _root(d, new))
    rounding = e * (
        2 * omega * outer * math.sqrt(tau / least) + tau * (2 * omega**2 + 2 * k) / least
    )
    inverse_error = _inverted(bound) / (1.0 if sign > 0 else least)
    stored = (k + 3) * _UNIT * _root(after, h + np.square(U).sum(axis=0)) ** 2
    own = (4 * k + 8) * _UNIT * _weight(d, new, wide)
    return _inverted(inverse_error + stored) + rounding + own


def _root(d: np.ndarray, h: np.ndarray) -> float:
    return float(np.sqrt(d * h).sum())


def _weight(d: np.ndarray, h: np.ndarray, wide: float) -> float:
    """g of the module's docstring."""
    return min(_root(d, h) ** 2, wide * float(d @ h))


def _sum_error(n: int) -> float:
    """The rounding error of a sum of n products, relative to that of their absolute values."""
    return (min(n, 4 * math.sqrt(n)) + 2) * _UNIT


def _inverted(error: float) -> float:
    """The relative error of an inverse of what has this relative error."""
    return error / (1 - error) if error < 1 else math.inf
