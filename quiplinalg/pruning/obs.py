"""Exact Optimal Brain Surgeon pruning: one weight or block at a time, the others following."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.factor.recursive import REMEDY
from quiplinalg.grids.search import work_matrix
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.losses import proxy_loss
from quiplinalg.parallel import run_all
from quiplinalg.pruning.choice import choose_steps, steps_within, taken_mask
from quiplinalg.pruning.pattern import (
    Pattern,
    check_budget,
    check_scale,
    check_sparsity,
    count_of,
    parse_pattern,
)
from quiplinalg.pruning.refit import refit
from quiplinalg.pruning.result import Pruned, PruneTrace
from quiplinalg.restore import like
from quiplinalg.rounding.elimination import damped_inverse, eliminate
from quiplinalg.rounding.plan import check_shapes
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["choose_mask", "obs_prune"]


@suggest_keywords()
def obs_prune(
    W: Any,
    H: Any,
    sparsity: float | None = None,
    *,
    loss_budget: float | None = None,
    pattern: str | None = None,
    damp: float | str | AbsoluteDamp = 0.01,
    backend: str = "auto",
) -> Pruned:
    """Prune W by Optimal Brain Surgeon, each step the removal that costs least.

    Per row, with F the weights left and X = (H_FF + damp I)^-1: the removal of a weight q costs
    w_q^2 / X_qq, of a block B w_B (X_BB)^-1 w_B^T, and w_F -= w_B (X_BB)^-1 X_BF.

    Parameters
    ----------
    W : array, (m, n) = (out, in), floating
        Any host array.  Computed in float64, returned in float64 or, for anything narrower, in
        float32.  Not changed.
    H : array, (n, n), floating
        Symmetric second moment of the layer's inputs, in any units.  Not changed.
    sparsity : float, optional
        Share of the weights to prune, 0 to 1; the nearest whole number of weights (or blocks),
        halves up.  Default: 0.5, what an N:M pattern says, or no limit beside a budget.
    loss_budget : float, optional
        Share of tr(W H W^T) that the loss may reach.  With a sparsity too, pruning ends at
        whichever comes first.
    pattern : str, optional
        None or "unstructured": any weights.  "N:M", as "2:4": N of each M consecutive inputs stay
        in each row.  "block:c": blocks of c consecutive weights of a row go together.
    damp : float, "auto" or AbsoluteDamp
        Added to the diagonal of H, as in `ldlq`.
    backend : str
        "auto", "cpu" (Numba and Cython) or "generic" (NumPy).

    Returns
    -------
    Pruned
        Weights, mask, the loss under H without damping, the steps of each row in ``trace``, and
        ``dense()``, which gives back the caller's kind of array.

    Raises
    ------
    NotPositiveDefiniteError
        H with its damping is not positive definite, or so ill-conditioned that what is left of
        its inverse is not.
    NonFiniteError, DTypeError, InvalidArgumentError, BackendUnavailableError
        Also where the M or c of a pattern does not divide n.

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    Each row is pruned to the end by itself; then the steps of all rows are merged: the row whose
    next step costs least takes it, of equals the first.  Costs may fall along a row: a cheap step
    behind a dear one waits for it.  With N:M each row takes all the steps its quotas leave.  The
    weights that stay are the least-squares solution of the final mask, from a factorisation of
    their own, so they carry no errors of the chain: (W_hat - W) (H + damp I) is 0 there.

    n^3 / 3 flops for each row (2 n^3 / 3 with blocks) and f^3 / 3 for its final weights, f those
    that stay; 16 n^2 bytes, 8 n^2 more a thread, and 32 m n for the traces: never m n^2.  The same
    bits for any number of threads.

    Each step is the best there is, the set of them need not be: finding the best mask is a
    combinatorial problem.  A budget counts the damping, so that the loss under H itself is below
    it.  Dead columns (zero diagonal of H) go first and cost nothing.

    References
    ----------
    Hassibi and Stork, Second order derivatives for network pruning: Optimal Brain Surgeon (1993).
    Frantar, Singh, Alistarh, Optimal Brain Compression (arXiv 2208.11580), section 4.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 32)) @ rng.standard_normal((32, 32))
    >>> W, H = rng.standard_normal((8, 32)), X.T @ X / 256
    >>> p = ql.obs_prune(W, H, 0.5)
    >>> p.sparsity, p.loss < ql.sparsegpt(W, H, 0.5).loss
    (0.5, True)
    >>> ql.obs_prune(W, H, loss_budget=0.01).loss < 0.01 * ql.proxy_loss(0 * W, W, H)
    True
    """
    kernels = select(backend)
    weight = work_matrix(W)
    hessian = symmetric_matrix(H, "H", kernels)
    check_shapes(weight, hessian)
    check_scale(weight, hessian)
    found = parse_pattern(pattern, weight.shape[1], blocks=True)
    budget = check_budget(loss_budget, found)
    share = check_sparsity(sparsity, found, budget)
    inverse = damped_inverse(hessian, damp, kernels)
    mask, trace = choose_mask(weight, hessian, inverse.Hinv, found, share, budget, kernels)
    weights = refit(weight, hessian, inverse.shift, mask, kernels)
    return Pruned(
        weights=weights,
        mask=mask,
        pattern=found.name,
        method="obs",
        loss=proxy_loss(weights, weight, hessian),
        damp=inverse.damp,
        dead=np.flatnonzero(hessian.diagonal() == 0),
        trace=trace,
        restore=like(W),
    )


def choose_mask(
    weight: np.ndarray,
    hessian: np.ndarray,
    Hinv: np.ndarray,
    found: Pattern,
    share: float,
    budget: float | None,
    kernels: Kernels,
) -> tuple[np.ndarray, PruneTrace]:
    """Return the mask of `obs_prune`, and the steps it was chosen by, from checked arguments."""
    m, n = weight.shape
    dead = np.flatnonzero(hessian.diagonal() == 0)
    live = weight.astype(np.float64)
    live[:, dead] = 0  # they cost nothing, whatever was added to their diagonal

    if found.quota:
        drop = found.size - found.keep
        steps = n // found.size * drop
        done = eliminate(live, Hinv, kernels, steps=steps, quota=drop, width=found.size)
        order, costs = done.order[:, :steps].copy(), done.costs[:, :steps].copy()
        counts = np.full(m, steps, np.int64)
    else:
        if found.size == 1:
            done = eliminate(live, Hinv, kernels)
            order, costs = done.order, done.costs
        else:
            order, costs = _blocks(live, Hinv, found.size, kernels)
        count = count_of(share, order.size)
        if budget is not None:
            count = steps_within(costs, budget * proxy_loss(0 * weight, weight, hessian), count)
        counts = choose_steps(costs, count)
    mask = taken_mask(order, counts, n, 1 if found.quota else found.size)
    return mask, PruneTrace(order, costs, counts)


def _blocks(
    weight: np.ndarray, Hinv: np.ndarray, size: int, kernels: Kernels
) -> tuple[np.ndarray, np.ndarray]:
    """The whole trace of each row in blocks: the first column and the cost of each step."""
    m, n = weight.shape
    order, costs = np.empty((m, n // size), np.int32), np.empty((m, n // size))

    def part(i: int) -> int:
        work = np.empty((n + size + 1, n))
        row = slice(i, i + 1)
        failed = kernels.eliminate_blocks(weight[row], Hinv, size, work, order[row], costs[row])
        return -1 if failed < 0 else i

    # a row at a time, so that Ctrl-C need not wait for more
    failed = [row for row in run_all(part, [(i,) for i in range(m)]) if row >= 0]
    if failed:
        row = failed[0]
        raise NotPositiveDefiniteError(
            row,
            float("nan"),
            f"What is left of its inverse lost its definiteness in row {row} of W. {REMEDY}",
        )
    return order, costs
