"""Find the scales of a grid for given weights: min-max, MSE clip, and RMS."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.arrays import as_matrix, check_finite, work_dtype
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import DeviceKernels, Kernels, select
from quiplinalg.parallel import run_all

__all__ = ["fit_groups", "minmax_grid", "mse_grid", "rms_grid", "work_matrix"]

_ROWS = 64
_NOTHING = 2.0**-20
_SIGNIFICANT = {np.dtype(np.float16): 11, np.dtype(np.float32): 0, np.dtype(np.float64): 0}


def work_matrix(W: Any, name: str = "W", kernels: Kernels | None = None) -> Any:
    """Return W as a C-order float32 or float64 matrix, checked to be finite.

    An array of the backend, where ``kernels`` are given, else of NumPy.
    """
    own = kernels if isinstance(kernels, DeviceKernels) else None
    matrix = as_matrix(W, name) if own is None else as_matrix(W, name, read=own.read)
    matrix = (np if own is None else own.xp).ascontiguousarray(matrix, work_dtype(matrix))
    if own is None or int(own.finite(matrix)):
        check_finite(matrix, name)
    return matrix


def check_bits(bits: Any) -> int:
    """Return bits as an int from 1 to 8."""
    if isinstance(bits, bool) or not isinstance(bits, (int, np.integer)) or not 1 <= bits <= 8:
        raise InvalidArgumentError(
            f"bits must be a whole number from 1 to 8; got bits={bits!r}. "
            "For an unbounded grid pass grid=UniformGrid(scale, zero, bits=None)."
        )
    return int(bits)


def check_flag(value: Any, name: str, fix: str) -> bool:
    """Return True or False, of NumPy too; raise for anything else, and say what it does."""
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgumentError(f"{name} must be True or False; got {name}={value!r}. {fix}")
    return bool(value)


def check_group_size(group_size: Any, n: int) -> int:
    """Return the number of columns of a group: group_size, or n for None."""
    if group_size is None:
        return max(n, 1)
    whole = isinstance(group_size, (int, np.integer)) and not isinstance(group_size, bool)
    if not whole or group_size < 1:
        raise InvalidArgumentError(
            "group_size must be a whole number of columns of at least 1, or None for one group; "
            f"got group_size={group_size!r}. 128 is common."
        )
    return int(group_size)


def check_scale_dtype(scale_dtype: Any) -> np.dtype:
    """Return scale_dtype as float16, float32 or float64."""
    try:
        dtype = np.dtype(scale_dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype not in _SIGNIFICANT:
        raise InvalidArgumentError(
            f"scale_dtype must be float16, float32 or float64; got scale_dtype={scale_dtype!r}. "
            "float16 halves the storage of scales."
        )
    return dtype


def fit_groups(
    X: Any,
    bits: int,
    sym: bool,
    clip: bool,
    norm: float,
    scale_dtype: np.dtype,
    group_size: int,
    kernels: Kernels,
) -> tuple[Any, Any]:
    """Return (scale, zero), each (rows, groups) in X's dtype, for consecutive groups of columns."""
    m, n = X.shape
    groups = max(1, -(-n // group_size))
    if isinstance(kernels, DeviceKernels):
        maxq, digits = X.dtype.type(2**bits - 1), _SIGNIFICANT[scale_dtype]
        return kernels.fit_groups(X, group_size, maxq, sym, clip, norm, digits)
    scale = np.empty((groups, m), X.dtype)
    zero = np.empty((groups, m), X.dtype)
    maxq = X.dtype.type(2**bits - 1)
    significant = _SIGNIFICANT[scale_dtype]

    def fit(i: int, g: int) -> None:
        rows = slice(i, min(i + _ROWS, m))
        part = X[rows, g * group_size : (g + 1) * group_size]
        kernels.fit(part, maxq, sym, clip, norm, significant, scale[g, rows], zero[g, rows])

    run_all(fit, [(i, g) for i in range(0, m, _ROWS) for g in range(groups)])
    return scale.T, zero.T


def stored_grid(
    scale: Any,
    zero: Any,
    bits: int,
    sym: bool,
    scale_dtype: np.dtype,
    group_index: np.ndarray | None,
) -> UniformGrid:
    """Make the grid of what will be stored; an under- or overflowing scale is an error."""
    with np.errstate(over="ignore", under="ignore"):
        return UniformGrid(
            scale=scale.astype(scale_dtype, order="C", copy=False),
            zero=zero.astype(scale_dtype, order="C", copy=False),
            bits=bits,
            group_index=group_index,
            kind="sym" if sym else "asym",
        )


def _search(
    W: Any,
    bits: int,
    sym: bool,
    group_size: int | None,
    per_tensor: bool,
    scale_dtype: Any,
    clip: bool,
    norm: float,
    backend: str,
) -> UniformGrid:
    sym = check_flag(sym, "sym", "True makes the grid symmetric about 0.")
    per_tensor = check_flag(per_tensor, "per_tensor", "True gives all of W one scale.")
    kernels = select(backend, W=W)
    with kernels.running(W):
        matrix = work_matrix(W, kernels=kernels)
        grid = _fitted(matrix, bits, sym, group_size, per_tensor, scale_dtype, clip, norm, kernels)
        return grid.of_arrays(kernels.back(W, grid.scale), kernels.back(W, grid.zero))


def _fitted(
    matrix: Any,
    bits: int,
    sym: bool,
    group_size: int | None,
    per_tensor: bool,
    scale_dtype: Any,
    clip: bool,
    norm: float,
    kernels: Kernels,
) -> UniformGrid:
    bits, dtype = check_bits(bits), check_scale_dtype(scale_dtype)
    m, n = matrix.shape
    size = check_group_size(group_size, n)
    if not (isinstance(norm, (int, float, np.number)) and 0 < float(norm) <= 8):
        raise InvalidArgumentError(
            f"norm must be an exponent in (0, 8]; got norm={norm!r}. GPTQ uses 2.4, the MSE is 2."
        )
    if per_tensor:
        _refuse_groups(group_size)
        matrix, size = matrix.reshape(1, m * n), max(m * n, 1)
    scale, zero = fit_groups(matrix, bits, sym, clip, float(norm), dtype, size, kernels)
    index = None
    if scale.shape[1] > 1:
        index = (np.arange(n) // size).astype(np.int32)
    return stored_grid(scale, zero, bits, sym, dtype, index)


def minmax_grid(
    W: Any,
    bits: int,
    *,
    sym: bool = False,
    group_size: int | None = None,
    per_tensor: bool = False,
    scale_dtype: Any = np.float32,
    backend: str = "auto",
) -> UniformGrid:
    """Return the grid that spans the range of each row (or group of columns) of W.

    Parameters
    ----------
    W : array, (m, n), floating
        Not changed.
    bits : int
        1 to 8.
    sym : bool
        Symmetric about 0: zero = (maxq + 1) / 2.  Else zero = rint(-xmin / scale).
    group_size : int, optional
        Columns of a group; the last may be smaller.  None: one scale per row.
    per_tensor : bool
        One scale for all of W.
    scale_dtype : dtype
        float16, float32 or float64: what is stored, and what everything is rounded with.
    backend : str
        "auto", "cpu", "generic" or "cuda"; "auto" works where W is.

    Returns
    -------
    UniformGrid

    Raises
    ------
    NonFiniteError, DTypeError, InvalidArgumentError
        Also where a scale under- or overflows ``scale_dtype``.

    Notes
    -----
    xmin = min(row, 0), xmax = max(row, 0), both 1 apart from 0 for a row of zeros;
    scale = (xmax - xmin) / maxq: the definitions of the GPTQ code, which for ``sym`` and a row
    without negative weights covers only half its range.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.minmax_grid(np.array([[0.0, 1.0, 3.0]]), bits=2).scale
    array([[1.]], dtype=float32)
    """
    return _search(W, bits, sym, group_size, per_tensor, scale_dtype, False, 2.4, backend)


def mse_grid(
    W: Any,
    bits: int,
    *,
    sym: bool = False,
    group_size: int | None = None,
    per_tensor: bool = False,
    norm: float = 2.4,
    scale_dtype: Any = np.float32,
    backend: str = "auto",
) -> UniformGrid:
    """Return the clipped grid of least sum |error|**norm per row (or group of columns) of W.

    Parameters
    ----------
    W, bits, sym, group_size, per_tensor, scale_dtype, backend
        As in `minmax_grid`.
    norm : float
        2.4 as in the GPTQ code; 2 is the mean squared error.

    Returns
    -------
    UniformGrid

    Raises
    ------
    NonFiniteError, DTypeError, InvalidArgumentError
        As `minmax_grid`.

    Notes
    -----
    80 ranges p * [xmin, xmax], p = 1, 0.99 .. 0.21, the first of the best.  The sum is compared
    with a relative accuracy of about 1e-5 (2e-4 at worst).  At most 80 m n evaluations; most ranges
    are given up early.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> W = np.random.default_rng(0).standard_normal((1, 4096))
    >>> bool(ql.mse_grid(W, 2).scale < 0.5 * ql.minmax_grid(W, 2).scale)
    True
    """
    return _search(W, bits, sym, group_size, per_tensor, scale_dtype, True, norm, backend)


def rms_grid(
    W: Any,
    bits: int,
    *,
    rho: float,
    group_size: int | None = None,
    per_tensor: bool = False,
    scale_dtype: Any = np.float32,
) -> UniformGrid:
    """Return the grid of levels s (2k / maxq - 1), s = rho * RMS, per row, group or tensor.

    Parameters
    ----------
    W : array, (m, n), floating
    bits : int
        1 to 8.
    rho : float
        Half the range in units of the RMS.  For Gaussian weights with LDLQ feedback about 1.6,
        2.1 and 2.65 at 2, 3 and 4 bits; QuIP's code has 2.4 throughout.
    group_size : int, optional
        Columns of a group; the last may be smaller.  None: one scale per row.
    per_tensor : bool
        One scale for all of W, as in QuIP.
    scale_dtype : dtype

    Returns
    -------
    UniformGrid
        With zero = maxq / 2: there is no zero level.  Rows of zeros get the step of an RMS of
        2**-20 of the largest there is.

    Raises
    ------
    NonFiniteError, DTypeError, InvalidArgumentError

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), algorithm 1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> grid = ql.rms_grid(np.array([[3.0, -3.0]]), bits=2, rho=1.0)
    >>> (grid.scale * (np.arange(4) - grid.zero)).tolist()
    [[-3.0, -1.0, 1.0, 3.0]]
    """
    matrix = work_matrix(W)
    bits, dtype = check_bits(bits), check_scale_dtype(scale_dtype)
    if not 0 < as_float(rho) < np.inf:
        raise InvalidArgumentError(
            f"rho must be positive and finite; got rho={rho!r}. 1.6 suits 2 bits."
        )
    m, n = matrix.shape
    size = check_group_size(group_size, n)
    if per_tensor:
        _refuse_groups(group_size)
        matrix, size = matrix.reshape(1, m * n), max(m * n, 1)
    groups = max(1, -(-matrix.shape[1] // size))
    rms = np.zeros((matrix.shape[0], groups))
    for g in range(groups):
        part = matrix[:, g * size : (g + 1) * size]
        peak = np.abs(part).max(axis=1, initial=0).astype(np.float64)
        live = peak > 0
        if not live.any():
            continue
        part, peak = part[live].astype(np.float64), peak[live]
        rms[live, g] = peak * np.sqrt(np.square(part / peak[:, None]).mean(axis=1))
    # there is no zero level: zeros alone get a step that is nothing beside the others
    zeros = rms == 0
    rms[zeros] = rms.max(initial=0) * _NOTHING
    maxq = 2**bits - 1
    with np.errstate(over="ignore", under="ignore"):
        scale = (2 * rho * rms / maxq).astype(dtype)
    scale[zeros] = np.maximum(scale[zeros], np.finfo(dtype).tiny)
    index = (np.arange(n) // size).astype(np.int32) if groups > 1 else None
    return UniformGrid(scale, np.full_like(scale, maxq / 2), bits, index, "rms")


def _refuse_groups(group_size: int | None) -> None:
    if group_size is not None:
        raise InvalidArgumentError(
            f"per_tensor=True takes no groups; got group_size={group_size}. Drop one of them."
        )
