"""Rounds the rows of a plan with feedback: tiles of rows, on threads, columns in spans.

Rows are independent.  Where the feedback is in memory each tile goes through all the columns while
it is in the cache; where it is read from a file all tiles go through a span of it together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np

from quiplinalg.grids.apply import check_reached, code_ends
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import DeviceKernels, Kernels
from quiplinalg.parallel import run_all, thread_count
from quiplinalg.rounding.options import NORM, Options
from quiplinalg.rounding.plan import Plan, panels, tiled
from quiplinalg.rounding.rounder_device import Members, round_members
from quiplinalg.rounding.tiles import tile_parts

__all__ = ["Rounded", "round_rows"]

_PARTS = 4  # of the rows, for each thread, where they wait for one another


@dataclass(eq=False)
class Rounded:
    """Rounded rows: codes in the caller's column order, their grid, and sums of each row.

    Codes and grid are arrays of the backend.
    """

    codes: Any  # (m, n)
    scale: Any  # (m, groups), work dtype
    zero: Any
    ties: np.ndarray  # (m,) least distance to a tie
    row_loss: np.ndarray  # (m, 2) with damping, and what damping adds
    row_clipped: np.ndarray  # (m,)

    @property
    def loss(self) -> float:
        """The loss under H, without damping."""
        loss, damped_part = self.row_loss.sum(axis=0)  # in the order of rows, whoever did them
        return max(float(loss - damped_part), 0.0)

    def keep_better_rows(self, other: Rounded, xp: Any) -> None:
        """Take the rows whose loss is smaller in another rounding of the same plan."""
        better = np.subtract(*other.row_loss.T) < np.subtract(*self.row_loss.T)
        for name in (field.name for field in fields(self)):
            mine = getattr(self, name).copy()
            own = better if isinstance(mine, np.ndarray) else xp.asarray(better)
            mine[own] = getattr(other, name)[own]
            setattr(self, name, mine)

    @classmethod
    def joined(cls, pieces: list[Rounded]) -> Rounded:
        """Return the rows of all pieces, one after the other."""
        if len(pieces) == 1:  # always on a device
            return pieces[0]
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(each, name) for each in pieces]) for name in names))


def round_rows(plan: Plan, grid: UniformGrid | None, options: Options, kernels: Kernels) -> Rounded:
    """Round the rows of a plan to a grid, or fit the grid of each group on the way where None."""
    m, n = plan.W.shape
    kind, xp = plan.W.dtype, kernels.xp
    bits = options.bits if grid is None else grid.bits
    if grid is None:
        scale, zero = xp.ones((m, plan.groups), kind), xp.zeros((m, plan.groups), kind)
    else:
        shape = (m, grid.scale.shape[1])
        scale = xp.broadcast_to(grid.scale.astype(kind, copy=False), shape)
        zero = xp.broadcast_to(grid.zero.astype(kind, copy=False), shape)
    if isinstance(kernels, DeviceKernels):
        return _round_alone(plan, scale, zero, bits, options, kernels)
    codes = np.empty((m, n), np.int32 if bits is None else np.uint8)
    out = Rounded(codes, scale, zero, np.full(m, 0.5), np.zeros((m, 2)), np.zeros(m))
    low, high = (kind.type(end) for end in code_ends(bits))
    if codes.size:
        _Rounder(plan, grid is None, options, kernels, low, high, out).run()
    check_reached(bits, out.row_clipped.sum())
    return out


def _round_alone(
    plan: Plan, scale: Any, zero: Any, bits: int | None, options: Options, kernels: DeviceKernels
) -> Rounded:
    """Round the rows of a plan on a device, as a stack of one layer."""
    members = Members(
        W=plan.W[None],
        columns=plan.columns[None],
        U=plan.U[None],
        D=plan.D[None],
        damping=plan.damping[None],
        spans=plan.spans,
        group=plan.group[None],
        first=plan.first,
    )
    done = round_members(members, scale[None], zero[None], bits, options, kernels)
    return Rounded(*(getattr(done, field.name)[0] for field in fields(Rounded)))


class _Rounder:
    """Takes all the rows of a plan through all its columns."""

    def __init__(
        self,
        plan: Plan,
        fits: bool,
        options: Options,
        kernels: Kernels,
        low: np.floating,
        high: np.floating,
        out: Rounded,
    ):
        self.plan, self.fits, self.options, self.kernels = plan, fits, options, kernels
        self.low, self.high, self.out = low, high, out
        self.lanes = kernels.lanes(plan.W.dtype)
        self.width = max(c1 - c0 for c0, c1 in plan.spans)

    def run(self) -> None:
        """Round everything."""
        plan, lanes = self.plan, self.lanes
        m, N = plan.W.shape[0], plan.columns.shape[0]
        if isinstance(plan.U, np.ndarray):
            self._by_rows(*tile_parts(m, N * lanes * plan.W.itemsize, lanes))
        else:
            tiles = -(-m // lanes)
            count = min(tiles, _PARTS * thread_count())
            self._by_spans(pairwise(tiles * part // count for part in range(count + 1)))

    def _by_rows(self, queue: deque[tuple[int, int]], workers: int) -> None:
        height = max(b - a for a, b in queue)

        def work() -> None:
            buffers = self._buffers(height)
            while True:
                try:
                    first, last = queue.popleft()
                except IndexError:
                    return
                part = _Part(self, first * self.lanes, *(a[: last - first] for a in buffers))
                for span in self.plan.spans:
                    part.round(panels(self.plan.U, *span), span)
                part.end()

        run_all(work, [()] * workers)

    def _by_spans(self, edges: Iterable[tuple[int, int]]) -> None:
        def begin(first: int, last: int) -> _Part:
            return _Part(self, first * self.lanes, *self._buffers(last - first))

        parts = run_all(begin, edges)
        for span in self.plan.spans:
            U = self.plan.U.panels(*span)
            run_all(_Part.round, [(part, U, span) for part in parts])
            del U  # before the next is read
        run_all(_Part.end, [(part,) for part in parts])

    def _buffers(self, tiles: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        kind, N = self.plan.W.dtype, self.plan.columns.shape[0]
        return (
            np.empty((tiles, N, self.lanes), kind),
            np.empty((tiles, N, self.lanes), self.out.codes.dtype),
            np.empty((tiles, self.width, self.lanes), kind),
        )


class _Part:
    """Some tiles of rows on their way through the columns."""

    def __init__(self, run: _Rounder, first: int, Z: np.ndarray, C: np.ndarray, F: np.ndarray):
        self.run, self.first, self.Z, self.C, self.F = run, first, Z, C, F
        plan, (tiles, _, lanes) = run.plan, Z.shape
        self.rows = rows = slice(first, min(first + tiles * lanes, plan.W.shape[0]))
        run.kernels.load(plan.W, first, plan.columns, Z)
        self.scale = tiled(run.out.scale[rows], tiles, lanes, 1)
        self.zero = tiled(run.out.zero[rows], tiles, lanes, 0)
        self.stats = np.zeros((tiles, 4, lanes))
        self.stats[:, 2] = 0.5

    def round(self, U: np.ndarray, span: tuple[int, int]) -> None:
        """Round the columns of a span, U being their panels of the feedback."""
        run, plan = self.run, self.run.plan
        run.kernels.accumulate(self.F, self.Z, U, *span)
        if run.fits:
            self._fit(U, span)
        noise = self._noise(plan.columns[slice(*span)])
        grid = (self.scale, self.zero, plan.group, run.low, run.high, noise)
        layout = (plan.columns, plan.D, plan.damping)
        run.kernels.round_block(self.F, self.Z, self.C, U, grid, layout, span, self.stats)

    def end(self) -> None:
        """Hand over the codes and what was counted."""
        run, rows = self.run, self.rows
        run.kernels.store(self.C, self.first, run.plan.columns, run.out.codes)
        flat = self.stats.transpose(0, 2, 1).reshape(-1, 4)[: rows.stop - rows.start]
        run.out.row_loss[rows] = flat[:, :2]
        run.out.ties[rows] = flat[:, 2]
        run.out.row_clipped[rows] = flat[:, 3]

    def _noise(self, columns: np.ndarray) -> np.ndarray:
        run = self.run
        if run.options.rounding != "stochastic":
            return np.empty((0, 0, 0), np.float32)
        tiles, _, lanes = self.Z.shape
        noise = np.empty((tiles, columns.shape[0], lanes), np.float32)
        first = run.plan.first + self.first
        run.kernels.philox(run.options.philox_key, first, columns, noise)
        return noise

    def _fit(self, U: np.ndarray, span: tuple[int, int]) -> None:
        """Fit a group's grid to its current, compensated weights."""
        run, plan, options = self.run, self.run.plan, self.run.options
        tiles, _, lanes = self.Z.shape
        count = self.rows.stop - self.rows.start
        real = int((plan.columns[slice(*span)] >= 0).sum())
        group = plan.group[span[0]]
        X = np.empty((count, real), plan.W.dtype)
        run.kernels.compensate(self.F, U, plan.columns, *span, self.Z, X)
        s, o = np.empty(count, X.dtype), np.empty(count, X.dtype)
        run.kernels.fit(X, run.high, options.sym, options.clip == "mse", NORM, 0, s, o)
        if X.dtype == np.float64:  # as stored
            s, o = s.astype(np.float32).astype(X.dtype), o.astype(np.float32).astype(X.dtype)
        run.out.scale[self.rows, group], run.out.zero[self.rows, group] = s, o
        self.scale[:, group] = tiled(s[:, None], tiles, lanes, 1)[:, 0]
        self.zero[:, group] = tiled(o[:, None], tiles, lanes, 0)[:, 0]
