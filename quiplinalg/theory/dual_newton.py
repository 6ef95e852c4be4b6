"""Maximise the dual of a row by Newton steps on a logarithmic barrier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Dual", "maximise"]

_EPS = float(np.finfo(np.float64).eps)
_TIGHT = 1e-3  # of the value: how far from the maximum it may end
_SHRINK = 6.0
_BOUNDARY = 0.9
_INNER = 200  # at one tau; to shrink it before the centre is near makes all later ones long


@dataclass(frozen=True, eq=False)
class Dual:
    """The dual of one row in grid units; see dual_bound.py.

    Attributes
    ----------
    H : ndarray, (n, n)
        H' = S H S, its diagonal positive.
    x : ndarray, (n,)
        Targets.
    maxq : float
        The largest code, or inf.
    pull, constant : ndarray (n,), float
        The loss is t^T H t - 2 pull^T t + constant: of what pruned weights leave.
    """

    H: np.ndarray
    x: np.ndarray
    maxq: float
    pull: np.ndarray
    constant: float

    @cached_property
    def base(self) -> np.ndarray:
        """b, the lower of the two codes that the gap is between: any integers would do."""
        target = self.x
        if self.pull.any():  # the codes are drawn to the minimum of the loss, not to x
            target = target + np.linalg.lstsq(self.H, self.pull, rcond=None)[0]
        return np.clip(np.floor(target), 0 if self.ends else -np.inf, self.maxq - 1)

    @cached_property
    def ends(self) -> bool:
        """Whether the grid does."""
        return bool(np.isfinite(self.maxq))

    @cached_property
    def kinds(self) -> int:
        """Multipliers of a column: of the gap; of the box too, but for 1 bit, where it is -gap."""
        return 2 if self.ends and self.maxq > 1 else 1

    @cached_property
    def equal(self) -> bool:
        """Whether the gap is an equality, so that its multiplier may have either sign."""
        return self.maxq == 1

    def constraints(self, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the constraints at real codes c and half their derivatives, (kinds, n) each."""
        values, halves = np.empty((2, self.kinds, c.shape[0]))
        above = c - self.base
        values[0], halves[0] = above * (above - 1), above - 0.5
        if self.kinds == 2:
            values[1], halves[1] = c * (self.maxq - c), self.maxq / 2 - c
        return values, halves

    @cached_property
    def at_target(self) -> tuple[np.ndarray, np.ndarray]:
        """`constraints` at x."""
        return self.constraints(self.x)


@dataclass(frozen=True, eq=False)
class _Point:
    """The dual at some multipliers: the factor of A, the minimiser t, value and log det A."""

    y: np.ndarray
    factor: np.ndarray
    t: np.ndarray
    value: float
    logdet: float


def maximise(dual: Dual, least: float) -> np.ndarray | None:
    """Return multipliers, (kinds, n), near the maximum; None where there are none to start from.

    Parameters
    ----------
    dual : Dual
    least : float
        The least eigenvalue of H scaled to a unit diagonal (or of a matrix that H is part of).

    Notes
    -----
    Maximises value(y) + tau (sum log y + log det A) for tau falling by 6, from the mean of the
    value's size to where tau times the number of terms, which bounds the distance to the maximum,
    is 1e-3 of the value.  With P = A^-1, the real codes c = x + t, and z_j half the derivatives:

        gradient_j  = -constraint_j(c) - tau sign_j P_kk + tau / y_j
        -Hessian_ij = 2 z_i P z_j + tau sign_i sign_j P^2 + tau / y_j^2 (i = j)
    """
    n = dual.x.shape[0]
    diagonal = dual.H.diagonal()
    if n == 0:
        return np.zeros((dual.kinds, 0))
    if dual.kinds == 2:
        small = 0.5 / dual.maxq**2  # a box is up to maxq^2 / 4, a gap 1/4
        gap, box = 0.8 * small + 0.3 * max(least, 0.0), small + 2 * max(-least, 0.0)
        start = np.array([gap, box])[:, None] * diagonal
    elif dual.equal:
        start = -0.05 * diagonal[None]
    elif least > 64 * n * _EPS:
        start = 0.3 * least * diagonal[None]
    else:  # a singular H on an unbounded grid
        return None
    point = _evaluate(dual, start)
    if point is None:
        return None
    terms = n + (0 if dual.equal else start.size)
    tau = float(diagonal.sum()) / 16 / terms
    smallest = tau * 1e-9
    while True:
        point = _centre(dual, point, tau)
        if terms * tau <= _TIGHT * point.value or tau <= smallest:
            return point.y
        tau /= _SHRINK


