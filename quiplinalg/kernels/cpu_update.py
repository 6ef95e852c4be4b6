"""Updates of inverses and of triangular factors on the CPU, every pass along rows.

A matrix comes as the flat memory it lies in and (n, lead, step): row i of member m of a stack
starts at ``m step + i lead``, so that leading blocks of larger arrays need no copy.
"""

from __future__ import annotations

import math

import numpy as np

from quiplinalg.kernels.cpu_descent import add_scaled
from quiplinalg.kernels.cpu_tile import jit

__all__ = ["multiply_rows", "rank_update", "update_factor"]

_BLOCK = 32  # rows of a factor whose rotations are found before they are applied to the right
_STRIP = 512  # columns they are applied to at a time: those of the vectors stay in L1


@jit()
def multiply_rows(A, layout, U, W, members, columns):
    """W[m, :, c0:c1] = U[m] A[m, :, c0:c1]: U and W are (members, k, n)."""
    n, lead, step = layout
    c0, c1 = columns
    k = U.shape[1]
    u, w = U.reshape(-1), W.reshape(-1)
    for m in range(members[0], members[1]):
        for p in range(k):
            part = w[(m * k + p) * n + c0 : (m * k + p) * n + c1]
            for c in range(part.size):
                part[c] = 0
        for i in range(n):
            for p in range(k):
                at = (m * k + p) * n
                add_scaled(w, at + c0, u[at + i], A, m * step + i * lead + c0, c1 - c0)


@jit()
def rank_update(A, source, V, sign, keep, out, target, rows):
    """out[m, i] = A[m, keep_i][keep] + sign sum_p V[m, p, i] V[m, p], for r0 <= m n + i < r1.

    A keep of -1 (m's, (members, n)) stands for a row and column of zeros.  ``out`` may be A: rows
    go upwards where the matrix shrinks and downwards where it grows.
    """
    n, lead, step = target
    k = V.shape[1]
    kind = V.dtype.type
    v = V.reshape(-1)
    line = np.empty(n, V.dtype)
    end = np.empty(n, np.int64)
    known = -1
    for r in range(rows[0], rows[1]):
        r = rows[0] + rows[1] - 1 - r if n > source[0] else r
        m, i = r // n, r % n
        kept = keep[m]
        if m != known:
            known = m
            for c in range(n - 1, -1, -1):  # where the run of neighbours that starts at c ends
                joined = c + 1 < n and kept[c] >= 0 and kept[c + 1] == kept[c] + 1
                end[c] = end[c + 1] if joined else c + 1
        start = m * source[2] + kept[i] * source[1]
        c = 0
        while c < n:
            if kept[i] < 0 or kept[c] < 0:
                line[c] = 0
                c += 1
                continue
            run, at = line[c : end[c]], start + kept[c]
            old = A[at : at + run.size]
            for q in range(run.size):
                run[q] = old[q]
            c = end[c]
        for p in range(k):
            at = (m * k + p) * n
            add_scaled(line, 0, kind(sign * v[at + i]), v, at, n)
        new = out[m * step + i * lead : m * step + i * lead + n]
        for c in range(n):
            new[c] = line[c]


@jit()
def update_factor(source, origin, out, target, D, X, sign, found):
    """Turn the rows of R = L^T so that L L^T, or L diag(D) L^T, gains sign X^T X.

    ``target`` is (n, lead, step, first member, end) of R in ``out``; ``origin`` the strides (row,
    column, member) of R in ``source``, or zeros where R is in ``out`` already.  D is (members, n),
    or (members, 0) for a Cholesky factor.  X, (members, k, n), is lost.  ``found`` is (start,
    failed, pivot): the first row to turn, and the row whose pivot is not positive, or -1, with
    what it is.
    """
    n, lead, step, first, last = target
    start, failed, pivot = found
    k = X.shape[1]
    x = X.reshape(-1)
    turns = np.empty((_BLOCK, k, 4), X.dtype)
    scale = np.empty(k)
    for m in range(first, last):
        failed[m] = -1
        for p in range(k):
            scale[p] = 1
        for j0 in range(0, n, _BLOCK):
            j1 = min(j0 + _BLOCK, n)
            if origin[0] > 0:
                _copy_rows(source, origin, out, target, m, j0, j1)
            turned = max(j0, start[m])
            # the block on the diagonal: each row's turns depend on those of the rows above
            for j in range(turned, j1):
                row = out[m * step + j * lead : m * step + j * lead + n]
                if not _find_turns(row, j, D[m], X[m], sign, scale, turns[j - j0], pivot[m:]):
                    failed[m] = j
                    break
                for p in range(k):
                    at = (m * k + p) * n
                    _turn(row[j + 1 : j1], x[at + j + 1 : at + j1], turns[j - j0, p], sign)
            if failed[m] >= 0:
                break
            for c0 in range(j1, n, _STRIP):
                c1 = min(c0 + _STRIP, n)
                for j in range(turned, j1):
                    row = out[m * step + j * lead + c0 : m * step + j * lead + c1]
                    for p in range(0, k - 1, 2):
                        at = (m * k + p) * n
                        x_0, x_1 = x[at + c0 : at + c1], x[at + n + c0 : at + n + c1]
                        _turn_pair(row, x_0, x_1, turns[j - j0, p : p + 2], sign)
                    if k % 2:
                        at = (m * k + k - 1) * n
                        _turn(row, x[at + c0 : at + c1], turns[j - j0, k - 1], sign)


