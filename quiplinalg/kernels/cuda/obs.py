"""Elimination of coordinates of rows under a quadratic loss, on a device (obs.cu)."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.kernels.cuda.launch import launch

__all__ = ["eliminate_rows", "eliminate_space", "inverse_in_place"]

_THREADS = 256
_STEPS = 64  # rows of V, as in obs.cu
_VECTORS = 7  # and the rows that its Room has besides


def eliminate_space(n: int) -> int:
    """Elements of the float64 work space of a row that is at work: n^2 / 2 + 73 n or so."""
    fours = -(-n // 4)
    return 8 * fours * (fours + 1) + 4 * fours * (_STEPS + _VECTORS)


def eliminate_rows(W: Any, Hinv: Any, grid: tuple, plan: tuple, work: Any, found: tuple) -> None:
    """Eliminate coordinates of each row, in its own order, as generic_obs.py says.

    All arrays are on the device.  grid's scale and zero may have one row for all.  work is
    (rows at once, eliminate_space(n)).  found has one array more, the (2,) int32 state: it must
    come with 2**31 - 1 and 0, and the first is then the least row that failed, if one did.  Rows
    behind that one may be left as they were.
    """
    scale, zero, group, low, high = grid
    order, mask, steps, quota, width, outliers = plan
    m, n = W.shape
    groups = scale.shape[1]
    launch(
        "obs", "eliminate_rows", (min(m, work.shape[0]) if n else 0,), (_THREADS,),
        (
            W, Hinv, np.int32(m), np.int32(n),
            scale, zero, np.int32(groups), np.int32(groups if scale.shape[0] > 1 else 0), group,
            np.float64(low), np.float64(high), order, np.int32(order.size > 0), mask,
            np.int32(mask.size > 0), steps, quota, np.int32(quota.size),
            np.int32(min(width, max(n, 1))), np.int32(outliers), work, np.int64(work.shape[1]),
            *found,
        ),
    )  # fmt: skip


def inverse_in_place(factor: Any, inverse: Any) -> None:
    """Inverse, the identity (n, n), becomes (L L^T)^-1, L^T the upper triangle of factor.

    Both float64 in C order, so that cuBLAS sees L as a lower triangle.  2 n^3 flops; symmetric up
    to rounding errors.
    """
    import cupy
    from cupy_backends.cuda.libs import cublas

    n = factor.shape[0]
    handle, one = cupy.cuda.device.get_cublas_handle(), np.ones(())
    for turned in (cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_T):  # L^-1, then L^-T L^-1
        cublas.dtrsm(
            handle, cublas.CUBLAS_SIDE_LEFT, cublas.CUBLAS_FILL_MODE_LOWER, turned,
            cublas.CUBLAS_DIAG_NON_UNIT, n, n, one.ctypes.data, factor.data.ptr, max(n, 1),
            inverse.data.ptr, max(n, 1),
        )  # fmt: skip
