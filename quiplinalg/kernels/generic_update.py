"""Updates of inverses and of triangular factors in NumPy, the twins of cpu_update.py."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

__all__ = ["multiply_rows", "rank_update", "update_factor"]


def _member(A, n, lead, step, m, columns=1):
    """Member m of a stack that lies in the flat A, (n, n)."""
    size = A.itemsize
    start = A[m * step :] if n else A[:0]
    return as_strided(start, (n, n), (lead * size, columns * size), writeable=A.flags.writeable)


def multiply_rows(A, layout, U, W, members, columns):
    c0, c1 = columns
    n = layout[0]
    for m in range(*members):
        B = _member(A, *layout, m)
        W[m, :, c0:c1] = 0
        for i in range(n):
            W[m, :, c0:c1] += U[m, :, i, None] * B[i, c0:c1]


def rank_update(A, source, V, sign, keep, out, target, rows):
    n = target[0]
    grows = n > source[0]
    for r in range(rows[1] - 1, rows[0] - 1, -1) if grows else range(*rows):
        m, i = divmod(r, n)
        line = np.zeros(n, V.dtype)
        if keep[m, i] >= 0:
            real = keep[m] >= 0
            line[real] = _member(A, *source, m)[keep[m, i], keep[m, real]]
        for v in V[m]:
            line += (sign * v[i]).astype(V.dtype) * v
        _member(out, *target, m)[i] = line


def update_factor(source, origin, out, target, D, X, sign, found):
    n, lead, step, first, last = target
    start, failed, pivot = found
    down, right, away = origin
    for m in range(first, last):
        failed[m] = -1
        R = _member(out, n, lead, step, m)
        if down > 0:
            upper = np.triu(_member(source, n, down, away, m, right))
            R[np.triu_indices(n)] = upper[np.triu_indices(n)]
        scale = np.ones(X.shape[1])
        for j in range(start[m], n):
            old = np.float64(D[m, j] if D.shape[1] else R[j, j])
            heads = X[m, :, j].astype(np.float64)
            with np.errstate(all="ignore"):
                turns, new = _find_turns(old, heads, D.shape[1] > 0, sign, scale)
                squares = heads / (scale if D.shape[1] else old) * heads
                stored = X.dtype.type(new)
                left = (old + sign * squares.sum()) * (1 if D.shape[1] else old)
            if turns is None or not 0 < stored < np.inf:
                failed[m] = j
                pivot[m] = left
                break
            for p, (a, b, e, f) in enumerate(turns[:, :4].astype(X.dtype)):
                row, x = R[j, j + 1 :].copy(), X[m, p, j + 1 :]
                turned = a * row + b * x
                x[:] = e * x + f * (row if sign > 0 else turned)
                R[j, j + 1 :] = turned
            if D.shape[1]:
                D[m, j] = new
                scale *= turns[:, 4]
            else:
                R[j, j] = new


def _find_turns(old, heads, unit, sign, scale):
    """The (a, b, e, f, alpha) of each vector and the new pivot; None where it is not positive."""
    turns, new = np.empty((heads.size, 5)), old
    for p, (x, t) in enumerate(zip(heads, scale, strict=True)):
        if unit:
            root = (x / np.sqrt(t)) / np.sqrt(new)
            alpha = 1 + root * root if sign > 0 else (1 - root) * (1 + root)
            b = sign * x / t / new / alpha
            turns[p] = 1 / alpha, b, *((1, -x) if sign > 0 else (alpha, -alpha * x)), alpha
            new = new * alpha
        elif sign > 0:
            alpha = np.hypot(new, x)
            turns[p] = new / alpha, x / alpha, new / alpha, -x / alpha, 1
            new = alpha
        else:
            root = x / new
            alpha = np.sqrt((1 - root) * (1 + root)) if abs(root) < 1 else -1.0
            turns[p] = 1 / alpha, -root / alpha, alpha, -root, 1
            new = new * alpha
        if not 0 < alpha < np.inf or not 0 < new < np.inf:
            return None, new
    return turns, new
