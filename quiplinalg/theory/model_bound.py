"""The model bound of the best possible integer rounding: prefix entropies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.theory.pivots import check_count, pivots_and_order, psd_matrix, step_sums

__all__ = ["CUBES_DB", "concave_pivots", "model_bound", "row_bounds"]

#: What rounding to cubes costs against the entropy bound: 10 log10(2 pi e / 12).
CUBES_DB = 10 * math.log10(2 * math.pi * math.e / 12)
_SHARE = 1 / (2 * math.pi * math.e)
_ROWS = 256


def concave_pivots(D: Any) -> np.ndarray:
    """Return D_bar = exp(slopes of the least concave majorant of k -> sum_{i <= k} log D_i).

    Parameters
    ----------
    D : array, (n,) or (r, n), floating
        Pivots at least 0 in the order of rounding; each row by itself.

    Returns
    -------
    ndarray, float64, the shape of D
        Not increasing.  D itself where D does not increase; 0 from the first zero pivot on.

    Raises
    ------
    InvalidArgumentError, DTypeError

    Notes
    -----
    Pools adjacent violators: the slopes are geometric means of runs of D.  O(r n).

    Examples
    --------
    >>> import quiplinalg as ql
    >>> ql.theory.concave_pivots([1.0, 4.0, 1.0])
    array([2., 2., 1.])
    """
    values = to_numpy(D, "D").astype(np.float64)
    if values.ndim not in (1, 2) or not (values >= 0).all() or not np.isfinite(values).all():
        raise InvalidArgumentError(
            f"D must be (n,) or (r, n), finite and at least 0; got shape {values.shape}. "
            "ql.theory.pivots makes it."
        )
    rows = np.atleast_2d(values)
    parts = [_pool(rows[i : i + _ROWS]) for i in range(0, rows.shape[0], _ROWS)]
    return np.concatenate(parts).reshape(values.shape) if parts else values


def _pool(D: np.ndarray) -> np.ndarray:
    """The majorant's slopes, a stack of runs for each row, all rows in step."""
    r, n = D.shape
    dead = np.cumsum(D == 0, axis=1) > 0  # from the first zero on, the sums are -inf
    logs = np.log(np.where(dead, 1.0, D))
    total = np.zeros((r, n + 1))  # of the runs on the stack
    length = np.zeros((r, n + 1), np.int64)
    top = np.zeros(r, np.int64)  # runs on the stack; number 0 is a sentinel
    every = np.arange(r)
    for k in range(n):
        live = every[~dead[:, k]]
        top[live] += 1
        total[live, top[live]], length[live, top[live]] = logs[live, k], 1
        while True:
            depth = top[live]
            lower = depth - 1
            rising = (lower > 0) & (
                total[live, lower] * length[live, depth] < total[live, depth] * length[live, lower]
            )
            live = live[rising]
            if not live.size:
                break
            depth, lower = depth[rising], lower[rising]
            total[live, lower] += total[live, depth]
            length[live, lower] += length[live, depth]
            top[live] = lower
    out = np.zeros((r, n))
    for i in range(r):
        runs = slice(1, int(top[i]) + 1)
        slopes = np.repeat(np.exp(total[i, runs] / length[i, runs]), length[i, runs])
        out[i, : slopes.size] = slopes
    return out


def model_bound(H: Any, m: int = 1, scale: Any = 1.0, order: Any = "natural") -> float:
    """Return the model bound m s^2 sum_i D_bar_i / (2 pi e) of the average loss of ANY rounding.

    The weights' fractional parts are taken as independent and uniform: a bound of the mean over
    such weights, not of the loss of given ones (`dual_bound`).

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite.
    m : int
        Rows of W.
    scale : float or array
        The step, of all weights or each row, column or weight; see `quiplinalg.theory.losses`.
    order : str or array, (n,), integers
        Every order gives a bound; "natural", "act", "min-pivot", or the columns themselves.

    Returns
    -------
    float
        0 where the column rounded first is spanned by the others: then H itself certifies nothing.

    Notes
    -----
    eta = E T is E times a matrix of determinant 1 in every prefix, and E mod s is uniform there:
    its differential entropy is at least k log s, so that the error variances v_i obey
    sum_{i <= k} log(2 pi e v_i / s^2) >= 0 for every k.  The least sum_i D_i v_i under these is
    the bound.  With D not increasing LDLQ's average is 2 pi e / 12 (1.53 dB) above it.  Clamping
    only raises the least loss.

    References
    ----------
    Zamir and Feder, On lattice quantization noise, IEEE Trans. Inform. Theory 42 (1996): the
    second moment of a lattice cell is at least that of white Gaussian noise of its entropy.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> H = np.diag([2.0, 1.0])
    >>> round(ql.theory.ldlq_average(H) / ql.theory.model_bound(H), 4)
    1.4233
    """
    D, columns = pivots_and_order(psd_matrix(H), order)
    n, rows = D.shape[0], check_count(m, "m")
    total = step_sums(scale, rows, n)
    if np.ndim(scale) == 0 or np.shape(scale)[1] == 1:
        return float(total[0] * concave_pivots(D[columns]).sum()) * _SHARE if n else 0.0
    steps = to_numpy(scale, "scale").astype(np.float64)
    return float(row_bounds(D, columns, steps).sum()) * (rows / max(steps.shape[0], 1))


def row_bounds(D: np.ndarray, columns: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the model bound of each row, (r,), for pivots D and steps (r, n) by column."""
    return concave_pivots((D * np.square(steps))[:, columns]).sum(axis=1) * _SHARE
