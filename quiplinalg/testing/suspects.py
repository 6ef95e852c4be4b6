"""Well-known mistakes in rounding with feedback, each as an algorithm: to name what is wrong.

With H = T D T^T in the order of rounding and P = H^-1, the right targets are
z_k = W_k + (W - W_hat)_{<k} U_{<k,k}, U = T - I.  GPTQ writes the same feedback with the upper
Cholesky factor of P.  Here are the feedbacks, roundings and orders that have been written instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["SUSPECTS", "Suspect", "feedback_rounding", "right_codes"]

Codes = np.ndarray
Suspect = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float, np.ndarray], Codes]


def feedback_rounding(
    W: np.ndarray,
    A: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    rounding: Callable[[np.ndarray], np.ndarray] = np.rint,
    clamp: bool = True,
) -> np.ndarray:
    """Round left to right with z_k = W_k + (W - W_hat)_{<k} A_{<k,k}; return codes as int64.

    Parameters
    ----------
    W : ndarray, (m, n)
        Columns in the order of rounding; its precision is that of the targets.
    A : ndarray, (n, n)
        Only its strict upper triangle is read.
    scale, zero : ndarray, (m, 1)
    maxq : float
    rounding : callable
        Of z / scale.
    clamp : bool
        Inside the loop; codes are clipped in any case.
    """
    m, n = W.shape
    s, o, A = scale[:, 0], zero[:, 0], A.astype(W.dtype)
    E = np.zeros_like(W)
    codes = np.zeros((m, n))
    for k in range(n):
        z = W[:, k] + E[:, :k] @ A[:k, k]
        code = rounding(z / s) + o
        kept = np.clip(code, 0, maxq)
        E[:, k] = W[:, k] - s * ((kept if clamp else code) - o)
        codes[:, k] = kept
    return codes.astype(np.int64)


def _factor(H: np.ndarray) -> np.ndarray:
    """T of H = T D T^T."""
    R = np.linalg.cholesky(H[::-1, ::-1])[::-1, ::-1]
    return R / np.diag(R)


def _back(codes: np.ndarray, perm: np.ndarray) -> np.ndarray:
    out = np.empty_like(codes)
    out[:, perm] = codes
    return out


def _in_order(
    feedback: Callable[[np.ndarray], np.ndarray],
    rounding: Callable[[np.ndarray], np.ndarray] = np.rint,
    clamp: bool = True,
) -> Suspect:
    """A suspect with a feedback matrix made of H in the order of rounding."""

    def codes(W, H, scale, zero, maxq, perm):
        A = feedback(H[np.ix_(perm, perm)])
        return _back(feedback_rounding(W[:, perm], A, scale, zero, maxq, rounding, clamp), perm)

    return codes


right_codes: Suspect = _in_order(_factor)


def _other_triangle(H: np.ndarray) -> np.ndarray:
    L = np.linalg.cholesky(H)
    return (L / np.diag(L)).T


def _dense_inverse(H: np.ndarray) -> np.ndarray:
    # rows of H^-1, never downdated: w_j -= e / P_kk P_kj with the error of each step as it is fed
    P = np.linalg.inv(H)
    return _targets_of(P / np.diag(P)[:, None])


def _targets_of(row_updates: np.ndarray) -> np.ndarray:
    """The A of updates w_j -= (z_k - w_hat_k) V_kj, j > k: E (I + A) = eta, I + A = V^-1."""
    V = np.triu(row_updates, 1) + np.eye(len(row_updates))
    return np.linalg.inv(V)


def _half_up(x: np.ndarray) -> np.ndarray:
    return np.floor(x + 0.5)


def _half_away(x: np.ndarray) -> np.ndarray:
    return np.copysign(np.floor(np.abs(x) + 0.5), x)


def _damped(share: float) -> Suspect:
    def feedback(H: np.ndarray) -> np.ndarray:
        return _factor(H + share * np.trace(H) / len(H) * np.eye(len(H)))

    return _in_order(feedback)


def _natural(W, H, scale, zero, maxq, perm):
    return right_codes(W, H, scale, zero, maxq, np.arange(len(H)))


def _reversed(W, H, scale, zero, maxq, perm):
    return right_codes(W, H, scale, zero, maxq, np.arange(len(H))[::-1])


def _descending(W, H, scale, zero, maxq, perm):
    return right_codes(W, H, scale, zero, maxq, np.argsort(-np.diag(H), kind="stable"))


def _weights_only(W, H, scale, zero, maxq, perm):
    return _back(feedback_rounding(W[:, perm], _factor(H), scale, zero, maxq), perm)


def _hessian_only(W, H, scale, zero, maxq, perm):
    return feedback_rounding(W, _factor(H[np.ix_(perm, perm)]), scale, zero, maxq)


def _hessian_only_put_back(W, H, scale, zero, maxq, perm):
    return _back(_hessian_only(W, H, scale, zero, maxq, perm), perm)


def _not_put_back(W, H, scale, zero, maxq, perm):
    return right_codes(W, H, scale, zero, maxq, perm)[:, perm]


def _put_back_twice(W, H, scale, zero, maxq, perm):
    return _back(right_codes(W, H, scale, zero, maxq, perm), perm)


def _wraps(W, H, scale, zero, maxq, perm):
    A = _factor(H[np.ix_(perm, perm)])
    s, o, X = scale[:, 0], zero[:, 0], W[:, perm]
    E, codes = np.zeros_like(X), np.zeros(X.shape, np.int64)
    for k in range(X.shape[1]):
        z = X[:, k] + E[:, :k] @ A[:k, k]
        codes[:, k] = (np.rint(z / s) + o).astype(np.int64) & 0xFF
        E[:, k] = X[:, k] - s * (codes[:, k] - o)
    return _back(codes, perm)


def _first_scale(W, H, scale, zero, maxq, perm):
    shared = [np.broadcast_to(a[:1], a.shape) for a in (scale, zero)]
    return right_codes(W, H, shared[0], shared[1], maxq, perm)


#: What it is, and its codes: (W, H, scale (m, 1), zero (m, 1), maxq, perm) -> (m, n) int64.  The
#: first that gives the codes in question is named, so the commonest come first.
SUSPECTS: dict[str, Suspect] = {
    "bit-identical to nearest: no feedback reaches the weights (is the factor's zero triangle "
    "read?)": _in_order(np.zeros_like),
    "dense rows of H^-1 in place of the rows of its Cholesky factor (the inverse is never "
    "downdated)": _in_order(_dense_inverse),
    "rows of H in place of those of the factor of H^-1": _in_order(
        lambda H: _targets_of(H / np.diag(H)[:, None])
    ),
    "the factor of the other triangle: L of H = L D L^T is for the reversed order": _in_order(
        _other_triangle
    ),
    "the feedback has the wrong sign": _in_order(lambda H: -_factor(H)),
    "the feedback is the inverse of T (or T where its inverse belongs)": _in_order(
        lambda H: np.linalg.inv(_factor(H))
    ),
    "the errors are not divided by the diagonal of the factor": _in_order(
        lambda H: _targets_of(np.linalg.cholesky(np.linalg.inv(H)).T)
    ),
    "the feedback is half of what it should be": _in_order(lambda H: _factor(H) / 2),
    "only the column before is fed back": _in_order(
        lambda H: np.triu(_factor(H)) - np.triu(_factor(H), 2)
    ),
    "halves are rounded up, not to even": _in_order(_factor, _half_up),
    "halves are rounded away from zero, not to even": _in_order(_factor, _half_away),
    "rounds down, not to nearest": _in_order(_factor, np.floor),
    "codes are clipped after the loop, not inside it: the errors of clipping are not fed back": (
        _in_order(_factor, clamp=False)
    ),
    "codes wrap round at 256 where they should be clipped": _wraps,
    "columns are rounded from 0 to n - 1 whatever the order": _natural,
    "columns are rounded from n - 1 to 0": _reversed,
    "columns are rounded by descending diagonal of H (pass order='act')": _descending,
    "the permutation is applied to W and not to H": _weights_only,
    "the permutation is applied to H and not to W": _hessian_only,
    "the permutation is applied to H and not to W, and undone": _hessian_only_put_back,
    "the permutation is not undone: codes come back in the order of rounding": _not_put_back,
    "the permutation is undone twice": _put_back_twice,
    "the scale of the first row is used for all rows": _first_scale,
    **{
        f"{share:g} of the mean diagonal is added to an H that is damped already (pass "
        f"damp={share:g})": _damped(share)
        for share in (0.01, 0.05, 0.1)
    },
}