@jit(cache=False)
def _copy_rows(source, origin, out, target, m, j0, j1):
    """Rows j0 .. j1 of the upper triangular R from wherever they are."""
    n, lead, step = target[0], target[1], target[2]
    down, right, away = origin
    if right == 1:
        for j in range(j0, j1):
            at, to = m * away + j * down, m * step + j * lead
            old, new = source[at + j : at + n], out[to + j : to + n]
            for c in range(n - j):
                new[c] = old[c]
    else:  # down column c of L, which is contiguous
        for c in range(j0, n):
            at = m * away + c * right
            for j in range(j0, min(j1, c + 1)):
                out[m * step + j * lead + c] = source[at + j * down]


@jit(cache=False)
def _find_turns(row, j, D, X, sign, scale, turns, pivot):
    """The turns (a, b, e, f) of row j, one for each vector, and the new pivot; False: it fails.

    l' = a l + b x, and x' = e x + f l where X^T X is added, x' = e x + f l' where it is taken off.
    """
    old = np.float64(D[j]) if D.size else np.float64(row[j])
    new = old
    pivot[0] = old
    for p in range(X.shape[0]):
        x = np.float64(X[p, j])
        pivot[0] += sign * (x / (scale[p] if D.size else old) * x)
    pivot[0] *= 1 if D.size else old  # last, so that it does not become infinity minus infinity
    for p in range(X.shape[0]):
        x, t = np.float64(X[p, j]), scale[p]
        if D.size:
            root = (x / math.sqrt(t)) / math.sqrt(new)
            if sign > 0:  # alpha = d' / d; a plain rotation in terms of l sqrt(d)
                alpha = 1 + root * root
                scale[p] = t * alpha
                a, b, e, f = 1 / alpha, x / t / new / alpha, 1.0, -x
            else:
                alpha = (1 - root) * (1 + root)
                scale[p] = t * alpha
                a, b, e, f = 1 / alpha, -x / t / new / alpha, alpha, -alpha * x
            new *= alpha
        elif sign > 0:
            alpha = np.float64(math.hypot(new, x))
            a, b, e, f = new / alpha, x / alpha, new / alpha, -x / alpha
            new = alpha
        else:
            root = x / new
            alpha = np.float64(math.sqrt((1 - root) * (1 + root)) if abs(root) < 1 else -1.0)
            a, b, e, f = 1 / alpha, -root / alpha, alpha, -root
            new *= alpha
        if not 0 < alpha < np.inf or not 0 < new < np.inf:
            return False
        turns[p, 0], turns[p, 1], turns[p, 2], turns[p, 3] = a, b, e, f
    if D.size:
        D[j] = new
        return 0 < D[j] < np.inf  # in float32 too
    row[j] = new
    return 0 < row[j] < np.inf


@jit(cache=False)
def _turn(row, x, turn, sign):
    """One vector and one row, see `_find_turns`."""
    a, b, e, f = turn[0], turn[1], turn[2], turn[3]
    if sign > 0:
        for c in range(row.size):
            l_c, x_c = row[c], x[c]
            row[c] = a * l_c + b * x_c
            x[c] = e * x_c + f * l_c
    else:
        for c in range(row.size):
            x_c = x[c]
            l_c = a * row[c] + b * x_c
            row[c] = l_c
            x[c] = e * x_c + f * l_c


@jit(cache=False)
def _turn_pair(row, x, y, turns, sign):
    """Two vectors, one after the other, and one row, which is read and written once."""
    a, b, e, f = turns[0, 0], turns[0, 1], turns[0, 2], turns[0, 3]
    a_1, b_1, e_1, f_1 = turns[1, 0], turns[1, 1], turns[1, 2], turns[1, 3]
    if sign > 0:
        for c in range(row.size):
            l_0, x_c, y_c = row[c], x[c], y[c]
            l_1 = a * l_0 + b * x_c
            x[c] = e * x_c + f * l_0
            row[c] = a_1 * l_1 + b_1 * y_c
            y[c] = e_1 * y_c + f_1 * l_1
    else:
        for c in range(row.size):
            x_c, y_c = x[c], y[c]
            l_1 = a * row[c] + b * x_c
            x[c] = e * x_c + f * l_1
            l_2 = a_1 * l_1 + b_1 * y_c
            row[c] = l_2
            y[c] = e_1 * y_c + f_1 * l_2
