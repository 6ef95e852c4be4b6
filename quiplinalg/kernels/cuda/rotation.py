"""Rotations of the rows or the columns of a matrix, on a device (rotation.cu)."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from quiplinalg.kernels.cuda.launch import launch, real
from quiplinalg.kernels.record import OUTPUTS

__all__ = ["rotate"]

_THREADS = 256
_STATIC = 2048  # bytes of shared memory left to the kernels' own arrays
_BLOCKS = 264  # two for each SM of an H200: so many, if rows suffice, before a block takes several
_TILE = 4096  # elements that a block takes of short rows; twice that with dense factors


def rotate(X: Any, out: Any, layout: tuple[bool, bool, bool], plan: Any) -> None:
    """Rotate the rows or columns of X into those of out, as `incoherence.apply.rotate_into`.

    X and out are device arrays of one dtype, in C order; X may be out where both are rows.  plan is
    an `incoherence.apply_device.DevicePlan`.

    Rows: X is read once, and out written once.  Columns are rows of the transpose, which is
    written and read once more for X, and once more for out: three times the traffic for both.
    """
    import cupy

    rows_in, rows_out, upper = layout
    source, target = X, out
    if not rows_in:
        source = target if rows_out else cupy.empty(X.shape[::-1], X.dtype)
        _flip(X, source)
    if not rows_out:
        target = cupy.empty(source.shape, X.dtype) if rows_in else source
    _rotate_rows(source, target, upper, plan)
    if not rows_out:
        _flip(target, out)


def _rotate_rows(X: Any, out: Any, upper: bool, plan: Any) -> None:
    m, n = X.shape
    size = X.dtype.itemsize
    room_of_block = (_shared_bytes(_device()) - _STATIC) // size
    stride = -(-n // 32) * 32
    tile = 2 * _TILE if plan.dense else _TILE
    rows = max(1, min(tile // stride, -(-m // _BLOCKS)))
    fibres = 4 if size == 4 else 2  # FIBRES of rotation.cu
    wanted = max((_scratch(step, rows, fibres) for step in plan.dense), default=0)
    least = max((fibres * length for length, _ in plan.dense), default=0)
    room = max(least, min(wanted, room_of_block - rows * stride))
    flags = upper | 2 * plan.moved[0] | 4 * plan.moved[1] | 8 * plan.scaled[0] | 16 * plan.scaled[1]
    blocks, shared = -(-m // rows), (rows * stride + room) * size
    space: tuple[Any, ...] = ()
    kernel = "rotate_dense" if plan.dense else "rotate_walsh"
    if rows * stride + room > room_of_block:
        import cupy

        kernel, blocks, shared = "rotate_long", min(blocks, _BLOCKS), 0
        space = (cupy.empty((blocks, rows * stride + room), X.dtype),)
    launch(
        "rotation", kernel, (blocks,), (_THREADS,),
        (
            X, out, *(np.int32(i) for i in (m, n, rows, stride, flags)), *plan.load, *plan.store,
            plan.steps, np.int32(plan.steps.shape[0]), plan.constants, np.int32(room), *space,
        ),
        shared=shared, REAL=real(X),
    )  # fmt: skip


def _scratch(step: tuple[int, int], rows: int, fibres: int) -> int:
    """Elements of the scratch space of a dense factor, (size, fibres of a row): as in rotation.cu.

    So many fibres, a power of two, that there is a task for each thread.
    """
    size, count = step
    panels = -(-size // OUTPUTS)
    group = fibres
    while group < _THREADS and group < rows * count and group // fibres * panels < _THREADS:
        group *= 2
    return group * size


def _flip(X: Any, out: Any) -> None:
    """Write the transpose of X, (rows, columns), to out."""
    rows, columns = X.shape
    launch(
        "rotation", "flip", (-(-rows // 32) * -(-columns // 32),), (_THREADS,),
        (X, out, np.int32(rows), np.int32(columns)), REAL=real(X),
    )  # fmt: skip


def _device() -> int:
    import cupy

    return int(cupy.cuda.Device().id)


@cache
def _shared_bytes(device: int) -> int:
    """Bytes of shared memory that a block may ask for."""
    import cupy

    return int(cupy.cuda.Device(device).attributes["MaxSharedMemoryPerBlockOptin"])
