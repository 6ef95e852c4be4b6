"""Uniform grids from their definitions, and rounding to them."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference.precision import working_dtype

__all__ = ["dequantise", "minmax_grid", "mse_grid", "per_column", "quantise", "rms_grid"]


def per_column(parameter: np.ndarray, n: int, group_index: np.ndarray | None = None) -> np.ndarray:
    """Spread a (rows, groups) grid parameter over n columns.

    Parameters
    ----------
    parameter : ndarray, (rows, groups)
        Scale or zero; rows is m or 1.
    n : int
        Number of columns.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    ndarray, (rows, n)
        The parameter of each column.

    Raises
    ------
    InvalidArgumentError
        There are several groups and no ``group_index``.
    """
    parameter = np.asarray(parameter)
    if group_index is None:
        if parameter.shape[1] != 1:
            raise InvalidArgumentError(
                f"group_index must be given for {parameter.shape[1]} groups; got None. "
                "For runs of group_size columns it is np.arange(n) // group_size."
            )
        group_index = np.zeros(n, int)
    return parameter[:, group_index]


def _round(z, scale, zero, maxq, u=None):
    """Codes of z, elementwise: nearest with ties to even, or floor(t + u) where u is given."""
    t = z / scale + (zero - np.floor(zero))
    codes = (np.rint(t) if u is None else np.floor(t + u)) + np.floor(zero)
    return (np.clip(codes, 0, maxq) if np.isfinite(maxq) else codes).astype(np.int64)


def quantise(
    W: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    maxq: float,
    *,
    group_index: np.ndarray | None = None,
) -> np.ndarray:
    """Round to the nearest code, ties to even.

    ``code = clamp(rint(w / scale + frac(zero)) + floor(zero), 0, maxq)``; for a whole zero this
    is GPTQ's ``clamp(round(w / scale) + zero, 0, maxq)``.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    maxq : float
        Largest code; inf for the unbounded grid, which has no smallest code either.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    ndarray, (m, n), int64
        Codes.

    References
    ----------
    Frantar et al., GPTQ, arXiv 2210.17323, and the ``quantize`` of its code.

    Examples
    --------
    >>> one = np.ones((1, 1))
    >>> quantise(np.array([[-3.0, 0.5, 1.5, 9.0]]), one, one, 3.0)
    array([[0, 1, 3, 3]])
    """
    dtype, n = working_dtype(W, scale, zero), np.shape(W)[1]
    scale = per_column(scale, n, group_index).astype(dtype)
    zero = per_column(zero, n, group_index).astype(dtype)
    return _round(np.asarray(W, dtype), scale, zero, maxq)


def dequantise(
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    *,
    group_index: np.ndarray | None = None,
) -> np.ndarray:
    """Return ``scale * (code - zero)``.

    Parameters
    ----------
    codes : ndarray, (m, n)
        Grid codes.
    scale, zero : ndarray, (rows, groups)
        The grid; rows is m or 1.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    ndarray, (m, n), float64, or longdouble if scale or zero is
        Weights on the grid.

    Examples
    --------
    >>> dequantise(np.array([[0, 3]]), np.array([[0.5]]), np.array([[1.0]]))
    array([[-0.5,  1. ]])
    """
    dtype, n = working_dtype(scale, zero), np.shape(codes)[1]
    scale = per_column(scale, n, group_index).astype(dtype)
    zero = per_column(zero, n, group_index).astype(dtype)
    return scale * (np.asarray(codes).astype(dtype) - zero)


def _own_dtype(W):
    """float32 and longdouble are kept (the peers' grids are float32); the rest is float64."""
    W = np.asarray(W)
    return W if W.dtype in (np.float32, np.longdouble) else W.astype(np.float64)


def _groups(W, group_size):
    """The runs of group_size columns; the last may be short."""
    n = W.shape[1]
    size = n if group_size is None else group_size
    return [W[:, j : j + size] for j in range(0, max(n, 1), max(size, 1))]


def _range(x, sym):
    """GPTQ's range of each row: it holds 0, and an all-zero row gets [-1, 1]."""
    xmin = np.minimum(x.min(axis=1, initial=0), 0)
    xmax = np.maximum(x.max(axis=1, initial=0), 0)
    if sym:
        xmax = np.maximum(np.abs(xmin), xmax)
        xmin = np.where(xmin < 0, -xmax, xmin)
    empty = (xmin == 0) & (xmax == 0)
    return np.where(empty, -1, xmin).astype(x.dtype), np.where(empty, 1, xmax).astype(x.dtype)


def _grid(xmin, xmax, maxq, sym):
    """Step and zero of a range."""
    scale = (xmax - xmin) / maxq
    return scale, np.full_like(scale, (maxq + 1) / 2) if sym else np.rint(-xmin / scale)


def minmax_grid(
    W: np.ndarray, bits: int, sym: bool = False, group_size: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Cover the range of each row, or of each row and group of columns.

    ``xmin = min(row, 0)``, ``xmax = max(row, 0)``, ``scale = (xmax - xmin) / maxq``,
    ``zero = round(-xmin / scale)``.  Symmetric: ``xmax = max(|xmin|, xmax)``, ``xmin = -xmax`` if
    it was negative, ``zero = (maxq + 1) / 2``.  An all-zero row has the range [-1, 1].

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights; float32 and longdouble are computed in their own precision, the rest in float64.
    bits : int
        ``maxq = 2**bits - 1``.
    sym : bool
        Symmetric grid.
    group_size : int or None
        Columns of a group, in the order of the columns; None: one group.

    Returns
    -------
    scale, zero : ndarray, (m, groups), the precision of the computation
        The grid; ``group_index`` is ``np.arange(n) // group_size``.

    References
    ----------
    ``Quantizer.find_params`` of the code of Frantar et al., GPTQ, arXiv 2210.17323.

    Examples
    --------
    >>> minmax_grid(np.array([[-1.0, 2.0]]), 2)
    (array([[1.]]), array([[1.]]))
    """
    maxq = 2**bits - 1
    scales, zeros = [], []
    for x in _groups(_own_dtype(W), group_size):
        xmin, xmax = _range(x, sym)
        scale, zero = _grid(xmin, xmax, maxq, sym)
        scales.append(scale)
        zeros.append(zero)
    return np.stack(scales, axis=1), np.stack(zeros, axis=1)


def mse_grid(
    W: np.ndarray,
    bits: int,
    sym: bool = False,
    norm: float = 2.4,
    steps: int = 80,
    group_size: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Shrink the min-max range of each row by p = 1 - i/100 to the least sum of |error|**norm.

    The range is made symmetric, or [-1, 1] for an all-zero row, before it is shrunk.  A shrink
    replaces the best one only where its error is strictly smaller; the symmetric zero stays.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights; float32 and longdouble are computed in their own precision, the rest in float64.
    bits : int
        ``maxq = 2**bits - 1``.
    sym : bool
        Symmetric grid.
    norm : float
        Exponent of the error.
    steps : int
        Number of shrinks, i = 0 .. steps - 1; at most 100.
    group_size : int or None
        Columns of a group, in the order of the columns; None: one group.

    Returns
    -------
    scale, zero : ndarray, (m, groups), the precision of the computation
        The grid.

    References
    ----------
    ``Quantizer.find_params`` with ``mse=True`` of the code of Frantar et al., GPTQ, arXiv
    2210.17323.

    Examples
    --------
    >>> scale, zero = mse_grid(np.array([[-1.0, 2.0]]), 2)
    >>> scale, zero  # the range fits already
    (array([[1.]]), array([[1.]]))
    """
    maxq = 2**bits - 1
    scales, zeros = [], []
    for x in _groups(_own_dtype(W), group_size):
        xmin, xmax = _range(x, sym)
        scale, zero = _grid(xmin, xmax, maxq, sym)
        best = np.full(len(x), np.inf, x.dtype)
        for i in range(steps):
            p = 1 - i / 100
            s, o = _grid(p * xmin, p * xmax, maxq, sym)
            codes = np.clip(np.rint(x / s[:, None]) + o[:, None], 0, maxq)
            error = (np.abs(s[:, None] * (codes - o[:, None]) - x) ** norm).sum(axis=1)
            better = error < best
            best[better], scale[better], zero[better] = error[better], s[better], o[better]
        scales.append(scale)
        zeros.append(zero)
    return np.stack(scales, axis=1), np.stack(zeros, axis=1)


def rms_grid(
    W: np.ndarray, bits: int, rho: float, per_row: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Spread the levels s * (2 k / maxq - 1), s = rho * RMS(W), k = 0 .. maxq.

    That is ``scale = 2 s / maxq`` and ``zero = maxq / 2``, so no level is 0.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights; float32 and longdouble are computed in their own precision, the rest in float64.
    bits : int
        ``maxq = 2**bits - 1``.
    rho : float
        Half width of the grid in units of the RMS; QuIP uses 2.4.
    per_row : bool
        One RMS for each row, or one for the whole of W.

    Returns
    -------
    scale, zero : ndarray, (m, 1), or (1, 1) where ``per_row`` is False
        The grid.  A row of zeros (which has no RMS) gets 2**-20 of the largest s, or where all
        are zero the smallest normal scale of float32.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, algorithm 1.

    Examples
    --------
    >>> scale, zero = rms_grid(np.array([[3.0, -3.0]]), 2, rho=1.0)
    >>> scale * (np.arange(4) - zero)
    array([[-3., -1.,  1.,  3.]])
    """
    W = _own_dtype(W)
    maxq = 2**bits - 1
    axis = 1 if per_row else None
    s = np.atleast_2d((rho * np.sqrt((W * W).mean(axis=axis, keepdims=True))).astype(W.dtype))
    least = np.maximum(2 * s.max(initial=0) * W.dtype.type(2.0**-20) / maxq, 2.0**-126)
    scale = np.where(s > 0, 2 * s / maxq, least).astype(W.dtype)
    return scale, np.full_like(scale, maxq / 2)
