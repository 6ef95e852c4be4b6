"""Check what was fitted after the codes: scales, zeros and levels, and low-rank corrections."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from quiplinalg.grids.codebook import CodebookGrid
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.losses import proxy_loss
from quiplinalg.results import Quantized

if TYPE_CHECKING:
    from quiplinalg.rounding.verify import Verification

__all__ = ["fit_objection", "verify_corrected"]

_ROWS = 256
_RTOL = 1e-9  # of a loss by definition
_RIDGE = 1e-11  # to which scales are solved for, at least
_SOLVED = 1e-6  # of a row's loss that sums in float32 may leave to be gained


def verify_corrected(
    weight: np.ndarray,
    hessian: np.ndarray,
    quantized: Quantized,
    check: Callable[[np.ndarray, np.ndarray, Quantized], Verification],
) -> Verification:
    """Verify a layer without its correction, then the correction, and the loss with it.

    Parameters
    ----------
    weight : ndarray, (m, n), float32 or float64
    hessian : ndarray, (n, n), float64
    quantized : Quantized
        With its correction.
    check : callable
        Verifies it without.

    Notes
    -----
    The right factor must be that of least squares for the left one, as it is stored.
    """
    correction = quantized.correction
    assert correction is not None
    plain = replace(quantized, correction=None)
    rounded = plain.__array__(np.dtype(np.float64))
    # what is known of its loss is that of the codes: the stored one has the correction in it
    found = check(weight, hessian, replace(plain, loss=proxy_loss(rounded, weight, hessian)))
    E = weight.astype(np.float64) - rounded
    E[:, hessian.diagonal() == 0] = 0
    left, right = (a.astype(np.float64) for a in (correction.left, correction.right))
    gram = left.T @ left
    missing = np.abs(left.T @ E - gram @ right)
    half = np.finfo(np.float16)
    allowed = np.abs(gram) @ (np.abs(right) * half.eps + half.smallest_subnormal)
    correction.add_to(rounded)
    loss, stored = proxy_loss(rounded, weight, hessian), float(quantized.loss)
    reason = found.reason
    if found.ok and not (missing <= allowed).all():
        reason = "the right factor of the correction is not that of least squares"
    elif found.ok and not abs(stored - loss) <= _RTOL * loss:
        reason = f"the stored loss is {stored:.8g}; recomputed it is {loss:.8g}"
    elif found.ok:
        reason += f", with a correction of rank {correction.rank}"
    ok = found.ok and reason.startswith(found.reason)
    error = abs(stored - loss) / loss if loss > 0 else abs(stored)
    return replace(found, ok=ok, loss=loss, stored_loss=stored, loss_error=error, reason=reason)


def fit_objection(weight: np.ndarray, hessian: np.ndarray, quantized: Quantized) -> str:
    """What is wrong with the scales or levels of a layer that were fitted; empty where nothing is.

    A row passes where one step against the gradient, of the best length, gains no more than the
    rounding of what is stored, and of W, may have cost.

    Parameters
    ----------
    weight, hessian : ndarray, (m, n) and (n, n), float64
        In the basis of the codes.
    quantized : Quantized
        With its ``refit``.

    Notes
    -----
    4 m n^2 flops in float64.
    """
    fit = _Fit(weight, hessian, quantized)
    pieces = [slice(i, i + _ROWS) for i in range(0, weight.shape[0], _ROWS)]
    if not weight.size:
        return ""
    slope, curve, loss, allowed = (
        np.concatenate(a) for a in zip(*map(fit.slopes, pieces), strict=True)
    )
    if quantized.grid.rows == 1:
        slope, curve, loss, allowed = (
            a.sum(axis=0, keepdims=True) for a in (slope, curve, loss, allowed)
        )
    step = -slope / np.where(curve > 0, curve, 1)
    bend = np.concatenate([fit.bend(rows, step) for rows in pieces])
    if quantized.grid.rows == 1:
        bend = bend.sum(keepdims=True)
    gain = np.square((slope * step).sum(axis=1)) / np.where(bend > 0, bend, np.inf)
    bad = np.flatnonzero(~(gain <= allowed + _SOLVED * loss))
    bad = bad[[not fit.is_stuck(int(row)) for row in bad]] if bad.size else bad
    if not bad.size:
        return ""
    what = "levels" if quantized.refit == "levels" else "scales"
    first = int(bad[0])
    return (
        f"the {what} of {bad.size} rows are not those of least squares, the first in row {first}, "
        f"where others lower the loss by {100 * gain[first] / max(loss[first], 1e-300):.2g}%"
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """A layer as W_hat = x B, x what was fitted: slopes, and the loss along a step of x."""

    W: np.ndarray
    H: np.ndarray
    quantized: Quantized

    def slopes(self, rows: slice) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Slope r = B H e^T, an estimate of its curvature, loss, and what rounding may cost."""
        rounded = self._values(rows)
        E = rounded - self.W[rows]
        G = E @ self.H
        diagonal = self.H.diagonal()
        stored = float(np.finfo(self.quantized.grid.dtype).eps) / 2
        least = float(np.finfo(self.quantized.grid.dtype).smallest_subnormal) / 2
        eps = 4 * max(float(np.finfo(self.quantized.precision).eps), _RIDGE)
        off = (np.abs(rounded) + self._reach(rows)) * stored + least + eps * np.abs(self.W[rows])
        return (
            self._collect(rows, G, 1),
            self._collect(rows, np.broadcast_to(diagonal, E.shape), 2),
            np.maximum((G * E).sum(axis=1), 0),
            np.square(off @ np.sqrt(np.maximum(diagonal, 0))),
        )

    def bend(self, rows: slice, step: np.ndarray) -> np.ndarray:
        """d S d^T of each row, for a step d of its parameters."""
        own = step if len(step) < len(self.W) else step[rows]
        moved = self._spread(rows, own)
        return ((moved @ self.H) * moved).sum(axis=1)

    def is_stuck(self, row: int) -> bool:
        """Whether the best scales of a row cannot all be stored as positive: it kept its own."""
        grid, n = self.quantized.grid, self.W.shape[1]
        if not isinstance(grid, UniformGrid):
            return False
        S, r = np.zeros((2, 1))
        for i in range(len(self.W)) if grid.rows == 1 else (row,):
            own = slice(i, i + 1)
            place, count = self._places(own)
            parts = self._bases(own)
            B = np.zeros((len(parts) * count, n))
            for k, base in enumerate(parts):
                B[k * count + place[0], np.arange(n)] = base[0]
            S = S + B @ self.H @ B.T
            r = r + B @ self.H @ (self._values(own) - self.W[own])[0]
        step = np.linalg.lstsq(S, -r, rcond=None)[0][: grid.groups]
        with np.errstate(over="ignore"):
            best = (grid.scale[0 if grid.rows == 1 else row] + step).astype(grid.dtype)
        return not bool((np.isfinite(best) & (best > 0)).all())

    def _values(self, rows: slice) -> np.ndarray:
        return self.quantized.of_rows(rows).__array__(np.dtype(np.float64))

    def _reach(self, rows: slice) -> np.ndarray | float:
        """|scale zero| of each weight: what the rounding of a zero moves W_hat in units of."""
        grid = self.quantized.grid
        if isinstance(grid, CodebookGrid) or self.quantized.refit != "both":
            return 0.0
        own = grid.of_rows(rows)
        reach = np.abs(own.scale.astype(np.float64) * own.zero.astype(np.float64))
        return reach[:, grid.columns(self.W.shape[1])]

    def _bases(self, rows: slice) -> list[np.ndarray]:
        """The coefficients of W_hat in the parameters that each weight has, (rows, n) each."""
        grid, codes = self.quantized.grid, self.quantized.codes[rows].astype(np.float64)
        kept = np.ones(codes.shape)
        if self.quantized.mask is not None:
            kept -= self.quantized.mask[rows]
        if isinstance(grid, CodebookGrid):
            return [kept]
        if self.quantized.refit == "both":
            return [codes * kept, kept]
        zero = grid.of_rows(rows).zero.astype(np.float64)[:, grid.columns(codes.shape[1])]
        return [(codes - zero) * kept]

    def _places(self, rows: slice) -> tuple[np.ndarray, int]:
        """Which of the parameters of a kind each weight has, (rows, n), and how many there are."""
        grid, codes = self.quantized.grid, self.quantized.codes[rows]
        if isinstance(grid, CodebookGrid):
            return codes.astype(np.intp), grid.levels.shape[1]
        columns = grid.columns(codes.shape[1]).astype(np.intp)
        return np.broadcast_to(columns, codes.shape), grid.scale.shape[1]

    def _collect(self, rows: slice, values: np.ndarray, power: int) -> np.ndarray:
        """Sums over the weights of each parameter of values times a power of its coefficient."""
        place, count = self._places(rows)
        found = np.zeros((2 if self.quantized.refit == "both" else 1, len(place), count))
        for sums, base in zip(found, self._bases(rows), strict=True):
            np.add.at(sums, (np.arange(len(place))[:, None], place), values * base**power)
        return np.hstack(list(found))

    def _spread(self, rows: slice, step: np.ndarray) -> np.ndarray:
        """What a step of the parameters changes W_hat by."""
        place, count = self._places(rows)
        step = np.broadcast_to(step, (len(place), step.shape[1]))
        parts = [step[:, i : i + count] for i in range(0, step.shape[1], count)]
        return sum(
            base * np.take_along_axis(part, place, axis=1)
            for base, part in zip(self._bases(rows), parts, strict=True)
        )  # type: ignore[return-value]
