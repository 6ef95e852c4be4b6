"""Newton's method on the dual of the column-bounded feedback problem of QuIP's algorithm 5.

The problem is min tr(R H R^T) over unit upper triangular R = I + X with ||X e_j||^2 <= c for each
column j.  With multipliers mu >= 0 the Lagrangian is tr(R (H + M) R^T) - (1 + c) sum mu, where
M = diag(mu), and LDLQ's own theorem minimises it: H + M = T D T^T, R = T^-1.  So the dual is

    g(mu) = sum_k D_k(H + M) - (1 + c) sum_j mu_j,      dg/dmu_j = ||X e_j||^2 - c,
    -d2g/dmu_i dmu_j = 2 sum_{k < l} X_ki X_kj R_li R_lj / D_l,

concave, in n unknowns, and one Cholesky factorisation and one triangular inverse evaluate it.  The
bounded feedback is thus LDLQ's with a damping mu_j of its own for each column, and

    tr(R H R^T) - g(mu) = sum_j mu_j (c - ||X e_j||^2)

certifies it.  The Newton step is that of 1 / ||X e_j|| = c^-1/2, as in trust-region methods: the
left side is nearly linear in mu_j, where ||X e_j||^2 - c is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from quiplinalg.errors import ConvergenceError
from quiplinalg.factor.recursive import factor_reversed
from quiplinalg.kernels.record import Kernels
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["Multipliers", "column_multipliers"]

_MARGIN = 1e-9  # of c, that the solver aims below it: what it returns is inside the bound
_WIDEST = 1e-4
_LEAF = 8  # columns whose pairs are multiplied out
_LEAVES = 8
_TILE = 128  # rows of the curvature that are one task
_ROWS = 256
_ASCENT = 1e-4
_SHORTEST = 1e-6


@dataclass(frozen=True)
class Multipliers:
    """The solution, and its certificate."""

    values: np.ndarray  # (n,) at least 0, in the caller's column order, as the shift
    factor: np.ndarray  # (n, n) of H + diag(shift + values), as `factor_reversed`
    objective: float  # tr(R H R^T), R = T^-1 of that factor, H with its shift
    gap: float  # objective less the dual bound, at least 0
    iterations: int


@dataclass(frozen=True)
class _Point:
    """The dual at some multipliers; columns are numbered from the last to the first."""

    mu: np.ndarray  # (n,)
    pivots: np.ndarray  # (n,) sqrt(D)
    inverse: np.ndarray  # (n, n), row j is column j of D^-1/2 R: zero before j
    lengths: np.ndarray  # (n,) ||X e_j||^2

    def value(self, bound: float) -> float:
        """Return g for this bound in place of c."""
        return float(np.square(self.pivots).sum() - (1 + bound) * self.mu.sum())

    def residual(self, bound: float) -> float:
        """Return by how much the point is not optimal, relative to the bound."""
        slack = self.lengths - bound
        return float(np.where(self.mu > 0, np.abs(slack), slack).max() / bound)


def column_multipliers(
    H: np.ndarray,
    order: np.ndarray,
    shift: np.ndarray,
    factor: np.ndarray,
    kernels: Kernels,
    c: float,
    tol: float = 1e-6,
    max_iterations: int = 100,
) -> Multipliers:
    """Solve the dual; see the module's docstring.

    Parameters
    ----------
    H, order, shift : ndarray, (n, n), (n,), (n,)
        As in `factor_reversed`.
    factor : ndarray, (n, n)
        What that returns.  Not changed; it is the result's where no column is beyond its bound.
    kernels : Kernels
    c : float
        At least 0.  At 0, R = I is all there is: the factor is that of the diagonal of H.
    tol : float
        Largest gap, relative to the objective.
    max_iterations : int

    Raises
    ------
    ConvergenceError

    Notes
    -----
    Where T^-1 of H is within the bound, every multiplier is exactly 0, after n^3/3 flops.  Else
    about 5 steps (up to 40 where H is all but singular) of 2 n^3/3 flops for the dual and 2 to 4
    f^2 n for its curvature, f the number of columns at their bound; 48 n^2 bytes.  Whatever
    ``tol``, the steps go on to a part in 1e9 of the bound, where they double the digits, so that
    the solution hardly depends on the path to it.  The same bits for any number of threads.
    """
    n = factor.shape[0]
    if c == 0:
        kept = (H.diagonal() + shift)[order[::-1]]
        return Multipliers(np.zeros(n), np.diag(np.sqrt(kept)), float(kept.sum()), 0.0, 0)
    # a power of 2, which is exact: the squares of D stay in range
    unit = 2.0 ** -int(np.frexp(factor.diagonal().max(initial=0.0))[1])

    def factor_at(mu: np.ndarray) -> np.ndarray:
        damping = shift.copy()
        damping[order] += mu[::-1] / unit**2
        return factor_reversed(H, order, damping, kernels)

    def point_at(mu: np.ndarray) -> _Point:
        return _evaluate(factor_at(mu) * unit, mu)

    with single_blas_thread():
        here = _evaluate(factor * unit, np.zeros(n))
        if not here.lengths.max(initial=0.0) > c:
            objective = float(np.square(factor.diagonal()[::-1]).sum())
            return Multipliers(np.zeros(n), factor, objective, 0.0, 0)
        guess = point_at(_alone(H, order, shift, unit, c))
        if guess.value(c) > here.value(c):
            here = guess
        iterations, margin = 0, _MARGIN
        while iterations < max_iterations:
            bound = c * (1 - margin)
            there = _step(here, point_at, bound) if here.residual(bound) > margin / 2 else None
            if there is not None:
                here, iterations = there, iterations + 1
            elif here.lengths.max() > c and margin < _WIDEST:
                margin *= 10  # rounding errors are larger than it
            else:
                break
    objective = float(np.square(here.pivots).sum() - (here.mu * (1 + here.lengths)).sum())
    gap = float((here.mu * (c - here.lengths)).sum())
    excess = float(here.lengths.max()) / c - 1
    if excess > 0 or not gap <= tol * objective:
        raise ConvergenceError(
            f"The bounded feedback must be found to a gap of {tol:g} of its objective, every "
            f"column within its bound; got a gap of {gap / objective:.2g} and a column "
            f"{max(excess, 0.0):.2g} beyond its bound after {iterations} steps. "
            "Raise damp or c: H is close to singular."
        )
    scale = unit**-2
    values = np.empty(n)
    values[order] = here.mu[::-1] * scale
    return Multipliers(values, factor_at(here.mu), objective * scale, gap * scale, iterations)


def _alone(
    H: np.ndarray, order: np.ndarray, shift: np.ndarray, unit: float, c: float
) -> np.ndarray:
    """Return the multipliers that hold each column at its bound if it were the only one.

    X e_j = -H_{<j,j} / (H_jj + mu_j) then.  Where c is small this is nearly the solution.
    """
    n = order.shape[0]
    mu = np.zeros(n)

    def rows(j: int) -> None:
        at = order[j : j + _ROWS]
        # the triangle that is factored
        before = np.tril(H[np.ix_(at, order[: j + len(at)])].astype(np.float64), j - 1)
        before *= unit**2
        own = (H[at, at] + shift[at]) * unit**2
        lengths = np.sqrt(np.einsum("ij,ij->i", before, before) / c)
        mu[j : j + len(at)] = np.maximum(lengths - own, 0)

    run_all(rows, [(j,) for j in range(0, n, _ROWS)])
    return mu[::-1].copy()


def _evaluate(factor: np.ndarray, mu: np.ndarray) -> _Point:
    """Return the dual at mu, from the reversed factor there."""
    from scipy.linalg.lapack import dtrtri

    n = factor.shape[0]
    pivots = factor.diagonal().copy()
    if n == 0:
        return _Point(mu, pivots, factor, np.zeros(0))
    # H + M reversed is L L^T, L = factor^T: row j of L^-T is column j of D^-1/2 R
    inverse = dtrtri(factor.T, lower=1, overwrite_c=1)[0].T

    def lengths(j: int) -> np.ndarray:
        columns = np.arange(j, min(j + _ROWS, n))
        X = _strict(inverse[columns[0] : columns[-1] + 1], pivots, columns)
        return np.einsum("ij,ij->i", X, X)

    parts = run_all(lengths, [(j,) for j in range(0, n, _ROWS)])
    return _Point(mu, pivots, inverse, np.concatenate(parts))


def _strict(inverse: np.ndarray, pivots: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return these columns of X, as rows, from those of D^-1/2 R."""
    X = inverse * pivots
    X[np.arange(len(columns)), columns] = 0
    return X


