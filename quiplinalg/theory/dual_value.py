"""The dual's value at given multipliers, verified and rounded down."""

from __future__ import annotations

import numpy as np

from quiplinalg.theory.dual_newton import Dual

__all__ = ["verified_value"]

_EPS = float(np.finfo(np.float64).eps)
_BACK = (0.0, 1e-6, 1e-4, 1e-2, 0.1, 0.5)  # towards multipliers that are surely feasible


def verified_value(dual: Dual, y: np.ndarray, pull_doubt: np.ndarray, doubt: np.ndarray) -> float:
    """Return a number that is surely not above the loss of any codes; -inf where y is infeasible.

    Parameters
    ----------
    dual : Dual
        Its x, base and maxq count as exact, and H as known to its two roundings.
    y : ndarray, (kinds, n)
        Multipliers, at least 0 (but for 1 bit).
    pull_doubt : ndarray, (n,)
        How far each element of ``pull`` may be off.
    doubt : ndarray, (n,)
        A diagonal that the true H lies above: H_true >= H - diag(doubt).

    Notes
    -----
    All is done for E^-1 H E^-1, E powers of two near the root of H's diagonal, which is exact.
    With T = max(sum_k (H_kk + |Lambda_k|), ||H||_F + max |Lambda_k|):

    1. The two roundings of each H_ij and those of A = H - Lambda change A by no more than
       4 eps T in the 2-norm, so that A - eta I, eta = 4 eps T + doubt, is below the true one: it
       takes its place, and the value only falls.
    2. If the Cholesky of A - (eta + sigma) I, sigma = 2 (n + 8) eps T, runs through, then
       lambda_min(A - eta I) >= sigma / 2 = mu: its backward error is at most
       (n + 1) eps/2 tr(A) (Demmel; Rump 2006).
    3. For ANY t, p^T A^-1 p <= p^T t + |r| |t| + |r|^2 / mu with r = p - A t, whose computed norm
       is known to (n + 8) eps (T |t| + |p|).  The errors of p and of the constraints' values are
       bounded by 4 eps of the sums of absolute terms, and so is every sum by n eps of its own.

    Where 2 fails, the multipliers are drawn back towards 0.
    """
    n = dual.x.shape[0]
    if n == 0:
        return dual.constant
    scale = np.ldexp(1.0, -((np.frexp(dual.H.diagonal())[1] + 1) // 2))  # 1 / E
    H = dual.H * scale * scale[:, None]
    for back in _BACK:
        value = _at(dual, (1 - back) * y, H, scale, pull_doubt, doubt)
        if value > -np.inf:
            return value
    return -np.inf


def _at(
    dual: Dual,
    y: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    pull_doubt: np.ndarray,
    doubt: np.ndarray,
) -> float:
    from scipy.linalg.lapack import dpotrf, dpotrs

    n, x = dual.x.shape[0], dual.x
    shift = (y[0] if dual.kinds == 1 else y[0] - y[1]) * scale * scale
    size = float(np.abs(y).sum(axis=0) @ (scale * scale)) + float(H.trace())
    size = max(size, float(np.sqrt(np.square(H).sum())) + float(np.abs(shift).max()))
    eta = 4 * _EPS * size + float((doubt * scale * scale).max())
    sigma = 2 * (n + 8) * _EPS * size
    A = H.copy()
    A.flat[:: n + 1] -= shift + eta
    shifted = A.copy()
    shifted.flat[:: n + 1] -= sigma
    factor, info = dpotrf(shifted, lower=1, clean=1)
    if info:
        return -np.inf

    values, halves = dual.constraints(x)
    p = ((y * halves).sum(axis=0) + dual.pull) * scale
    # sums of absolute terms: of p, and of the constraints' values
    above = np.abs(x - dual.base) + 1
    p_terms, terms = np.abs(y[0]) * above, float(np.abs(y[0]) @ np.square(above))
    if dual.kinds == 2:
        p_terms = p_terms + y[1] * (dual.maxq + np.abs(x))
        terms += float(y[1] @ (np.abs(x) * (dual.maxq + np.abs(x))))
    p_error = (4 * _EPS * (p_terms + np.abs(dual.pull)) + pull_doubt) * scale
    t = dpotrs(factor, p, lower=1)[0]
    t += dpotrs(factor, p - A @ t, lower=1)[0]
    norm = float(np.sqrt(t @ t))
    residual = float(np.linalg.norm(p - A @ t)) + float(np.linalg.norm(p_error))
    residual += (n + 8) * _EPS * (size * norm + float(np.linalg.norm(p)))
    quadratic = float(p @ t) + float(p_error @ np.abs(t)) + residual * norm
    quadratic += residual**2 / (sigma / 2)
    total = terms + float(np.abs(p) @ np.abs(t)) + residual * norm + abs(dual.constant)
    value = dual.constant - float((y * values).sum()) - quadratic
    return value - 4 * (n + 8) * _EPS * total
