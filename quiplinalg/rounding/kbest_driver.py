"""The driver of the M-algorithm: a factored layer in, the codes of K-best rounding out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiplinalg.grids.apply import check_reached, code_ends
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import Kernels
from quiplinalg.parallel import run_all
from quiplinalg.rounding.plan import Plan, tiled
from quiplinalg.rounding.tiles import tile_parts

__all__ = ["Rounded", "round_kbest"]


@dataclass(frozen=True, eq=False)
class Rounded:
    """Codes (m, n) in the caller's column order, and (m, 3) sums of each row.

    The sums are the loss under the damped H, the part of it that is damping, and clipped targets.
    """

    codes: np.ndarray
    sums: np.ndarray

    def but_for(self, other: Rounded, better: np.ndarray) -> Rounded:
        """Return this with the rows of ``other`` where ``better``, (m,)."""
        codes, sums = self.codes.copy(), self.sums.copy()
        codes[better], sums[better] = other.codes[better], other.sums[better]
        return Rounded(codes, sums)


def round_kbest(plan: Plan, grid: UniformGrid, paths: int, kernels: Kernels) -> Rounded:
    """Round the rows of a plan, keeping ``paths`` partial roundings of each; 1 is LDLQ."""
    m, n = plan.W.shape
    N = plan.columns.shape[0]
    kind = plan.W.dtype
    codes, sums = np.empty((m, n), grid.code_dtype), np.zeros((m, 3))
    if m == 0 or N == 0:
        return Rounded(codes, sums)
    low, high = (kind.type(end) for end in code_ends(grid.bits))
    shape = (m, grid.scale.shape[1])
    scale = np.broadcast_to(grid.scale.astype(kind, copy=False), shape)
    zero = np.broadcast_to(grid.zero.astype(kind, copy=False), shape)
    lanes = kernels.lanes(kind)
    queue, workers = tile_parts(m, paths * N * lanes * kind.itemsize, lanes)
    height = max(b - a for a, b in queue)
    width = max(c1 - c0 for c0, c1 in plan.spans)

    def rows_of(first: int, Z: np.ndarray, C: np.ndarray, work: tuple[np.ndarray, ...]) -> None:
        tiles = Z.shape[0]
        rows = slice(first, min(first + tiles * lanes, m))
        count = rows.stop - rows.start
        kernels.load(plan.W, first, plan.columns, Z)
        own = (tiled(scale[rows], tiles, lanes, 1), tiled(zero[rows], tiles, lanes, 0))
        layout = (plan.columns, plan.D, plan.damping)
        stats, shared = np.zeros((tiles, 3, paths, lanes)), np.zeros(tiles, np.int64)
        X, F, P, Q = work
        alive = 1
        for span in plan.spans:
            alive = kernels.kbest_block(
                Z, X, F, P, Q, plan.U, (*own, plan.group, low, high), layout, span,
                (alive, count, shared), stats,
            )  # fmt: skip
        kernels.kbest_trace(P, Q, C)
        kernels.store(C, first, plan.columns, codes)
        sums[rows] = stats[:, :, 0].transpose(0, 2, 1).reshape(-1, 3)[:count]

    def work() -> None:
        Z = np.empty((height, N, lanes), kind)
        C = np.empty((height, N, lanes), codes.dtype)
        several = (
            np.empty((height, paths, N, lanes), kind),
            np.empty((height, paths, width, lanes), kind),
            np.empty((height, N, paths, lanes), np.uint16),
            np.empty((height, N, paths, lanes), codes.dtype),
        )
        while True:
            try:
                first, last = queue.popleft()
            except IndexError:
                return
            used = last - first
            rows_of(first * lanes, Z[:used], C[:used], tuple(a[:used] for a in several))

    run_all(work, [()] * workers)
    check_reached(grid.bits, sums[:, 2].sum())
    return Rounded(codes, sums)
