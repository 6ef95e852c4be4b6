"""Comparing codes of two implementations that may part at ties."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference import row_losses
from quiplinalg.testing.given import (
    read_codes,
    read_grid,
    read_hessian,
    read_order,
    read_uniforms,
)

__all__ = ["assert_same_rounding", "targets", "tie_distance", "wrongness"]


def targets(
    codes: np.ndarray,
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    perm: np.ndarray | None = None,
    group_index: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the targets z that a row's own codes imply, in the order of rounding.

    From E T = eta = W_hat - z, with H = T diag(D) T^T in that order; T comes from the Cholesky
    factor of the index-reversed H, in float64.

    Parameters
    ----------
    codes, W : ndarray, (m, n)
    H : ndarray, (n, n)
        What was factored.
    scale, zero : ndarray, (rows, groups)
    perm : ndarray, (n,), or None
        Column ``perm[k]`` is rounded at step k.
    group_index : ndarray, (n,), or None

    Returns
    -------
    z, scale, zero : ndarray, (m, n), float64
        The targets, and the scale and zero of each, in the order of rounding.
    """
    m, n = np.shape(W)
    perm = np.arange(n) if perm is None else np.asarray(perm)
    group = np.zeros(n, int) if group_index is None else np.asarray(group_index)
    s, o = (np.broadcast_to(np.asarray(a, float)[:, group], (m, n))[:, perm] for a in (scale, zero))
    ordered = np.asarray(H, float)[np.ix_(perm, perm)]
    try:
        R = np.linalg.cholesky(ordered[::-1, ::-1])[::-1, ::-1]
    except np.linalg.LinAlgError:
        least = float(np.linalg.eigvalsh(ordered)[0])
        raise InvalidArgumentError(
            f"H must be positive definite; its least eigenvalue is {least:.3g}. Pass what was "
            "factored, with its damping."
        ) from None
    T = R / np.diag(R)
    W_hat = s * (np.asarray(codes)[:, perm].astype(float) - o)
    return W_hat - (W_hat - np.asarray(W, float)[:, perm]) @ T, s, o


def tie_distance(
    z: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    u: np.ndarray | None = None,
) -> np.ndarray:
    """Return the distance of each target to where its code changes, in grid units.

    Infinite where the code is the same on both sides because it is clipped.

    Parameters
    ----------
    z, scale, zero : ndarray, (m, n)
        From `targets`.
    maxq : float
        Largest code, or inf.
    u : ndarray, (m, n), or None
        The uniforms of stochastic rounding, in the order of rounding.
    """
    half = 0.5 if u is None else 0.0
    t = z / scale + (zero - np.floor(zero)) + (0.0 if u is None else u)
    jump = np.rint(t - half)  # the code changes from jump - 1 + 2 half to jump + 2 half there
    upper = jump + 2 * half + np.floor(zero)
    distance = np.abs(t - half - jump)
    if np.isfinite(maxq):
        distance = np.where((upper < 1) | (upper > maxq), np.inf, distance)
    return distance


def wrongness(
    codes: np.ndarray,
    z: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    u: np.ndarray | None = None,
) -> np.ndarray:
    """Return by how much, in grid units, each code misses the rounding of its target.

    Parameters
    ----------
    codes, z, scale, zero, maxq, u
        As in `tie_distance`; codes in the order of rounding.  A code at an end of the grid is
        right for every target beyond it.
    """
    if u is None:
        low, high = -0.5, 0.5
    else:
        low, high = -1.0, 0.0
    t = z / scale + zero + (0.0 if u is None else u)  # right: low <= code - t <= high, or clipped
    d = np.asarray(codes, float) - t
    under, over = np.maximum(low - d, 0), np.maximum(d - high, 0)
    if np.isfinite(maxq):
        under = np.where(codes == maxq, 0, under)
        over = np.where(codes == 0, 0, over)
    return np.maximum(under, over)


