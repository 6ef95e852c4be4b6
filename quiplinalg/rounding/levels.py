"""Codebooks of rows: k-means, rounding to levels with feedback, levels and codes by turns.

Per row, e = W_hat - w and W_hat_k = levels[code_k].  Half a step is the levels of least loss for
the codes, by least squares under H, or a pass of coordinate descent on the codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from quiplinalg.arrays import read_only
from quiplinalg.grids.codebook import CodebookGrid
from quiplinalg.kernels.record import PANEL, DeviceKernels, Kernels
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.rounding.descent_driver import work_hessian
from quiplinalg.rounding.level_fit import (
    LEAST,
    PASSES,
    SETTLED,
    Fitted,
    Start,
    best_levels,
    quantile_places,
)
from quiplinalg.rounding.levels_device import (
    fit_levels_on_device,
    kmeans_on_device,
    round_on_device,
)
from quiplinalg.rounding.plan import layout, panels
from quiplinalg.rounding.prepared import PreparedHessian

__all__ = ["Fitted", "dense_feedback", "fit_levels", "kmeans_levels", "round_to_levels"]

_ROWS = 64
_SUMS = 32 << 20  # bytes of H summed by code that a thread holds
_BLOCK = 128  # columns rounded between two products


def kmeans_levels(W: np.ndarray, bits: int, kernels: Kernels) -> np.ndarray:
    """Return the levels of least squared error in each row, (m, 2**bits), float64 (Lloyd, Max).

    From the quantiles of the row, 100 passes at most: a local minimum.

    Parameters
    ----------
    W : ndarray, (m, n), n > 0
    bits : int
    kernels : Kernels
    """
    if isinstance(kernels, DeviceKernels):
        return kmeans_on_device(W, bits, kernels)
    m, n = W.shape
    levels = np.empty((m, 1 << bits))
    quantiles = quantile_places(1 << bits, n)

    def part(first: int) -> None:
        rows = slice(first, first + _ROWS)
        X = np.sort(W[rows], axis=1)
        levels[rows] = X[:, quantiles]
        kernels.lloyd(X, levels[rows], PASSES)

    run_all(part, [(i,) for i in range(0, m, _ROWS)])
    return levels


def dense_feedback(ready: PreparedHessian, dtype: np.dtype, kernels: Kernels) -> np.ndarray:
    """Return U, (n, n), strictly upper, in rounding order: the feedback that `ldlq` uses."""
    n = ready.shape[0]
    place, _ = layout(n, -(-kernels.block // PANEL) * PANEL)
    packed = ready.feedback(place, dtype).U
    if isinstance(kernels, DeviceKernels):  # of which it is a matrix
        return kernels.xp.ascontiguousarray(packed[:n, :n])
    U = np.zeros((place.shape[0], place.shape[0]), dtype)
    for c in range(0, place.shape[0], PANEL):
        U[: c + PANEL, c : c + PANEL] = panels(packed, c, c + PANEL).reshape(-1, PANEL)
    return U[:n, :n]


def round_to_levels(
    W: np.ndarray, U: np.ndarray, permutation: np.ndarray, grid: CodebookGrid, kernels: Kernels
) -> np.ndarray:
    """Return the codes of LDLQ on levels: z_k = W_k + (W - W_hat)_{<k} U_{<k,k}, to the nearest.

    Parameters
    ----------
    W : ndarray, (m, n), float32 or float64
    U : ndarray, (n, n), of the same dtype
        Strictly upper, in rounding order.
    permutation : ndarray, (n,)
        The columns in this order.
    grid : CodebookGrid
    kernels : Kernels
    """
    if isinstance(kernels, DeviceKernels):
        return round_on_device(W, U, permutation, grid, kernels)
    m, n = W.shape
    codes = np.empty((m, n), np.uint8)
    levels = grid.levels.astype(np.float64)

    def part(first: int) -> None:
        rows = slice(first, min(first + _ROWS, m))
        w = W[rows][:, permutation]
        E, found = np.zeros_like(w), np.empty(w.shape, np.uint8)
        for k in range(0, n, _BLOCK):
            own = slice(k, min(k + _BLOCK, n))
            F = np.ascontiguousarray(E[:, :k] @ U[:k, own])
            block = (np.ascontiguousarray(a) for a in (w[:, own], F, U[own, own]))
            code, error = np.empty(F.shape, np.uint8), np.empty_like(F)
            kernels.round_levels(*block, levels[rows], code, error)
            found[:, own], E[:, own] = code, error
        codes[rows, permutation] = found

    with single_blas_thread():
        run_all(part, [(i,) for i in range(0, m, _ROWS)])
    return codes


def fit_levels(
    W: np.ndarray, H: np.ndarray, starts: Sequence[Start], rounds: int, kernels: Kernels
) -> Fitted:
    """Take turns of levels and codes from the best start of each row; levels come last.

    Parameters
    ----------
    W : ndarray, (m, n), float32 or float64, C order
    H : ndarray, (n, n), symmetric
    starts : sequence of (CodebookGrid, codes)
        Of m rows, all with as many levels, in one dtype.
    rounds : int
        The most; 0: the levels alone.
    kernels : Kernels

    Returns
    -------
    Fitted
    """
    if isinstance(kernels, DeviceKernels):
        return fit_levels_on_device(W, H, starts, rounds, kernels)
    m, n = W.shape
    hessian, unit = work_hessian(H, W.dtype)
    hessian = read_only(hessian)
    levels, codes = (a.copy() for a in (starts[0][0].levels, starts[0][1]))
    height = max(1, min(_ROWS, _SUMS // max(levels.shape[1] * n * W.itemsize, 1)))
    changed, loss = np.zeros(m, np.int64), np.zeros(m)
    history = np.zeros((rounds + 1, 2, m))

    def part(first: int) -> int:
        rows = slice(first, min(first + height, m))
        own = _Rows(
            W[rows], hessian, [(grid.of_rows(rows), q[rows]) for grid, q in starts], kernels
        )
        loss[rows] = own.loss
        done = own.run(rounds, history[:, :, rows], changed[rows])
        levels[rows], codes[rows] = own.levels, own.codes
        return done

    done = 0
    if m and n:
        with single_blas_thread():
            done = max(run_all(part, [(i,) for i in range(0, m, height)]))
    history = history[: done + 1] * unit
    return Fitted(codes, CodebookGrid(levels), done, int(changed.sum()), loss * unit, history)


class _Rows:
    """Some rows: their levels and codes, G = E H, and T, the sums of H by code, kept up to date."""

    def __init__(self, W: np.ndarray, H: np.ndarray, starts: list[Start], kernels: Kernels):
        self.H, self.kernels = H, kernels
        grid, codes = starts[0]
        self.levels, self.codes = grid.levels.copy(), codes.copy()
        self.G, self.loss = self._errors(W, *starts[0])
        for grid, codes in starts[1:]:
            G, loss = self._errors(W, grid, codes)
            better = loss < self.loss
            self.levels[better], self.codes[better] = grid.levels[better], codes[better]
            self.G[better], self.loss[better] = G[better], loss[better]
        self.T = np.empty((*self.levels.shape, H.shape[0]), H.dtype)
        kernels.level_sums(H, self.codes, self.T)

    def _errors(
        self, W: np.ndarray, grid: CodebookGrid, codes: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        E = grid.values(codes, W.dtype) - W
        G = np.ascontiguousarray(E @ self.H)
        return G, np.einsum("ij,ij->i", E, G, dtype=np.float64)

    def run(self, rounds: int, history: np.ndarray, changed: np.ndarray) -> int:
        """Take turns; fill in the falls of the loss and the codes last changed."""
        left = self.loss.copy()
        rows = np.arange(left.size)
        history[0, 0] = self.fit(rows)
        left -= history[0, 0]
        done = 0
        while rows.size and done < rounds:
            fall = history[done, 1], history[done + 1, 0]
            fall[0][rows], changed[rows] = self.descend(rows)
            fall[1][rows] = self.fit(rows)
            done += 1
            gain = fall[0][rows] + fall[1][rows]
            left[rows] -= gain
            rows = rows[gain > SETTLED * np.maximum(left[rows], 0)]
        return done

    def fit(self, rows: np.ndarray) -> np.ndarray:
        """Levels by least squares, where they lower the loss as stored; return its fall."""
        old, codes, T = self.levels[rows], self.codes[rows], self.T[rows]
        count = old.shape[1]
        hot = (codes[:, None, :] == np.arange(count)[:, None]).astype(T.dtype)
        S = (T @ hot.transpose(0, 2, 1)).astype(np.float64)
        S = (S + S.transpose(0, 2, 1)) / 2
        r = np.einsum("iln,in->il", hot, self.G[rows], dtype=np.float64)
        new, step, fall = best_levels(old, S, r)
        self.G[rows] += np.einsum("iln,il->in", T, step.astype(T.dtype))
        self.levels[rows] = new
        self._sort(rows[(new[:, 1:] < new[:, :-1]).any(axis=1)])
        return fall

    def _sort(self, rows: np.ndarray) -> None:
        """Put the levels of some rows in ascending order again."""
        rank = np.argsort(self.levels[rows], axis=1, kind="stable")
        place = np.argsort(rank, axis=1).astype(np.uint8)
        self.levels[rows] = np.take_along_axis(self.levels[rows], rank, axis=1)
        self.codes[rows] = np.take_along_axis(place, self.codes[rows].astype(np.intp), axis=1)
        self.T[rows] = np.take_along_axis(self.T[rows], rank[:, :, None], axis=1)

    def descend(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """One pass of descent on the codes; return the fall of the loss and the codes changed."""
        gain, changed = np.zeros(self.loss.size), np.zeros(self.loss.size, np.int64)
        least = LEAST * float(np.finfo(self.G.dtype).eps)
        self.kernels.descend_levels(
            self.G, self.codes, self.T, self.H, self.levels.astype(np.float64), rows, least,
            (gain, changed),
        )  # fmt: skip
        return gain[rows], changed[rows]
