"""The dominant part of a Hessian that is only known by its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.hessian.operator import Operator, check_count, standard_error
from quiplinalg.parallel import single_blas_thread

__all__ = ["LowRankEstimate", "low_rank"]

_REMAINDER_PROBES = 10


@dataclass(frozen=True, eq=False)
class LowRankEstimate:
    """A symmetric A as ``vectors`` diag(``values``) ``vectors``^T and a remainder.

    Attributes
    ----------
    values : ndarray, (rank,), float64
        By falling size.
    vectors : ndarray, (n, rank), float64
        Orthonormal columns u.
    residuals : ndarray, (rank,), float64
        |A u - value u|: A has an eigenvalue within it of each value, for certain up to rounding.
    remainder : float
        Estimate of ||A - vectors diag(values) vectors^T||_F.
    remainder_error : float
        Its standard error, from 10 probes.
    products : int
        Products with vectors that were taken.
    """

    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray
    remainder: float
    remainder_error: float
    products: int

    def reconstruct(self) -> np.ndarray:
        """Return vectors diag(values) vectors^T, (n, n)."""
        return (self.vectors * self.values) @ self.vectors.T


@suggest_keywords()
def low_rank(
    product: Callable[[Any], Any],
    n: int,
    rank: int,
    *,
    oversample: int = 8,
    iterations: int = 2,
    seed: int = 0,
    like: Any = None,
    blocks: bool = False,
) -> LowRankEstimate:
    """Find the eigenvalues of largest size, and their vectors, by randomised subspace iteration.

    Parameters
    ----------
    product, n, seed, like, blocks
        As of `hutchinson`; A may be indefinite.
    rank : int
        Pairs to return, at least 1 and at most n.
    oversample : int
        Vectors iterated beyond ``rank``: more of them converge faster.
    iterations : int
        Multiplications of the subspace by A after the first.

    Returns
    -------
    LowRankEstimate
        ``values``, ``vectors``, ``residuals``, and ``remainder`` with its standard error.

    Raises
    ------
    InvalidArgumentError, NonFiniteError, DTypeError
        As `hutchinson`.

    Notes
    -----
    Q = orth(A^(iterations + 1) S), S random signs; the pairs are those of Q^T A Q.  (rank +
    oversample)(iterations + 2) + 10 products and some 4 n (rank + oversample)^2 flops for each
    iteration.  The error of a value is below its residual, and for separate eigenvalues near its
    square over the gap; nothing says that no larger eigenvalue was missed, but that has
    probability zero for random signs in all but special A.  ``remainder`` is unbiased in its
    square.

    References
    ----------
    Halko, Martinsson and Tropp, Finding structure with randomness, arXiv 0909.4061.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> found = ql.low_rank(lambda v: np.array([9.0, -4.0, 0.0]) * v, 3, 2)
    >>> np.round(found.values, 12)
    array([ 9., -4.])
    """
    operator = Operator(product, n, seed, like, blocks)
    wanted = check_count(rank, "rank", 1)
    if wanted > operator.n:
        raise InvalidArgumentError(
            f"rank must be at most n={operator.n}; got rank={rank}. Lower it."
        )
    width = min(wanted + check_count(oversample, "oversample", 0), operator.n)
    with single_blas_thread():
        Q, _ = np.linalg.qr(operator(operator.probes(width)))
        for _ in range(check_count(iterations, "iterations", 0)):
            Q, _ = np.linalg.qr(operator(Q))
        Z = operator(Q)
        T = Q.T @ Z
        theta, V = np.linalg.eigh((T + T.T) / 2)
        best = np.argsort(-np.abs(theta), kind="stable")[:wanted]
        values, U = theta[best], Q @ V[:, best]
        residuals = np.linalg.norm(Z @ V[:, best] - U * values, axis=0)
        probes = operator.probes(_REMAINDER_PROBES, first=width)
        rest = operator(probes) - U @ (values[:, None] * (U.T @ probes))
    squares = np.square(rest).sum(axis=0)
    remainder = float(np.sqrt(squares.mean()))
    spread = float(standard_error(squares))
    return LowRankEstimate(
        values=values,
        vectors=U,
        residuals=residuals,
        remainder=remainder,
        remainder_error=spread / (2 * remainder) if remainder else 0.0,
        products=operator.products,
    )