def assert_same_rounding(
    codes_a: Any,
    codes_b: Any,
    W: Any,
    H_damped: Any,
    scale: Any,
    zero: Any,
    maxq: float,
    perm: np.ndarray | None = None,
    tau: float = 1e-9,
    *,
    group_index: np.ndarray | None = None,
    uniforms: np.ndarray | None = None,
    loss_rtol: float | None = None,
) -> int:
    """Assert that two sets of codes are the same rounding, ties apart.

    Row by row in the order of rounding, the codes must agree up to the first column whose target
    (recomputed in float64 from the past of ``codes_a``) is within ``tau`` grid units of a tie.
    After it a row may go its own way, but each code of both sides must still be the rounding of
    the target that its own past implies, within ``tau``.

    Parameters
    ----------
    codes_a, codes_b : array, (m, n)
    W : array, (m, n)
    H_damped : array, (n, n)
        The matrix that was factored.
    scale, zero : array, (rows, groups)
    maxq : float
        Largest code, or inf.
    perm : ndarray, (n,), or None
        Column ``perm[k]`` is rounded at step k.
    tau : float
        In grid units: what the rounding errors of a target may be.
    group_index : ndarray, (n,), or None
    uniforms : ndarray, (m, n), or None
        Of stochastic rounding.
    loss_rtol : float or None
        Ask that the total losses agree to this relative tolerance too: only of use with many rows
        or columns, as one tie early in one short row may change its loss by any factor.

    Returns
    -------
    int
        The number of rows that have a near tie.

    Raises
    ------
    AssertionError

    Examples
    --------
    >>> W, H = np.array([[0.5, 0.1]]), np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> one, zero = np.ones((1, 1)), np.zeros((1, 1))
    >>> assert_same_rounding([[0, 0]], [[1, 0]], W, H, one, zero, 3)  # 0.5 may go either way
    1
    """
    W = as_matrix(W, "W").astype(np.float64)
    m, n = W.shape
    scale, zero, group = read_grid(scale, zero, maxq, m, n, group_index)
    codes_a = read_codes(codes_a, "codes_a", (m, n), maxq)
    codes_b = read_codes(codes_b, "codes_b", (m, n), maxq)
    H_damped, perm = read_hessian(H_damped, n), read_order(perm, n)
    u = None if uniforms is None else read_uniforms(uniforms, m, n)[:, perm]
    a, b = codes_a[:, perm], codes_b[:, perm]
    z_a, s, o = targets(codes_a, W, H_damped, scale, zero, perm, group)
    z_b, _, _ = targets(codes_b, W, H_damped, scale, zero, perm, group)
    distance = tie_distance(z_a, s, o, maxq, u)
    near = ~(distance > tau)
    before_tie = np.cumsum(near, axis=1) == 0
    bad = (a != b) & before_tie
    if bad.any():
        r = int(np.argmax(bad.any(axis=1)))
        k = int(np.argmax(bad[r]))
        raise AssertionError(
            f"{int(bad.any(axis=1).sum())} of {m} rows differ away from ties; first row {r}, step "
            f"{k} (column {perm[k]}): codes {a[r, k]} and {b[r, k]}, target {z_a[r, k]:.17g}, "
            f"distance to a tie {distance[r, k]:.3g} for a tau of {tau:g}"
        )
    for name, codes, z in (("codes_a", a, z_a), ("codes_b", b, z_b)):
        wrong = wrongness(codes, z, s, o, maxq, u)
        worst = float(wrong.max(initial=0.0))
        if not worst <= tau:
            row, step = np.unravel_index(wrong.argmax(), (m, n))
            raise AssertionError(
                f"{name} is not the rounding of its own targets: off by {worst:.3g} grid units, "
                f"for a tau of {tau:g}, at row {row}, step {step}"
            )
    if loss_rtol is not None:
        first, second = (
            float(row_losses(scale[:, group] * (codes - zero[:, group]), W, H_damped).sum())
            for codes in (codes_a, codes_b)
        )
        if not abs(first - second) <= loss_rtol * max(first, second):
            raise AssertionError(
                f"losses {first:.9g} and {second:.9g} differ by {abs(first - second):.3g}, more "
                f"than {loss_rtol:g} of the larger"
            )
    return int(near.any(axis=1).sum())
