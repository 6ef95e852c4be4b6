"""Structured pruning: whole input columns, the same for all rows, one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.factor.recursive import REMEDY
from quiplinalg.grids.search import work_matrix
from quiplinalg.kernels.record import select
from quiplinalg.losses import proxy_loss
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.pruning.pattern import (
    check_budget,
    check_scale,
    check_sparsity,
    count_of,
    parse_pattern,
)
from quiplinalg.pruning.refit import refit_columns
from quiplinalg.pruning.result import Pruned, PruneTrace
from quiplinalg.restore import like
from quiplinalg.rounding.elimination import damped_inverse
from quiplinalg.rounding.plan import check_shapes
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["prune_columns"]

_PENDING = 48  # removals between two updates of the whole matrices
_ROWS = 256


@suggest_keywords()
def prune_columns(
    W: Any,
    H: Any,
    sparsity: float | None = None,
    *,
    count: int | None = None,
    loss_budget: float | None = None,
    damp: float | str | AbsoluteDamp = 0.01,
    backend: str = "auto",
) -> Pruned:
    """Prune whole columns of W, each step the column whose removal costs least.

    With F the columns left, X = (H_FF + damp I)^-1 and w the weights as compensated by then: the
    removal of column q costs sum_r w_rq^2 / X_qq, and w_F -= w_q X_qF / X_qq.

    Parameters
    ----------
    W : array, (m, n) = (out, in), floating
        Any host array.  Computed in float64, returned in float64 or, for anything narrower, in
        float32.  Not changed.
    H : array, (n, n), floating
        Symmetric second moment of the layer's inputs, in any units.  Not changed.
    sparsity : float, optional
        Share of the columns to prune, 0 to 1; the nearest whole number, halves up.  Default: 0.5,
        or no limit beside a budget.
    count : int, optional
        How many columns to prune, instead of a share.
    loss_budget : float, optional
        Share of tr(W H W^T) that the loss may reach; pruning ends there or at the sparsity or
        count, whichever comes first.
    damp : float, "auto" or AbsoluteDamp
        Added to the diagonal of H, as in `ldlq`.
    backend : str
        "auto", "cpu" (Numba and Cython) or "generic" (NumPy).

    Returns
    -------
    Pruned
        With the pattern "columns".  ``np.flatnonzero(~result.mask[0])`` are those that stay;
        ``trace.order[0]`` those that went, in order.

    Raises
    ------
    NotPositiveDefiniteError
        H with its damping is not positive definite, or so ill-conditioned that what is left of
        its inverse is not.
    NonFiniteError, DTypeError, InvalidArgumentError, BackendUnavailableError

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    Only X and the Gram matrix w^T w are carried along, so m counts once, in W^T W: about
    m n^2 + 4 n^3 flops and 40 n^2 bytes in float64.  The Gram matrix is updated by subtraction:
    costs below about 1e-13 of tr(W H W^T) are rounding errors.  Weights come from one
    least-squares solution for the columns that stay.  The same bits for any number of threads.

    Each step is the best there is, the set of them need not be.  A budget counts the damping.
    Dead columns (zero diagonal of H) go first and cost nothing.

    References
    ----------
    Hassibi and Stork, Second order derivatives for network pruning: Optimal Brain Surgeon (1993).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> W = np.array([[1.0, 2.0, 3.0]])
    >>> H = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.0], [0.0, 0.0, 1.0]])
    >>> p = ql.prune_columns(W, H, count=1, damp=0.0)
    >>> p.mask[0].tolist(), np.round(p.weights, 6).tolist()
    ([True, False, False], [[0.0, 2.9, 3.0]])
    """
    kernels = select(backend)
    weight = work_matrix(W)
    hessian = symmetric_matrix(H, "H", kernels)
    check_shapes(weight, hessian)
    check_scale(weight, hessian)
    m, n = weight.shape
    budget = check_budget(loss_budget)
    most = _most(sparsity, count, budget, n)
    inverse = damped_inverse(hessian, damp, kernels)
    dead = np.flatnonzero(hessian.diagonal() == 0)
    with single_blas_thread():
        gram = _gram(weight, dead)
        limit = np.inf if budget is None else budget * proxy_loss(0 * weight, weight, hessian)
        order, costs = _greedy(inverse.Hinv, gram, most, limit)
    kept = np.setdiff1d(np.arange(n), order)
    weights = refit_columns(weight, hessian, inverse.shift, kept, kernels)
    mask = np.ones((m, n), np.bool_)
    mask[:, kept] = False
    return Pruned(
        weights=weights,
        mask=mask,
        pattern="columns",
        method="obs",
        loss=proxy_loss(weights, weight, hessian),
        damp=inverse.damp,
        dead=dead,
        trace=PruneTrace(order[None], costs[None], np.array([order.size])),
        restore=like(W),
    )


def _most(sparsity: Any, count: Any, budget: float | None, n: int) -> int:
    """How many columns go at most."""
    if count is None:
        return count_of(check_sparsity(sparsity, parse_pattern(None, n, False), budget), n)
    whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if not whole or not 0 <= count <= n:
        raise InvalidArgumentError(
            f"count must be a number of columns from 0 to {n}; got count={count!r}. "
            "sparsity takes a share instead."
        )
    if sparsity is not None:
        raise InvalidArgumentError(
            f"count and sparsity both say how many columns go; got count={count} and "
            f"sparsity={sparsity!r}. Drop one of them."
        )
    return int(count)


def _gram(weight: np.ndarray, dead: np.ndarray) -> np.ndarray:
    """W^T W in float64, with the dead columns as zeros: they cost nothing."""
    n = weight.shape[1]
    live = weight.astype(np.float64)
    live[:, dead] = 0
    gram = np.empty((n, n))
    starts = range(0, n, _ROWS)
    run_all(
        lambda j: np.matmul(live[:, j : j + _ROWS].T, live, out=gram[j : j + _ROWS]),
        [(j,) for j in starts],
    )
    return gram


def _greedy(X: np.ndarray, A: np.ndarray, most: int, limit: float) -> tuple[np.ndarray, np.ndarray]:
    """Remove up to ``most`` columns, as long as the costs add up to no more than ``limit``.

    X is the inverse, A the Gram matrix of the current weights, over the columns left.  Removing q,
    with v = X_:q / sqrt(X_qq) and a = A_:q / sqrt(X_qq):

        X -= v v^T,  A -= a v^T + v a^T - cost v v^T,  cost = A_qq / X_qq
          = A - b v^T - v b^T,  b = a - (cost / 2) v

    Only the diagonals follow each step; the matrices follow every 48.
    """
    left = np.arange(X.shape[0])
    order: list[int] = []
    costs: list[float] = []
    spent = 0.0
    while len(order) < most:
        n, steps = left.size, min(_PENDING, most - len(order))
        V, B = np.empty((steps, n)), np.empty((steps, n))
        x, norms = X.diagonal().copy(), A.diagonal().copy()
        alive = np.ones(n, np.bool_)
        for k in range(steps):
            if not (x[alive] > 0).all():
                bad = int(left[alive][np.argmin(x[alive])])
                raise NotPositiveDefiniteError(bad, float(x[alive].min()), REMEDY)
            cost = np.where(alive, np.maximum(norms, 0) / np.where(alive, x, 1), np.inf)
            q = int(np.argmin(cost))
            if spent + cost[q] > limit:
                return np.array(order, np.int32), np.array(costs)
            spent += cost[q]
            order.append(int(left[q]))
            costs.append(float(cost[q]))
            root = np.sqrt(x[q])
            v = (X[q] - V[:k, q] @ V[:k]) / root
            a = (A[q] - B[:k, q] @ V[:k] - V[:k, q] @ B[:k]) / root
            V[k], B[k] = v, a - cost[q] / 2 * v
            x -= v * v
            norms -= 2 * B[k] * v
            alive[q] = False
        stay = np.flatnonzero(alive)
        left, V, B = left[stay], V[:, stay], B[:, stay]
        X = _updated(X, stay, V, V)
        A = _updated(A, stay, np.vstack([V, B]), np.vstack([B, V]))
    return np.array(order, np.int32), np.array(costs)


def _updated(M: np.ndarray, stay: np.ndarray, P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """M[stay][:, stay] - P^T Q."""
    out = np.empty((stay.size, stay.size))

    def part(i: int) -> None:
        rows = slice(i, i + _ROWS)
        np.matmul(P[:, rows].T, Q, out=out[rows])
        np.subtract(M[stay[rows]][:, stay], out[rows], out=out[rows])

    run_all(part, [(i,) for i in range(0, stay.size, _ROWS)])
    return out
