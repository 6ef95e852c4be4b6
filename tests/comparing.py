"""Comparing codes of two implementations that may part at ties."""

from __future__ import annotations

import numpy as np


def targets(codes, W, H, scale, zero, perm=None, group_index=None):
    """The float64 targets z that a row's own codes imply, in the order of rounding.

    From E T = eta = W_hat - z, with H = T diag(D) T^T in that order; T comes from the Cholesky
    factor of the index-reversed H.  Returns z, and the scale and zero of each column.
    """
    m, n = np.shape(W)
    perm = np.arange(n) if perm is None else np.asarray(perm)
    group = np.zeros(n, int) if group_index is None else np.asarray(group_index)
    s, o = (np.broadcast_to(np.asarray(a, float)[:, group], (m, n))[:, perm] for a in (scale, zero))
    R = np.linalg.cholesky(np.asarray(H, float)[np.ix_(perm, perm)][::-1, ::-1])[::-1, ::-1]
    T = R / np.diag(R)
    W_hat = s * (np.asarray(codes)[:, perm].astype(float) - o)
    return W_hat - (W_hat - np.asarray(W, float)[:, perm]) @ T, s, o


def tie_distance(z, scale, zero, maxq, u=None):
    """Distance of each target to where its code changes, in grid units.

    Infinite where the code is the same on both sides because it is clipped.
    """
    half = 0.5 if u is None else 0.0
    t = z / scale + (zero - np.floor(zero)) + (0.0 if u is None else u)
    jump = np.rint(t - half)  # the code changes from jump - 1 + 2 half to jump + 2 half there
    upper = jump + 2 * half + np.floor(zero)
    distance = np.abs(t - half - jump)
    if np.isfinite(maxq):
        distance = np.where((upper < 1) | (upper > maxq), np.inf, distance)
    return distance


def wrongness(codes, z, scale, zero, maxq, u=None):
    """By how much, in grid units, each code misses the rounding of its target (0: it is right)."""
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
    codes_a,
    codes_b,
    W,
    H_damped,
    scale,
    zero,
    maxq,
    perm=None,
    tau=1e-9,
    *,
    group_index=None,
    uniforms=None,
    loss_rtol=None,
):
    """Assert that two sets of codes are the same rounding, ties apart.

    Row by row in the order of rounding, the codes must agree up to the first column whose target
    (recomputed in float64 from the past of ``codes_a``) is within ``tau`` grid units of a tie.
    After it a row may go its own way, but each code of both sides must still be the rounding of
    the target that its own past implies, within ``tau``.  With ``loss_rtol`` the total losses of
    the two must also agree to that relative tolerance (only of use with many rows or columns: one
    tie early in one short row may change its loss by any factor).

    All arrays are in the caller's column order, ``perm[k]`` being the column of step k, and H is
    the matrix that was factored.  Returns the number of rows that have a near tie.
    """
    codes_a, codes_b = np.asarray(codes_a), np.asarray(codes_b)
    m, n = np.shape(W)
    assert codes_a.shape == codes_b.shape == (m, n), (codes_a.shape, codes_b.shape, (m, n))
    if np.isfinite(maxq):
        for name, codes in (("codes_a", codes_a), ("codes_b", codes_b)):
            assert ((codes >= 0) & (codes <= maxq)).all(), f"{name} is outside 0 .. {maxq:g}"
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
        worst = wrong.max(initial=0.0)
        assert worst <= tau, (
            f"{name} is not the rounding of its own targets: off by {worst:.3g} grid units = "
            f"{worst / tau:.3g} tau at (row, step) {np.unravel_index(wrong.argmax(), (m, n))}"
        )
    if loss_rtol is not None:
        group = np.zeros(n, int) if group_index is None else np.asarray(group_index)
        total = []
        for codes in (codes_a, codes_b):
            E = np.asarray(scale, float)[:, group] * (
                codes.astype(float) - np.asarray(zero, float)[:, group]
            ) - np.asarray(W, float)
            total.append(float(((E @ np.asarray(H_damped, float)) * E).sum()))
        gap = abs(total[0] - total[1])
        allowed = loss_rtol * max(total)
        assert gap <= allowed, (
            f"losses {total[0]!r} and {total[1]!r} differ by {gap / max(total):.3g} relative = "
            f"{gap / allowed if allowed else np.inf:.3g} of the tolerance"
        )
    return int(near.any(axis=1).sum())
