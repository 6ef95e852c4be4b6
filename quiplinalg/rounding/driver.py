"""The blocked driver of rounding with feedback: LDLQ, which is also GPTQ in a fixed order.

Per row: z_k = W_k + (W - W_hat)_{<k} U_{<k,k},  W_hat_k = Q(z_k),  with H + damping = T D T^T and
T = I + U, columns in rounding order.  Then (W_hat - W) T = eta = W_hat - z, so the loss under the
damped H is sum_k D_k eta_k^2, and under H itself that less sum_k damping_k (W_hat - W)_k^2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arrays import work_dtype
from quiplinalg.grids.apply import check_range, tie_tolerance
from quiplinalg.grids.search import fit_groups, stored_grid, work_matrix
from quiplinalg.grids.uniform import UniformGrid, on_current_device
from quiplinalg.kernels.record import PANEL, DeviceKernels, Kernels, select
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.options import NORM, Options
from quiplinalg.rounding.plan import Footprint, Plan, check_shapes, layout, undamped
from quiplinalg.rounding.prepared import FactoredHessian, Feedback, PreparedHessian
from quiplinalg.rounding.rounder import Rounded, round_rows
from quiplinalg.symmetric import symmetric_matrix

__all__ = [
    "grid_back",
    "grid_before",
    "grid_there",
    "places",
    "plain_hessian",
    "round_with_feedback",
]

GridStep = Callable[[UniformGrid | None], UniformGrid]


def round_with_feedback(
    W: Any,
    H: Any,
    method: str,
    options: Options,
    backend: str,
    search: Sequence[GridStep] = (),
    bound: float | None = None,
) -> Quantized:
    """Round W with feedback under H; see `quiplinalg.ldlq` for the arguments and errors.

    Where W and H are on a device, or ``backend`` is "cuda", it is done there.
    ``bound`` is the c of `quiplinalg.safe`: its feedback is that of a damping for each column, and
    its loss is computed by definition.
    ``search`` are functions from the best grid so far (None at first) to the next one to try;
    each row keeps the grid of its least loss, or all rows where they share one scale.
    """
    if search or bound is not None:
        kernels = select(backend)
    else:
        kernels = select(backend, W=W, H=plain_hessian(H))
    with kernels.running(*places(W, H)):
        return _round_layer(W, H, method, options, kernels, search, bound)


def _round_layer(
    W: Any,
    H: Any,
    method: str,
    options: Options,
    kernels: Kernels,
    search: Sequence[GridStep],
    bound: float | None,
) -> Quantized:
    ready = H if isinstance(H, FactoredHessian) and bound is None else None
    if ready is not None:
        ready.check(options.order, options.damp, kernels)
    weight = work_matrix(W, kernels=kernels) if ready is None else ready.weight(W)
    hessian: Any = symmetric_matrix(H, "H", kernels) if ready is None else ready
    m, n = weight.shape
    check_shapes(weight, hessian)
    options.check_grid(m, n)
    given = options.grid
    options = replace(options, grid=grid_there(given, kernels))
    wide = options.grid is not None and options.grid.scale.dtype == np.float64
    kind = np.dtype(np.float64) if wide else work_dtype(weight)
    check_range(weight, options.grid)

    if ready is None:
        ready = PreparedHessian(hessian, options.order, options.damp, kernels)
    # groups fitted while rounding are blocks, each padded to whole panels
    fits = options.fits_groups
    size = int((options.group_size if fits else options.block or kernels.block) or PANEL)
    place, spans = layout(n, size if fits else -(-size // PANEL) * PANEL)
    step = ready.rows_at_once(_footprint(m, place, spans, options, kind))
    if bound is not None and isinstance(ready, PreparedHessian):
        feedback = ready.bounded(bound, place, kind)
    else:
        feedback = ready.feedback(place, kind)
    plan = _plan(weight, ready.permutation, feedback, place, spans, options)
    grid = options.grid
    if search:
        plan = replace(plan, W=kernels.xp.ascontiguousarray(weight, kind))
        rounded, grid = _search(plan, search, options, kernels)
    else:
        pieces = [slice(i, min(i + step, m)) for i in range(0, max(m, 1), max(step, 1))]
        rounded = Rounded.joined([_round(plan, p, options, kernels, kind) for p in pieces])
    if grid is None:
        index = None
        if rounded.scale.shape[1] > 1:
            real = plan.columns >= 0
            index = np.empty(n, np.int32)
            index[plan.columns[real]] = plan.group[real]
        dtype = np.dtype(np.float32)
        grid = stored_grid(rounded.scale, rounded.zero, options.bits, options.sym, dtype, index)

    # for free, unless damping is so large that the difference has no digits
    loss = undamped(rounded.row_loss, kind) if bound is None else None
    if loss is None:
        loss = ready.loss(rounded.codes, grid, weight, kind)
    stochastic = options.rounding == "stochastic"
    return Quantized(
        codes=kernels.back(W, rounded.codes),
        grid=grid_back(grid, given, W, kernels),
        method=method,
        rounding=options.rounding,
        order=options.order,
        permutation=None if options.order == "natural" else ready.permutation.copy(),
        loss=loss,
        trace_D=feedback.trace_D,
        damp=ready.damping,
        dead=ready.dead,
        near_tie_rows=0 if stochastic else int((rounded.ties < tie_tolerance(n, kind)).sum()),
        clipped=float(rounded.row_clipped.sum()) / max(m * n, 1),
        seed=options.seed if stochastic else None,
        precision=kind.name,
        feedback_bound=bound,
        restore=like(W),
    )


def _footprint(
    m: int, place: np.ndarray, spans: list[tuple[int, int]], options: Options, kind: np.dtype
) -> Footprint:
    grid = options.grid
    groups = -(-place.shape[0] // (options.group_size or max(place.shape[0], 1)))
    return Footprint(
        rows=m,
        columns=place.shape[0],
        width=max((c1 - c0 for c0, c1 in spans), default=0),
        groups=groups if grid is None else grid.scale.shape[1],
        itemsize=kind.itemsize,
        code_bytes=4 if grid is not None and grid.bits is None else 1,
    )


def _plan(
    weight: np.ndarray,
    permutation: np.ndarray,
    feedback: Feedback,
    place: np.ndarray,
    spans: list[tuple[int, int]],
    options: Options,
) -> Plan:
    """Return the layout of all rows, with the weights as given."""
    n = weight.shape[1]
    real = place >= 0
    columns = np.where(real, permutation[place], -1) if n else place
    D, damping = np.zeros(place.shape), np.zeros(place.shape)
    D[real], damping[real] = feedback.D[place[real]], feedback.damping[columns[real]]
    if options.fits_groups:
        group = np.where(real, place // (options.group_size or 1), 0)
    elif options.grid is not None:
        group = np.where(real, options.grid.columns(n)[columns], 0)
    else:
        group = np.where(real, columns // (options.group_size or max(n, 1)), 0)
    return Plan(weight, columns, feedback.U, D, damping, spans, group.astype(np.int32))


def _round(plan: Plan, rows: slice, options: Options, kernels: Kernels, kind: np.dtype) -> Rounded:
    """Round some rows of a plan, with each clip that is asked for."""
    W = kernels.xp.ascontiguousarray(plan.W[rows], kind)
    piece = replace(plan, W=W, first=rows.start)
    grid = options.grid
    if grid is not None and grid.scale.shape[0] > 1:
        grid = replace(grid, scale=grid.scale[rows], zero=grid.zero[rows])
    clips = ("mse", "minmax") if options.clip == "best" else (options.clip,)
    best, *others = [
        round_rows(
            piece, None if options.fits_groups else grid_before(piece.W, each, kernels), each,
            kernels,
        )
        for each in (replace(options, clip=clip, grid=grid) for clip in clips)
    ]  # fmt: skip
    for other in others:
        best.keep_better_rows(other, kernels.xp)
    return best


def _search(
    plan: Plan, search: Sequence[GridStep], options: Options, kernels: Kernels
) -> tuple[Rounded, UniformGrid]:
    """Round with every grid of the search; return the best of each row, and its grid."""
    first, *others = search
    grid = first(None)
    best = round_rows(plan, grid, options, kernels)
    for step in others:
        tried = step(grid)
        other = round_rows(plan, tried, options, kernels)
        if tried.scale.shape[0] < plan.W.shape[0]:  # one scale for all rows: all or nothing
            if other.loss < best.loss:
                best, grid = other, tried
            continue
        best.keep_better_rows(other, kernels.xp)
        stored = tried.scale.dtype
        grid = replace(tried, scale=best.scale.astype(stored), zero=best.zero.astype(stored))
    return best, grid


def places(W: Any, H: Any) -> tuple[Any, ...]:
    """Return the arrays that say where to work: a prepared H, which W may be taken to, or both."""
    return (getattr(H, "hessian", None),) if isinstance(H, FactoredHessian) else (W, H)


def plain_hessian(H: Any) -> Any:
    """Return H, or None for a prepared one: `FactoredHessian.check` tells whether it fits."""
    return None if isinstance(H, FactoredHessian) else H


def grid_there(grid: UniformGrid | None, kernels: Kernels) -> UniformGrid | None:
    """Return a grid in arrays of the backend: what is on the host may go to a device, not back.

    Raises
    ------
    BackendMismatchError
        The grid is on a device where W is not.
    """
    if grid is None:
        return None
    if not isinstance(kernels, DeviceKernels):
        grid.check_on_host()
        return grid
    scale = on_current_device(grid.scale, "scale", kernels.xp, "W is")
    return grid.of_arrays(scale, on_current_device(grid.zero, "zero", kernels.xp, "W is"))


def grid_back(
    grid: UniformGrid, given: UniformGrid | None, W: Any, kernels: Kernels
) -> UniformGrid:
    """Return a grid for who passed W: the one that was given, if it is in the right place."""
    scale = kernels.back(W, grid.scale)
    if given is not None and type(given.scale) is type(scale):
        return given
    return grid.of_arrays(scale, kernels.back(W, grid.zero))


def grid_before(weight: Any, options: Options, kernels: Kernels) -> UniformGrid:
    """Return the grid that was given, or the one fitted to the original weights."""
    if options.grid is not None:
        return options.grid
    n = weight.shape[1]
    size = options.group_size or max(n, 1)
    dtype = np.dtype(np.float32)
    scale, zero = fit_groups(
        weight, options.bits, options.sym, options.clip == "mse", NORM, dtype, size, kernels
    )
    index = (np.arange(n) // size).astype(np.int32) if scale.shape[1] > 1 else None
    return stored_grid(scale, zero, options.bits, options.sym, dtype, index)
