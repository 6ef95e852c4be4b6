"""H_F^-1 through long chains of removals, adjunctions and new data, with a bound on its error."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.arrays import read_only
from quiplinalg.errors import (
    ConditioningWarning,
    InvalidArgumentError,
    NotPositiveDefiniteError,
    level_of_caller,
)
from quiplinalg.factor.damping import AbsoluteDamp, damped
from quiplinalg.factor.update.active import inverse_adjoin_into, inverse_remove_into
from quiplinalg.factor.update.bound import (
    after_adjoin,
    after_data,
    after_remove,
    fresh,
    spread,
)
from quiplinalg.factor.update.checks import check_index, check_range, indices, scaled, vectors
from quiplinalg.factor.update.exact import energy_residual, inverse_of
from quiplinalg.factor.update.inverse import capacitance, subtract
from quiplinalg.kernels.record import select
from quiplinalg.parallel import single_blas_thread
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["ActiveInverse"]


class ActiveInverse:
    """H, a set F of its rows that are active, and B = H_F^-1, kept accurate through any chain.

    Every change of F or of H costs O(n^2).  ``bound`` is an upper estimate of the error of B::

        bound >= || H_F^(1/2) B H_F^(1/2) - I ||_2

    which is the spectral radius of B H_F - I: (1 - bound) x^T H_F^-1 x <= x^T B x <= (1 + bound)
    x^T H_F^-1 x for every x, so that it is the relative error of each diagonal element of B, and
    with it of each cost e^2 / B_qq.  In the 2-norm, ||B H_F - I|| <= sqrt(cond(H_F)) bound.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite; both triangles are checked.  Copied, in float64.
    damp : float, "auto" or AbsoluteDamp
        As in `udu`; what is added to the diagonal stays, whatever data come later.
    active : sequence or set of int, optional
        F at the start; all rows by default.
    tolerance : float
        B is computed anew when ``bound`` passes it.
    backend : str
        "auto", "cpu" or "generic".

    Attributes
    ----------
    damp : float
        What is in the diagonal, in units of H.
    tolerance : float
    bound : float
    refreshes : int
        How often B was computed anew after the start.

    Raises
    ------
    NotPositiveDefiniteError
        H_F with its damping is not positive definite; ``index`` is a row of H.
    NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky`.

    Notes
    -----
    Everything is in float64, whatever H is in: n removals in float32 lose positive definiteness
    for n above about 1000.  Memory: H, B and, while it is computed anew, H_F.

    The bound.  Let u = 2^-53, f = |F|, g = min((sum_i sqrt(B_ii H_ii))^2, Lambda sum_i B_ii H_ii)
    with Lambda >= ||diag(H)^(-1/2) H diag(H)^(-1/2)||_2, and e = (min(f, 4 sqrt(f)) + 2) u for a
    sum of f products (4 sqrt(f): rounding errors as independent, Higham and Mary, 2019):

    * A removal of k rows without rounding never enlarges the error, because Schur complements are
      monotone; rounding adds (4 k + 8) u g.
    * Adjoining q multiplies it by H_qq / r, r the Schur complement, and adds a few e sqrt(Lambda
      sum_i B_ii H_ii) H_qq / r, through the rounding of H_F^-1 H_Fq.
    * Adding data multiplies it by 1, taking data off by 1 / lambda_min(I - U^T B U).
    * Computing B anew sets it to four times a Frobenius norm of B H_F - I that is estimated from 8
      fixed vectors of signs.

    Nothing depends on the scales of the rows of H.  The policy: after each change B is computed
    anew, by a Cholesky factorisation of H_F in float64, n^3 flops, if the bound has passed
    ``tolerance`` - or four times what it is right after that, where H_F is so ill-conditioned
    that ``tolerance`` is out of reach, which a ConditioningWarning says once.  A change that meets
    a pivot that is not positive is tried once more with a fresh B before it fails.  The same bits
    for any number of threads.

    References
    ----------
    Frantar and Alistarh, Optimal Brain Compression (arXiv 2208.11580).
    Higham and Mary, A new approach to probabilistic rounding error analysis,
    SIAM J. Sci. Comput. 41 (2019).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> chain = ql.ActiveInverse(np.array([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 0.0, 4.0]]))
    >>> chain.remove(1)
    >>> chain.active, chain.inverse.diagonal()
    (array([0, 2]), array([0.5 , 0.25]))
    >>> chain.update(np.array([1.0, 0.0, 2.0]))
    >>> bool(chain.residual() <= chain.bound < 1e-13)
    True
    """

    def __init__(
        self,
        H: Any,
        *,
        damp: float | str | AbsoluteDamp = 0.0,
        active: Any = None,
        tolerance: float = 1e-5,
        backend: str = "auto",
    ):
        self._kernels = select(backend)
        self._backend = backend
        matrix = symmetric_matrix(H, "H", self._kernels)
        n = len(matrix)
        if not 0 < as_float(tolerance) < 1:
            raise InvalidArgumentError(
                f"tolerance must be between 0 and 1; got tolerance={tolerance!r}. "
                "It is a relative error of the costs, 1e-5 by default."
            )
        self.tolerance = float(tolerance)
        self.refreshes, self.bound, self._warned = 0, 0.0, False
        everything = active is None
        chosen = range(n) if everything else indices(active, "active", 1, n, True)[0]
        self._active = np.array(chosen, np.int64)
        self._store = np.empty((n, n))
        plain = np.array(matrix, np.float64)

        def attempt(value: float, _: np.ndarray) -> np.ndarray:
            shifted = plain.copy()
            shifted.flat[:: n + 1] += value
            self._H = shifted
            self._compute()
            return shifted

        _, self.damp, _ = damped(attempt, plain.diagonal(), damp)
        self._spread = spread(self._H)

    @property
    def active(self) -> np.ndarray:
        """F, (f,) int64, ascending."""
        return self._active.copy()

    @property
    def inverse(self) -> np.ndarray:
        """B, (f, f) float64, rows in the order of ``active``; a read-only view, until B changes."""
        return read_only(self._inverse)

    @property
    def _inverse(self) -> np.ndarray:
        f = len(self._active)
        return self._store[:f, :f]

    def hessian(self) -> np.ndarray:
        """Return H_F with its damping and all data, (f, f) float64."""
        return self._H[np.ix_(self._active, self._active)]

    def residual(self) -> float:
        """Return what ``bound`` bounds, || H_F^(1/2) B H_F^(1/2) - I ||_2, by 4 n^3 flops."""
        return energy_residual(self._inverse, self.hessian(), self._backend)

    def refresh(self) -> None:
        """Compute B anew, n^3 flops; raises NotPositiveDefiniteError if H_F is not."""
        self._compute()
        self.refreshes += 1

    def remove(self, S: Any) -> None:
        """Take one or several rows of H out of F.

        Parameters
        ----------
        S : int, or a sequence or set of int
            Rows of H, all active.
        """
        places = self._places(indices(S, "S", 1, len(self._H), True)[0])

        def step() -> float:
            B, h = self._inverse, self._H.diagonal()[self._active]
            d = B.diagonal().copy()
            inverse_remove_into(B, places, backend=self._backend)
            self._active = np.delete(self._active, places)
            return after_remove(self.bound, d, h, self._spread, len(places))

        self._change(step)

    def adjoin(self, S: Any) -> None:
        """Put one or several rows of H back into F, one after the other.

        Parameters
        ----------
        S : int, or a sequence or set of int
            Rows of H, none of them active.
        """
        rows = indices(S, "S", 1, len(self._H), True)[0]
        there = rows[np.isin(rows, self._active)]
        if there.size:
            raise InvalidArgumentError(
                f"S must hold rows that are not active; got {int(there[0])}, which is. "
                "Look at the attribute active."
            )
        for q in rows:
            self._adjoin(int(q))

    def _adjoin(self, q: int) -> None:
        def step() -> float:
            F, f = self._active, len(self._active)
            at = int(np.searchsorted(F, q))
            a, s = self._H[F, q], float(self._H[q, q])
            d, h = self._inverse.diagonal().copy(), self._H.diagonal()[F]
            room = self._store[: f + 1, : f + 1]
            try:
                inverse_adjoin_into(room, a, s, at, backend=self._backend)
            except NotPositiveDefiniteError as error:
                raise self._named(error, q) from None
            self._active = np.insert(F, at, q)
            schur = 1 / float(room[at, at])
            return after_adjoin(self.bound, d, h, a, s, schur, self._spread)

        self._change(step)

    def update(self, X: Any, sigma: float = 1.0) -> None:
        """Add sigma X X^T to H, and bring B up to date.

        Parameters
        ----------
        X : array, (n,) or (n, k)
            Columns of n elements, one for each row of H, active or not.
        sigma : float
            Not 0; a negative one takes data off.
        """
        columns = vectors(X, "X", self._H[None], True)
        sign = scaled(sigma, columns)
        U = np.ascontiguousarray(columns[:, :, self._active])
        with single_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
            H = columns[0].T @ columns[0]
            H *= sign
            H += self._H
        check_range(H.diagonal(), "H + sigma X X^T")

        def step() -> float:
            B = self._inverse
            d, h = B.diagonal().copy(), self._H.diagonal()[self._active]
            W, C = capacitance(B[None], U, sign, self._kernels)
            subtract(B[None], W, C, sign, True, B[None], self._kernels)
            self._H = H
            with single_blas_thread():
                values = np.linalg.eigvalsh(C[0])
            self._spread = spread(self._H)
            new = self._H.diagonal()[self._active]
            after = B.diagonal().copy()
            return after_data(self.bound, d, after, h, new, U[0], values, sign, self._spread)

        self._change(step)

    def _change(self, step: Callable[[], float]) -> None:
        """Do a step that returns the new bound; refresh before or after it where that is due."""
        try:
            self.bound = step()
        except NotPositiveDefiniteError:
            if self.bound == self._base:
                raise
            self.refresh()
            self.bound = step()
        if not self.bound <= max(self.tolerance, 4 * self._base):
            self.refresh()

    def _compute(self) -> None:
        """B from a Cholesky factor of H_F."""
        H = self.hessian()
        try:
            B = inverse_of(H, self._kernels, self._backend)
        except NotPositiveDefiniteError as error:
            raise self._named(error, int(self._active[error.index])) from None
        self._inverse[...] = B
        self.bound = self._base = fresh(B, H)
        if self._base > self.tolerance and not self._warned:
            self._warned = True
            warnings.warn(
                f"H_F is so ill-conditioned that its inverse has an error of {self._base:.3g} in "
                f"float64, more than tolerance={self.tolerance:g}. Raise damp, or tolerance.",
                ConditioningWarning,
                stacklevel=level_of_caller(),
            )

    def _places(self, rows: np.ndarray) -> np.ndarray:
        """Where these rows of H are in F."""
        places = np.searchsorted(self._active, rows)
        inside = places < len(self._active)
        inside[inside] = self._active[places[inside]] == rows[inside]
        if not inside.all():
            row = check_index(int(rows[~inside][0]), "S", len(self._H))
            raise InvalidArgumentError(
                f"S must hold active rows; got {row}, which is not. Look at the attribute active."
            )
        return places

    @staticmethod
    def _named(error: NotPositiveDefiniteError, row: int) -> NotPositiveDefiniteError:
        remedy = 'Raise damp, or pass damp="auto".'
        return NotPositiveDefiniteError(row, error.pivot, remedy, "H of the active rows")
