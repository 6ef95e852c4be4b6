"""Frozen result records: factorisations and quantised layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix, check_finite
from quiplinalg.device_arrays import on_device_of
from quiplinalg.errors import BackendMismatchError, InvalidArgumentError
from quiplinalg.foreign import refuse_devices
from quiplinalg.grids.apply import dequantize, round_to_grid
from quiplinalg.grids.codebook import Grid
from quiplinalg.grids.correction import LowRankCorrection
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.incoherence.process import Processing
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.losses import proxy_loss

__all__ = ["LDL", "UDU", "BoundedFeedback", "Cholesky", "Quantized"]


@dataclass(frozen=True, eq=False)
class Cholesky:
    """A = L L^T, L (n, n) lower triangular with a positive diagonal."""

    L: np.ndarray

    def reconstruct(self) -> np.ndarray:
        """Return L L^T, (n, n)."""
        with on_device_of(self.L):
            return self.L @ self.L.T

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return x with A x = b, for b (n,) or (n, k)."""
        return _solve(self.L, None, b, lower=True)


@dataclass(frozen=True, eq=False)
class LDL:
    """A = L diag(D) L^T, L (n, n) unit lower triangular, D (n,) positive."""

    L: np.ndarray
    D: np.ndarray

    def reconstruct(self) -> np.ndarray:
        """Return L diag(D) L^T, (n, n)."""
        with on_device_of(self.L):
            return (self.L * self.D) @ self.L.T

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return x with A x = b, for b (n,) or (n, k)."""
        return _solve(self.L, self.D, b, lower=True)


@dataclass(frozen=True, eq=False)
class UDU:
    """H + damp I = T diag(D) T^T, T (n, n) unit upper triangular, D (n,) positive.

    ``damp`` is in H's units; ``dead`` are the columns of H whose diagonal is zero.
    """

    T: np.ndarray
    D: np.ndarray
    damp: float
    dead: np.ndarray

    def reconstruct(self) -> np.ndarray:
        """Return T diag(D) T^T, (n, n): H with its damping."""
        with on_device_of(self.T):
            return (self.T * self.D) @ self.T.T

    def solve(self, b: np.ndarray) -> np.ndarray:
        """Return x with (H + damp I) x = b, for b (n,) or (n, k)."""
        return _solve(self.T, self.D, b, lower=False)


@dataclass(frozen=True, eq=False)
class BoundedFeedback:
    """The solution of min tr(R H R^T), R unit upper triangular, ||R e_j||^2 <= 1 + c.

    ``T`` is R^-1 (n, n), the feedback is ``U`` = T - I; H is with its ``damp`` (in H's units).
    ``multipliers`` (n,) are those of the columns, 0 where the bound is not reached: T is also the
    factor of H + diag(multipliers).  ``lower_bound`` is below the objective of every such R.
    """

    R: np.ndarray
    T: np.ndarray
    multipliers: np.ndarray
    objective: float
    lower_bound: float
    c: float
    damp: float
    iterations: int

    @property
    def U(self) -> np.ndarray:
        """T - I, strictly upper triangular."""
        return self.T - np.eye(self.T.shape[0])

    @property
    def gap(self) -> float:
        """How far the objective may be from the least, at most, relative to it."""
        return (self.objective - self.lower_bound) / self.objective if self.objective else 0.0


def _solve(R: np.ndarray, D: np.ndarray | None, b: Any, lower: bool) -> np.ndarray:
    """x with R diag(D) R^T x = b; R is unit triangular where D is given."""
    from scipy.linalg import solve_triangular

    refuse_devices(R, "L" if lower else "T")
    refuse_devices(b, "b")
    right = np.asarray(b)
    if right.ndim not in (1, 2) or right.shape[0] != R.shape[0]:
        raise InvalidArgumentError(
            f"b must be ({R.shape[0]},) or ({R.shape[0]}, k); got shape {right.shape}. "
            "Each column of b is one right-hand side."
        )
    x = solve_triangular(R, right, lower=lower, unit_diagonal=D is not None)
    if D is not None:
        x = (x.T / D).T
    return solve_triangular(R, x, lower=lower, trans="T", unit_diagonal=D is not None)


@dataclass(frozen=True, eq=False, repr=False)
class Quantized:
    """A quantised (m, n) weight: codes on a grid, and what is known about their loss.

    Attributes
    ----------
    codes : ndarray, (m, n), uint8 (int32 on an unbounded grid), in the caller's column order
        Where ``processing`` is given, of the processed weights.  Of CuPy, and so the arrays of the
        grid, where W was on a device.
    grid : UniformGrid, or CodebookGrid of "lnq"
    method : str
        "nearest", "ldlq", "gptq", "obq", "kbest", "exact", "quip", "quip-authors", "safe",
        "lnq", or "sparsegpt" (of `prune_quantize`).
    rounding : str
        "nearest" (ties to even) or "stochastic".
    order : str
        "natural", "act", "min-pivot", "greedy" or "masked" (each row its own, of "obq") or (of
        "quip-authors") "reversed".
    permutation : ndarray, (n,), int64, or None
        The columns in the order they were rounded; None for the natural order, and
        where each row has its own.
    loss : float
        tr((W_hat - W) H (W_hat - W)^T) under the H that was passed, without damping.
    trace_D : float
        tr D of the damped H in the order used, the mean over rows where each has its own; with a
        ``feedback_bound``, tr(R H R^T) of it.
    damp : float
        What was added to the diagonal of H, in H's units.
    dead : ndarray, (k,), int64
        Columns whose diagonal of H is zero: they cost nothing.  Rounded to nearest, or zeros in
        W_hat where the inputs were rotated.
    near_tie_rows : int
        Rows with a weight so close to a rounding tie that another precision may round it apart.
    clipped : float
        Share of the weights whose target lies beyond the ends of the grid.
    seed : int or None
        The seed of stochastic rounding.
    precision : str
        "float32" or "float64": what the targets and W_hat were computed in.
    feedback_bound : float or None
        The c of `safe`, where the feedback was bounded.
    passes : int
        Passes of coordinate descent after the rounding (`descend`).
    changed : int
        Codes that the last of them changed; 0 after some passes is a fixed point, where no change
        of one code lowers the loss.
    processing : Processing or None
        How the weights were rescaled and rotated before rounding; `dequantize` undoes it.
    candidates : mapping of str to float, or None
        Loss of each rotation that was tried and of none, before refinement.
    mask : ndarray, (m, n), bool, or None
        True where the weight is pruned: W_hat is exactly 0 there, whatever the code.
    refit : str or None
        What was fitted to the codes by least squares after them: "scale", "both" (scales and
        zeros) or "levels" (of a codebook).
    correction : LowRankCorrection or None
        What `dequantize` adds to the rounded weights, in the original basis.
    restore : callable or None
        Turns W_hat into the caller's kind of array; None after reading from a file.
    """

    codes: np.ndarray
    grid: Grid
    method: str
    rounding: str
    order: str
    permutation: np.ndarray | None
    loss: float
    trace_D: float
    damp: float
    dead: np.ndarray
    near_tie_rows: int
    clipped: float
    seed: int | None = None
    precision: str = "float32"
    feedback_bound: float | None = None
    passes: int = 0
    changed: int = 0
    processing: Processing | None = None
    candidates: Mapping[str, float] | None = None
    mask: np.ndarray | None = None
    refit: str | None = None
    correction: LowRankCorrection | None = None
    restore: Callable[[np.ndarray], Any] | None = field(default=None)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.codes.shape  # type: ignore[return-value]

    @property
    def bits_per_weight(self) -> float:
        """What must be stored to dequantise: codes, scales, zeros, the group of each column, the
        scales and rotations of the processing, a correction, and the mask where the codes do not
        tell it.

        NaN on an unbounded grid.
        """
        if self.grid.bits is None:
            return float("nan")
        m, n = self.shape
        index = getattr(self.grid, "group_index", None)
        regular = index is None or bool((np.diff(index) >= 0).all())
        total = self.grid.bits * m * n + self.grid.storage_bits(m, n)
        total += 0 if regular else 32 * n
        parts = (self.processing, self.correction)
        total += sum(part.storage_bits for part in parts if part is not None)
        if self.mask is not None:  # free where pruned weights have the code of zero
            values = dequantize(self.codes, self.grid, np.dtype(np.float32))
            total += m * n if values[self.mask].any() else 0
        return total / max(m * n, 1)

    def dequantize(self) -> Any:
        """Return W_hat = scale * (codes - zero), (m, n), in the kind and dtype of W.

        Of a codebook, levels[codes].  Rotated and rescaled weights come back in the original
        basis, corrected where there is a correction.
        """
        values = self.values(np.dtype(self.precision))
        return values if self.restore is None else self.restore(values)

    def to_host(self) -> Quantized:
        """Return the result with its codes and grid in host memory, where a device has them."""
        if isinstance(self.codes, np.ndarray):
            return self
        grid: Any = self.grid  # its arrays are of CuPy
        if isinstance(grid, UniformGrid):
            grid = grid.of_arrays(grid.scale.get(), grid.zero.get())
        else:
            grid = replace(grid, levels=grid.levels.get())
        return replace(self, codes=self.codes.get(), grid=grid, restore=None)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("W_hat is computed from the codes: it cannot be had without a copy.")
        self.check_on_host()
        return self.values(dtype)

    def check_on_host(self) -> None:
        """Raise BackendMismatchError where its arrays are on a device."""
        if not isinstance(self.codes, np.ndarray):
            raise BackendMismatchError(
                "A result on a device is no NumPy array, and nothing is moved to the host "
                "silently; got codes of CuPy. Pass q.to_host(), or use q.dequantize() there."
            )

    def values(self, dtype: Any = None) -> Any:
        """Return W_hat, (m, n), as an array of NumPy, or of CuPy where the codes are."""
        # float64 on request is exact: scale * (code - zero) has too few digits to be rounded
        wide = dtype is not None and np.dtype(dtype) == np.float64
        kind = np.result_type(self.grid.dtype, np.float64 if wide else np.float32)
        with on_device_of(self.codes):
            out = dequantize(self.codes, self.grid, kind)
            if self.mask is not None:
                out[self.mask] = 0
            if self.processing is not None:
                out = self.processing.undo(out)
                if self.processing.input is not None:
                    # taken out before the rotation; the rounding is spread there
                    out[:, self.dead] = 0
            if self.correction is not None:
                self.correction.add_to(out)
            return out if dtype is None else out.astype(dtype, copy=False)

    def of_rows(self, rows: slice | np.ndarray) -> Quantized:
        """Return some rows of a layer whose outputs were not rotated, without ``restore``.

        ``loss`` and what was counted stay those of all rows.
        """
        mask = None if self.mask is None else self.mask[rows]
        correction = None if self.correction is None else self.correction.of_rows(rows)
        with on_device_of(self.codes):
            codes = self.codes[rows]
        grid = self.grid.of_rows(rows)
        return replace(self, codes=codes, grid=grid, mask=mask, correction=correction, restore=None)

    def nearest_loss(self, W: Any, H: Any) -> float:
        """Return the loss of rounding W to nearest on this grid, pruned alike, 2 m n^2 flops.

        Parameters
        ----------
        W : array, (m, n)
        H : array, (n, n)
            What was quantised.
        """
        kernels = select("auto", W=W, H=H, codes=self.codes)
        with kernels.running(W, H):
            return self._nearest_loss(W, H, kernels)

    def _nearest_loss(self, W: Any, H: Any, kernels: Kernels) -> float:
        weight, hessian = as_matrix(W, "W", read=kernels.read), kernels.read(H, "H")
        weight = kernels.xp.ascontiguousarray(weight, self.precision)
        if weight.shape != self.shape:
            raise InvalidArgumentError(
                f"W must be the weight that was quantised, {self.shape}; got {weight.shape}. "
                "Pass it as it was given then."
            )
        check_finite(weight, "W")
        processed = weight if self.processing is None else self.processing.weight(weight)
        codes, _, _ = round_to_grid(processed, self.grid, kernels)
        rounded = dequantize(codes, self.grid, np.dtype(np.float64))
        if self.mask is not None:
            rounded[self.mask] = 0
        if self.processing is not None:
            rounded = self.processing.undo(rounded)
        return proxy_loss(rounded, weight, hessian)

    def _choice(self) -> str:
        """The rotation, and what each of the others that were tried would have cost."""
        name = "none" if self.processing is None else self.processing.rotation
        text = "no rotation" if name == "none" else f"{name} rotation"
        losses = dict(self.candidates or {})
        own = losses.pop(name, 0.0)
        if own > 0 and losses:
            gaps = (f"{k} {10 * np.log10(v / own):+.2f} dB" for k, v in losses.items())
            text += f" ({', '.join(gaps)})"
        return text

    def _descent(self) -> str:
        end = f", {self.changed} codes changed in the last" if self.changed else ", a fixed point"
        end = end if self.refit is None else ""  # of the grid before
        return f"{self.passes} pass{'es' if self.passes > 1 else ''} of descent{end}"

    def __repr__(self) -> str:
        m, n = self.shape
        width = "unbounded" if self.grid.bits is None else f"{self.grid.bits} bits"
        notes = [f"loss {self.loss:.4g}", f"{self.bits_per_weight:.3f} bits/weight"]
        notes += [f"{self.order} order"] if self.method != "nearest" else []
        if self.mask is not None and self.mask.size:
            notes += [f"{100 * self.mask.mean():.3g}% pruned"]
        notes += [self._choice()] if self.processing is not None or self.candidates else []
        notes += [f"damp {self.damp:.3g}"] if self.damp else []
        notes += [f"bound {self.feedback_bound:.3g}"] if self.feedback_bound is not None else []
        notes += [self._descent()] if self.passes else []
        notes += [f"{self.refit} refitted"] if self.refit else []
        if self.correction is not None:
            notes += [f"corrected by rank {self.correction.rank}"]
        notes += [f"{100 * self.clipped:.2g}% clipped"] if self.clipped else []
        notes += [f"{self.near_tie_rows} rows near a tie"] if self.near_tie_rows else []
        notes += [f"{self.dead.size} dead columns"] if self.dead.size else []
        return f"Quantized({m}x{n}, {self.method}, {width}: {', '.join(notes)})"
