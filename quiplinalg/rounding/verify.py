"""Check a quantised layer from scratch: every code must be the rounding of the target it had."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.errors import (
    ConvergenceError,
    InvalidArgumentError,
    NotPositiveDefiniteError,
)
from quiplinalg.factor.multipliers import column_multipliers
from quiplinalg.grids.codebook import uniform_grid
from quiplinalg.grids.search import work_matrix
from quiplinalg.kernels.record import select
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import tie_tolerance
from quiplinalg.rounding.members import check_layer
from quiplinalg.rounding.verify_descent import off_grid, unsettled
from quiplinalg.rounding.verify_processed import verify_processed
from quiplinalg.rounding.verify_refined import fit_objection, verify_corrected
from quiplinalg.rounding.verify_rules import (
    check_result,
    claims,
    has_targets,
    is_descended,
    objection,
)
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["Verification", "verify"]

_ROWS = 256
_LOSS_RTOL = {"float32": 1e-5, "float64": 1e-10}
_SOLVED = 1e-8  # to which the multipliers of "safe" are the same on another machine


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes
    ----------
    ok : bool
        Every check passed.
    codes_wrong : int
        Codes that are not the rounding of their target (after descent: that would lower the loss
        if changed by one), or not on the grid; 0 where ``reason`` says why they could not be
        checked.
    worst : float
        By how much the worst code misses the rounding of its target, in grid units; 0 where all
        are exact, and at most the tolerance where only ties and rounding errors part them; NaN
        where the codes could not be checked.
    codes_checked : bool
        False where coordinate descent was stopped before a fixed point, where each row of "obq"
        was rounded in an order of its own, and where codes were searched for ("kbest", "exact"):
        then all that is known of the codes is that they are on the grid.
    first_wrong : (int, int) or None
        Row and column (the caller's) of the first wrong code: of the first bad row, the one
        rounded first, because an error there moves the targets of all that follow.
    loss : float
        tr((W_hat - W) H (W_hat - W)^T), recomputed in float64.
    stored_loss : float
        What the result says.
    loss_error : float
        |stored_loss - loss| relative to the terms that the loss is the sum of; NaN where no loss
        was stored.
    reason : str
        What is wrong, or that nothing is.
    """

    ok: bool
    codes_wrong: int
    worst: float
    codes_checked: bool
    first_wrong: tuple[int, int] | None
    loss: float
    stored_loss: float
    loss_error: float
    reason: str


def verify(W: Any, H: Any, quantized: Quantized) -> Verification:
    """Recompute the targets and the loss of a quantised layer in float64 and compare.

    With H + damp I = T D T^T, T = I + U, in the stored order, and v = W + (W - W_hat) U: every
    code is the rounding of v, |W_hat - v| <= s/2, or clipped at the end of the grid where v lies
    beyond it; and tr((W_hat - W) H (W_hat - W)^T) is the stored loss.

    Parameters
    ----------
    W : array, (m, n), floating
    H : array, (n, n), floating
        What was quantised; not changed.
    quantized : Quantized
        Fresh or from a file.

    Returns
    -------
    Verification

    Raises
    ------
    InvalidArgumentError, NonFiniteError, DTypeError
        W or H is no valid input, or its shape is not that of the result.

    Notes
    -----
    Independent of the kernels that round: LAPACK's Cholesky and plain products, n^3/3 + 4 m n^2
    flops in float64.  Stochastic rounding is checked against its random numbers, drawn again from
    the seed; the bounded feedback of "safe" is found again, and R^-1 takes the place of T.  Of a
    layer that was rescaled and rotated the codes are checked in that basis, the loss in the
    original one.  Codes that coordinate descent has changed are the rounding of no target: they
    must be on the grid, and at a fixed point (``changed`` is 0) no code may lower the loss if it
    is changed by one.  Codes that `obq` rounded in an order of each row's own, and those that a
    search found, must be on the grid.  Where scales or levels were fitted to the codes, none others
    may lower the loss by more than the rounding of what is stored; the right factor of a low-rank
    correction must be that of least squares for the left one.  Pruned weights are 0, whatever
    their codes.

    A target is recomputed to within the rounding errors of the sum it was: in float32 these grow
    like sqrt(n) eps times the sum of the absolute terms, |W| + ||E|| ||U_k||, in grid units, and
    in float64 the factor itself is only known to eps cond(H).  A code within that distance of a
    tie passes on either side.  The stored loss of "ldlq" is the difference of two sums (the damped
    loss less damp ||E||^2), so it is compared relative to them: to 1e-5 where the targets were
    float32 and 1e-10 where they were float64, and what those rounding errors do to the sum.

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304), section 3: the loss is sum_k D_k eta_k^2
    with eta = W_hat - v.

    Examples
    --------
    >>> import dataclasses, numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.standard_normal((64, 16)), rng.standard_normal((8, 16))
    >>> q = ql.ldlq(W, X.T @ X / 64, bits=3)
    >>> ql.verify(W, X.T @ X / 64, q).ok
    True
    >>> codes = q.codes.copy()
    >>> codes[2, 5] ^= 1
    >>> ql.verify(W, X.T @ X / 64, dataclasses.replace(q, codes=codes)).ok
    False
    """
    check_layer(quantized, "Pass what ldlq, quip or open_result(...).layer(name) returned.")
    checker = select("generic")
    weight = work_matrix(W)
    hessian = symmetric_matrix(H, "H", checker).astype(np.float64)
    _check_shapes(weight, hessian, quantized)
    if quantized.correction is not None:
        return verify_corrected(weight, hessian, quantized, _verify_rounded)
    return _verify_rounded(weight, hessian, quantized)


