"""QuIP as its authors' code runs it, faults included: for comparison only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.grids.apply import clip_to_range
from quiplinalg.grids.search import check_bits, rms_grid, work_matrix
from quiplinalg.incoherence.draws import check_seed
from quiplinalg.incoherence.kronecker import kronecker_orthogonal
from quiplinalg.incoherence.process import OUTPUT_SEED, Processing
from quiplinalg.incoherence.rescale import input_scales
from quiplinalg.incoherence.rotation import Rotation
from quiplinalg.kernels.record import select
from quiplinalg.losses import proxy_loss
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import round_with_feedback
from quiplinalg.rounding.options import Options
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["authors_factors", "quip_authors"]

_RHO = 2.4
_DAMP = 0.01 + 0.01 * 1.01  # of the mean diagonal: 0.01 I after H n / tr H, then 0.01 of that mean


def authors_factors(n: int) -> tuple[int, int]:
    """Return the authors' Kronecker factors of n: products of its even- and odd-placed primes.

    Examples
    --------
    >>> authors_factors(4096), authors_factors(11008)
    ((64, 64), (688, 16))
    """
    primes, rest, p = [], n, 2
    while p * p <= rest:
        while rest % p == 0:
            primes.append(p)
            rest //= p
        p += 1
    primes += [rest] if rest > 1 else []
    ordered = sorted(primes)
    return int(np.prod(ordered[0::2])), int(np.prod(ordered[1::2]))


@suggest_keywords()
def quip_authors(
    W: Any, H: Any, bits: int = 2, *, rescale: bool = True, seed: int = 0, backend: str = "auto"
) -> Quantized:
    """Round W as the code of QuIP's authors does; use `quip` for a better result.

    Parameters
    ----------
    W : array, (m, n), floating
        Not changed.
    H : array, (n, n), floating
        Not changed.
    bits : int
        1 to 8.
    rescale : bool
        The paper's diagonal rescaling.
    seed : int
        Of the rotations.
    backend : str
        "auto", "cpu" or "generic".

    Returns
    -------
    Quantized
        With method "quip-authors"; ``loss`` is tr((W_hat - W) H (W_hat - W)^T) of the original W
        and H, where the authors' code prints a mix of two bases.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError

    Notes
    -----
    What is theirs: W and H rescaled as in the paper; both sides rotated by Kronecker products of
    two Haar matrices of unbalanced sizes (`authors_factors`); H normalised to tr H = n and damped
    twice, 0.0201 of its mean diagonal in all; one scale 2.4 RMS for the whole matrix, levels
    without a zero; W clipped to the range *before* rounding; columns rounded from the last to the
    first in natural order.  What is not: random numbers, floor(x + 1/2) at exact ties, their
    float16 result, the tiny scale of dead inputs (here as of live ones), and their
    default blocked butterfly in place of the Kronecker product.  About
    2 dB are lost to the scale at 2 bits.  2 m n^2 flops more than `ldlq`, for the loss.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), and the code published with it.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X, W = rng.standard_normal((256, 64)), rng.standard_t(5, (32, 64))
    >>> H = X.T @ X / 256
    >>> ql.quip(W, H, bits=2).loss < ql.quip_authors(W, H, bits=2).loss
    True
    """
    bits, seed = check_bits(bits), check_seed(seed)
    if not isinstance(rescale, (bool, np.bool_)):
        raise InvalidArgumentError(
            f"rescale must be True or False; got rescale={rescale!r}. "
            "Other rescalings are quip's: this is the paper's or none."
        )
    kernels = select(backend)
    weight, hessian = work_matrix(W), symmetric_matrix(H, "H", kernels)
    m, n = weight.shape
    processing = Processing(
        (m, n),
        input_scales(weight, hessian, "trace") if rescale else None,
        _rotation(n, seed),
        _rotation(m, (seed + OUTPUT_SEED) % (1 << 63)),
    )
    rotated = processing.weight(weight, backend)
    rotated_hessian = processing.hessian(hessian, backend)
    grid = rms_grid(rotated, bits, rho=_RHO, per_tensor=True)
    clipped = clip_to_range(rotated, grid)
    mean = float(rotated_hessian.diagonal().mean()) if n else 0.0
    options = Options(
        bits=bits, grid=grid, group_size=None, static_groups=True, sym=False, clip="minmax",
        order="natural", damp=AbsoluteDamp(_DAMP * mean), rounding="nearest", seed=None, block=None,
    )  # fmt: skip
    # from the last column to the first with H = L D L^T is the library's convention reversed
    backwards = round_with_feedback(
        clipped[:, ::-1], rotated_hessian[::-1, ::-1], "quip-authors", options, backend
    )
    result = replace(
        backwards,
        codes=np.ascontiguousarray(backwards.codes[:, ::-1]),
        order="reversed",
        permutation=np.arange(n)[::-1].copy(),
        dead=np.flatnonzero(hessian.diagonal() == 0),
        processing=processing,
        restore=like(W),
    )
    return replace(result, loss=proxy_loss(result.__array__(np.dtype(np.float64)), weight, hessian))


def _rotation(n: int, seed: int) -> Rotation:
    return kronecker_orthogonal(n, seed, authors_factors(n) if n > 1 else None)
