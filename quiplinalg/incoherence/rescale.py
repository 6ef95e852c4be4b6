"""Diagonal rescaling of the inputs: W diag(s) and diag(1/s) H diag(1/s) have the same loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix, check_finite
from quiplinalg.errors import InvalidArgumentError

__all__ = ["RESCALES", "check_rescale", "input_scales"]

# s_i = H_ii^p / ||W_:i||^q
_EXPONENTS = {"trace": (0.25, 0.5), "volume": (0.0, 1.0), "mean": (0.125, 0.75)}
RESCALES = tuple(_EXPONENTS)
_RANGE = (2.0**-14, 2.0**15)  # normal numbers of float16
_FLOOR = 1e-8  # of the mean, of H_ii and of ||W_:i||^2


def check_rescale(rescale: Any) -> str | None:
    """Return the name of a rescaling: "mean" for True, None for False and None."""
    if rescale is True:
        return "mean"
    if rescale is False or rescale is None:
        return None
    if not isinstance(rescale, str) or rescale not in _EXPONENTS:
        raise InvalidArgumentError(
            f"rescale must be True, False or one of {', '.join(RESCALES)}; got "
            f"rescale={rescale!r}. True is 'mean', the best of them in the benchmarks."
        )
    return rescale


def input_scales(W: Any, H: Any, rescale: str = "mean") -> np.ndarray:
    """Return the scales s that make W diag(s) and diag(1/s) H diag(1/s) easier to round together.

    Parameters
    ----------
    W : array, (m, n), floating
    H : array, (n, n), floating
        Only its diagonal is read.
    rescale : str
        "trace": s_i = (H_ii / ||W_:i||^2)^(1/4), which minimises tr(H') ||W'||_F^2, to
        (sum_i sqrt(H_ii) ||W_:i||)^2: best for rounding without feedback.
        "volume": s_i = 1 / ||W_:i||, which minimises det(H')^(1/n) ||W'||_F^2: best for feedback
        that reaches the lower bound n det(H')^(1/n) of tr D.
        "mean": the geometric mean of the two.

    Returns
    -------
    ndarray, (n,), float64
        Positive, of geometric mean 1 (unless cut to 2^-14 .. 2^15), each exactly a float16 number,
        which is how they are stored.

    Raises
    ------
    InvalidArgumentError, DTypeError, NonFiniteError
        Another name, or shapes that do not fit.

    Notes
    -----
    H_ii and ||W_:i||^2 count as at least 1e-8 of their means; those of a dead input, H_ii = 0, as
    the means of the live ones: it is scaled like any other.  The loss does not change,
    tr((E S)(S^-1 H S^-1)(E S)^T) = tr(E H E^T).  What is gained is not guaranteed: with feedback,
    "trace" optimises an upper bound and "volume" a lower bound of the loss.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 4.2 and the supplement, for "trace"; "volume" is
    the same argument with the bound of their Lemma 2 from below, tr D >= n det(H)^(1/n).

    Examples
    --------
    >>> import numpy as np
    >>> input_scales(np.array([[1.0, 4.0]]), np.diag([1.0, 1.0]), "volume")
    array([2. , 0.5])
    """
    weight, hessian = as_matrix(W, "W"), as_matrix(H, "H", square=True)
    name = check_rescale(rescale)
    n = weight.shape[1]
    if hessian.shape[0] != n:
        raise InvalidArgumentError(
            f"H must be (n, n) for W (m, n) = (out, in); got W {weight.shape} and H "
            f"{hessian.shape}. Pass W.T for Keras or Flax kernels."
        )
    if name is None or n == 0:
        return np.ones(n)
    check_finite(weight, "W")
    diagonal = hessian.diagonal().astype(np.float64)
    check_finite(diagonal, "H.diagonal()")
    # scaled by the largest first: squares must neither over- nor underflow
    peak = float(np.abs(weight).max(initial=0)) or 1.0
    squares = np.zeros(n)
    for i in range(0, weight.shape[0], 256):
        part = weight[i : i + 256].astype(np.float64) / peak
        squares += np.einsum("ij,ij->j", part, part)
    p, q = _EXPONENTS[name]
    live = diagonal > 0
    if live.any():
        diagonal[~live], squares[~live] = diagonal[live].mean(), squares[live].mean()
    logs = p * np.log(_floored(diagonal)) - q / 2 * np.log(_floored(squares))
    scales = np.clip(np.exp(logs - logs.mean()), *_RANGE)
    return scales.astype(np.float16).astype(np.float64)


def _floored(values: np.ndarray) -> np.ndarray:
    """The values over their mean, at least 1e-8; ones where all are zero."""
    mean = values.mean()
    return np.maximum(values / mean, _FLOOR) if mean > 0 else np.ones_like(values)