def _step(here: _Point, point_at: Callable[[np.ndarray], _Point], bound: float) -> _Point | None:
    """Return the next point, or None where rounding errors are all that is left."""
    from scipy.linalg import LinAlgError, cho_factor, cho_solve

    slope = here.lengths - bound
    free = np.flatnonzero((here.mu > 0) | (slope > 0))
    K = _curvature(here, free)
    # of unit diagonal, whatever the units of the columns; a little more keeps it definite
    unit = 1 / np.sqrt(K.diagonal())
    K *= unit
    K *= unit[:, None]
    K.flat[:: len(free) + 1] += 1e-14 * len(free)
    try:
        solver = cho_factor(K, lower=True, overwrite_a=True, check_finite=False)
    except LinAlgError:
        return None
    ratio = np.sqrt(here.lengths[free] / bound)
    secular = 2 * here.lengths[free] * (ratio - 1)
    noise = 64 * np.finfo(float).eps * (np.square(here.pivots).sum() + here.mu.sum() * (1 + bound))
    for right, shortest in ((secular, 1.0), (slope[free], _SHORTEST)):
        direction = unit * cho_solve(solver, unit * right, check_finite=False)
        size = 1.0
        while size >= shortest:
            mu = here.mu.copy()
            mu[free] = np.maximum(mu[free] + size * direction, 0)
            there = point_at(mu)
            rise = float(slope @ (mu - here.mu))
            gain = there.value(bound) - here.value(bound)
            if rise > 0 and gain >= _ASCENT * rise and gain > noise:
                return there
            # close to the solution g is flat to its last digit, and its slope is not
            if gain >= -noise and there.residual(bound) <= here.residual(bound) / 2:
                return there
            size /= 2
    return None


