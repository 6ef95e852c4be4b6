"""GPTQ as its paper states it, with the inverse of H downdated column by column."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference.grids import _round, minmax_grid, mse_grid, per_column
from quiplinalg.reference.rounded import Rounded

__all__ = ["gptq"]


def gptq(
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray | None = None,
    zero: np.ndarray | None = None,
    maxq: float | None = None,
    *,
    order: np.ndarray | None = None,
    group_index: np.ndarray | None = None,
    group_size: int | None = None,
    bits: int | None = None,
    sym: bool = False,
    mse: bool = False,
) -> Rounded:
    """Round one column, move the others to the minimum that is left, drop the column from H.

    With F the columns not rounded yet, P = (H_FF)^-1, and q the first of F::

        e   = (w_q - quant(w_q)) / P_qq
        w_F <- w_F - e P_qF
        P   <- P - P_:q P_q: / P_qq     (then without row and column q)

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    H : ndarray, (n, n)
        Symmetric positive definite, damped already.
    scale, zero : ndarray, (rows, groups), or None
        A grid that is fixed beforehand; None where ``group_size`` is given.
    maxq : float or None
        Largest code of the fixed grid; inf for the unbounded grid.
    order : ndarray, (n,), or None
        Column ``order[k]`` is rounded at step k; None: left to right.
    group_index : ndarray, (n,), or None
        Group of each column on the fixed grid; None needs groups = 1.
    group_size : int or None
        Find a grid from the current W at the start of every run of ``group_size`` columns in the
        order of rounding, instead of a fixed grid.
    bits : int or None
        Bits of those grids.
    sym : bool
        Whether those grids are symmetric.
    mse : bool
        ``mse_grid`` instead of ``minmax_grid`` for those grids.

    Returns
    -------
    Rounded
        Codes, errors, losses and the grid used, in the caller's column order; ``costs`` is
        (w_q - quant(w_q))^2 / P_qq.

    Raises
    ------
    InvalidArgumentError
        Neither a whole grid nor ``group_size`` with ``bits`` is given.

    Notes
    -----
    Computes in float64 always.  Grids of groups come from the current W, errors of all earlier
    columns included, so there is no block size on which the result could depend.

    References
    ----------
    Frantar et al., GPTQ, arXiv 2210.17323, equations 2 and 3.

    Examples
    --------
    >>> W, H = np.array([[0.4, 0.45]]), np.array([[1.0, 0.9], [0.9, 1.0]])
    >>> gptq(W, H, np.ones((1, 1)), np.zeros((1, 1)), 3.0).codes
    array([[0, 1]])
    """
    W, H, (m, n) = np.asarray(W, np.float64), np.asarray(H, np.float64), np.shape(W)
    perm = np.arange(n) if order is None else np.asarray(order)
    find, groups = mse_grid if mse else minmax_grid, []
    if scale is not None and zero is not None and maxq is not None and group_size is None:
        s, o = (per_column(a, n, group_index).astype(float)[:, perm] for a in (scale, zero))
    elif group_size is not None and bits is not None:
        s, o, maxq = np.ones((m, n)), np.zeros((m, n)), float(2**bits - 1)
        group_index = np.argsort(perm) // group_size
    else:
        raise InvalidArgumentError(
            "gptq needs scale, zero and maxq, or group_size and bits; got "
            f"maxq={maxq}, group_size={group_size}, bits={bits}."
        )
    X, P = W[:, perm].copy(), np.linalg.inv(H[np.ix_(perm, perm)])
    z, codes, costs = np.zeros((m, n)), np.zeros((m, n), np.int64), np.zeros((m, n))
    for q in range(n):
        if group_size is not None and bits is not None and q % group_size == 0:
            groups.append(find(X[:, q : q + group_size], bits, sym))
            s[:, q : q + group_size], o[:, q : q + group_size] = groups[-1]
        z[:, q] = X[:, q]
        codes[:, q] = _round(z[:, q], s[:, q], o[:, q], maxq)
        error = z[:, q] - s[:, q] * (codes[:, q] - o[:, q])
        costs[:, q] = error**2 / P[q, q]
        X[:, q:] -= np.outer(error / P[q, q], P[q, q:])
        P -= np.outer(P[:, q], P[q, :]) / P[q, q]
    if group_size is not None:
        scale, zero = (np.concatenate(a, axis=1) for a in zip(*groups, strict=True))
    back = np.argsort(perm)
    codes, z, costs = codes[:, back], z[:, back], costs[:, back]
    return Rounded.of(W, H, codes, z, costs, scale, zero, group_index)