def _centre(dual: Dual, point: _Point, tau: float) -> _Point:
    """Newton's method with a line search at one tau."""
    from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

    n, signs = dual.x.shape[0], np.array([1.0, -1.0])[: dual.kinds]
    column = signs[:, None]
    for _ in range(_INNER):
        y = point.y
        P, _ = dpotri(point.factor, lower=1)
        P = P + P.T  # its upper triangle is the factor's: zeros
        P.flat[:: n + 1] /= 2
        values, z = dual.constraints(dual.x + point.t)
        gradient = -values - (tau * column) * P.diagonal()
        blocks = np.empty((dual.kinds, n, dual.kinds, n))
        square = tau * np.square(P)
        P *= 2
        for i in range(dual.kinds):
            for j in range(i + 1):
                blocks[i, :, j] = P * z[j] * z[i][:, None] + signs[i] * signs[j] * square
        curve = blocks.reshape(y.size, y.size)  # the lower triangle is all that is read
        if not dual.equal:
            gradient += tau / y
            curve.flat[:: y.size + 1] += (tau / np.square(y)).ravel()
        # transposed: Fortran order without a copy
        factor, info = dpotrf(curve.T, lower=0, overwrite_a=1, clean=0)
        if info:
            return point
        step = dpotrs(factor, gradient.ravel(), lower=0)[0].reshape(y.shape)
        gain = float((gradient * step).sum())
        length = 1.0
        if not dual.equal and (step < 0).any():
            shrinking = step < 0
            length = min(1.0, _BOUNDARY * float((-y[shrinking] / step[shrinking]).min()))
        moved = _search(dual, point, step, length, gain, tau)
        if moved is None:
            return point
        point = moved
        if gain <= tau:  # the squared Newton decrement, against n terms of size tau
            return point
    return point


def _search(
    dual: Dual, point: _Point, step: np.ndarray, length: float, gain: float, tau: float
) -> _Point | None:
    """The first of length, length / 2, ... that gains a tenth of what the gradient promises."""
    before = _barrier(dual, point, tau)
    while length > 1e-6:
        trial = _evaluate(dual, point.y + length * step)
        if trial is not None and _barrier(dual, trial, tau) >= before + 0.1 * length * gain:
            return trial
        length /= 2
    return None


def _barrier(dual: Dual, point: _Point, tau: float) -> float:
    logs = point.logdet + (0.0 if dual.equal else float(np.log(point.y).sum()))
    return point.value + tau * logs


def _evaluate(dual: Dual, y: np.ndarray) -> _Point | None:
    """The dual at y; None where A is not positive definite."""
    from scipy.linalg.lapack import dpotrf, dpotrs

    A = dual.H.copy()
    A.flat[:: A.shape[0] + 1] -= y[0] if dual.kinds == 1 else y[0] - y[1]
    factor, info = dpotrf(A.T, lower=1, overwrite_a=1, clean=1)
    if info:
        return None
    values, halves = dual.at_target
    p = (y * halves).sum(axis=0) + dual.pull
    t = dpotrs(factor, p, lower=1)[0]
    value = dual.constant - float((y * values).sum()) - float(p @ t)
    return _Point(y, factor, t, value, 2 * float(np.log(factor.diagonal()).sum()))
