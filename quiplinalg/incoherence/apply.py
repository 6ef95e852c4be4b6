"""The rotation kernels, run over a matrix in pieces that threads share out."""

from __future__ import annotations

from collections import deque
from math import prod
from typing import Any

import numpy as np

from quiplinalg.arrays import read_only
from quiplinalg.incoherence.apply_device import rotate_on_device
from quiplinalg.incoherence.windows import Plan
from quiplinalg.kernels.record import DeviceKernels, Kernels
from quiplinalg.parallel import run_all, thread_count

__all__ = ["empty", "rotate_into"]

_PIECE_BYTES = 1 << 22  # of X at a time: enough to hide a call, little enough to share out


def rotate_into(
    X: Any, out: Any, layout: tuple[bool, bool, bool], plan: Plan, kernels: Kernels
) -> None:
    """Rotate the rows or columns of X into those of out, C order, in out's dtype.

    ``layout`` is (rows of X, rows of out, only the upper triangle of out).  X may be out where
    both are rows.
    """
    if X.size == 0:
        return
    if isinstance(kernels, DeviceKernels):
        rotate_on_device(X, out, layout, plan, kernels)
        return
    ready = X.dtype == out.dtype and X.flags.c_contiguous
    if not (ready or layout[0]):
        X, ready = np.ascontiguousarray(X, out.dtype), True
    source = read_only(X)
    n = plan.load[0].shape[0]
    count = source.shape[0 if layout[0] else 1]
    lanes = kernels.vector(out.dtype)
    step = max(1, _PIECE_BYTES // (n * lanes * out.itemsize)) * lanes
    queue = deque((i, min(i + step, count)) for i in range(0, count, step))

    def work() -> None:
        # the vectors of all coordinates, and two copies of two fibres of a dense factor
        tile = aligned(((n + 4 * plan.largest) * lanes,), out.dtype)
        rows = aligned((0 if ready else min(step, count), n), out.dtype)
        while True:
            try:
                span = queue.popleft()
            except IndexError:
                return
            first, last = span
            if ready:
                kernels.rotate(source, out, (*span, first), layout, plan.parts, tile)
                continue
            rows[: last - first] = source[first:last]  # in out's dtype: no copy of all of X
            kernels.rotate(read_only(rows), out, (*span, 0), layout, plan.parts, tile)

    run_all(work, [()] * min(thread_count(), len(queue)))


def empty(shape: tuple[int, ...], dtype: np.dtype, kernels: Kernels) -> Any:
    """Return an empty array of a backend for `rotate_into` to write to."""
    if isinstance(kernels, DeviceKernels):
        return kernels.xp.empty(shape, dtype)
    return aligned(shape, dtype)


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an empty array that starts on a cache line."""
    size = prod(shape) * dtype.itemsize
    raw = np.empty(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)
