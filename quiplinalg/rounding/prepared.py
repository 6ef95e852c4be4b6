"""A Hessian that is checked, damped and factored once, for every layer with the same inputs."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Condition
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.device_arrays import device_of
from quiplinalg.errors import BackendMismatchError, InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp, damped, diagonal_shift
from quiplinalg.factor.multipliers import column_multipliers
from quiplinalg.factor.orders import check_order, factor_in_order, host_diagonal
from quiplinalg.grids.apply import dequantize
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.losses import proxy_loss
from quiplinalg.parallel import on_pool
from quiplinalg.rounding.plan import Footprint, pack
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["FactoredHessian", "Feedback", "PreparedHessian", "prepare"]


@dataclass(frozen=True, eq=False)
class Feedback:
    """The feedback of a factored Hessian, packed for one layout of the columns."""

    U: Any  # packed, see `quiplinalg.rounding.plan.pack`, or what reads its panels from a file
    D: np.ndarray  # (n,) float64, in the order of rounding
    damping: np.ndarray  # (n,) float64, of each of the caller's columns
    trace_D: float  # without what was added for dead columns only


class FactoredHessian:
    """What rounding with feedback needs of a Hessian, wherever its factor is.

    Attributes
    ----------
    order : str
    damp : float, "auto" or AbsoluteDamp
        As given.
    damping : float
        What was added to the diagonal, in H's units.
    permutation : ndarray, (n,), int64
        The columns in the order they are rounded.
    """

    def __init__(
        self,
        diagonal: np.ndarray,
        order: str,
        damp: float | str | AbsoluteDamp,
        kernels: Kernels,
    ):
        self.order, self.damp = order, damp
        self._diagonal, self._kernels = diagonal, kernels

    def _factor_damped(self) -> None:
        """Factor H with the damping asked for."""
        attempt = damped(lambda _, shift: self._factor_with(shift), self._diagonal, self.damp)
        (self._factor, self.permutation), self.damping, self._shift = attempt

    def _factor_with(self, shift: np.ndarray) -> tuple[Any, np.ndarray]:
        """Return the factor of H + diag(shift), and the permutation of its columns."""
        raise NotImplementedError

    def weight(self, W: Any) -> np.ndarray:
        """Return W as a matrix that was checked to be finite."""
        raise NotImplementedError

    def feedback(self, place: np.ndarray, dtype: np.dtype) -> Feedback:
        """Return the feedback in a layout (see `quiplinalg.rounding.plan.layout`) and dtype."""
        raise NotImplementedError

    def rows_at_once(self, work: Footprint) -> int:
        """Return how many rows are to be rounded together."""
        raise NotImplementedError

    def loss(
        self, codes: np.ndarray, grid: UniformGrid, weight: np.ndarray, dtype: np.dtype
    ) -> float:
        """Return the loss under H from its definition."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """(n, n)."""
        return self._diagonal.shape * 2  # type: ignore[return-value]

    @property
    def dead(self) -> np.ndarray:
        """The columns whose diagonal is zero, (k,)."""
        return np.flatnonzero(self._diagonal == 0)

    def check(self, order: str, damp: float | str | AbsoluteDamp, kernels: Kernels) -> None:
        """Raise InvalidArgumentError unless these are what H was factored with."""
        tried, own = (list(diagonal_shift(each, self._diagonal)) for each in (damp, self.damp))
        for name, given, ready, same in (
            ("order", order, self.order, order == self.order),
            ("damp", damp, self.damp, tried == own),
            ("backend", kernels.name, self._kernels.name, kernels is self._kernels),
        ):
            if not same:
                raise InvalidArgumentError(
                    f"{name} must be that of the prepared H, {ready!r}; got {name}={given!r}. "
                    f"Pass {name}={ready!r}, or prepare H anew with {name}={given!r}."
                )

    def check_device(self, W: Any) -> None:
        """Raise unless W is on the device of H, or in host memory and to be taken there."""
        number = device_of(W)
        own = device_of(getattr(self, "hessian", None))
        if number is not None and own is not None and number != own:
            raise BackendMismatchError(
                f"W must be on CUDA device {own}, as the prepared H is; got one on device "
                f"{number}. Copy one of them yourself."
            )

    def _invented(self) -> float:
        """What was added to the diagonal of dead columns beyond the damping, to factor them."""
        return float((self._shift - self.damping).sum())

    def __repr__(self) -> str:
        n = self.shape[0]
        return f"{type(self).__name__}({n}x{n}, {self.order} order, damp {self.damping:.3g})"


class PreparedHessian(FactoredHessian):
    """A Hessian that is factored already: what `prepare` makes, for `ldlq` and `gptq`.

    Attributes
    ----------
    hessian : ndarray, (n, n), float32 or float64
        What is rounded under: the caller's own array where it could be used as it was.
    order, damp, damping, permutation
        The order and damping as given, the damping in H's units, and the columns in the order
        they are rounded.
    """

    def __init__(
        self,
        hessian: np.ndarray,
        order: str,
        damp: float | str | AbsoluteDamp,
        kernels: Kernels,
    ):
        self.hessian = hessian
        super().__init__(host_diagonal(hessian), order, damp, kernels)
        self._factor_damped()
        self._place = np.empty(0, np.int64)
        self._feedback: Feedback | None = None
        self._packing = False
        self._idle = Condition()

    def weight(self, W: Any) -> Any:
        self.check_device(W)
        return work_matrix(W, kernels=self._kernels)

    def rows_at_once(self, work: Footprint) -> int:
        return work.rows

    def loss(
        self, codes: np.ndarray, grid: UniformGrid, weight: np.ndarray, dtype: np.dtype
    ) -> float:
        weight = weight.astype(dtype, copy=False)
        return proxy_loss(dequantize(codes, grid, dtype), weight, self.hessian)

    def feedback(self, place: np.ndarray, dtype: np.dtype) -> Feedback:
        """Return the feedback; the last one is kept, another takes another factorisation."""
        with self._idle:
            # a thread of the pool must not wait for one that may be waiting for the pool
            while self._packing and not on_pool():
                self._idle.wait()
            kept = self._feedback
            same = kept is not None and kept.U.dtype == dtype
            if kept is not None and same and np.array_equal(self._place, place):
                return kept
            if busy := self._packing:
                factor = None
            else:
                self._packing = True
                self._feedback = kept = None  # before there is a factor beside it
                factor, self._factor = self._factor, None
        try:
            if factor is None:
                factor = self._factor_with(self._shift)[0]
            found = self._packed(factor, self._shift, place, dtype)
            if not busy:
                self._place, self._feedback = place, found
        finally:
            if not busy:
                with self._idle:
                    self._packing = False
                    self._idle.notify_all()
        return found

    def bounded(self, bound: float, place: np.ndarray, dtype: np.dtype) -> Feedback:
        """Return the feedback of `quiplinalg.safe` with this bound; it is not kept."""
        factor = self._take_factor()
        found = column_multipliers(
            self.hessian, self.permutation, self._shift, factor, self._kernels, bound
        )
        del factor
        damping = self._shift + found.values
        return self._packed(found.factor, damping, place, dtype, found.objective)

    def _factor_with(self, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return factor_in_order(self.hessian, self.order, shift, self._kernels)

    def _take_factor(self) -> np.ndarray:
        """Hand over the factor: it is four times the packed feedback, and freed once packed."""
        factor, self._factor = self._factor, None
        return self._factor_with(self._shift)[0] if factor is None else factor

    def _packed(
        self,
        factor: np.ndarray,
        damping: np.ndarray,
        place: np.ndarray,
        dtype: np.dtype,
        objective: float | None = None,
    ) -> Feedback:
        U = pack(factor, place, dtype, self._kernels)
        # no view of it: the factor is freed before the rounding; of a device read after U is
        # there, for any stream to use
        D = host_diagonal(factor)[::-1] ** 2
        trace = (float(D.sum()) if objective is None else objective) - self._invented()
        return Feedback(U, D, damping, trace)


@suggest_keywords()
def prepare(
    H: Any,
    *,
    order: str = "act",
    damp: float | str | AbsoluteDamp = 0.01,
    backend: str = "auto",
) -> PreparedHessian:
    """Check, damp and factor H once, for `ldlq` or `gptq` of several layers with the same inputs.

    The query, key and value projections of a transformer have one H, and so have gate and up.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric; both triangles are checked.  Not changed, and not to be changed while the
        result is used: it is referred to, not copied, where its dtype and layout allow.
    order, damp : str, float
        As in `ldlq`; a call that gets the result must name the same.
    backend : str
        "auto", "cpu", "generic" or "cuda"; a call that gets the result must name the same.

    Returns
    -------
    PreparedHessian
        To be passed in place of H, from several threads too; ``hessian`` of it is the array.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError,
    BackendUnavailableError
        As `ldlq`.

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    n^3/3 flops in float64.  The factor, 8 n^2 bytes, is kept until the first call, then only its
    feedback, 2 n^2 bytes (4 n^2 for float64 weights).  A call of another work precision, or with a
    group size that is no multiple of 4, factors again.  The results are those of passing H itself,
    to the last bit.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.standard_normal((256, 64)), rng.standard_normal((96, 64))
    >>> H = ql.prepare(X.T @ X / 256)
    >>> query, key = ql.ldlq(W[:64], H), ql.ldlq(W[64:], H)
    >>> bool((key.codes == ql.ldlq(W[64:], H.hessian).codes).all())
    True
    """
    check_order(order)
    kernels = select(backend, H=H)
    with kernels.running(H):
        return PreparedHessian(symmetric_matrix(H, "H", kernels), order, damp, kernels)
