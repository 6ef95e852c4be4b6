"""The slots of coordinate descent on codes, on the device (descent.cu)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from quiplinalg.kernels.cuda.launch import code, launch, real

__all__ = ["descend", "errors", "resident_bytes", "residual"]

_THREADS = 256
_TALL = 128  # rows of a tile of G
_MOST = 65535  # blocks along y
_STATIC = 8 << 10  # bytes of shared memory for the kernels' own arrays


def errors(W: Any, codes: Any, scale: Any, zero: Any, group: Any, E: Any) -> None:
    """E = scale (code - zero) - W, (m, n); scale and zero (m, groups), group (n,) int32."""
    m, n = W.shape
    launch(
        "descent", "errors", (-(-n // (4 * _THREADS)), min(m, _MOST)), (_THREADS,),
        (W, codes, scale, zero, group, E, np.int32(m), np.int32(n), np.int32(scale.shape[1])),
        REAL=real(W), CODE=code(codes),
    )  # fmt: skip


def residual(E: Any, H: Any, G: Any, loss: Any) -> None:
    """G = E H, (m, n), every element one chain of FMAs in ascending k; loss = diag(E G^T)."""
    m, n = E.shape
    sizes = np.int32(m), np.int32(n)
    kind, unused = real(E), "unsigned char"  # of codes
    tiles = -(-n // (512 // E.dtype.itemsize)), -(-m // _TALL)
    launch(
        "descent", "residual", tiles, (_THREADS,), (E, H, G, *sizes), REAL=kind, CODE=unused
    )  # fmt: skip
    launch(
        "descent", "row_losses", (-(-m // (_THREADS // 32)),), (_THREADS,), (E, G, loss, *sizes),
        REAL=kind, CODE=unused,
    )  # fmt: skip


def descend(G: Any, codes: Any, H: Any, grid: tuple, rows: Any, found: tuple) -> None:
    """One pass of coordinate descent over some rows, as `cpu_descent.descend`.

    grid is (scale, group, bound, low, high, tie, least), the last four numbers; rows (count,)
    int32; found is (gain, changed, ties): (m,) float64, int64 and bool.
    """
    scale, group, bound, *limits = grid
    n = H.shape[0]
    needed = n * G.dtype.itemsize
    resident = needed <= resident_bytes()
    launch(
        "descent", "descend", rows.shape, (_THREADS,),
        (
            G, codes, H, scale, group, bound, rows, *found, np.int32(n),
            np.int32(scale.shape[1]), *(np.float64(x) for x in limits), np.int32(resident),
        ),
        shared=needed if resident else 0, REAL=real(G), CODE=code(codes),
    )  # fmt: skip


def resident_bytes() -> int:
    """Return how many bytes of a row a block can hold in shared memory."""
    import cupy

    return _shared_bytes(cupy.cuda.Device().id) - _STATIC


@cache
def _shared_bytes(device: int) -> int:
    import cupy

    return int(cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"])