def _verify_rounded(weight: np.ndarray, hessian: np.ndarray, quantized: Quantized) -> Verification:
    """Verify a layer without a correction."""
    if quantized.processing is None:
        return _verify_codes(weight, hessian, quantized)
    return verify_processed(weight, hessian, quantized, _verify_codes)


def _verify_codes(
    weight: np.ndarray, hessian: np.ndarray, quantized: Quantized, loss_is_known: bool = True
) -> Verification:
    """Verify a layer in the basis of its codes."""
    problem = objection(quantized, weight.shape[1])
    targets = has_targets(quantized)
    weight = weight.astype(np.float64, copy=False)
    n = weight.shape[1]
    order, U, D, spread = np.arange(n), None, np.zeros(n), 0.0  # v = W
    descended = is_descended(quantized)
    if descended:
        D = hessian.diagonal()
    elif quantized.method != "nearest" and targets and not problem:
        stored = quantized.permutation
        try:
            hessian, U, D, spread = _feedback(
                hessian, order if stored is None else np.asarray(stored), quantized.damp,
                quantized.feedback_bound if quantized.method == "safe" else None,
            )  # fmt: skip
        except (NotPositiveDefiniteError, ConvergenceError) as error:
            problem = f"with the stored damp {quantized.damp:.6g}, {error}"
        else:
            order = order if stored is None else np.asarray(stored)
    checkable = not problem  # else there is nothing to hold the codes against

    wrong, worst, sums = 0, 0.0, np.zeros(5)
    first: tuple[int, int] | None = None
    reach = 0.0 if U is None else np.sqrt(np.square(U).sum(axis=0))
    for i in range(0, weight.shape[0], _ROWS):
        rows = slice(i, min(i + _ROWS, weight.shape[0]))
        w = weight[rows][:, order]
        # W_hat as the library rounds it, in the precision of the targets; fits are to its values
        part = quantized.of_rows(rows)
        kind = quantized.precision if quantized.refit is None else np.float64
        rounded = part.__array__(np.dtype(kind))
        E = w - rounded[:, order].astype(np.float64)
        if descended:
            excess, tolerance, step = unsettled(part, rounded.astype(np.float64), E, hessian)
            eta = step  # what the descent moved the weights that it changed by
        elif not targets:
            excess = off_grid(part)
            tolerance = step = eta = np.zeros(E.shape)
        else:
            v = w if U is None else w + E @ U
            terms = np.abs(w) + np.sqrt(np.square(E).sum(axis=1, keepdims=True)) * reach
            excess, tolerance, step = _excess(quantized, rows, order, v, terms, spread)
            eta = v - w + E
        if quantized.mask is not None:  # pruned: W_hat is 0 whatever the code
            excess = np.where(quantized.mask[rows][:, order], 0, excess)
        bad = ~(excess <= tolerance) & checkable
        wrong += int(bad.sum())
        worst = max(worst, float(excess.max(initial=0.0)))
        if first is None and bad.any():
            row = int(np.argmax(bad.any(axis=1)))
            first = (i + row, int(order[np.argmax(bad[row])]))
        drift = tolerance * step
        sums += (
            ((E @ hessian) * E).sum(),
            np.square(E).sum(),
            ((w @ hessian) * w).sum(),
            np.square(D * eta * drift).sum(),
            (D * np.square(drift)).sum(),
        )
    loss = max(float(sums[0]), 0.0)
    loss_error, loss_wrong = _compare_loss(quantized, loss, sums, hessian)
    wrong_ones, right = claims(quantized)
    if quantized.refit is not None and first is None and not problem:
        problem = fit_objection(weight, hessian, quantized)
    if first is not None and not problem:
        problem = (
            f"{wrong} of {weight.size} {wrong_ones}, the first at "
            f"row {first[0]}, column {first[1]}; the worst is off by {worst:.3g} steps"
        )
    if loss_wrong and loss_is_known and not problem:
        problem = f"the stored loss is {quantized.loss:.8g}; recomputed it is {loss:.8g}"
    return Verification(
        ok=not problem,
        codes_wrong=wrong,
        worst=worst if checkable else float("nan"),
        codes_checked=checkable and (not quantized.changed if descended else targets),
        first_wrong=first,
        loss=loss,
        stored_loss=float(quantized.loss),
        loss_error=loss_error,
        reason=problem or right,
    )


