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

from quiplinalg.factor.damping import damped
from quiplinalg.factor.multipliers import column_multipliers
from quiplinalg.factor.orders import factor_in_order
from quiplinalg.grids.apply import (
    check_range,
    check_reached,
    code_ends,
    dequantize,
    tie_tolerance,
)
from quiplinalg.grids.search import fit_groups, stored_grid, work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import PANEL, Kernels, select
from quiplinalg.losses import proxy_loss
from quiplinalg.parallel import run_all
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.options import NORM, Options
from quiplinalg.rounding.plan import Plan, check_shapes, layout, pack, tiled, undamped
from quiplinalg.rounding.tiles import tile_parts
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["grid_before", "round_with_feedback"]

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

    ``bound`` is the c of `quiplinalg.safe`: its feedback is that of a damping for each column, and
    its loss is computed by definition.
    ``search`` are functions from the best grid so far (None at first) to the next one to try;
    each row keeps the grid of its least loss, or all rows where they share one scale.
    """
    kernels = select(backend)
    weight = work_matrix(W)
    hessian = symmetric_matrix(H, "H", kernels)
    m, n = weight.shape
    check_shapes(weight, hessian)
    options.check_grid(m, n)
    diagonal = hessian.diagonal()
    if options.grid is not None and options.grid.scale.dtype == np.float64:
        weight = weight.astype(np.float64, copy=False)
    check_range(weight, options.grid)
    dynamic = options.grid is None and options.group_size is not None and not options.static_groups

    (factor, order), damp, shift = damped(
        lambda _, shift: factor_in_order(hessian, options.order, shift, kernels),
        diagonal,
        options.damp,
    )
    invented = float((shift - damp).sum())  # of dead columns, where there is no damping
    objective = None
    if bound is not None:
        bounded = column_multipliers(hessian, order, shift, factor, kernels, bound)
        factor, shift, objective = bounded.factor, shift + bounded.values, bounded.objective
        del bounded
    D = factor.diagonal()[::-1] ** 2  # no view of it: the factor is freed before the rounding
    # groups fitted while rounding are blocks, each padded to whole panels
    size = int((options.group_size if dynamic else options.block or kernels.block) or PANEL)
    place, spans = layout(n, size if dynamic else -(-size // PANEL) * PANEL)
    real = place >= 0
    columns = np.where(real, order[place], -1) if n else place
    U = pack(factor, place, weight.dtype, kernels)
    del factor

    full_D, full_damping = np.zeros(place.shape), np.zeros(place.shape)
    full_D[real], full_damping[real] = D[place[real]], shift[columns[real]]
    if dynamic:
        group = np.where(real, place // (options.group_size or 1), 0)
    elif options.grid is not None:
        group = np.where(real, options.grid.columns(n)[columns], 0)
    else:
        group = np.where(real, columns // (options.group_size or max(n, 1)), 0)
    plan = Plan(weight, columns, U, full_D, full_damping, spans, group.astype(np.int32))

    grid = options.grid
    if search:
        rounder, grid = _search(plan, search, options, kernels)
    else:
        clips = ("mse", "minmax") if options.clip == "best" else (options.clip,)
        rounder, *others = [
            _Rounder(plan, None if dynamic else grid_before(weight, tried, kernels), tried, kernels)
            for tried in (replace(options, clip=clip) for clip in clips)
        ]
        for other in others:
            rounder.keep_better_rows(other)
    if grid is None:
        index = None
        if rounder.scale.shape[1] > 1:
            index = np.empty(n, np.int32)
            index[columns[real]] = group[real]
        dtype = np.dtype(np.float32)
        grid = stored_grid(rounder.scale, rounder.zero, options.bits, options.sym, dtype, index)

    stochastic = options.rounding == "stochastic"
    return Quantized(
        codes=rounder.codes,
        grid=grid,
        method=method,
        rounding=options.rounding,
        order=options.order,
        permutation=None if options.order == "natural" else order,
        loss=_loss(rounder, grid, weight, hessian, bound is None),
        trace_D=(float(D.sum()) if objective is None else objective) - invented,
        damp=damp,
        dead=np.flatnonzero(diagonal == 0),
        near_tie_rows=0
        if stochastic
        else int((rounder.ties < tie_tolerance(n, weight.dtype)).sum()),
        clipped=float(rounder.row_clipped.sum()) / max(m * n, 1),
        seed=options.seed if stochastic else None,
        precision=weight.dtype.name,
        feedback_bound=bound,
        restore=like(W),
    )


def _loss(
    rounder: _Rounder, grid: UniformGrid, weight: np.ndarray, hessian: np.ndarray, free: bool
) -> float:
    """The loss under H: for free, unless damping is so large that the difference has no digits."""
    loss = undamped(rounder.row_loss, weight.dtype) if free else None
    if loss is not None:
        return loss
    return proxy_loss(dequantize(rounder.codes, grid, weight.dtype), weight, hessian)


def _search(
    plan: Plan, search: Sequence[GridStep], options: Options, kernels: Kernels
) -> tuple[_Rounder, UniformGrid]:
    """Round with every grid of the search; return the best of each row, and its grid."""
    first, *others = search
    grid = first(None)
    best = _Rounder(plan, grid, options, kernels)
    for step in others:
        tried = step(grid)
        other = _Rounder(plan, tried, options, kernels)
        if tried.scale.shape[0] < plan.W.shape[0]:  # one scale for all rows: all or nothing
            if other.loss < best.loss:
                best, grid = other, tried
            continue
        best.keep_better_rows(other)
        stored = tried.scale.dtype
        grid = replace(tried, scale=best.scale.astype(stored), zero=best.zero.astype(stored))
    return best, grid


def grid_before(weight: np.ndarray, options: Options, kernels: Kernels) -> UniformGrid:
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


class _Rounder:
    """Rounds the rows of a plan, tiles of rows on threads; rows are independent."""

    def __init__(self, plan: Plan, grid: UniformGrid | None, options: Options, kernels: Kernels):
        self.plan, self.grid, self.options, self.kernels = plan, grid, options, kernels
        m, n = plan.W.shape
        kind = plan.W.dtype
        bits = options.bits if grid is None else grid.bits
        self.low, self.high = (kind.type(end) for end in code_ends(bits))
        self.codes = np.empty((m, n), np.int32 if bits is None else np.uint8)
        self.ties = np.full(m, 0.5)
        if grid is None:
            self.scale = np.ones((m, plan.groups), kind)
            self.zero = np.zeros((m, plan.groups), kind)
        else:
            shape = (m, grid.scale.shape[1])
            self.scale = np.broadcast_to(grid.scale.astype(kind, copy=False), shape)
            self.zero = np.broadcast_to(grid.zero.astype(kind, copy=False), shape)
        self.row_loss = np.zeros((m, 2))
        self.row_clipped = np.zeros(m)
        self._run()
        check_reached(bits, self.row_clipped.sum())

    @property
    def loss(self) -> float:
        """The loss under H, without damping."""
        loss, damped_part = self.row_loss.sum(axis=0)  # in the order of rows, whoever did them
        return max(float(loss - damped_part), 0.0)

    def keep_better_rows(self, other: _Rounder) -> None:
        """Take the rows whose loss is smaller in another rounding of the same plan."""
        better = np.subtract(*other.row_loss.T) < np.subtract(*self.row_loss.T)
        for name in ("codes", "scale", "zero", "ties", "row_loss", "row_clipped"):
            mine = np.array(getattr(self, name))
            mine[better] = getattr(other, name)[better]
            setattr(self, name, mine)

    def _run(self) -> None:
        m, N = self.plan.W.shape[0], self.plan.columns.shape[0]
        if m == 0 or N == 0:
            return
        kind = self.plan.W.dtype
        lanes = self.kernels.lanes(kind)
        queue, workers = tile_parts(m, N * lanes * kind.itemsize, lanes)
        height = max(b - a for a, b in queue)
        width = max(c1 - c0 for c0, c1 in self.plan.spans)

        def work() -> None:
            Z = np.empty((height, N, lanes), kind)
            C = np.empty((height, N, lanes), self.codes.dtype)
            F = np.empty((height, width, lanes), kind)
            while True:
                try:
                    first, last = queue.popleft()
                except IndexError:
                    return
                used = last - first
                self._rows(first * lanes, Z[:used], C[:used], F[:used])

        run_all(work, [()] * workers)

    def _rows(self, first: int, Z: np.ndarray, C: np.ndarray, F: np.ndarray) -> None:
        plan, kernels = self.plan, self.kernels
        tiles, _, lanes = Z.shape
        m = plan.W.shape[0]
        rows = slice(first, min(first + tiles * lanes, m))
        count = rows.stop - rows.start
        kernels.load(plan.W, first, plan.columns, Z)
        scale = tiled(self.scale[rows], tiles, lanes, 1)
        zero = tiled(self.zero[rows], tiles, lanes, 0)
        stats = np.zeros((tiles, 4, lanes))
        stats[:, 2] = 0.5
        layout = (plan.columns, plan.D, plan.damping)
        fit = self._fitter(rows, scale, zero) if self.grid is None else None
        for c0, c1 in plan.spans:
            kernels.accumulate(F, Z, plan.U, c0, c1)
            if fit is not None:
                fit(F, Z, c0, c1)
            noise = self._noise(first, plan.columns[c0:c1], tiles, lanes)
            grid = (scale, zero, plan.group, self.low, self.high, noise)
            kernels.round_block(F, Z, C, plan.U, grid, layout, (c0, c1), stats)
        kernels.store(C, first, plan.columns, self.codes)
        flat = stats.transpose(0, 2, 1).reshape(-1, 4)[:count]
        self.row_loss[rows] = flat[:, :2]
        self.ties[rows] = flat[:, 2]
        self.row_clipped[rows] = flat[:, 3]

    def _noise(self, first: int, columns: np.ndarray, tiles: int, lanes: int) -> np.ndarray:
        if self.options.rounding != "stochastic":
            return np.empty((0, 0, 0), np.float32)
        noise = np.empty((tiles, columns.shape[0], lanes), np.float32)
        self.kernels.philox(self.options.philox_key, first, columns, noise)
        return noise

    def _fitter(self, rows: slice, scale: np.ndarray, zero: np.ndarray) -> Callable:
        """Return a function that fits a group's grid to its current, compensated weights."""
        plan, options = self.plan, self.options
        tiles, _, lanes = scale.shape
        count = rows.stop - rows.start
        maxq = self.high
        clip = options.clip == "mse"

        def fit(F: np.ndarray, Z: np.ndarray, c0: int, c1: int) -> None:
            real = int((plan.columns[c0:c1] >= 0).sum())
            group = plan.group[c0]
            X = np.empty((count, real), plan.W.dtype)
            self.kernels.compensate(F, plan.U, plan.columns, c0, c1, Z, X)
            s, o = np.empty(count, X.dtype), np.empty(count, X.dtype)
            self.kernels.fit(X, maxq, options.sym, clip, NORM, 0, s, o)
            if X.dtype == np.float64:  # as stored
                s, o = s.astype(np.float32).astype(X.dtype), o.astype(np.float32).astype(X.dtype)
            self.scale[rows, group], self.zero[rows, group] = s, o
            scale[:, group] = tiled(s[:, None], tiles, lanes, 1)[:, 0]
            zero[:, group] = tiled(o[:, None], tiles, lanes, 0)[:, 0]

        return fit
