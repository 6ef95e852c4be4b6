"""The generic backend: every slot in NumPy and SciPy, the same arrays, no compiler.

Slow, but complete: it is what the tuned kernels are tested against, slot by slot.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack, solve_triangular

from quiplinalg.kernels import generic_codebook, generic_descent, generic_prune
from quiplinalg.kernels.generic_exact import exact_rows
from quiplinalg.kernels.generic_kbest import kbest_block, kbest_trace
from quiplinalg.kernels.generic_obs import eliminate_rows, eliminate_space
from quiplinalg.kernels.generic_rotation import mirror, rotate
from quiplinalg.kernels.generic_update import multiply_rows, rank_update, update_factor
from quiplinalg.kernels.record import PANEL, Kernels

__all__ = ["GENERIC"]


def _panel(U, p, p0=0):
    """The (4p + 4, 4) rows and columns of panel p of the packed U, which starts with panel p0."""
    at = 8 * p * (p + 1) - 8 * p0 * (p0 + 1)
    return U[at : at + 16 * (p + 1)].reshape(-1, PANEL)


def update_tile(A, i0, i1, j0, j1, k0, k1):
    """A[i0:i1, j0:j1] -= A[i0:i1, k0:k1] A[j0:j1, k0:k1]^T; the lower half only where i0 == j0."""
    product = A[i0:i1, k0:k1] @ A[j0:j1, k0:k1].T
    A[i0:i1, j0:j1] -= np.tril(product) if i0 == j0 else product


def factor_tile(A, j0, j1):
    """A[j0:j1, j0:j1] = L L^T in place; returns 0, or 1 + the row whose pivot failed."""
    if j1 <= j0:
        return 0
    potrf = lapack.get_lapack_funcs("potrf", (A,))
    tile, info = potrf(A[j0:j1, j0:j1], lower=1, clean=1)
    A[j0:j1, j0:j1] = tile
    return info


def solve_tile(A, i0, i1, j0, j1):
    """A[i0:i1, j0:j1] = A[i0:i1, j0:j1] L^-T with L = A[j0:j1, j0:j1]."""
    if i1 > i0 and j1 > j0:
        L = A[j0:j1, j0:j1]
        A[i0:i1, j0:j1] = solve_triangular(L, A[i0:i1, j0:j1].T, lower=True, check_finite=False).T


def pivot_panel(A, j0, j1, order, diagonal):
    """Rows j0 .. j1 of L^T, each with the least remaining Schur diagonal; -1, or what failed."""
    for j in range(j0, j1):
        tied = j + np.flatnonzero(diagonal[j:] == np.fmin.reduce(diagonal[j:]))
        p = tied[np.argmin(order[tied])] if tied.size else j
        if p != j:
            swap, back = [j, p], [p, j]
            A[j0:j, swap] = A[j0:j, back]
            A[j, j + 1 : p], A[j + 1 : p, p] = A[j + 1 : p, p].copy(), A[j, j + 1 : p].copy()
            A[swap, p + 1 :] = A[back, p + 1 :]
            order[swap], diagonal[swap] = order[back], diagonal[back]
        if not 0 < diagonal[j] < np.inf:
            return j
        A[j, j] = np.sqrt(diagonal[j])
        A[j, j + 1 :] -= A[j0:j, j] @ A[j0:j, j + 1 :]
        A[j, j + 1 :] /= A[j, j]
        diagonal[j + 1 :] -= np.square(A[j, j + 1 :], dtype=np.float64)
    return -1


def asymmetry(H, i0, i1):
    rows = H[i0:i1, :i1]
    with np.errstate(invalid="ignore"):  # infinities are reported, not warned about
        difference = np.abs(np.tril(rows - H[:i1, i0:i1].T, i0))
    finite = bool(np.isfinite(rows).all() and np.isfinite(H[:i1, i0:i1]).all())
    return difference.max(initial=0), finite


def reverse_rows(H, order, shift, A, j0, j1):
    q = order[::-1]
    A[j0:j1] = np.triu(H[np.ix_(q[j0:j1], q)], j0)
    for j in range(j0, j1):
        A[j, j] += shift[::-1][j]


def unit_rows(A, j0, j1):
    n = A.shape[0]
    j = np.arange(j0, j1)
    rows = np.unique(np.concatenate([j, n - 1 - j]))
    scaled = A[rows] / A[rows, rows][:, None]
    A[rows] = scaled[::-1, ::-1]


def pack_feedback(A, place, U, p0, p1):
    n = A.shape[1]
    for p in range(p0, p1):
        panel = _panel(U, p, p0)
        panel[:] = 0
        for c in range(PANEL):
            column = p * PANEL + c
            k = place[column]
            if k < 0:
                continue
            before = place[:column]
            real = before >= 0
            row = A[n - 1 - k]
            panel[:column, c][real] = row[n - 1 - before[real]] / row[n - 1 - k]


def _dense(U, c0, c1):
    """T[c0:c1, c0:c1] from the packed U of these columns."""
    T = np.eye(c1 - c0, dtype=U.dtype)
    for c in range(c0, c1):
        panel = _panel(U, c // PANEL, c0 // PANEL)
        T[: c - c0, c - c0] = panel[c0:c, c % PANEL]
    return T


def compensate(F, U, columns, c0, c1, first, out):
    T = _dense(U, c0, c1)
    W = first[:, c0:c1]
    shift = F[:, : c1 - c0] - W
    for t in range(F.shape[0]):
        shift[t] = solve_triangular(
            T, shift[t], lower=False, trans="T", unit_diagonal=True, check_finite=False
        )
    rows = (W + shift)[:, columns[c0:c1] >= 0].transpose(0, 2, 1)
    rows = rows.reshape(-1, rows.shape[2])
    out[:] = rows[: out.shape[0]]


def load(W, first, columns, Z):
    tiles, N, lanes = Z.shape
    rows = W[first : first + tiles * lanes]
    real = columns >= 0
    flat = np.zeros((tiles * lanes, N), Z.dtype)
    flat[: rows.shape[0], real] = rows[:, columns[real]]
    Z[:] = flat.reshape(tiles, lanes, N).transpose(0, 2, 1)


def store(C, first, columns, codes):
    tiles, N, lanes = C.shape
    flat = C.transpose(0, 2, 1).reshape(tiles * lanes, N)
    real = columns >= 0
    rows = codes[first : first + tiles * lanes]
    rows[:, columns[real]] = flat[: rows.shape[0], real]


def accumulate(F, Z, U, c0, c1):
    F[:, : c1 - c0] = Z[:, c0:c1]
    for p in range(c0 // PANEL, c1 // PANEL):
        u = _panel(U, p, c0 // PANEL)[:c0]
        at = p * PANEL - c0
        F[:, at : at + PANEL] += np.einsum("tkr,kc->tcr", Z[:, :c0], u)


def round_block(F, Z, C, U, grid, plan, span, stats):
    c0, c1 = span
    scale, zero, group, low, high, noise = grid
    columns, D, damping = plan
    half = F.dtype.type(0.5)
    for j in range(c0, c1):
        if columns[j] < 0:
            continue
        u = _panel(U, j // PANEL, c0 // PANEL)[c0:j, j % PANEL]
        z = F[:, j - c0] + np.einsum("tkr,k->tr", Z[:, c0:j], u)
        s, o = scale[:, group[j]], zero[:, group[j]]
        whole = np.floor(o)
        y = z / s + (o - whole)
        if noise.size:
            k = np.floor(y + noise[:, j - c0]) + whole
        else:
            k = np.rint(y)
            distance = half - np.abs(y - k)
            k = k + whole
            y = y + whole
            tied = (y >= low) & (y < high) & (distance < stats[:, 2])
            stats[:, 2] = np.where(tied, distance, stats[:, 2])
        stats[:, 3] += (k < low) | (k > high)
        k = np.clip(k, low, high)
        value = s * (k - o)
        eta = value.astype(np.float64) - z
        C[:, j] = k
        Z[:, j] -= value
        stats[:, 0] += D[j] * eta * eta
        stats[:, 1] += damping[j] * Z[:, j].astype(np.float64) ** 2


def philox(key, first, columns, noise):
    tiles, _, lanes = noise.shape
    rows = (first + np.arange(tiles * lanes, dtype=np.uint64)).reshape(tiles, 1, lanes)
    x0, x1 = np.broadcast_arrays(rows, columns.astype(np.uint64)[None, :, None])
    mask, k = np.uint64(0xFFFFFFFF), np.uint64(key)
    for _ in range(10):
        product = x0 * np.uint64(0xD256D193)
        x0 = (product >> np.uint64(32)) ^ k ^ x1
        x1 = product & mask
        k = (k + np.uint64(0x9E3779B9)) & mask
    noise[:] = (x0 >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)


def _stored(x, significant):
    return x.astype(np.float16).astype(x.dtype) if significant == 11 else x


def fit(X, maxq, symmetric, clip, norm, significant, scale, zero):
    kind = X.dtype.type
    least, most = np.minimum(X.min(1, initial=0), 0), np.maximum(X.max(1, initial=0), 0)
    if symmetric:
        most = np.maximum(most, -least)
        least = np.where(least < 0, -most, least)
    empty = (least == 0) & (most == 0)
    least, most = np.where(empty, kind(-1), least), np.where(empty, kind(1), most)

    def at(p):
        s = _stored((p * (most - least) / kind(maxq)).astype(X.dtype), significant)
        if symmetric:
            return s, np.full_like(s, (maxq + 1) / 2)
        with np.errstate(divide="ignore", invalid="ignore"):
            return s, np.rint(-p * least / s)

    scale[:], zero[:] = at(kind(1))
    if not clip:
        return
    best = np.full(X.shape[0], np.inf)
    reach = np.maximum(most, -least)
    x = (X / reach[:, None]).astype(np.float64)
    for shrink in range(80):
        s, o = at(kind(1) - kind(shrink) / kind(100))
        step = (s / reach)[:, None].astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            q = np.clip(np.rint(x / step) + o[:, None], 0, maxq)
            error = (np.abs(step * (q - o[:, None]) - x) ** norm).sum(1)
        better = (error < best) & (s > 0)
        best[better], scale[better], zero[better] = error[better], s[better], o[better]


GENERIC = Kernels(
    name="generic",
    lanes=lambda dtype: 8,
    tile=384,
    rows=2048,
    block=64,
    update_tile=update_tile,
    factor_tile=factor_tile,
    solve_tile=solve_tile,
    pivot_panel=pivot_panel,
    asymmetry=asymmetry,
    reverse_rows=reverse_rows,
    unit_rows=unit_rows,
    pack_feedback=pack_feedback,
    compensate=compensate,
    load=load,
    accumulate=accumulate,
    round_block=round_block,
    store=store,
    philox=philox,
    fit=fit,
    pack_square=generic_descent.pack_square,
    load_errors=generic_descent.load_errors,
    residual=generic_descent.residual,
    descend=generic_descent.descend,
    lloyd=generic_codebook.lloyd,
    round_levels=generic_codebook.round_levels,
    level_sums=generic_codebook.level_sums,
    descend_levels=generic_codebook.descend_levels,
    prune_block=generic_prune.prune_block,
    eliminate_blocks=generic_prune.eliminate_blocks,
    kbest_block=kbest_block,
    kbest_trace=kbest_trace,
    exact_rows=exact_rows,
    vector=lambda dtype: 8,
    rotate=rotate,
    mirror=mirror,
    eliminate_space=eliminate_space,
    eliminate_rows=eliminate_rows,
    multiply_rows=multiply_rows,
    rank_update=rank_update,
    update_factor=update_factor,
    tiles_from="scipy",
)
