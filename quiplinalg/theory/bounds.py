"""Bounds of QuIP and QuIP#: lemma 2's chain, Hadamard incoherence, the margin of theorem 7."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.bounded import check_bound
from quiplinalg.parallel import single_blas_thread
from quiplinalg.theory.pivots import check_count, pivots, psd_matrix, step_sums

__all__ = [
    "Lemma2",
    "hadamard_mu_hessian",
    "hadamard_mu_weight",
    "lemma2",
    "safe_loss",
    "safe_margin",
]


@dataclass(frozen=True)
class Lemma2:
    """The terms of lemma 2, each at most the next, all in units of H.

    Attributes
    ----------
    determinant : float
        n det(H)^(1/n); 0 where H is singular.
    trace_D : float
        tr D, in the order that was asked for.
    root_diagonal : float
        max_i (H^1/2)_ii tr(H^1/2).
    incoherent : float
        (mu^2 / n) tr(H^1/2)^2.
    low_rank : float
        (mu^2 k / n) tr H.
    trace_H : float
        tr H, which tr D is at most too; the terms above it say nothing new.
    mu : float
        sqrt(n) max |Q_ij| over the eigenvectors with non-zero eigenvalues, of the basis found.
    rank : int
        k: eigenvalues above 8 n eps of the largest.
    """

    determinant: float
    trace_D: float
    root_diagonal: float
    incoherent: float
    low_rank: float
    trace_H: float
    mu: float
    rank: int

    @property
    def chain(self) -> tuple[float, float, float, float, float]:
        """determinant <= trace_D <= root_diagonal <= incoherent <= low_rank."""
        return (
            self.determinant, self.trace_D, self.root_diagonal, self.incoherent, self.low_rank,
        )  # fmt: skip


def lemma2(H: Any, order: Any = "natural") -> Lemma2:
    """Return the terms of lemma 2.

    n det(H)^(1/n) <= tr D <= max_i (H^1/2)_ii tr(H^1/2) <= (mu^2/n) tr(H^1/2)^2
    <= (mu^2 k/n) tr H, for H of rank k with a mu-incoherent eigenbasis.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite.
    order : str or array, (n,), integers
        As in `ldlq_average`; the other terms are the same for every order.

    Returns
    -------
    Lemma2

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError

    Notes
    -----
    9 n^3 flops for the eigenvectors.  The chain holds exactly; as computed, to about n eps.  With
    repeated eigenvalues another eigenbasis may have a smaller mu (`mu_hessian`): the chain holds
    for every one.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), lemma 2.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> terms = ql.theory.lemma2(np.eye(4))
    >>> terms.determinant, terms.trace_D, terms.root_diagonal, terms.rank
    (4.0, 4.0, 4.0, 4)
    """
    matrix = psd_matrix(H)
    n = matrix.shape[0]
    if n == 0:
        return Lemma2(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, float("nan"), 0)
    from scipy.linalg import eigh

    D = pivots(matrix, order)
    with single_blas_thread():
        values, Q = eigh(matrix)
    floor = 8 * n * float(np.finfo(np.float64).eps) * max(float(values[-1]), 0.0)
    live = values > floor
    values, Q = values[live], Q[:, live]
    rank = int(live.sum())
    total = float(matrix.trace())
    if rank == 0:
        return Lemma2(0.0, float(D.sum()), 0.0, 0.0, 0.0, total, float("nan"), 0)
    roots = np.sqrt(values)
    mu = math.sqrt(n) * float(np.abs(Q).max())
    root_trace = float(roots.sum())
    return Lemma2(
        determinant=n * math.exp(float(np.log(values).mean())) if rank == n else 0.0,
        trace_D=float(D.sum()),
        root_diagonal=float((np.square(Q) @ roots).max()) * root_trace,
        incoherent=mu**2 / n * root_trace**2,
        low_rank=mu**2 * rank / n * total,
        trace_H=total,
        mu=mu,
        rank=rank,
    )


def hadamard_mu_hessian(n: int, delta: float) -> float:
    """Return the mu that a randomized Hadamard rotation makes any H incoherent with.

    mu_H = sqrt(2 log(2 n^2 / delta)), with probability at least 1 - delta over its signs.

    Parameters
    ----------
    n : int
        Columns, at least 1.
    delta : float
        Probability of failure, in (0, 1).

    Returns
    -------
    float

    Notes
    -----
    For signs and one n x n Hadamard matrix with entries +-1/sqrt(n).  Above sqrt(n), the largest
    mu there is, the bound says nothing: for delta = 0.01 that is n < 24.

    References
    ----------
    Tseng et al., QuIP# (arXiv 2402.04396), lemma 3.1.

    Examples
    --------
    >>> import quiplinalg as ql
    >>> round(ql.theory.hadamard_mu_hessian(4096, 0.01), 2)
    6.62
    """
    size = check_count(n, "n", 1)
    return math.sqrt(2 * (math.log(2) + 2 * math.log(size) - math.log(_probability(delta))))


def hadamard_mu_weight(m: int, n: int, delta: float) -> float:
    """Return the mu that randomized Hadamard rotations of both sides make any W incoherent with.

    mu_W = 2 log(4 m n / delta), with probability at least 1 - delta over their signs.

    Parameters
    ----------
    m, n : int
        Shape of W, at least 1.
    delta : float
        Probability of failure, in (0, 1).

    Returns
    -------
    float

    Notes
    -----
    Rotating the input side alone leaves a heavy row heavy, which a scale for each row takes care
    of; the bound is for both sides.

    References
    ----------
    Tseng et al., QuIP# (arXiv 2402.04396), lemma 3.1.

    Examples
    --------
    >>> import quiplinalg as ql
    >>> round(ql.theory.hadamard_mu_weight(4096, 4096, 0.01), 2)
    45.25
    """
    rows, columns = check_count(m, "m", 1), check_count(n, "n", 1)
    return 2 * (math.log(4) + math.log(rows) + math.log(columns) - math.log(_probability(delta)))


def safe_margin(m: int, n: int, c: float, delta: float) -> float:
    """Return how far inside its grid every weight must lie for `safe` to clamp nothing.

    t = (c log(2 m n / delta) / 2)^1/2 steps, with probability at least 1 - delta (theorem 7).

    Parameters
    ----------
    m, n : int
        Shape of W, at least 1.
    c : float
        The bound of the feedback, ||R e_j||^2 <= 1 + c.
    delta : float
        Probability of failure, in (0, 1).

    Returns
    -------
    float
        In steps of the grid (the largest of a row, where groups differ).

    Notes
    -----
    For stochastic rounding.  By Azuma and Hoeffding a target moves t steps from its weight with
    probability 2 exp(-2 t^2 / c) at most.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), theorem 7.

    Examples
    --------
    >>> import quiplinalg as ql
    >>> round(ql.theory.safe_margin(4096, 4096, 1.0, 0.01), 2)
    3.31
    """
    rows, columns = check_count(m, "m", 1), check_count(n, "n", 1)
    odds = math.log(2) + math.log(rows) + math.log(columns) - math.log(_probability(delta))
    return math.sqrt(check_bound(c) * odds / 2)


def safe_loss(objective: float, m: int, n: int, delta: float, scale: Any = 1.0) -> float:
    """Return what the loss of `safe` is at most, with probability at least 1 - delta.

    (1/2) log(4 m n / delta) J sum_i s_i^2, J = tr(R H R^T), for weights at least
    ``safe_margin(m, n, c, delta / 2)`` steps inside their grid.

    Parameters
    ----------
    objective : float
        J, the ``trace_D`` of the result, in units of H with its damping.
    m, n : int
        Shape of W, at least 1.
    delta : float
        Probability of failure, in (0, 1).
    scale : float or array, (m, 1)
        The step, or that of each row.

    Returns
    -------
    float
        Of the loss under the damped H; the undamped one is smaller.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), theorem 7.

    Examples
    --------
    >>> import quiplinalg as ql
    >>> round(ql.theory.safe_loss(2.0, 4, 8, 0.01), 2)
    37.83
    """
    rows, columns = check_count(m, "m", 1), check_count(n, "n", 1)
    value = as_float(objective)
    if not 0 <= value < math.inf:
        raise InvalidArgumentError(
            f"objective must be finite and at least 0; got objective={objective!r}. It is the "
            "trace_D of a result of safe."
        )
    odds = math.log(4) + math.log(rows) + math.log(columns) - math.log(_probability(delta))
    return odds / 2 * value * float(step_sums(scale, rows, 1)[0])


def _probability(delta: Any) -> float:
    value = as_float(delta)
    if not 0 < value < 1:
        raise InvalidArgumentError(
            f"delta must be a probability in (0, 1); got delta={delta!r}. 0.01 is common."
        )
    return value
