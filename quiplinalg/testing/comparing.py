"""Comparing codes of two implementations that may part at ties."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy

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
    R = np.linalg.cholesky(np.asarray(H, float)[np.ix_(perm, perm)][::-1, ::-1])[::-1, ::-1]
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


def _require(condition: bool, message: str) -> None:
    """Raise AssertionError, under ``python -O`` too."""
    if not condition:
        raise AssertionError(message)


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
    codes_a, codes_b = (
        to_numpy(a if hasattr(a, "shape") else np.asarray(a), "codes", integers=True)
        for a in (codes_a, codes_b)
    )
    W, H_damped = np.asarray(to_numpy(W, "W")), np.asarray(to_numpy(H_damped, "H"), float)
    m, n = np.shape(W)
    _require(
        codes_a.shape == codes_b.shape == (m, n),
        f"codes must be {(m, n)}; got {codes_a.shape} and {codes_b.shape}",
    )
    if np.isfinite(maxq):
        for name, codes in (("codes_a", codes_a), ("codes_b", codes_b)):
            inside = bool(((codes >= 0) & (codes <= maxq)).all())
            _require(inside, f"{name} is outside 0 .. {maxq:g}")
    perm = np.arange(n) if perm is None else np.asarray(perm)
    u = None if uniforms is None else np.asarray(uniforms, float)[:, perm]
    a, b = codes_a[:, perm].astype(np.int64), codes_b[:, perm].astype(np.int64)
    z_a, s, o = targets(codes_a, W, H_damped, scale, zero, perm, group_index)
    z_b, _, _ = targets(codes_b, W, H_damped, scale, zero, perm, group_index)
    distance = tie_distance(z_a, s, o, maxq, u)
    near = ~(distance > tau)
    before_tie = np.cumsum(near, axis=1) == 0
    bad = (a != b) & before_tie
    if bad.any():
        r = int(np.argmax(bad.any(axis=1)))
        k = int(np.argmax(bad[r]))
        raise AssertionError(
            f"{int(bad.any(axis=1).sum())} of {m} rows differ away from ties; first row {r}, step "
            f"{k} (column {perm[k]}): codes {a[r, k]} and {b[r, k]}, target {z_a[r, k]!r}, "
            f"distance to a tie {distance[r, k]:.3g} = {distance[r, k] / tau:.3g} tau"
        )
    for name, codes, z in (("codes_a", a, z_a), ("codes_b", b, z_b)):
        wrong = wrongness(codes, z, s, o, maxq, u)
        worst = float(wrong.max(initial=0.0))
        at = np.unravel_index(wrong.argmax(), (m, n)) if wrong.size else ()
        _require(
            worst <= tau,
            f"{name} is not the rounding of its own targets: off by {worst:.3g} grid units = "
            f"{worst / tau:.3g} tau at (row, step) {tuple(int(i) for i in at)}",
        )
    if loss_rtol is not None:
        group = np.zeros(n, int) if group_index is None else np.asarray(group_index)
        total = []
        for codes in (codes_a, codes_b):
            E = np.asarray(scale, float)[:, group] * (
                codes.astype(float) - np.asarray(zero, float)[:, group]
            ) - np.asarray(W, float)
            total.append(float(((E @ H_damped) * E).sum()))
        gap = abs(total[0] - total[1])
        allowed = loss_rtol * max(total)
        _require(
            gap <= allowed,
            f"losses {total[0]!r} and {total[1]!r} differ by {gap / max(total):.3g} relative = "
            f"{gap / allowed if allowed else np.inf:.3g} of the tolerance",
        )
    return int(near.any(axis=1).sum())
