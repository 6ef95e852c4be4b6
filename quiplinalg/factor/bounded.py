"""Feedback for finite grids: the best unit triangular R whose columns are bounded (QuIP)."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp, damped
from quiplinalg.factor.multipliers import column_multipliers
from quiplinalg.factor.recursive import factor_reversed
from quiplinalg.kernels.record import select
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.results import BoundedFeedback
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["bounded_feedback", "check_bound"]

_ROWS = 128
_LEAST = 1e-30  # the squares of smaller feedback leave the range of float64


def check_bound(c: Any) -> float:
    """Return the bound of the feedback as a float."""
    number = isinstance(c, (int, float, np.integer, np.floating)) and not isinstance(c, bool)
    if not number or not (c == 0 or _LEAST <= float(c) < np.inf):
        raise InvalidArgumentError(
            f"c must be a finite number of at least 0, and if not 0, at least {_LEAST:g}; got "
            f"c={c!r}. It bounds the squared length of each column of the feedback: 1 is moderate, "
            "0 is none."
        )
    return float(c)


def bounded_feedback(
    H: Any,
    c: float = 1.0,
    *,
    damp: float | str | AbsoluteDamp = 0.0,
    tol: float = 1e-6,
    max_iterations: int = 100,
    backend: str = "auto",
) -> BoundedFeedback:
    """Minimise tr(R H R^T) over unit upper triangular R with ||R e_j||^2 <= 1 + c for each column.

    The problem of QuIP's algorithm 5.  Rounding column by column with the feedback U = R^-1 - I
    makes the error W_hat - W = eta R, with eta the errors of the single roundings: the bound on
    the columns of R bounds how far the targets stray from W.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite; both triangles are checked.  Not changed.
    c : float
        At least 0.  0 is R = I, no feedback; where T^-1 of H = T D T^T is within the bound, it is
        the solution, as without a bound.
    damp : float, "auto" or AbsoluteDamp
        Added to the diagonal of H, as in `udu`; H below is with it.
    tol : float
        Largest gap between the objective and its lower bound, relative to the objective.
    max_iterations : int
        Newton steps.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    BoundedFeedback
        ``R``, ``T`` = R^-1 and ``U`` = T - I, the multipliers, the objective and the lower bound
        that certifies it.

    Raises
    ------
    ConvergenceError
        The gap is above ``tol`` after ``max_iterations``, or rounding errors keep it there.
    NotPositiveDefiniteError, NonFiniteError, InvalidArgumentError, DTypeError
        As `udu`.  A dead column (zero diagonal) is no error: it has no feedback.

    Notes
    -----
    The dual has n unknowns: for multipliers mu >= 0 of the columns,

        g(mu) = sum_k D_k(H + diag mu) - (1 + c) sum_j mu_j <= tr(R H R^T) for every feasible R,

    with H + diag(mu) = T D T^T, and R = T^-1 at its maximum.  Newton's method on g, about 5 steps
    of 2 n^3/3 flops for a factor and its inverse and up to 4 n^3 for the curvature (less where few
    columns are at their bound), and 48 n^2 bytes.  In float64 always, and the same bits for any
    number of threads.  The columns are within the bound to the last digit, by a part in 1e9 (more
    where H is all but singular) of c.

    With X* = T^-1 - I of H itself and t = min(1, (c / max_j ||X* e_j||^2)^1/2), the objective is
    between tr D and tr D + (1 - t)^2 (tr H - tr D), and does not increase with c.

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304), algorithm 5 and theorem 7.  The dual and
    its solution are this library's.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> found = ql.bounded_feedback(np.array([[5.0, 4.0], [4.0, 4.0]]), 0.25)
    >>> np.round(found.R, 6)  # without the bound, -1 in place of -0.5
    array([[ 1. , -0.5],
           [ 0. ,  1. ]])
    >>> round(found.objective, 6)
    6.0
    """
    bound = check_bound(c)
    if not (isinstance(tol, (int, float)) and 0 < tol < np.inf):
        raise InvalidArgumentError(
            f"tol must be a positive number; got tol={tol!r}. 1e-6 of the objective is ample."
        )
    if (
        not isinstance(max_iterations, int)
        or isinstance(max_iterations, bool)
        or max_iterations < 1
    ):
        raise InvalidArgumentError(
            "max_iterations must be a whole number of at least 1; got "
            f"max_iterations={max_iterations!r}. 100 are more than any H needs."
        )
    kernels = select(backend)
    matrix = symmetric_matrix(H, "H", kernels)
    n = matrix.shape[0]
    order = np.arange(n)
    diagonal = matrix.diagonal()
    factor, value, shift = damped(
        lambda _, shift: factor_reversed(matrix, order, shift, kernels), diagonal, damp
    )
    found = column_multipliers(matrix, order, shift, factor, kernels, bound, tol, max_iterations)
    del factor
    # dead columns were factored with a shift that is not theirs; R has no feedback there
    objective = found.objective - float((shift - value).sum())
    T = found.factor
    half = (n + 1) // 2
    run_all(kernels.unit_rows, [(T, j, min(j + _ROWS, half)) for j in range(0, half, _ROWS)])
    return BoundedFeedback(
        R=_unit_inverse(T.T),
        T=T.T,
        multipliers=found.values,
        objective=objective,
        lower_bound=objective - found.gap,
        c=bound,
        damp=value,
        iterations=found.iterations,
    )


def _unit_inverse(T: np.ndarray) -> np.ndarray:
    from scipy.linalg.lapack import dtrtri

    if not T.size:
        return T.copy()
    with single_blas_thread():
        return dtrtri(T, lower=0, unitdiag=1)[0]
