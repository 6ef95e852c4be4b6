"""An inverse brought up to date when new calibration data arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float, suggest_keywords
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.update.exact import inverse_of
from quiplinalg.factor.update.inverse import woodbury
from quiplinalg.hessian.products import add_product
from quiplinalg.hessian.tokens import read_tokens
from quiplinalg.kernels.record import select
from quiplinalg.symmetric import mirror, symmetric_matrix

__all__ = ["RefreshedInverse", "refresh_inverse"]

_REMEDY = "Invert it anew from a Hessian in float64, damped."


@dataclass(frozen=True, eq=False)
class RefreshedInverse:
    """The inverse (H + damp I)^-1 of a second moment H with new tokens in it.

    Attributes
    ----------
    inverse : ndarray, (n, n), float64
        Symmetric, both triangles.
    count : int or None
        Tokens of the mean H; None for a sum.
    damp : float
        The damping that is in the new inverse, in units of H: that of a mean has been diluted.
    """

    inverse: np.ndarray
    count: int | None
    damp: float


@suggest_keywords()
def refresh_inverse(
    Hinv: Any, X: Any, *, count: int | None = None, damp: float = 0.0
) -> RefreshedInverse:
    """Return the inverse of a second moment after k new tokens, from the inverse before them.

    Of a sum, A' = A + X^T X.  Of a mean over N tokens, H' = (N H + X^T X) / (N + k).

    Parameters
    ----------
    Hinv : array, (n, n), floating
        A^-1, or (H + damp I)^-1; symmetric positive definite.  Not changed.
    X : array, (..., n), floating
        The new tokens.
    count : int, optional
        N, where Hinv is of a mean; None where it is of a sum.
    damp : float
        What was added to the diagonal of H before it was inverted, in H's units: only to be told
        what it has become.

    Returns
    -------
    RefreshedInverse
        ``inverse`` (n, n) float64, ``count`` N + k or None, and the ``damp`` that is in it.

    Raises
    ------
    InvalidArgumentError, NonFiniteError, DTypeError
        Shapes or counts that do not fit; NaN or infinity; not real floating arrays.
    NotPositiveDefiniteError
        Hinv turns out not to be positive definite.  That is looked at where it is needed only: in
        I + X Hinv X^T for k < n.

    Notes
    -----
    Woodbury for k < n, with P = A^-1: P' = P - Z^T Z, Z = L^-1 X P, L L^T = I + X P X^T:
    3 k n^2 + 2 k^2 n flops, and 2 k n numbers beside the result.  From k = n on, A itself is found
    and inverted anew, 3 n^3 flops.  The same bits for any number of threads.  The relative error
    is a few n eps cond(A) for each refresh, and adds up: after many, invert a `Hessian` anew.

    Changing the damping is not an update of low rank: it changes every eigenvalue.  Here the
    damping stays what it is in the units of the sum, so that of a mean becomes damp N / (N + k).
    For any other value, such as 1 % of the new mean diagonal, factor H' + damp I anew.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 2.1.4.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.refresh_inverse(np.eye(2), np.array([[1.0, 1.0]])).inverse * 3
    array([[ 2., -1.],
           [-1.,  2.]])
    """
    kernels = select()
    P = symmetric_matrix(Hinv, "Hinv", kernels).astype(np.float64)
    n = P.shape[0]
    (rows,), _ = read_tokens((X,), ("X",), n, None)
    tokens = rows.astype(np.float64)
    k = tokens.shape[0]
    if count is not None and (
        isinstance(count, bool) or not isinstance(count, int | np.integer) or not 0 < count < 2**63
    ):
        raise InvalidArgumentError(
            f"count must be the number of tokens in the mean, from 1 to 2**63 - 1; got "
            f"count={count!r}. Leave it at None where Hinv is the inverse of a sum."
        )
    if not 0 <= as_float(damp) < np.inf:
        raise InvalidArgumentError(
            f"damp must be finite and at least 0, in units of H; got damp={damp!r}. Pass the "
            "damp attribute of the factor that Hinv was made of."
        )
    if count is not None:
        P /= count
    if n:
        try:
            P = woodbury(P, tokens.T) if k < n else _anew(P, tokens)
        except NotPositiveDefiniteError as error:
            raise NotPositiveDefiniteError(error.index, error.pivot, _REMEDY, "Hinv") from error
    if count is None:
        return RefreshedInverse(P, None, float(damp))
    P *= count + k
    return RefreshedInverse(P, int(count) + k, float(damp) * count / (count + k))


def _anew(P: np.ndarray, X: np.ndarray) -> np.ndarray:
    """Return (P^-1 + X^T X)^-1."""
    kernels = select()
    A = inverse_of(P, kernels)
    add_product(X, X, A, upper=True)
    return inverse_of(mirror(A, kernels), kernels)
