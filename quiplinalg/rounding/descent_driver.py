"""The driver of coordinate descent on codes: rows on threads, pass after pass.

Per row, with e = W_hat - w: the loss e H e^T changes by 2 g d + H_kk d^2 when column k moves by d,
g = (e H)_k.  The best multiple of the step s is d = s (Q - code), Q = clamp(round(code - g / (H_kk
s))), clamped before it is judged.  G = E H is formed once and kept up to date, so that after the
first pass only changes cost anything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiplinalg.arrays import read_only
from quiplinalg.grids.apply import tie_tolerance
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import PANEL, DeviceKernels, Kernels
from quiplinalg.parallel import run_all
from quiplinalg.rounding.tiles import tile_parts

__all__ = ["Descent", "descend_codes", "descent_limits", "work_exponent", "work_hessian"]

_STEPS = 128  # rows of H a piece: with them a tile of E, 24 KB, stays in the first-level cache
_LEAST = 16  # times eps H_kk d^2: what a change must gain, or rounding could undo and redo it
_PANELS_AT_ONCE = 64
_ROWS = 512  # of H scaled at a time
_EXPONENT = 60  # H with a diagonal beyond 2**-60 .. 2**60 is scaled, lest sums over- or underflow


@dataclass(frozen=True, eq=False)
class Descent:
    """What coordinate descent did to the codes of a layer.

    Attributes
    ----------
    codes : ndarray, (m, n), the dtype of the codes that were passed
        On their device.
    loss : ndarray, (m,), float64
        Loss of each row before: e H e^T for its e = W_hat - w.
    decrease : ndarray, (m,), float64
        By how much it fell; at least 0.
    ties : ndarray, (m,), bool
        Rows that met a tie, to within what rounding errors can decide.
    passes : int
        Passes done.
    changed : int
        Codes changed in the last of them; 0 at a fixed point.
    history : tuple of float
        The fall of the total loss in each pass.
    """

    codes: np.ndarray
    loss: np.ndarray
    decrease: np.ndarray
    ties: np.ndarray
    passes: int
    changed: int
    history: tuple[float, ...]


def descend_codes(
    W: np.ndarray,
    H: np.ndarray,
    codes: np.ndarray,
    grid: UniformGrid,
    passes: int,
    kernels: Kernels,
) -> Descent:
    """Refine codes under H; see `descend`, which checks what it gets, as this does not.

    Parameters
    ----------
    W : ndarray, (m, n), float32 or float64, C order
    H : ndarray, (n, n), float32 or float64, C order
        Symmetric; its rows are read, where they differ from its columns.
    codes : ndarray, (m, n), uint8, or int32 on an unbounded grid
        On the grid.  Not changed.
    grid : UniformGrid
        Of 1 or m rows, and n columns.
    passes : int
        The most passes to do.
    kernels : Kernels

    Returns
    -------
    Descent
    """
    if isinstance(kernels, DeviceKernels):
        from quiplinalg.rounding.descent_device import descend_codes_on_device

        return descend_codes_on_device(W, H, codes, grid, passes, kernels)
    m = W.shape[0]
    codes = codes.copy()
    hessian, unit = work_hessian(H, W.dtype)
    descender = _Descender(W, hessian, codes, grid, passes, kernels)
    parts = descender.run()
    done = max((len(gains) for gains, _ in parts.values()), default=min(passes, 1))
    gains, changed = np.zeros((done, m)), np.zeros((done, m), np.int64)
    for first, (gain, change) in parts.items():
        for p in range(len(gain)):
            rows = slice(first, first + gain[p].shape[0])
            gains[p, rows], changed[p, rows] = gain[p], change[p]
    gains *= unit
    return Descent(
        codes=codes,
        loss=np.maximum(descender.loss * unit, 0.0),
        decrease=gains.sum(axis=0),
        ties=descender.ties,
        passes=done,
        changed=int(changed[-1].sum()) if done else 0,
        history=tuple(gains.sum(axis=1).tolist()),
    )


def work_hessian(H: np.ndarray, kind: np.dtype) -> tuple[np.ndarray, float]:
    """Return H in kind, and the power of 2 it is in units of."""
    n = H.shape[0]
    exponent = work_exponent(H.diagonal(), H.dtype == kind)
    if H.dtype == kind and not exponent:
        return H, 1.0
    work = np.empty((n, n), kind)

    def scale(i: int) -> None:
        work[i : i + _ROWS] = H[i : i + _ROWS] * 2.0**-exponent

    run_all(scale, [(i,) for i in range(0, n, _ROWS)])
    return work, 2.0**exponent


def work_exponent(diagonal: np.ndarray, same: bool) -> int:
    """Return the exponent of the power of 2 that H is in units of; 0 where it may stay as it is.

    Parameters
    ----------
    diagonal : ndarray, (n,)
        Of H.
    same : bool
        H is of the precision to work in.
    """
    exponent = int(np.frexp(diagonal.max(initial=0.0))[1])
    if same and abs(exponent) <= _EXPONENT:
        return 0
    return min(max(exponent, -1000), 1000)  # both powers of 2 are normal numbers


def descent_limits(
    diagonal: np.ndarray, grid: UniformGrid
) -> tuple[np.ndarray, float, float, float, float]:
    """Return (bound, low, high, tie, least) of `Kernels.descend` for a diagonal of H.

    A column with ``|g| <= bound s`` keeps its code; low and high are the ends of the grid; tie is
    the distance to a tie that counts, least the share of H_kk d^2 that a change must gain.
    """
    kind = diagonal.dtype
    tie = tie_tolerance(diagonal.size, kind)
    bound = np.where(diagonal > 0, diagonal * kind.type(0.5 - tie), np.inf).astype(kind)
    low, high = (0.0, grid.maxq) if grid.bits is not None else (-(2.0**31 - 1), 2.0**31 - 1)
    return bound, low, high, tie, _LEAST * float(np.finfo(kind).eps)


class _Descender:
    """Refines the codes of rows, tiles of rows on threads; rows are independent."""

    def __init__(
        self,
        W: np.ndarray,
        hessian: np.ndarray,
        codes: np.ndarray,
        grid: UniformGrid,
        passes: int,
        kernels: Kernels,
    ):
        m, n = W.shape
        kind = W.dtype
        self.W, self.hessian, self.codes = read_only(W), read_only(hessian), codes
        self.passes, self.kernels = passes, kernels
        groups = grid.scale.shape[1]
        self.scale, self.zero = (
            np.ascontiguousarray(np.broadcast_to(a.astype(kind, copy=False), (m, groups)))
            for a in (grid.scale, grid.zero)
        )
        self.group = grid.columns(n)
        self.limits = descent_limits(hessian.diagonal(), grid)
        self.loss = np.zeros(m)
        self.ties = np.zeros(m, bool)

    def run(self) -> dict[int, tuple[list[np.ndarray], list[np.ndarray]]]:
        """Return, by its first row, the gains and the changed codes of each part, pass by pass."""
        m, n = self.W.shape
        kind, kernels = self.W.dtype, self.kernels
        if m == 0 or n == 0:
            return {}
        panels = -(-n // PANEL)
        N = panels * PANEL
        packed = np.empty((-(-N // _STEPS), panels, _STEPS, PANEL), kind)
        step = _PANELS_AT_ONCE
        run_all(
            kernels.pack_square,
            [(self.hessian, packed, p, min(p + step, panels)) for p in range(0, panels, step)],
        )
        lanes = kernels.lanes(kind)
        queue, workers = tile_parts(m, N * lanes * kind.itemsize, lanes)
        height = max(b - a for a, b in queue)
        width = min(4 * kernels.block, N)
        found = {}

        def work() -> None:
            Z = np.empty((height, N, lanes), kind)
            F = np.empty((height, width, lanes), kind)
            G = np.empty((height * lanes, n), kind)
            while True:
                try:
                    first, last = queue.popleft()
                except IndexError:
                    return
                tiled = (Z[: last - first], F[: last - first])
                found[first * lanes] = self._rows(first * lanes, *tiled, G, packed)

        run_all(work, [()] * workers)
        return found

    def _rows(
        self, first: int, Z: np.ndarray, F: np.ndarray, G: np.ndarray, packed: np.ndarray
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        kernels = self.kernels
        tiles, _, lanes = Z.shape
        rows = slice(first, min(first + tiles * lanes, self.W.shape[0]))
        count = rows.stop - rows.start
        G, codes, scale = G[:count], self.codes[rows], self.scale[rows]
        kernels.load_errors(self.W, self.codes, (self.scale, self.zero, self.group), first, Z)
        loss = np.empty((tiles, lanes))
        kernels.residual(Z, packed, F, G, loss)
        self.loss[rows] = loss.reshape(-1)[:count]
        grid = (scale, self.group, *self.limits)
        gains: list[np.ndarray] = []
        changes: list[np.ndarray] = []
        active = np.arange(count)
        while active.size and len(gains) < self.passes:
            gain, changed = np.zeros(count), np.zeros(count, np.int64)
            found = (gain, changed, self.ties[rows])
            kernels.descend(G, codes, self.hessian, grid, active, kernels.block, found)
            gains.append(gain)
            changes.append(changed)
            active = np.flatnonzero(changed)  # a row that was left alone would be again
        return gains, changes
