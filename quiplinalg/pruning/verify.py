"""Check a pruned layer from scratch: its pattern, its zeros, its loss, and the other weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.errors import DTypeError, InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.orders import ORDERS, factor_in_order
from quiplinalg.grids.search import work_matrix
from quiplinalg.kernels.record import select
from quiplinalg.pruning.pattern import parse_pattern
from quiplinalg.pruning.result import Pruned
from quiplinalg.rounding.plan import check_shapes
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["PrunedVerification", "pattern_objection", "verify_pruned"]

_LOSS_RTOL = {"float32": 1e-5, "float64": 1e-10}
_SLACK = 8.0  # times the rounding errors that a weight that stays may be off by


@dataclass(frozen=True)
class PrunedVerification:
    """What `verify_pruned` found.

    Attributes
    ----------
    ok : bool
        Every check passed.
    rows_wrong : int
        Rows with a weight that is not 0 where pruned, or not what the method makes of those that
        stay.
    worst : float
        By how much the worst weight that stays is off, over what rounding errors allow; at most 1
        where all are right.
    loss : float
        tr((W_hat - W) H (W_hat - W)^T), recomputed in float64.
    stored_loss : float
    loss_error : float
        |stored_loss - loss| over the loss and what damping adds to it.
    reason : str
        What is wrong, or that nothing is.
    """

    ok: bool
    rows_wrong: int
    worst: float
    loss: float
    stored_loss: float
    loss_error: float
    reason: str


def verify_pruned(W: Any, H: Any, pruned: Pruned) -> PrunedVerification:
    """Recompute the loss of a pruned layer, and hold mask and weights against its method.

    The mask follows the pattern, and W_hat is 0 there.  With E = W_hat - W, weights that stay have
    (E (H + damp I))_ij = 0 after "obs", the least-squares solution, and (E T)_ij = 0 after
    "sparsegpt", H + damp I = T D T^T: there they are their compensated targets.

    Parameters
    ----------
    W : array, (m, n), floating
    H : array, (n, n), floating
        What was pruned; not changed.
    pruned : Pruned
        Fresh or from a file.

    Returns
    -------
    PrunedVerification

    Raises
    ------
    InvalidArgumentError, NonFiniteError, DTypeError
        W or H is no valid input, or its shape is not that of the result.

    Notes
    -----
    That no other weights would have been the better ones to prune is not checked: no method can
    promise it.  2 m n^2 flops in float64, and n^3/3 for "sparsegpt".

    Examples
    --------
    >>> import dataclasses, numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.standard_normal((64, 16)), rng.standard_normal((8, 16))
    >>> H = X.T @ X / 64
    >>> p = ql.obs_prune(W, H, pattern="2:4")
    >>> ql.verify_pruned(W, H, p).ok
    True
    >>> weights = np.where(p.mask, 0, W)  # not compensated
    >>> ql.verify_pruned(W, H, dataclasses.replace(p, weights=weights)).ok
    False
    """
    if not isinstance(pruned, Pruned):
        raise DTypeError(
            f"pruned must be a Pruned; got {type(pruned).__name__}. Pass what obs_prune or "
            "open_result(...).pruned(name) returned; verify takes quantised layers."
        )
    checker = select("generic")
    weight = work_matrix(W)
    hessian = symmetric_matrix(H, "H", checker).astype(np.float64)
    check_shapes(weight, hessian)
    if weight.shape != pruned.shape:
        raise InvalidArgumentError(
            f"W must be {pruned.shape}, as what was pruned; got {weight.shape}. "
            "Pass the W that was pruned, W.T for Keras or Flax kernels."
        )
    kind = np.asarray(pruned.weights).dtype
    W_hat = np.asarray(pruned.weights, np.float64)
    mask = np.asarray(pruned.mask)
    E = W_hat - weight
    loss = max(float(((E @ hessian) * E).sum()), 0.0)
    energy = float(((weight @ hessian) * weight).sum(dtype=np.float64))
    added = pruned.damp * float(np.square(E).sum())
    size = max(loss + added, 1e-9 * energy)
    gap = abs(pruned.loss - loss)
    loss_error = gap / size if size else gap
    allowed_gap = _LOSS_RTOL[weight.dtype.name] * size
    if pruned.method == "sparsegpt":  # its loss is that of a factor: exact within eps of H
        eps_H = 4 * np.finfo(np.float64).eps * float(np.trace(hessian))
        allowed_gap += eps_H * float(np.square(E).sum())
    problem = _objection(pruned)
    bad, worst = (mask & (W_hat != 0)).any(axis=1), 0.0
    if not problem:
        try:
            off, allowed = _residuals(weight, hessian, W_hat, pruned, float(np.finfo(kind).eps))
        except NotPositiveDefiniteError as error:
            problem = f"with the stored damp {pruned.damp:.6g}, {error}"
        else:
            excess = np.divide(off, allowed, out=np.where(off > 0, np.inf, 0.0), where=allowed > 0)
            excess[mask] = 0
            bad |= ~(excess <= 1).all(axis=1)
            worst = float(excess.max(initial=0.0))
    if bad.any() and not problem:
        problem = (
            f"the weights of {bad.sum()} of {bad.size} rows, first row {np.argmax(bad)}, are not 0 "
            "where pruned, or not the solution where they stay: the worst is off by "
            f"{worst:.3g} times what rounding errors explain"
        )
    if not problem and not gap <= allowed_gap:
        problem = f"the stored loss is {pruned.loss:.8g}; recomputed it is {loss:.8g}"
    return PrunedVerification(
        ok=not problem,
        rows_wrong=int(bad.sum()),
        worst=worst,
        loss=loss,
        stored_loss=float(pruned.loss),
        loss_error=loss_error,
        reason=problem or "mask, weights and loss are those of the method",
    )


def _objection(pruned: Pruned) -> str:
    """What is wrong with the result by itself; empty where nothing is."""
    if not (np.isfinite(pruned.damp) and pruned.damp >= 0):
        return f"damp must be finite and at least 0; it is {pruned.damp!r}"
    if pruned.method not in ("obs", "sparsegpt") or pruned.order not in ORDERS:
        return f"method {pruned.method!r} in order {pruned.order!r} is not known"
    return pattern_objection(np.asarray(pruned.mask), pruned.pattern)


def pattern_objection(mask: np.ndarray, name: str) -> str:
    """Say how an (m, n) mask breaks the pattern of this name; empty where it does not."""
    m, n = mask.shape
    if name == "columns":
        same = bool((mask == mask[:1]).all())
        return "" if same else "the pattern is 'columns', but rows are pruned differently"
    try:
        pattern = parse_pattern(name, n, blocks=True)
    except InvalidArgumentError as error:
        return str(error)
    counts = mask.reshape(m, -1, pattern.size).sum(axis=2) if mask.size else np.zeros((0, 0))
    if pattern.quota:
        right = counts == pattern.size - pattern.keep
    else:
        right = (counts == 0) | (counts == pattern.size)
    if right.all():
        return ""
    row, unit = np.argwhere(~right)[0]
    return (
        f"the mask is not {name}: {counts[row, unit]} weights are pruned in row {row}, "
        f"columns {unit * pattern.size} to {(unit + 1) * pattern.size - 1}"
    )


def _residuals(
    weight: np.ndarray, hessian: np.ndarray, W_hat: np.ndarray, pruned: Pruned, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """E M, which is 0 where weights stay, and what rounding errors make of it; M = H + d I or T."""
    n = weight.shape[1]
    diagonal = hessian.diagonal()
    shift = np.full(n, float(pruned.damp))
    E = W_hat - weight
    if pruned.method == "obs":
        M = hessian + np.diag(shift)
        # W_hat is rounded to its dtype, and solved for backward stably
        allowed = _SLACK * (eps + n * np.finfo(np.float64).eps) * (np.abs(W_hat) @ np.abs(M))
        return np.abs(E @ M), allowed + _SLACK * np.finfo(np.float64).eps * (np.abs(E) @ np.abs(M))
    if pruned.damp == 0:
        shift[diagonal == 0] = 1.0  # dead: any positive value, as T_kk = 1 and U_k = 0
    factor, order = factor_in_order(hessian, pruned.order, shift, select("generic"))
    R = factor[::-1, ::-1].T  # H + d I = R R^T in that order, R upper triangular
    pivots = R.diagonal().copy()
    T = R / pivots
    condition = float(diagonal.max(initial=0) + shift.max(initial=0)) * n
    condition /= float(pivots.min(initial=np.inf)) ** 2
    drift = eps * np.sqrt(n) + np.finfo(np.float64).eps * condition
    reach = np.sqrt(np.square(T).sum(axis=0))
    terms = np.abs(weight[:, order]) + np.sqrt(np.square(E).sum(axis=1, keepdims=True)) * reach
    off, allowed = np.empty(E.shape), np.empty(E.shape)
    off[:, order] = np.abs(E[:, order] @ T)
    allowed[:, order] = _SLACK * drift * terms
    return off, allowed
