"""The driver of one-pass pruning: feedback as in rounding, with masks chosen on the way.

Per row: z_k = W_k + (W - W_hat)_{<k} U_{<k,k}; W_hat_k = 0 where pruned, else z_k, or Q(z_k) on a
grid; with H + damping = T D T^T, T = I + U.  A group's weights are chosen by w_k^2 D_k, w as
compensated for all columns before it: (w - W) T = F - W over its columns, where F is W with the
feedback of those before.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from quiplinalg.factor.damping import AbsoluteDamp, damped
from quiplinalg.factor.orders import factor_in_order
from quiplinalg.grids.apply import check_reached, code_ends
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import PANEL, Kernels
from quiplinalg.parallel import run_all, thread_count
from quiplinalg.pruning.pattern import Pattern, count_of
from quiplinalg.rounding.plan import Plan, layout, pack, panels, tiled, undamped
from quiplinalg.rounding.tiles import tile_parts

__all__ = ["OnePass", "one_pass"]


@dataclass(frozen=True, eq=False)
class OnePass:
    """What one pass found; ``values`` are W_hat, or codes where there is a grid."""

    values: np.ndarray  # (m, n)
    mask: np.ndarray  # (m, n) bool
    loss: float | None  # under H; None: to be computed by its definition
    damp: float
    dead: np.ndarray
    permutation: np.ndarray
    trace_D: float
    ties: np.ndarray  # (m,)
    clipped: int


def one_pass(
    weight: np.ndarray,
    hessian: np.ndarray,
    pattern: Pattern,
    sparsity: float,
    block: int,
    order: str,
    damp: float | str | AbsoluteDamp,
    kernels: Kernels,
    grid: UniformGrid | None = None,
) -> OnePass:
    """Prune W in one pass over its columns; see `quiplinalg.sparsegpt`."""
    n = weight.shape[1]
    diagonal = hessian.diagonal()
    (factor, permutation), used, shift = damped(
        lambda _, shift: factor_in_order(hessian, order, shift, kernels), diagonal, damp
    )
    # dead columns: no cost, whatever was added to their diagonal
    D = np.where(diagonal[permutation] > 0, factor.diagonal()[::-1] ** 2, 0.0)
    shift = np.where(diagonal > 0, shift, 0.0)
    if pattern.quota:
        place, spans = layout(n, pattern.size, kernels.block)
    else:
        place, spans = layout(n, block)
    real = place >= 0
    columns = np.where(real, permutation[place], -1) if n else place
    U = pack(factor, place, weight.dtype, kernels)
    del factor
    full_D, full_damping = np.zeros(place.shape), np.zeros(place.shape)
    full_D[real], full_damping[real] = D[place[real]], shift[columns[real]]
    group = np.zeros(place.shape, np.int32)
    if grid is not None:
        group[real] = grid.columns(n)[columns[real]]
    plan = Plan(weight, columns, U, full_D, full_damping, spans, group)
    run = _Pass(plan, pattern, grid, kernels)
    if pattern.quota:
        run.rows_at_a_time()
    else:
        run.blocks_at_a_time(sparsity)
    if grid is not None:
        check_reached(grid.bits, run.row_clipped.sum())
    return OnePass(
        values=run.values,
        mask=run.mask,
        loss=undamped(run.row_loss, weight.dtype),
        damp=used,
        dead=np.flatnonzero(diagonal == 0),
        permutation=permutation,
        trace_D=float(D.sum()),
        ties=run.ties,
        clipped=int(run.row_clipped.sum()),
    )


class _Pass:
    """Goes through the columns of a plan, tiles of rows on threads."""

    def __init__(self, plan: Plan, pattern: Pattern, grid: UniformGrid | None, kernels: Kernels):
        self.plan, self.pattern, self.kernels = plan, pattern, kernels
        (m, n), kind = plan.W.shape, plan.W.dtype
        self.mask = np.zeros((m, n), np.bool_)
        self.values = np.empty((m, n), kind if grid is None else grid.code_dtype)
        self.low, self.high = (kind.type(e) for e in code_ends(None if grid is None else grid.bits))
        shape = (m, 0 if grid is None else grid.scale.shape[1])
        scale, zero = (grid.scale, grid.zero) if grid is not None else (np.empty((1, 0)),) * 2
        self.scale = np.broadcast_to(scale.astype(kind, copy=False), shape)
        self.zero = np.broadcast_to(zero.astype(kind, copy=False), shape)
        # as |w| times this, not w^2 D, which may over- or underflow
        root = np.sqrt(plan.D)
        self.salience = root / (root.max(initial=0) or 1.0)
        self.row_loss = np.zeros((m, 2))
        self.ties = np.full(m, 0.5)
        self.row_clipped = np.zeros(m)
        self.lanes = kernels.lanes(kind)
        self.width = max((c1 - c0 for c0, c1 in plan.spans), default=0)

    def rows_at_a_time(self) -> None:
        """N:M: rows are independent, so each part of them goes through all the columns."""
        plan = self.plan
        m, N, lanes, kind = plan.W.shape[0], plan.columns.shape[0], self.lanes, plan.W.dtype
        if m == 0 or N == 0:
            return
        queue, workers = tile_parts(m, N * lanes * kind.itemsize, lanes)
        height = max(b - a for a, b in queue)
        drop = self.pattern.size - self.pattern.keep
        size = -(-self.pattern.size // PANEL) * PANEL

        def work() -> None:
            Z = np.empty((height, N, lanes), kind)
            F = np.empty((height, self.width, lanes), kind)
            C = np.empty(F.shape, self.values.dtype)
            while True:
                try:
                    first, last = queue.popleft()
                except IndexError:
                    return
                used = last - first
                part = _Part(self, first * lanes, Z[:used], F[:used], C[:used])
                for span in plan.spans:
                    self.kernels.accumulate(part.F, part.Z, panels(plan.U, *span), *span)
                    part.prune(span, drop, size)
                part.end()

        run_all(work, [()] * workers)

    def blocks_at_a_time(self, sparsity: float) -> None:
        """Unstructured: all rows share the threshold of a block, so they take it together."""
        plan = self.plan
        m, lanes, kind = plan.W.shape[0], self.lanes, plan.W.dtype
        if m == 0 or not plan.spans:
            return
        tiles = -(-m // lanes)
        Z = np.empty((tiles, plan.columns.shape[0], lanes), kind)
        F = np.empty((tiles, self.width, lanes), kind)
        C = np.empty(F.shape, self.values.dtype)
        pieces = min(tiles, 4 * thread_count())
        edges = [tiles * i // pieces for i in range(pieces + 1)]
        parts = run_all(
            lambda a, b: _Part(self, a * lanes, Z[a:b], F[a:b], C[a:b]), list(pairwise(edges))
        )
        done = pruned = 0
        for span in plan.spans:
            columns = plan.columns[slice(*span)]
            columns = columns[columns >= 0]
            done += columns.size
            count = count_of(sparsity, m * done) - pruned
            pruned += count
            scores = np.empty((m, columns.size), kind)
            run_all(_Part.score, [(part, span, scores) for part in parts])
            chosen = least(scores, count)
            self.mask[:, columns] = chosen
            run_all(_Part.prune, [(part, span, -1, PANEL) for part in parts])
        run_all(_Part.end, [(part,) for part in parts])


class _Part:
    """Some tiles of rows on their way through the columns."""

    def __init__(self, run: _Pass, first: int, Z: np.ndarray, F: np.ndarray, C: np.ndarray):
        self.run, self.first, self.Z, self.F, self.C = run, first, Z, F, C
        tiles, _, lanes = Z.shape
        self.rows = slice(first, min(first + tiles * lanes, run.plan.W.shape[0]))
        run.kernels.load(run.plan.W, first, run.plan.columns, Z)
        self.scale = tiled(run.scale[self.rows], tiles, lanes, 1)
        self.zero = tiled(run.zero[self.rows], tiles, lanes, 0)
        self.stats = np.zeros((tiles, 4, lanes))
        self.stats[:, 2] = 0.5

    def score(self, span: tuple[int, int], scores: np.ndarray) -> None:
        """Write |w| sqrt(D) of the columns of a block, w as compensated for those before it."""
        plan, kernels = self.run.plan, self.run.kernels
        U = panels(plan.U, *span)
        kernels.accumulate(self.F, self.Z, U, *span)
        mine = scores[self.rows]
        kernels.compensate(self.F, U, plan.columns, *span, self.Z, mine)
        salience = self.run.salience[slice(*span)][plan.columns[slice(*span)] >= 0]
        np.abs(mine, out=mine)
        mine *= salience.astype(mine.dtype)

    def prune(self, span: tuple[int, int], drop: int, size: int) -> None:
        """Go through the columns of a block."""
        run, plan = self.run, self.run.plan
        grid = (self.scale, self.zero, plan.group, run.low, run.high)
        arrays = (plan.columns, plan.D, plan.damping, run.salience)
        rule = (run.mask, self.first, drop, size)
        run.kernels.prune_block(
            self.F, self.Z, self.C, plan.U, grid, arrays, span, rule, self.stats
        )
        width = span[1] - span[0]
        C = self.C if width == self.C.shape[1] else np.ascontiguousarray(self.C[:, :width])
        run.kernels.store(C, self.first, plan.columns[slice(*span)], run.values)

    def end(self) -> None:
        """Hand over what was counted."""
        run, rows = self.run, self.rows
        flat = self.stats.transpose(0, 2, 1).reshape(-1, 4)[: rows.stop - rows.start]
        run.row_loss[rows] = flat[:, :2]
        run.ties[rows] = flat[:, 2]
        run.row_clipped[rows] = flat[:, 3]


def least(scores: np.ndarray, count: int) -> np.ndarray:
    """Return a mask of the ``count`` least scores; among equals those first in row-major order."""
    if count <= 0:
        return np.zeros(scores.shape, np.bool_)
    if count >= scores.size:
        return np.ones(scores.shape, np.bool_)
    threshold = np.partition(scores, count - 1, axis=None)[count - 1]
    chosen = scores < threshold
    tied = np.flatnonzero(scores == threshold)
    chosen.reshape(-1)[tied[: count - np.count_nonzero(chosen)]] = True
    return chosen
