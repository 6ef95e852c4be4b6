"""How far a quantised layer is from the best possible: three bounds, and the gap in parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.grids.apply import dequantize
from quiplinalg.grids.codebook import uniform_grid
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.incoherence.draws import check_seed
from quiplinalg.incoherence.process import without_dead
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.results import Quantized
from quiplinalg.rounding.members import check_layer
from quiplinalg.theory.certificate_text import describe
from quiplinalg.theory.dual_bound import check_psd, row_bound
from quiplinalg.theory.model_bound import CUBES_DB, row_bounds
from quiplinalg.theory.pivots import check_count, pivots_and_order, psd_matrix
from quiplinalg.theory.rate_distortion import rate_distortion

__all__ = ["Certificate", "certify"]

_ROWS = 256
_EPS = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, repr=False)
class Certificate:
    """What `certify` found.  Losses are in units of H times W squared; NaN is "does not apply".

    Attributes
    ----------
    shape : (int, int)
        (m, n).
    bits : int or None
        Of the grid; None: unbounded.
    method : str
        What made the codes; the bounds hold for every method on the same grid.
    loss : float
        tr((W_hat - W) H (W_hat - W)^T) without damping, recomputed in float64.
    loss_db : float
        10 log10(loss / tr(W H W^T)).
    model_bound : float
        A MODEL bound: of the mean least loss over weights with uniform fractional parts, not of
        these weights'.  0: H is singular and certifies nothing.
    model_order : str
        The order that it is best in: "stored", "natural", "act" or "min-pivot".
    model_gap_db : float
        10 log10(loss / model_bound) = cubes_db + order_db + rest_db.
    cubes_db : float
        1.53, what cubes cost against the entropy bound: no integer rounding with feedback is
        nearer on average.
    order_db : float
        10 log10(sum D / sum D_bar), of the pivots in the order the layer was rounded in.
    rest_db : float
        10 log10(loss / LDLQ's average, (1/12) sum s^2 D): clipping, damping, luck, or no feedback
        raise it; a search beyond LDLQ lowers it.
    rows : tuple of int
        The rows sampled for the dual bound (of W', where the rows were rotated).
    row_losses : tuple of float
        Their losses.
    row_bounds : tuple of float
        UNCONDITIONAL lower bounds of their losses, over all codes of their grids; 0 where nothing
        could be certified.
    dual_gap_db : float
        10 log10(sum row_losses / sum row_bounds): no method is better by more on these rows.
    rate_distortion : float
        The least loss of Gaussian weights of the same row variances at this rate.  NOT a bound
        for other weights.
    rate_distortion_gap_db : float
        10 log10(loss / rate_distortion); negative for weights that are easier than Gaussian ones.
    notes : tuple of str
        Why a figure is 0 or NaN.
    """

    shape: tuple[int, int]
    bits: int | None
    method: str
    loss: float
    loss_db: float
    model_bound: float
    model_order: str
    model_gap_db: float
    cubes_db: float
    order_db: float
    rest_db: float
    rows: tuple[int, ...]
    row_losses: tuple[float, ...]
    row_bounds: tuple[float, ...]
    dual_gap_db: float
    rate_distortion: float
    rate_distortion_gap_db: float
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return describe(self)


@suggest_keywords()
def certify(W: Any, H: Any, quantized: Quantized, *, rows: int = 16, seed: int = 0) -> Certificate:
    """Bound the loss that any method could reach on the grid of a result, three ways.

    Parameters
    ----------
    W : array, (m, n), floating
        What was quantised.  Not changed.
    H : array, (n, n), floating
        Of the loss, without damping.  Not changed.
    quantized : Quantized
        Of any method; its grid, mask and processing count, its codes only for their loss.
    rows : int
        Rows on which the dual bound is computed, drawn without replacement; all if there are
        fewer, 0 for none.
    seed : int
        Of the draw, 0 to 2**63 - 1.

    Returns
    -------
    Certificate

    Raises
    ------
    NotPositiveDefiniteError
        H, scaled to a unit diagonal, has an eigenvalue below -1e-4 times the largest.
    NonFiniteError, DTypeError, InvalidArgumentError

    Notes
    -----
    Everything is about the UNDAMPED loss: a bound for H + d I less d ||E||^2 would not be one of
    it.  The model bound uses the pivots of H itself, over live columns.  The dual bound needs
    H - Lambda positive definite; on a grid that ends the multipliers of the ends take the place of
    what a singular H lacks, on an unbounded one a singular H certifies nothing, and 0 is reported.

    Where the layer was processed all is computed in the basis of its codes, in float64, where the
    losses are the same; the rounding errors of the rotation are counted in the dual bound.

    2 m n^2 flops for the losses, about 16 n^3 for the eigenvalues and orders, and for each row
    what `dual_bound` takes: about 0.02, 0.3 and 2.3 s at n = 64, 256 and 512 on one core, and like
    n^3 beyond that; rows=0 leaves it out.  The same for any number of threads.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), theorem 1, and as in `model_bound`, `dual_bound` and
    `rate_distortion` of ``quiplinalg.theory``.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.standard_normal((64, 16)), rng.standard_normal((8, 16))
    >>> H = X.T @ X / 64
    >>> found = ql.certify(W, H, ql.ldlq(W, H, bits=3), rows=2)
    >>> len(found.rows), 0 < found.dual_gap_db < 6
    (2, True)
    >>> gap = found.cubes_db + found.order_db + found.rest_db
    >>> bool(abs(found.model_gap_db - gap) < 1e-9)
    True
    """
    check_layer(quantized, "Pass what ldlq, quip or open_result(...).layer(name) returned.")
    quantized.check_on_host()
    count, key = check_count(rows, "rows"), check_seed(seed)
    weight, hessian = work_matrix(W).astype(np.float64), psd_matrix(H)
    m, n = weight.shape
    if weight.shape != quantized.shape or hessian.shape[0] != n:
        raise InvalidArgumentError(
            f"W must be {quantized.shape}, as the codes are, and H ({quantized.shape[1]}, "
            f"{quantized.shape[1]}); got W {weight.shape} and H {hessian.shape}. "
            "Pass the W and H that were quantised, W.T for Keras or Flax kernels."
        )
    if quantized.correction is not None:
        raise InvalidArgumentError(
            "quantized must have no low-rank correction: the bounds are for what codes can reach; "
            f"got one of rank {quantized.correction.rank}. Certify the layer without it: "
            "dataclasses.replace(quantized, correction=None)."
        )
    processing, known, off = quantized.processing, 0.0, np.zeros(m)
    if processing is not None:
        if processing.input is not None:
            weight = without_dead(weight, hessian)
        weight, hessian = processing.weight(weight, "generic"), processing.hessian(hessian)
        known = 8 * (m + n + 8) * _EPS
        off = known * np.sqrt(np.square(weight).sum(axis=1))
        if processing.output is not None:  # a row of U W may be small by cancellation
            off[:] = np.sqrt(np.square(off).sum())

    least = check_psd(hessian)
    layer = _Layer(weight, hessian, quantized)
    losses, energy = layer.losses()
    chosen = np.sort(np.random.default_rng(key).choice(m, min(count, m), replace=False))
    tasks = [
        (hessian, weight[r], layer.grid_of(r), layer.mask_of(r), least, known, float(off[r]))
        for r in map(int, chosen)
    ]
    with single_blas_thread():
        bounds = [float(b) for b in run_all(row_bound, tasks)]

    notes = []
    loss, sampled = float(losses.sum()), losses[chosen]
    model, name, average = layer.model()
    if any(b == 0 and e > 0 for b, e in zip(bounds, sampled, strict=True)):
        notes.append(
            "the dual certifies nothing for some rows: H is singular, or nearly, and the grid "
            "unbounded, or their best loss is near 0"
        )
    if quantized.mask is not None:
        notes.append("no model bound or rate-distortion figure: some weights are pruned")
    elif model == 0 and loss > 0:
        notes.append("the model bound is 0: H is singular, to rounding error")
    limit = math.nan
    if quantized.mask is None and quantized.grid.bits is not None:
        energy_w = float(np.square(weight).sum()) / max(n, 1)
        limit = rate_distortion(hessian, energy_w, quantized.grid.bits)
    elif quantized.mask is None:
        notes.append("no rate-distortion figure: the grid is unbounded")
    order_db = _decibels(average, model * (2 * math.pi * math.e / 12))
    return Certificate(
        shape=(m, n),
        bits=quantized.grid.bits,
        method=quantized.method,
        loss=loss,
        loss_db=_decibels(loss, energy),
        model_bound=model,
        model_order=name,
        model_gap_db=_decibels(loss, model),
        cubes_db=CUBES_DB,
        order_db=order_db,
        rest_db=_decibels(loss, average),
        rows=tuple(int(r) for r in chosen),
        row_losses=tuple(float(v) for v in sampled),
        row_bounds=tuple(bounds),
        dual_gap_db=_decibels(float(sampled.sum()), float(sum(bounds))),
        rate_distortion=limit,
        rate_distortion_gap_db=_decibels(loss, limit),
        notes=tuple(notes),
    )


class _Layer:
    """W, H and the result, in the basis of the codes."""

    def __init__(self, W: np.ndarray, H: np.ndarray, quantized: Quantized):
        self.W, self.H, self.quantized = W, H, quantized
        self.grid = uniform_grid(quantized.grid, "bounds", "There is none for levels.")

    def grid_of(self, rows: int | slice) -> UniformGrid:
        """The grid of some rows."""
        own = slice(rows, rows + 1) if isinstance(rows, int) else rows
        return self.grid.of_rows(own)

    def mask_of(self, rows: int | slice) -> np.ndarray | None:
        """The mask of some rows."""
        return None if self.quantized.mask is None else self.quantized.mask[rows]

    def losses(self) -> tuple[np.ndarray, float]:
        """The loss of each row, (m,), and tr(W H W^T)."""

        def part(i: int) -> tuple[np.ndarray, float]:
            rows = slice(i, i + _ROWS)
            codes = self.quantized.codes[rows]
            E = dequantize(codes, self.grid_of(rows), np.dtype(np.float64))
            pruned = self.mask_of(rows)
            if pruned is not None:
                E[pruned] = 0
            w = self.W[rows]
            E -= w
            losses = np.maximum(((E @ self.H) * E).sum(axis=1), 0)
            return losses, float(((w @ self.H) * w).sum())

        with single_blas_thread():
            parts = run_all(part, [(i,) for i in range(0, self.W.shape[0], _ROWS)])
        if not parts:
            return np.zeros(0), 0.0
        return np.concatenate([p[0] for p in parts]), sum(p[1] for p in parts)

    def model(self) -> tuple[float, str, float]:
        """The best model bound, its order, and LDLQ's average in the stored order."""
        if self.quantized.mask is not None:
            return math.nan, "", math.nan
        live = np.flatnonzero(self.H.diagonal() > 0)
        n = self.H.shape[0]
        H = self.H[np.ix_(live, live)]
        stored = self.quantized.permutation
        place = np.full(n, -1)
        place[live] = np.arange(live.size)
        own = place[np.arange(n) if stored is None else np.asarray(stored)]
        orders = {"stored": own[own >= 0], "natural": "natural", "act": "act",
                  "min-pivot": "min-pivot"}  # fmt: skip
        steps, counts = self._steps(live)
        best, name, average = 0.0, "", 0.0
        for label, order in orders.items():
            try:
                D, columns = pivots_and_order(H, order)
            except NotPositiveDefiniteError:  # min-pivot of a singular H: it bounds by 0
                continue
            if label == "stored":
                average = float(counts @ (np.square(steps) @ D)) / 12 if live.size else 0.0
            value = float(counts @ row_bounds(D, columns, steps)) if live.size else 0.0
            if value > best:
                best, name = value, label
        return best, name, average

    def _steps(self, live: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Steps of rows by column, and how many rows each stands for."""
        grid, m = self.grid, self.W.shape[0]
        scale = grid.scale.astype(np.float64)
        if scale.shape[1] == 1:  # one step a row: they only add up
            total = float(np.square(scale).sum()) * (m / max(scale.shape[0], 1))
            return np.ones((1, live.size)), np.array([total])
        steps = scale[:, grid.columns(self.H.shape[0])[live]]
        return steps, np.full(steps.shape[0], m / max(steps.shape[0], 1))


def _decibels(above: float, below: float) -> float:
    """10 log10(above / below): inf over a bound of 0, -inf for no loss, NaN for neither."""
    if not (above >= 0 and below >= 0) or above == below == 0:
        return math.nan
    if below == 0:
        return math.inf
    return 10 * math.log10(above / below) if above else -math.inf
