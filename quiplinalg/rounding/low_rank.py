"""The best low-rank correction of a rounded layer in the H norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import ConvergenceError, InvalidArgumentError
from quiplinalg.grids.correction import LowRankCorrection
from quiplinalg.kernels.record import select
from quiplinalg.losses import proxy_loss
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.results import Quantized
from quiplinalg.rounding.fitting import checked_layer

__all__ = ["low_rank_correction"]

_ROWS = 256
_COARSE = 0.01  # of what exact factors gain: what storing them may cost
_NOTHING = 1e-9  # of tr(W diag(H) W^T): a loss that is as good as none
_DENSE = 1024  # rows of W up to which all of the Gram matrix is taken apart


@suggest_keywords()
def low_rank_correction(
    W: Any, H: Any, quantized: Quantized, rank: int, *, backend: str = "auto"
) -> Quantized:
    """Add the L R of a rank that makes the loss of a rounded layer least.

    W_hat + L R: with E = W - W_hat, L has the leading eigenvectors of E H E^T, and R = L^T E; the
    loss falls by the sum of their eigenvalues, and no L R of this rank does better, whatever H.

    Parameters
    ----------
    W : array, (m, n), floating
        What was quantised.  Not changed.
    H : array, (n, n), floating
        Symmetric positive semidefinite, without damping.  Not changed.
    quantized : Quantized
        Of any method, but not pruned: zeros would not stay zeros.
    rank : int
        0 to min(m, n); 0 returns ``quantized``.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    Quantized
        With its ``correction`` in float16, which `dequantize` adds in the original basis,
        ``bits_per_weight`` counts (16 rank (m + n) / (m n) more) and ``loss`` includes.

    Raises
    ------
    InvalidArgumentError
        Shapes that do not fit, a rank that is none, or a layer that is pruned or corrected already.
    ConvergenceError
        The eigenvectors of a layer of more than 1024 rows were not found.
    NonFiniteError, DTypeError, NotPositiveDefiniteError, BackendUnavailableError

    Notes
    -----
    2 m n^2 + 2 m^2 n flops in float64; for the eigenvectors 4 m^3 / 3 up to 1024 rows, beyond that
    a Lanczos iteration of 2 m^2 flops a step.  8 (m^2 + m n) bytes.  R is fitted to L as it is
    stored, so that what float16 costs is its own rounding.  The same bits for any number of
    threads.

    Errors of rounding with feedback are nearly white in the H norm: a rank takes off little more
    than its share of the spectrum, and a bit more a weight takes off 6 dB.  It pays where a few
    directions of the outputs have most of the error.

    References
    ----------
    Eckart and Young, Psychometrika 1 (1936), for E H^(1/2).  Zhang et al., LQER (arXiv 2402.02446).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.standard_normal((32, 64)), X.T @ X / 256
    >>> rounded = ql.ldlq(W, H, bits=2)
    >>> corrected = ql.low_rank_correction(W, H, rounded, rank=2)
    >>> corrected.loss < 0.9 * rounded.loss, corrected.bits_per_weight - rounded.bits_per_weight
    (True, 1.5)
    """
    weight, hessian = checked_layer(W, H, quantized, select(backend))
    most = min(weight.shape)
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or not 0 <= rank <= most:
        raise InvalidArgumentError(
            f"rank must be a whole number from 0 to {most}, the smaller side of W; got "
            f"rank={rank!r}. Each takes 16 (m + n) bits."
        )
    if quantized.mask is not None:
        raise InvalidArgumentError(
            "quantized must not be pruned: a correction is not 0 where weights are; got "
            f"{int(quantized.mask.sum())} pruned weights. Leave out the rank."
        )
    if rank == 0:
        return quantized
    E = weight.astype(np.float64) - quantized.__array__(np.dtype(np.float64))
    E[:, hessian.diagonal() == 0] = 0  # dead columns cost nothing
    correction, before, least = _corrected(E, hessian, int(rank))
    corrected = replace(quantized, correction=correction)
    W_hat = corrected.__array__(np.dtype(np.float64))
    loss = proxy_loss(W_hat, weight, hessian)
    energy = float(np.square(weight, dtype=np.float64).sum(axis=0) @ hessian.diagonal())
    if not loss <= least + _COARSE * (before - least) + _NOTHING * energy:
        raise _beyond_float16(E)
    return replace(corrected, loss=loss)


def _corrected(E: np.ndarray, H: np.ndarray, rank: int) -> tuple[LowRankCorrection, float, float]:
    """The factors for an error, the loss that it has, and with exact factors."""
    with single_blas_thread():
        gram = _gram(E, H)
        U = _leading(gram, rank)
        before = float(np.trace(gram))
        least = before - float((U * (gram @ U)).sum())
        sizes = np.abs(U).max(axis=0), np.abs(U.T @ E).max(axis=1)
        share = np.ones(rank)  # of the size of each product that is on the left: its root
        known = sizes[1] > 0
        share[known] = np.exp2(np.rint(np.log2(sizes[1][known] / sizes[0][known]) / 2))
        left = _stored(U * share, E)
        right = np.linalg.lstsq(left.astype(np.float64), E, rcond=None)[0]
    return LowRankCorrection(left, _stored(right, E)), before, least


def _stored(factor: np.ndarray, E: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        half = factor.astype(np.float16)
    if not np.isfinite(half).all():
        raise _beyond_float16(E)
    return half


def _beyond_float16(E: np.ndarray) -> InvalidArgumentError:
    return InvalidArgumentError(
        "W must be of a size for which float16 can hold the factors of a correction; got errors "
        f"of rounding up to {np.abs(E).max():.3g}. Bring the weights nearer to 1."
    )


def _gram(E: np.ndarray, H: np.ndarray) -> np.ndarray:
    """E H E^T, (m, m)."""
    m = E.shape[0]
    gram = np.empty((m, m))
    wide = H.astype(np.float64, copy=False)

    def part(i: int) -> None:
        gram[i : i + _ROWS] = (E[i : i + _ROWS] @ wide) @ E.T

    run_all(part, [(i,) for i in range(0, m, _ROWS)])
    gram += gram.T.copy()
    gram /= 2
    return gram


def _leading(gram: np.ndarray, rank: int) -> np.ndarray:
    """The eigenvectors of the largest eigenvalues, (m, rank), orthonormal."""
    from scipy.linalg import eigh
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    m = gram.shape[0]
    if m <= max(_DENSE, 2 * rank + 1) or not gram.any():
        return eigh(gram, subset_by_index=(m - rank, m - 1))[1]
    start = np.random.default_rng(0).standard_normal(m)  # the same vectors every time
    try:
        return eigsh(gram / np.trace(gram), rank, v0=start)[1]
    except ArpackNoConvergence as error:
        raise ConvergenceError(
            f"rank must be one whose eigenvectors can be told apart; {error} with rank={rank}. "
            "Choose another rank."
        ) from None
