"""Rounds the rows of a stack of layers with feedback on a device: all rows, block by block.

The targets of all columns are kept: F = W + E U over the columns rounded so far.  A block of
columns is rounded, and its own feedback added to the targets of all columns behind it; each target
is the chain of fused multiply-adds that it is on the processor.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.grids.apply import check_reached, code_ends
from quiplinalg.kernels.record import DeviceKernels
from quiplinalg.rounding.members import naming
from quiplinalg.rounding.options import NORM, Options

__all__ = ["Members", "RoundedMembers", "round_members"]


@dataclass(frozen=True, eq=False)
class Members:
    """A stack of factored layers of one shape, laid out for rounding; see `plan.Plan`.

    The vectors are on the host, a row for each member.
    """

    W: Any  # (b, m, n) on the device, work dtype
    columns: np.ndarray  # (b, N)
    U: Any  # (b, N, N) on the device, or (1, N, N) for all members
    D: np.ndarray  # (b, N) float64
    damping: np.ndarray  # (b, N) float64
    spans: list[tuple[int, int]]
    group: np.ndarray  # (b, N) int32
    first: int = 0


@dataclass(eq=False)
class RoundedMembers:
    """Rounded layers: codes and grids on the device, sums of each row on the host."""

    codes: Any  # (b, m, n)
    scale: Any  # (b, m, groups)
    zero: Any
    ties: np.ndarray  # (b, m)
    row_loss: np.ndarray  # (b, m, 2)
    row_clipped: np.ndarray  # (b, m)


def round_members(
    plan: Members,
    scale: Any,
    zero: Any,
    bits: int | None,
    options: Options,
    kernels: DeviceKernels,
) -> RoundedMembers:
    """Round every row of every member; one read-back at the end.

    Parameters
    ----------
    plan : Members
    scale, zero : device array, (b, m, groups), of W's dtype
        Where options.fits_groups is set they are overwritten, group by group.
    bits : int or None
    options : Options
    kernels : DeviceKernels
    """
    xp = kernels.xp
    b, m, n = plan.W.shape
    codes = xp.empty((b, m, n), np.int32 if bits is None else np.uint8)
    out = RoundedMembers(
        codes, scale, zero, np.full((b, m), 0.5), np.zeros((b, m, 2)), np.zeros((b, m))
    )
    if codes.size:
        stats = _Run(plan, out, bits, options, kernels).run()
        out.row_loss, out.ties, out.row_clipped = stats[..., :2], stats[..., 2], stats[..., 3]
    for i, rows in enumerate(out.row_clipped if bits is None else ()):
        with naming(i) if b > 1 else nullcontext():
            check_reached(bits, rows.sum())
    return out


class _Run:
    """Takes all members through all their columns together."""

    def __init__(
        self,
        plan: Members,
        out: RoundedMembers,
        bits: int | None,
        options: Options,
        kernels: DeviceKernels,
    ):
        self.plan, self.out, self.options, self.kernels = plan, out, options, kernels
        xp, kind = kernels.xp, plan.W.dtype
        b, m, _ = plan.W.shape
        self.lanes = kernels.lanes(kind)
        self.tiles = -(-m // self.lanes)
        shape = (b, self.tiles, plan.columns.shape[1], self.lanes)
        self.Z, self.F = xp.empty(shape, kind), xp.empty(shape, kind)
        self.C = xp.empty(shape, out.codes.dtype)
        self.columns, self.group = xp.asarray(plan.columns), xp.asarray(plan.group)
        self.sums = xp.asarray(plan.D), xp.asarray(plan.damping)
        self.scale, self.zero = self._tiled(out.scale, 1), self._tiled(out.zero, 0)
        self.stats = xp.zeros((b, self.tiles, 4, self.lanes))
        self.stats[:, :, 2] = 0.5
        self.low, self.high = (kind.type(end) for end in code_ends(bits))

    def run(self) -> np.ndarray:
        """Round everything; return what was counted, (b, m, 4)."""
        plan, kernels = self.plan, self.kernels
        b, m, _ = plan.W.shape
        kernels.load(plan.W, self.columns, self.Z, self.F)
        N, step = plan.columns.shape[1], kernels.block
        for start, end in plan.spans:
            if self.options.fits_groups:
                self._fit((start, end))
            for c0 in range(start, end, step):
                span = c0, min(c0 + step, end)
                self._round(span)
                if span[1] < N:
                    kernels.update(self.F, self.Z, plan.U, span)
        kernels.store(self.C, self.columns, self.out.codes)
        flat = self.stats.transpose(0, 1, 3, 2).reshape(b, self.tiles * self.lanes, 4)
        return flat[:, :m].get()

    def _round(self, span: tuple[int, int]) -> None:
        key = np.uint32(self.options.philox_key) if self.options.rounding == "stochastic" else None
        grid = (self.scale, self.zero, self.group, self.low, self.high, key)
        layout = (self.columns, *self.sums, self.plan.first)
        work = self.F, self.Z, self.C, self.plan.U
        self.kernels.round_block(*work, grid, layout, span, self.stats)

    def _fit(self, span: tuple[int, int]) -> None:
        """Fit a group's grid to its current, compensated weights."""
        plan, kernels, options = self.plan, self.kernels, self.options
        xp, kind = kernels.xp, plan.W.dtype
        b, m, _ = plan.W.shape
        real = int((plan.columns[0, slice(*span)] >= 0).sum())
        X = xp.empty((b, m, real), kind)
        kernels.compensate(self.F, self.Z, plan.U, self.columns, span, X)
        s, o = xp.empty(b * m, kind), xp.empty(b * m, kind)
        clip = options.clip == "mse"
        kernels.fit(X.reshape(b * m, real), self.high, options.sym, clip, NORM, 0, s, o)
        if kind == np.float64:  # as stored
            s, o = (a.astype(np.float32).astype(kind) for a in (s, o))
        group = int(plan.group[0, span[0]])
        out = self.out
        for own, tiles, values, fill in (
            (out.scale, self.scale, s, 1),
            (out.zero, self.zero, o, 0),
        ):
            own[:, :, group] = values.reshape(b, m)
            tiles[:, :, group] = self._tiled(own[:, :, group : group + 1], fill)[:, :, 0]

    def _tiled(self, rows: Any, fill: float) -> Any:
        """Return (b, m, groups) as (b, tiles, groups, lanes), filled up below the last row."""
        xp = self.kernels.xp
        b, m, groups = rows.shape
        padded = xp.full((b, self.tiles * self.lanes, groups), fill, rows.dtype)
        padded[:, :m] = rows
        turned = padded.reshape(b, self.tiles, self.lanes, groups).transpose(0, 1, 3, 2)
        return xp.ascontiguousarray(turned)
