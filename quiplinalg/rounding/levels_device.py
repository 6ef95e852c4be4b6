"""Codebooks on a device: the twins of what levels.py does on threads, all rows at a time.

Rows are taken in parts only where memory is short.  Read back: how many rows go on after a round,
and whether levels have to be sorted; the losses and what they fell by, at the end of a part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from quiplinalg.grids.codebook import CodebookGrid
from quiplinalg.kernels.record import DeviceKernels
from quiplinalg.rounding.descent_device import work_hessian_there
from quiplinalg.rounding.level_fit import (
    LEAST,
    PASSES,
    SETTLED,
    Fitted,
    Start,
    best_levels,
    quantile_places,
)

__all__ = ["fit_levels_on_device", "kmeans_on_device", "round_on_device"]

_SHARE = 4  # of the free memory: what T may take, and what a step may take beside it


def _parts(m: int, row_bytes: int, free: int) -> Iterator[slice]:
    """Yield m rows in parts that take a share of the free memory."""
    height = max(1, free // _SHARE // max(row_bytes, 1))
    for first in range(0, m, height):
        yield slice(first, min(first + height, m))


def kmeans_on_device(W: Any, bits: int, kernels: DeviceKernels) -> Any:
    """Return the levels of `kmeans_levels`, on the device: the same bits.

    Sorting takes 2 n of the elements of a row, and an index with each, at a time.
    """
    xp, (m, n) = kernels.xp, W.shape
    levels = xp.empty((m, 1 << bits))
    places = xp.asarray(quantile_places(1 << bits, n))
    for rows in _parts(m, n * (3 * W.itemsize + 16), kernels.free_bytes()):
        X = xp.sort(W[rows], axis=1)
        levels[rows] = X[:, places]
        kernels.lloyd(X, levels[rows], PASSES)
    return levels


def round_on_device(
    W: Any, U: Any, permutation: np.ndarray, grid: CodebookGrid, kernels: DeviceKernels
) -> Any:
    """Return the codes of `round_to_levels`, on the device.

    F has the feedback of all columns: a block is rounded, then its own added to all behind it.
    Products are cuBLAS's, in another order than on the host: codes may differ where targets tie.

    Parameters
    ----------
    W : array, (m, n), float32 or float64
    U : array, (n, n), of the same dtype
        Strictly upper, in rounding order.
    permutation : ndarray, (n,)
    grid : CodebookGrid
        Its levels on the device.
    kernels : DeviceKernels
    """
    xp, (m, n) = kernels.xp, W.shape
    codes = xp.empty((m, n), np.uint8)
    order, place = xp.asarray(permutation), xp.asarray(np.argsort(permutation))
    levels = xp.ascontiguousarray(grid.levels, np.float64)
    for rows in _parts(m, n * (6 * W.itemsize + 2), kernels.free_bytes()):
        w = xp.ascontiguousarray(W[rows][:, order])
        F = xp.zeros_like(w)
        found = xp.empty(w.shape, np.uint8)
        for k in range(0, n, kernels.block):
            own, later = slice(k, min(k + kernels.block, n)), slice(k + kernels.block, n)
            block = [xp.ascontiguousarray(a) for a in (w[:, own], F[:, own], U[own, own])]
            code, error = xp.empty(block[0].shape, np.uint8), xp.empty_like(block[0])
            kernels.round_levels(*block, levels[rows], code, error)
            found[:, own] = code
            if later.start < n:
                behind = F[:, later]
                behind += error @ U[own, later]
        codes[rows] = found[:, place]
    return codes


def fit_levels_on_device(
    W: Any, H: Any, starts: Sequence[Start], rounds: int, kernels: DeviceKernels
) -> Fitted:
    """Take turns of levels and codes as `fit_levels`, with arrays on a device.

    Of n columns and K levels a row has K n elements of T, the sums of H by code: they bound how
    many rows are done at a time.  A half step of the levels reads T, and writes and reads as much
    once more, the codes as 0 and 1, for a batched product; of rows that are not all it copies T
    too.  The K x K systems are solved there, by cuBLAS.

    Parameters
    ----------
    W : array, (m, n), float32 or float64, C order
    H : array, (n, n), symmetric
    starts : sequence of (CodebookGrid, codes)
    rounds : int
    kernels : DeviceKernels

    Returns
    -------
    Fitted
        Codes and levels on the device, the rest on the host.
    """
    m, n = W.shape
    hessian, _, exponent = work_hessian_there(H, W.dtype, kernels)
    levels, codes = starts[0][0].levels.copy(), starts[0][1].copy()
    changed, loss = np.zeros(m, np.int64), np.zeros(m)
    history = np.zeros((2 * (rounds + 1), m))

    def part(rows: slice, free: int) -> int:
        each = [(grid.of_rows(rows), q[rows]) for grid, q in starts]
        own = _Rows(W[rows], hessian, each, kernels, free)
        loss[rows] = own.loss.get()
        falls, last = own.run(rounds)
        history[: len(falls), rows], changed[rows] = kernels.xp.stack(falls).get(), last.get()
        levels[rows], codes[rows] = own.levels, own.codes
        return len(falls) // 2

    done = 0
    if n:
        free = kernels.free_bytes()
        row = n * W.itemsize * (levels.shape[1] + 8)
        done = max((part(rows, free) for rows in _parts(m, row, free)), default=0)
    unit = 2.0**exponent
    history = history.reshape(rounds + 1, 2, m)[: done + 1] * unit
    return Fitted(codes, CodebookGrid(levels), done, int(changed.sum()), loss * unit, history)


class _Rows:
    """Some rows: their levels and codes, G = E H, and T, the sums of H by code, kept up to date."""

    def __init__(self, W: Any, H: Any, starts: list[Start], kernels: DeviceKernels, free: int):
        self.H, self.kernels, self.xp, self.free = H, kernels, kernels.xp, free
        best = self._state(W, *starts[0])
        for start in starts[1:]:
            other = self._state(W, *start)
            better = other[-1] < best[-1]
            best = [
                self.xp.where(better.reshape(-1, *(1,) * (a.ndim - 1)), b, a)
                for a, b in zip(best, other, strict=True)
            ]
        self.levels, self.codes, self.G, self.loss = best
        self.T = self.xp.empty((*self.levels.shape, H.shape[0]), H.dtype)
        kernels.level_sums(H, self.codes, self.T)

    def _state(self, W: Any, grid: CodebookGrid, codes: Any) -> list[Any]:
        """Levels, codes, G and the losses of a start."""
        E = grid.values(codes, W.dtype) - W
        G, loss = self.xp.empty_like(E), self.xp.empty(E.shape[0])
        self.kernels.residual(E, self.H, G, loss)
        return [grid.levels.copy(), codes.copy(), G, loss]

    def run(self, rounds: int) -> tuple[list[Any], Any]:
        """Take turns; return the fall of the loss in each half step, and the codes last changed."""
        xp, count = self.xp, self.loss.size
        rows = xp.arange(count, dtype=np.int32)
        changed = xp.zeros(count, np.int64)
        falls = [self.fit(rows)]
        left = self.loss - falls[0]
        while rows.size and len(falls) < 2 * rounds:
            falls += [self.descend(rows, changed), self.fit(rows)]
            gain = falls[-2] + falls[-1]
            left -= gain
            # a row that gained little would again; the number of the others is waited for
            rows = rows[(gain > SETTLED * xp.maximum(left, 0))[rows]]
        return falls, changed

    def descend(self, rows: Any, changed: Any) -> Any:
        """One pass of descent on the codes of some rows; return the fall of the loss of all."""
        gain = self.xp.zeros(self.loss.size)
        least = LEAST * float(np.finfo(self.G.dtype).eps)
        levels = self.levels.astype(np.float64)
        found = gain, changed
        self.kernels.descend_levels(
            self.G, self.codes, self.T, self.H, levels, rows, least, found
        )  # fmt: skip
        return gain

    def fit(self, rows: Any) -> Any:
        """Levels of some rows by least squares; return the fall of the loss of all."""
        fall = self.xp.zeros(self.loss.size)
        _, K, n = self.T.shape
        size = self.T.itemsize
        row = n * ((2 * size + 1) * K + 6 * size + 24) + 64 * K * K
        for part in _parts(rows.size, row, self.free):
            index = rows[part]
            own = part if rows.size == self.loss.size else index  # of all a view, without a copy
            fall[own] = self._fit(own, index)
        return fall

    def _fit(self, own: Any, index: Any) -> Any:
        xp, codes, T, G = self.xp, self.codes[own], self.T[own], self.G[own]
        count = T.shape[1]
        levels = xp.arange(count).astype(np.uint8)
        S = xp.matmul(T, (codes[:, :, None] == levels).astype(T.dtype)).astype(np.float64)
        S = (S + S.transpose(0, 2, 1)) / 2
        sums = [(G * (codes == c)).sum(axis=1, dtype=np.float64) for c in range(count)]
        new, step, fall = best_levels(self.levels[own], S, xp.stack(sums, axis=1), xp)
        self.G[own] += xp.matmul(step.astype(T.dtype)[:, None, :], T)[:, 0]
        self.levels[own] = new
        crossed = xp.flatnonzero((new[:, 1:] < new[:, :-1]).any(axis=1))
        if crossed.size:
            self._sort(index[crossed])
        return fall

    def _sort(self, rows: Any) -> None:
        """Put the levels of some rows in ascending order again."""
        xp = self.xp
        rank = xp.argsort(self.levels[rows].astype(np.float64), axis=1)  # stable
        place = xp.argsort(rank, axis=1).astype(np.uint8)
        self.levels[rows] = xp.take_along_axis(self.levels[rows], rank, axis=1)
        self.codes[rows] = xp.take_along_axis(place, self.codes[rows].astype(np.intp), axis=1)
        self.T[rows] = self.T[rows[:, None], rank]
