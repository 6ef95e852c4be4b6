"""K-best rounding, each path a list of codes whose target is computed from its definition."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.grids import _round, per_column
from quiplinalg.reference.ldlq import ldlq
from quiplinalg.reference.precision import working_dtype
from quiplinalg.reference.rounded import Rounded
from quiplinalg.reference.udu import udu

__all__ = ["kbest"]


def kbest(
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    k: int,
    *,
    order: np.ndarray | None = None,
    group_index: np.ndarray | None = None,
) -> Rounded:
    """Keep the k partial roundings of least sum_i D_i eta_i^2; the better of the end and of LDLQ.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    H : ndarray, (n, n)
        Symmetric positive definite, damped already.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    maxq : float
        Largest code; inf for the unbounded grid.
    k : int
        Paths, at least 1.
    order : ndarray, (n,), or None
        Column ``order[j]`` is rounded at step j; None: left to right.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    Rounded
        Of the codes chosen; ``costs`` is D_j eta_j^2.

    Raises
    ------
    NotPositiveDefiniteError
        H is not positive definite; ``index`` counts in the order of rounding.

    Notes
    -----
    Of candidates that cost the same, those of the better parent are kept, then those nearer to the
    target: first the one it is rounded to, then the lower code.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> kbest(W, H, np.ones((1, 1)), np.zeros((1, 1)), 3.0, 4).codes
    array([[0, 1]])
    """
    single = ldlq(W, H, scale, zero, maxq, order=order, group_index=group_index)
    if k == 1:
        return single
    dtype, (m, n) = working_dtype(W, H, scale, zero), np.shape(W)
    perm = np.arange(n) if order is None else np.asarray(order)
    X = np.asarray(W, dtype)[:, perm]
    s, o = (
        np.broadcast_to(per_column(a, n, group_index), (m, n)).astype(dtype)[:, perm]
        for a in (scale, zero)
    )
    T, D = udu(np.asarray(H, dtype)[np.ix_(perm, perm)])
    codes = np.zeros((m, n), np.int64)
    targets, costs = np.zeros((m, n), dtype), np.zeros((m, n), dtype)
    back = np.argsort(perm)
    single_loss = single.costs.sum(axis=1)
    for r in range(m):

        def target(path, r=r):
            j = len(path)
            errors = X[r, :j] - s[r, :j] * (np.array(path) - o[r, :j])
            return X[r, j] + errors @ T[:j, j]

        paths: list[tuple[float, list[int]]] = [(0.0, [])]
        for j in range(n):
            children = []
            for parent, (cost, path) in enumerate(paths):
                z = target(path)
                centre = z / s[r, j] + o[r, j]
                nearest = int(_round(z, s[r, j], o[r, j], maxq))
                if np.isfinite(maxq):
                    levels = range(int(maxq) + 1)
                else:
                    levels = range(int(np.floor(centre)) - k, int(np.floor(centre)) + k + 2)
                for q in levels:
                    eta = s[r, j] * (q - o[r, j]) - z
                    rank = (parent, abs(q - centre), q != nearest, q)
                    child = (cost + D[j] * eta**2, rank, [*path, q])
                    children.append(child)
            paths = [(cost, path) for cost, _, path in sorted(children)[:k]]
        best = paths[0][1]
        if not paths[0][0] < single_loss[r]:
            best = single.codes[r, perm].tolist()
        codes[r] = best
        targets[r] = [target(best[:j]) for j in range(n)]
        costs[r] = D * (s[r] * (codes[r] - o[r]) - targets[r]) ** 2
    codes, targets, costs = codes[:, back], targets[:, back], costs[:, back]
    return Rounded.of(np.asarray(W, dtype), np.asarray(H, dtype), codes, targets, costs, scale,
                      zero, group_index)  # fmt: skip