def _curvature(here: _Point, free: np.ndarray) -> np.ndarray:
    """Return -d2g of the free columns, (f, f); only its lower triangle is meant to be read.

    With S the rows of D^-1/2 R, the pairs k < l of the sum are those of two halves of a range,
    K += (S_A^T S_A) o (X_B^T X_B), and those within each half; in a leaf each pair is a vector
    S_l o X_k, and K += the Gram matrix of these.  Tiles of K are independent.
    """
    n, f = len(here.mu), len(free)
    chosen = here.inverse[free]
    X = np.ascontiguousarray(_strict(chosen, here.pivots, free).T)
    S = np.ascontiguousarray(chosen.T)
    K = np.zeros((f, f))
    ranges = list(_halves(0, n))
    halves = [r for r in ranges if r[1] < r[2]]
    leaves = [(a, b) for a, _, b in ranges if b - a <= _LEAF]
    pairs = []  # the columns l, k of all the pairs of some leaves, and where these end
    for i in range(0, len(leaves), _LEAVES):
        group = leaves[i : i + _LEAVES]
        inner = [np.array(np.triu_indices(b - a, 1)) + a for a, b in group]
        pairs.append((group[-1][1], *np.concatenate(inner, axis=1)))

    def tile(p: int) -> None:
        def reach(stop: int) -> int:  # columns from stop on are zero in the rows before it
            return min(p + _TILE, f, int(np.searchsorted(free, stop)))

        for a, b, stop in halves:
            q = reach(b)
            if q > p:
                part = S[a:b, p:q].T @ S[a:b, :q]
                part *= X[b:stop, p:q].T @ X[b:stop, :q]
                K[p:q, :q] += part
        for stop, l, k in pairs:
            q = reach(stop)
            if q > p:
                products = S[l, :q] * X[k, :q]
                K[p:q, :q] += products[:, p:].T @ products

    # from the last, which are the longest, so that the threads end together
    run_all(tile, [(p,) for p in range(0, f, _TILE)][::-1])
    K *= 2
    return K


def _halves(a: int, b: int) -> Iterator[tuple[int, int, int]]:
    """Yield (start, middle, end) of every split of a range, and (start, end, end) of the leaves."""
    if b - a <= _LEAF:
        yield a, b, b
        return
    middle = (a + b) // 2
    yield a, middle, b
    yield from _halves(a, middle)
    yield from _halves(middle, b)
