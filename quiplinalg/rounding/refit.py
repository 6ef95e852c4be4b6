"""Scales, zeros and levels by least squares, for the codes that a layer has."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.codebook import CodebookGrid
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.incoherence.process import without_dead
from quiplinalg.kernels.record import select
from quiplinalg.losses import proxy_loss
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.results import Quantized
from quiplinalg.rounding.fitting import best_step, change_of_loss, checked_layer
from quiplinalg.rounding.levels import fit_levels

__all__ = ["FITS", "fit_scales", "refit"]

FITS = ("scale", "both")
_ROWS = 64


@suggest_keywords()
def refit(
    W: Any, H: Any, quantized: Quantized, *, fit: str = "scale", backend: str = "auto"
) -> Quantized:
    """Fit scales, or scales and zeros, to the codes by least squares under H; codes stay.

    Of each row the scales s of its groups that make e H e^T least, e = s (codes - zero) - w, all
    groups at once; then as they are stored.  No row gets worse.

    Parameters
    ----------
    W : array, (m, n), floating
        What was quantised.  Not changed.
    H : array, (n, n), floating
        Symmetric positive semidefinite, without damping.  Not changed.
    quantized : Quantized
        Of any method; pruned weights stay 0.  Levels of a codebook are fitted whatever ``fit``.
    fit : str
        "scale", or "both" for zeros that are any numbers: they take as many bits as scales, where
        whole ones took those of a code, and few other programs take them.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    Quantized
        With another grid in the same dtype, its loss by definition, and ``refit`` saying what was
        fitted.  Rows whose scales would not be positive keep theirs.

    Raises
    ------
    InvalidArgumentError
        Shapes that do not fit, an unbounded grid, or a layer that is corrected already.
    NonFiniteError, DTypeError, NotPositiveDefiniteError, BackendUnavailableError

    Notes
    -----
    4 m n^2 flops in float64, twice that for "both", and those of a product with H for the loss;
    with p parameters a row m p^3 / 3 more, and m n p for p groups.  8 n^2 bytes where H is float32.
    Rescaled and rotated layers are fitted where they were rounded.  One scale for all rows is
    fitted to all of them.  The same bits for any number of threads.

    The codes are roundings on the grid they were chosen for, not on the new one: `verify` checks
    that they are on the grid, and that no other scales are better.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.standard_normal((32, 64)), X.T @ X / 256
    >>> rounded = ql.ldlq(W, H, bits=2)
    >>> fitted = ql.refit(W, H, rounded)
    >>> fitted.loss < rounded.loss, bool((fitted.codes == rounded.codes).all())
    (True, True)
    """
    if fit not in FITS:
        raise InvalidArgumentError(
            f"fit must be one of {', '.join(FITS)}; got fit={fit!r}. 'scale' keeps the zeros."
        )
    kernels = select(backend)
    weight, hessian = checked_layer(W, H, quantized, kernels)
    grid, codes = quantized.grid, quantized.codes
    if codes.size and codes.max() > grid.maxq:
        raise InvalidArgumentError(
            f"quantized.codes must be 0 to {grid.maxq:g}, on its grid; got {codes.max()}. Was the "
            "grid replaced? Quantise again."
        )
    inside, theirs = _processed(weight, hessian, quantized, backend)
    if isinstance(grid, CodebookGrid):
        found = fit_levels(inside, theirs, [(grid, codes)], 0, kernels)
        fitted = replace(quantized, codes=found.codes, grid=found.grid, refit="levels")
    else:
        scales = fit_scales(inside, theirs, codes, grid, fit == "both", quantized.mask)
        fitted = replace(quantized, grid=scales, refit=fit)
    W_hat = fitted.__array__(np.dtype(np.float64))
    return replace(fitted, loss=proxy_loss(W_hat, weight, hessian))


def _processed(
    weight: np.ndarray, hessian: np.ndarray, quantized: Quantized, backend: str
) -> tuple[np.ndarray, np.ndarray]:
    """W and H in the basis of the codes."""
    processing = quantized.processing
    if processing is None:
        return weight, hessian
    kept = weight
    if processing.input is not None and quantized.method != "quip-authors":
        kept = without_dead(weight, hessian)
    return processing.weight(kept, backend), processing.hessian(hessian, backend)


def fit_scales(
    W: np.ndarray,
    H: np.ndarray,
    codes: np.ndarray,
    grid: UniformGrid,
    zeros: bool,
    mask: np.ndarray | None = None,
) -> UniformGrid:
    """Return the grid of least loss for the codes; see `refit`, which checks what it gets.

    Parameters
    ----------
    W : ndarray, (m, n), float32 or float64
    H : ndarray, (n, n), symmetric
    codes : ndarray, (m, n), uint8
    grid : UniformGrid
        Of 1 or m rows.
    zeros : bool
        Whether zeros are fitted too.
    mask : ndarray, (m, n), bool, or None
        Where W_hat is 0 whatever the code.
    """
    m = codes.shape[0]
    if not codes.size:
        return grid
    equations = _Equations(W, H.astype(np.float64, copy=False), codes, grid, zeros, mask)
    pieces = [slice(i, min(i + _ROWS, m)) for i in range(0, m, _ROWS)]

    def part(rows: slice) -> tuple[np.ndarray, np.ndarray]:
        return _fitted(*equations.of_rows(rows), grid.of_rows(rows), zeros)

    def shared() -> tuple[np.ndarray, np.ndarray]:
        sums = [np.zeros(1), np.zeros(1)]
        for piece in run_all(lambda rows: [a.sum(axis=0) for a in equations.of_rows(rows)],
                             [(rows,) for rows in pieces]):  # fmt: skip
            sums = [a + b for a, b in zip(sums, piece, strict=True)]
        return _fitted(sums[0][None], sums[1][None], grid, zeros)

    with single_blas_thread():
        found = run_all(part, [(rows,) for rows in pieces]) if grid.rows == m else [shared()]
    scale, zero = (np.concatenate(a) for a in zip(*found, strict=True))
    return replace(grid, scale=scale, zero=zero, kind="custom" if zeros else grid.kind)


@dataclass(frozen=True, eq=False)
class _Equations:
    """The normal equations of rows: S = B H B^T and r = B H e^T.

    Parameters are W_hat's coefficients of B: of each group the scale, B = codes - zero there and 0
    elsewhere; with ``zeros`` a = scale, B = codes, then b = -scale zero, B = 1.
    """

    W: np.ndarray
    H: np.ndarray
    codes: np.ndarray
    grid: UniformGrid
    zeros: bool
    mask: np.ndarray | None

    def of_rows(self, rows: slice) -> tuple[np.ndarray, np.ndarray]:
        """S, (rows, p, p), and r, (rows, p), p the groups, or twice the groups with zeros."""
        n, grid = self.codes.shape[1], self.grid.of_rows(rows)
        group = grid.columns(n)
        scale, zero = (a.astype(np.float64)[:, group] for a in (grid.scale, grid.zero))
        codes = self.codes[rows].astype(np.float64)
        kept = np.ones(codes.shape) if self.mask is None else 1.0 - self.mask[rows]
        around = (codes - zero) * kept
        H = self.H
        G = (scale * around - self.W[rows]) @ H
        bases = [codes * kept, kept] if self.zeros else [around]
        groups = grid.scale.shape[1]
        order = np.argsort(group, kind="stable")
        starts = np.searchsorted(group[order], np.arange(groups))

        def by_group(values: np.ndarray) -> np.ndarray:
            sums = np.add.reduceat(values[:, order], np.minimum(starts, n - 1), axis=1)
            sums[:, np.bincount(group, minlength=groups) == 0] = 0  # a group without columns
            return sums

        S = np.empty((codes.shape[0], len(bases) * groups, len(bases) * groups))
        for b, base in enumerate(bases):
            for g in range(groups):
                own = np.flatnonzero(group == g)
                T = base[:, own] @ H[own]
                S[:, b * groups + g] = np.hstack([by_group(T * other) for other in bases])
        return (S + S.transpose(0, 2, 1)) / 2, np.hstack([by_group(G * base) for base in bases])


def _fitted(
    S: np.ndarray, r: np.ndarray, grid: UniformGrid, zeros: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and zero, of the rows of S, where they lower the loss as stored."""
    groups, stored = grid.scale.shape[1], grid.dtype
    old_scale, old_zero = grid.scale.astype(np.float64), grid.zero.astype(np.float64)
    step = best_step(S, r)
    zero = grid.zero
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        if zeros:
            slope, offset = old_scale + step[:, :groups], step[:, groups:] - old_scale * old_zero
            zero = np.where(slope > 0, -offset / slope, old_zero).astype(stored)
            bad = ~np.isfinite(zero)
            zero[bad] = grid.zero[bad]
            # scales again, for the zeros as they are stored: x = (s, -s zero), a line in each group
            back = np.zeros((len(S), 2 * groups, groups))
            back[:, np.arange(groups), np.arange(groups)] = 1
            back[:, groups + np.arange(groups), np.arange(groups)] = -zero.astype(np.float64)
            moved = np.hstack([np.zeros_like(old_scale), old_scale * (old_zero - zero)])
            slopes = r + np.einsum("ipq,iq->ip", S, moved)
            inner = back.transpose(0, 2, 1)
            step = best_step(inner @ S @ back, (inner @ slopes[:, :, None])[:, :, 0])
        scale = (old_scale + step).astype(stored)
        change = scale.astype(np.float64) - old_scale
        if zeros:
            offsets = old_scale * old_zero - scale.astype(np.float64) * zero.astype(np.float64)
            change = np.hstack([change, offsets])
        better = change_of_loss(S, r, change) < 0
        better &= (np.isfinite(scale) & (scale > 0)).all(axis=1)
    keep = ~better
    scale[keep] = grid.scale[keep]
    zero = np.where(keep[:, None], grid.zero, zero)
    return scale, zero
