"""Lower bounds of the best possible loss of given rows: the Lagrangian dual, verified.

In grid units a row's codes c miss its target x = w / s + zero by t = c - x, at the loss
t^T H' t, H' = S H S.  Every code of the grid obeys

    gap_k = (c_k - b_k)(c_k - b_k - 1) >= 0,  b_k = floor(x_k), clipped to [0, maxq - 1]
    box_k = c_k (maxq - c_k)           >= 0   on a grid that ends (at 1 bit, box = -gap: equality)

and so, for any multipliers y >= 0, t^T H' t >= t^T H' t - sum_k (y_gap,k gap_k + y_box,k box_k).
With Lambda = diag(y_gap - y_box) and A = H' - Lambda positive definite, the right side has the
least value over all real t

    value(y) = -sum_k (y_gap,k gap_k(x) + y_box,k box_k(x)) - p^T A^-1 p,
    p_k = y_gap,k (x_k - b_k - 1/2) + y_box,k (maxq / 2 - x_k),

which bounds the loss of all codes, whatever y.  Without box it is
sum(lambda) / 4 - f^T (Lambda^-1 - H'^-1)^-1 f with f = x - b - 1/2.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.errors import DTypeError, InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.theory.dual_newton import Dual, maximise
from quiplinalg.theory.dual_value import verified_value
from quiplinalg.theory.pivots import psd_matrix

__all__ = ["check_psd", "dual_bound", "row_bound"]

_EPS = float(np.finfo(np.float64).eps)
_NEGATIVE = 1e-4
_TINY = 1e-280  # of the largest H_kk (s_k^2): what is smaller has lost digits to underflow


def dual_bound(W: Any, H: Any, grid: UniformGrid, *, mask: Any = None) -> np.ndarray:
    """Return a lower bound of min over codes of (w_hat - w) H (w_hat - w)^T for each row w.

    Unconditional: it holds for these weights, this grid with its ends, and every method.

    Parameters
    ----------
    W : array, (m, n), floating
    H : array, (n, n), floating
        Symmetric positive semidefinite, without damping.
    grid : UniformGrid
        For all rows (1 row of scales) or each; any groups.
    mask : array, (m, n), bool, optional
        True where the weight is pruned: w_hat is 0 there.

    Returns
    -------
    ndarray, (m,), float64
        At least 0, in units of H times W squared; 0 where nothing could be certified, as on an
        unbounded grid with a singular H.

    Raises
    ------
    NotPositiveDefiniteError
        H, scaled to a unit diagonal, has an eigenvalue below -1e-4 times the largest: no second
        moment does.
    NonFiniteError, DTypeError, InvalidArgumentError

    Notes
    -----
    Maximised by a Newton method with a logarithmic barrier to 1e-3 of the value; any multipliers
    certify, so that its errors cost tightness only.  What is returned is `verified_value` of
    dual_value.py: the Cholesky of H' - Lambda less a shift of its own rounding errors has to
    succeed, and the value is rounded down by a bound of all rounding errors.  The weights, H and
    the grid count as exact.

    Per row 30 to 80 steps of 4 (2n)^3 / 3 flops on a grid that ends, 2 n^3 on an unbounded one.
    Rows are shared out among the threads; the same bits for any number of them.

    References
    ----------
    Nesterov, Semidefinite relaxation and nonconvex quadratic optimization (1998); Rump,
    Verification of positive definiteness, BIT 46 (2006).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits=2)
    >>> bound = ql.theory.dual_bound(np.array([[0.5, 0.5]]), np.eye(2), grid)
    >>> bool(0.499 < bound[0] <= 0.5)
    True
    """
    if not isinstance(grid, UniformGrid):
        raise DTypeError(
            f"grid must be a UniformGrid; got {type(grid).__name__}. The grid of a result is its "
            "quantized.grid; ql.mse_grid(W, bits) makes one."
        )
    grid.check_on_host()
    weight, hessian = work_matrix(W).astype(np.float64), psd_matrix(H)
    m, n = weight.shape
    pruned = None if mask is None else to_numpy(mask, "mask", integers=True)
    if pruned is not None and pruned.dtype != np.bool_:
        raise DTypeError(
            f"mask must be of dtype bool; got {pruned.dtype}. True is a weight that is pruned."
        )
    fits = grid.scale.shape[0] in (1, m) and grid.columns(n).shape == (n,)
    if hessian.shape[0] != n or not fits or (pruned is not None and pruned.shape != (m, n)):
        raise InvalidArgumentError(
            f"W must be (m, n), H (n, n), grid of 1 or m rows and n columns, and mask (m, n); got "
            f"W {(m, n)}, H {hessian.shape}, {grid!r} of {grid.columns(n).shape[0]} columns"
            f"{'' if pruned is None else f' and mask {pruned.shape}'}. Pass the grid of this W, "
            "and W.T for Keras or Flax kernels."
        )
    least = check_psd(hessian)
    tasks = [
        (hessian, weight[r], _row_of(grid, r), None if pruned is None else pruned[r], least)
        for r in range(m)
    ]
    with single_blas_thread():
        return np.array(run_all(row_bound, tasks), np.float64).reshape(m)


def check_psd(H: np.ndarray) -> float:
    """Return the least eigenvalue of D^-1/2 H D^-1/2 over live columns, D = diag(H); 1 for none.

    Raises NotPositiveDefiniteError where it is below -1e-4 times the largest.
    """
    from scipy.linalg import eigh

    live = np.flatnonzero(H.diagonal() > 0)
    if not live.size:
        return 1.0
    root = np.sqrt(H.diagonal()[live])
    with single_blas_thread():
        values, Q = eigh(H[np.ix_(live, live)] / root / root[:, None])
    if values[0] < -_NEGATIVE * values[-1]:
        raise NotPositiveDefiniteError(
            int(live[np.argmax(np.abs(Q[:, 0]))]), float(values[0]),
            "A second moment has no negative eigenvalue (this one is of H with a unit diagonal): "
            "check H.",
        )  # fmt: skip
    return float(values[0])


def _row_of(grid: UniformGrid, r: int) -> UniformGrid:
    if grid.scale.shape[0] == 1:
        return grid
    return replace(grid, scale=grid.scale[r : r + 1], zero=grid.zero[r : r + 1])


@np.errstate(all="ignore")  # what over- or underflows bounds nothing, or ends as 0
def row_bound(
    H: np.ndarray,
    w: np.ndarray,
    grid: UniformGrid,
    mask: np.ndarray | None,
    least: float,
    H_error: float = 0.0,
    w_error: float = 0.0,
) -> float:
    """Return the verified bound of one row.

    Parameters
    ----------
    H : ndarray, (n, n), float64, symmetric
    w : ndarray, (n,), float64
    grid : UniformGrid
        Of one row.
    mask : ndarray, (n,), bool, or None
    least : float
        What `check_psd` returned.
    H_error, w_error : float
        How far H (in the 2-norm, of tr H) and w (in the 2-norm, absolute) may be off: 0 where they
        are exact.
    """
    n = w.shape[0]
    columns = grid.columns(n)
    s = grid.scale[0].astype(np.float64)[columns]
    zero = grid.zero[0].astype(np.float64)[columns]
    kept = H.diagonal() > 0  # a dead column costs nothing, whatever its code
    pruned = np.zeros(n, bool) if mask is None else mask & kept
    kept &= ~pruned
    if not (kept | pruned).any():
        return 0.0
    # exact powers of two: H and the steps may be near over- or underflow
    sizes = np.where(pruned, np.abs(w), s)[kept | pruned]
    power, unit = int(np.frexp(H.diagonal().max())[1]), int(np.frexp(sizes.max())[1])
    H, w, s = np.ldexp(H, -power), np.ldexp(w, -unit), np.ldexp(s, -unit)
    error = H_error * float(H.trace())

    s, zero, root = s[kept], zero[kept], np.sqrt(H.diagonal())
    x = w[kept] / s + zero
    # how far W and the targets are known, in the norm of H
    moved = _EPS * float((2 * np.abs(w[kept]) + s * (np.abs(zero) + np.abs(x))) @ root[kept])
    moved += float(np.ldexp(w_error, -unit)) * float(root.sum())

    # pruned weights are errors -w that no code changes
    fixed = np.where(pruned, -w, 0.0)
    pull = -(H @ fixed)[kept] * s
    constant = float(fixed @ H @ fixed)
    doubt = 4 * (n + 8) * _EPS * float(np.abs(fixed) @ np.abs(H) @ np.abs(fixed))
    constant -= doubt + error * float(fixed @ fixed)
    pull_doubt = (n + 8) * _EPS * (np.abs(H) @ np.abs(fixed))[kept] * s

    dual = Dual(
        H=H[np.ix_(kept, kept)] * s * s[:, None], x=x, maxq=grid.maxq, pull=pull, constant=constant
    )
    smallest = min(H.diagonal()[kept | pruned].min(), dual.H.diagonal().min(initial=1.0))
    multipliers = maximise(dual, least) if smallest > _TINY else None
    if multipliers is None:
        return 0.0
    value = verified_value(dual, multipliers, pull_doubt, error * np.square(s))
    # |loss(w')^1/2 - loss(w)^1/2| <= ||w' - w||_H for the same codes
    root_value = np.sqrt(value) - moved if value > 0 else 0.0
    if not root_value > 0:
        return 0.0
    value = root_value**2 * (1 - 8 * _EPS)
    # back to the caller's units, and down: the product may over- or underflow
    return float(np.nextafter(np.ldexp(value, power + 2 * unit), 0.0))