def _check_shapes(weight: np.ndarray, hessian: np.ndarray, quantized: Quantized) -> None:
    n = weight.shape[1]
    if weight.shape != quantized.shape or hessian.shape[0] != n:
        raise InvalidArgumentError(
            f"W must be {quantized.shape}, as the codes are, and H ({quantized.shape[1]}, "
            f"{quantized.shape[1]}); got W {weight.shape} and H {hessian.shape}. "
            "Pass the W and H that were quantised, W.T for Keras or Flax kernels."
        )
    check_result(quantized)


def _feedback(
    hessian: np.ndarray, order: np.ndarray, damp: float, bound: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Return H in rounding order, U (strictly upper), D, and how far U is known, relatively.

    With a bound, D is 0: the loss is not told by it.
    """
    from scipy.linalg.lapack import dpotrf

    n = order.shape[0]
    H = hessian[np.ix_(order, order)]
    H = np.tril(H) + np.tril(H, -1).T  # the triangle that is factored
    if n == 0:
        return H, np.zeros((0, 0)), np.zeros(0), 0.0
    shift = np.full(n, float(damp) if np.isfinite(damp) else 0.0)
    if damp == 0:
        shift[H.diagonal() == 0] = 1.0  # dead: any positive value, as T_kk = 1 and U_k = 0
    C, info = dpotrf((H + np.diag(shift))[::-1, ::-1], lower=0, clean=1)
    if info > 0:
        raise NotPositiveDefiniteError(
            int(order[n - info]), float(C[info - 1, info - 1]), "Was it another H, or damping?"
        )
    if bound is not None:
        C = column_multipliers(H, np.arange(n), shift, C, select("generic"), bound).factor
    R = C[::-1, ::-1].T  # H + damp I = R R^T, R upper triangular
    pivots = R.diagonal().copy()
    U = R / pivots
    np.fill_diagonal(U, 0)
    condition = float(H.diagonal().max() + shift.max()) * n / float(pivots.min()) ** 2
    spread = float(np.finfo(np.float64).eps) * condition
    if bound is not None:
        return hessian[np.ix_(order, order)], U, np.zeros(n), max(spread, _SOLVED)
    return H, U, pivots**2, spread


def _excess(
    quantized: Quantized,
    rows: slice,
    order: np.ndarray,
    v: np.ndarray,
    terms: np.ndarray,
    spread: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far each code is from the rounding of v, what is allowed, in grid units, and the step."""
    grid = uniform_grid(quantized.grid, "targets", "Its codes are searched for.")
    n = order.shape[0]
    own = slice(None) if grid.scale.shape[0] == 1 else rows
    columns = grid.columns(n)[order]
    scale = grid.scale[own].astype(np.float64)[:, columns]
    zero = grid.zero[own].astype(np.float64)[:, columns]
    codes = quantized.codes[rows][:, order].astype(np.float64)
    target = v / scale + zero
    low, high = -0.5, 0.5
    if quantized.rounding == "stochastic" and quantized.seed is not None:
        from quiplinalg.reference.philox import uniforms

        # code = floor(target + u): code - (target + u) lies in (-1, 0]
        target += uniforms(int(quantized.seed), np.arange(rows.start, rows.stop), order)
        low, high = -1.0, 0.0
    elif quantized.rounding == "stochastic":
        low, high = -1.0, 1.0
    under = low - (codes - target)  # the code is too small for its target
    over = (codes - target) - high
    if grid.bits is not None:
        under = np.where(codes == grid.maxq, -np.inf, under)  # clipped: the target may lie beyond
        over = np.where(codes == 0, -np.inf, over)
    excess = np.maximum(np.maximum(under, over), 0)
    # off the grid: as wrong as its distance from it
    excess = np.maximum(excess, np.maximum(codes - grid.maxq, 0))
    if grid.bits is not None:
        excess = np.maximum(excess, np.maximum(-codes, 0))
    drift = tie_tolerance(n, np.dtype(quantized.precision)) + spread
    return excess, drift * (1 + np.abs(zero) + terms / scale), scale


def _compare_loss(
    quantized: Quantized, loss: float, sums: np.ndarray, hessian: np.ndarray
) -> tuple[float, bool]:
    """The relative error of the stored loss, and whether it is too large."""
    stored = float(quantized.loss)
    if np.isnan(stored) and quantized.method == "nearest":
        return float("nan"), False  # nearest without H stores none
    _, error, energy, spread, square = sums
    added = quantized.damp * float(error) if np.isfinite(quantized.damp) else 0.0
    if quantized.refit or quantized.method in ("safe", "obq", "exact"):
        added = 0.0  # by definition, no difference of sums
    size = max(loss + added, 1e-9 * float(energy))
    gap = abs(stored - loss)
    # a factor is exact for a matrix within eps of H, which moves the loss by that much
    backward = 4 * np.finfo(np.float64).eps * float(np.trace(hessian)) * float(error)
    # eta = W_hat - z with z off by its drift: sum D (eta + drift)^2, the drifts independent
    drifted = 2 * float(np.sqrt(spread)) + float(square)
    allowed = _LOSS_RTOL[quantized.precision] * size + backward + drifted
    return (gap / size if size > 0 else gap), not gap <= allowed
