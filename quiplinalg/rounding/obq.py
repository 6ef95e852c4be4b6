"""OBQ: each row rounds, again and again, the weight that costs least (Optimal Brain Surgeon)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.arrays import to_numpy
from quiplinalg.errors import DTypeError, InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.factor.orders import ORDERS, host_diagonal
from quiplinalg.grids.apply import check_range, tie_tolerance
from quiplinalg.grids.search import check_flag, work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.losses import proxy_loss
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import grid_back, grid_before, grid_there
from quiplinalg.rounding.elimination import damped_inverse, eliminate
from quiplinalg.rounding.options import Options
from quiplinalg.rounding.plan import check_shapes
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["OBQTrace", "obq", "obq_masked", "obq_trace"]


@dataclass(frozen=True, eq=False)
class OBQTrace:
    """A layer rounded by OBQ, and the steps of each row.

    Attributes
    ----------
    quantized : Quantized
    order : ndarray, (m, n), int32
        The column of each step of each row.
    costs : ndarray, (m, n), float64
        What each step added to the loss under the damped H, in the order of the steps: with
        E = W_hat - W, their sum is tr(E H E^T) + damp ||E||^2 (where damp is 0, dead columns count
        with the mean of the diagonal).
    """

    quantized: Quantized
    order: np.ndarray
    costs: np.ndarray


@suggest_keywords()
def obq(
    W: Any,
    H: Any,
    bits: int = 4,
    *,
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    sym: bool = False,
    clip: str = "mse",
    order: str = "greedy",
    outliers_first: bool = False,
    damp: float | str | AbsoluteDamp = 0.01,
    backend: str = "auto",
) -> Quantized:
    """Round each row in an order of its own: always the weight whose rounding costs least.

    With F the columns of a row not yet rounded, X = ((H + damp I)_FF)^-1 and e_q = w_q - Q(w_q),
    a step rounds q = argmin e_q^2 / X_qq and compensates the others, w_F -= (e_q / X_qq) X_:q.

    Parameters
    ----------
    W : array, (m, n) = (out, in), floating
        As in `ldlq`, but for stacks.  Computed in float64.  Not changed.
    H : array, (n, n), floating
        As in `ldlq`, but for stacks and what `prepare` makes.  Not changed.
    bits, grid, sym, damp
        As in `ldlq`.
    group_size : int, optional
        Consecutive columns that share a scale, found from the original W.  Default: one scale a
        row.
    clip : str
        "mse" or "minmax", as in `ldlq`.
    order : str
        "greedy", of equal costs the lowest column; or "natural", "act" or "min-pivot", one order
        for all rows: then the codes are those of `gptq` with static groups, which finds them n / 3
        times faster.
    outliers_first : bool
        While there are weights whose nearest code on the unbounded grid lies beyond the ends of
        this one (they are off by more than half a step), the one of the largest |e_q| is next,
        of equal ones the lowest column.  Only in greedy order.
    backend : str
        "cpu" (Numba), "generic" (NumPy; some hundred times slower) or "cuda" (CuPy); "auto"
        works where W and H are.

    Returns
    -------
    Quantized
        Of precision "float64".  ``loss`` is by its definition, under the H without damping.  In
        greedy order ``permutation`` is None, as each row has its own (`obq_trace` has them), and
        ``trace_D`` is the mean over rows of sum 1 / X_qq, the tr D of the row's order.

    Raises
    ------
    NotPositiveDefiniteError
        H with its damping is not positive definite, or so nearly not that the inverse of a part
        of it has a diagonal element that is not positive.
    NonFiniteError, DTypeError, InvalidArgumentError, BackendUnavailableError

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    n^3 / 3 flops for each row, against n^2 of `gptq`; 4 n^2 bytes for each thread, and 28 m n for
    the trace.  The same codes for any number of threads.  Columns with H_jj = 0 are rounded to
    nearest and cost nothing.

    Greedy is no bound: on an unbounded grid the loss is that of feedback in some order, at most
    (s^2 / 4) tr D of the row's order, but it may be above that of `gptq`.  A clamped grid voids
    this as it does for `ldlq`.  ``near_tie_rows`` counts targets near a rounding tie, not costs
    that are nearly equal: there too another precision may choose, and end, otherwise.

    References
    ----------
    Frantar, Singh, Alistarh, Optimal Brain Compression (arXiv 2208.11580), algorithm 3.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 32)) @ rng.standard_normal((32, 32))
    >>> W, H = rng.standard_normal((8, 32)), X.T @ X / 256
    >>> q = ql.obq(W, H, bits=3)
    >>> q.loss < 0.8 * q.nearest_loss(W, H)
    True
    """
    keywords = (bits, grid, group_size, sym, clip, order, outliers_first, damp, backend)
    return _round(W, H, None, *keywords).quantized


@suggest_keywords()
def obq_trace(
    W: Any,
    H: Any,
    bits: int = 4,
    *,
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    sym: bool = False,
    clip: str = "mse",
    order: str = "greedy",
    outliers_first: bool = False,
    damp: float | str | AbsoluteDamp = 0.01,
    backend: str = "auto",
) -> OBQTrace:
    """Round as `obq`, and tell in which order and at what cost.

    Parameters
    ----------
    W, H, bits, grid, group_size, sym, clip, order, outliers_first, damp, backend
        As in `obq`.

    Returns
    -------
    OBQTrace
        ``quantized``, and the ``order`` and ``costs`` of the steps, (m, n) each.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError
        As `obq`.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> grid = ql.UniformGrid(np.ones((1, 1)), np.zeros((1, 1)), bits=2)
    >>> H = np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> t = ql.obq_trace(np.array([[0.4, 1.1]]), H, grid=grid, damp=0.0)
    >>> t.order, t.quantized.codes  # 1.1 first: 0.4 becomes 0.4 + 0.1 / 2
    (array([[1, 0]], dtype=int32), array([[0, 1]], dtype=uint8))
    >>> bool(np.isclose(t.costs.sum(), t.quantized.loss))
    True
    """
    keywords = (bits, grid, group_size, sym, clip, order, outliers_first, damp, backend)
    return _round(W, H, None, *keywords)


def obq_masked(
    W: Any,
    H: Any,
    mask: Any,
    bits: int = 4,
    *,
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    sym: bool = False,
    clip: str = "mse",
    order: str = "greedy",
    outliers_first: bool = False,
    damp: float | str | AbsoluteDamp = 0.01,
    backend: str = "auto",
) -> OBQTrace:
    """Set the weights of a mask to zero, then round the others as `obq`, all compensated.

    Parameters
    ----------
    W, H, bits, grid, group_size, sym, clip, order, outliers_first, damp, backend
        As in `obq`.  A grid that is found is that of W as it is, pruned weights included.
    mask : array, (m, n), bool
        True: pruned.  These are the first steps of their row, in the same kind of order.

    Returns
    -------
    OBQTrace
        ``quantized.order`` is "masked": each row has an order of its own.  Codes of pruned
        weights are the zero of their grid.

    Raises
    ------
    InvalidArgumentError
        Also where the grid has no code for zero: its ``zero`` must be whole numbers on it.
    """
    return _round(
        W, H, mask, bits, grid, group_size, sym, clip, order, outliers_first, damp, backend
    )


def _round(
    W: Any,
    H: Any,
    mask: Any,
    bits: int,
    grid: UniformGrid | None,
    group_size: int | None,
    sym: bool,
    clip: str,
    order: str,
    outliers_first: bool,
    damp: float | str | AbsoluteDamp,
    backend: str,
) -> OBQTrace:
    """Do what `obq` says."""
    greedy = _check_order(order, outliers_first)
    if clip == "best":
        raise InvalidArgumentError(
            "clip must be 'mse' or 'minmax' for OBQ; got clip='best'. Round with both, and keep "
            "the better rows, if that is worth twice the time."
        )
    options = Options(
        bits=bits, grid=grid, group_size=group_size, static_groups=True, sym=sym, clip=clip,
        order="natural" if greedy else order, damp=damp, rounding="nearest", seed=None, block=None,
    )  # fmt: skip
    kernels = select(backend, W=W, H=H)
    with kernels.running(W, H):
        return _eliminated(W, H, mask, options, order, outliers_first, kernels)


def _eliminated(
    W: Any,
    H: Any,
    mask: Any,
    options: Options,
    order: str,
    outliers_first: bool,
    kernels: Kernels,
) -> OBQTrace:
    """Do it for checked options."""
    greedy = order == "greedy"
    weight = work_matrix(W, kernels=kernels)
    hessian = symmetric_matrix(H, "H", kernels)
    m, n = weight.shape
    check_shapes(weight, hessian)
    options.check_grid(m, n)
    given = options.grid
    options = replace(options, grid=grid_there(given, kernels))
    check_range(weight, options.grid)
    pruned = None if mask is None else _check_mask(mask, (m, n))
    found = grid_before(weight, options, kernels)
    if pruned is not None:
        _check_zero(found)
    inverse = damped_inverse(hessian, options.damp, kernels, options.order)
    done = eliminate(
        weight,
        inverse.Hinv,
        kernels,
        grid=found,
        order=None if greedy else inverse.permutation,
        mask=pruned,
        outliers=outliers_first,
    )
    assert done.codes is not None
    common = not greedy and pruned is None
    trace_D = inverse.trace_D
    if not common and m:
        trace_D = float(done.trace_D.mean() - (inverse.shift - inverse.damp).sum())
    back = kernels.back
    result = Quantized(
        codes=back(W, done.codes.astype(found.code_dtype, copy=False)),
        grid=grid_back(found, given, W, kernels),
        method="obq",
        rounding="nearest",
        order=order if pruned is None else "masked",
        permutation=inverse.permutation if common and order != "natural" else None,
        loss=float("nan"),
        trace_D=trace_D,
        damp=inverse.damp,
        dead=np.flatnonzero(host_diagonal(hessian) == 0),
        near_tie_rows=int((done.ties < tie_tolerance(n, np.dtype(np.float64))).sum()),
        clipped=float(done.clipped.sum()) / max(m * n, 1),
        precision="float64",
        restore=like(W),
    )
    # by definition: 2 m n^2 flops are nothing here, and sum costs - damp ||E||^2 may have no digits
    loss = proxy_loss(done.weights, weight, hessian)
    return OBQTrace(replace(result, loss=loss), back(W, done.order), back(W, done.costs))


def _check_order(order: Any, outliers_first: Any) -> bool:
    """Whether the order is greedy; raise for one that is not known."""
    choices = ("greedy", *ORDERS)
    if not isinstance(order, str) or order not in choices:
        raise InvalidArgumentError(
            f"order must be one of {', '.join(choices)}; got order={order!r}. "
            'order="act" is what other libraries call desc_act or act-order.'
        )
    fix = "False takes the weight that costs least."
    if check_flag(outliers_first, "outliers_first", fix) and order != "greedy":
        raise InvalidArgumentError(
            f"outliers_first must be False in a common order; got order={order!r}. "
            'It changes the choice of order="greedy".'
        )
    return order == "greedy"


def _check_mask(mask: Any, shape: tuple[int, int]) -> np.ndarray:
    """Return the mask as a C-order array of booleans."""
    array = mask if isinstance(mask, np.ndarray) else to_numpy(mask, "mask", integers=True)
    if array.dtype != np.bool_:
        raise DTypeError(
            f"mask must be of dtype bool; got {array.dtype}. True is a weight to be pruned."
        )
    if array.shape != shape:
        raise InvalidArgumentError(
            f"mask must have the shape of W, {shape}; got {array.shape}. True is pruned."
        )
    return np.ascontiguousarray(array)


def _check_zero(grid: UniformGrid) -> None:
    """Raise where the grid has no code for the value 0."""
    zero = grid.zero
    inside = grid.bits is None or bool(((zero >= 0) & (zero <= grid.maxq)).all())
    if not inside or not (zero == np.floor(zero)).all():
        raise InvalidArgumentError(
            "grid must have a code for 0, where weights are pruned: zero a whole number from 0 to "
            f"{grid.maxq:g}; got zero from {zero.min():g} to {zero.max():g}. Use mse_grid or "
            "minmax_grid."
        )
