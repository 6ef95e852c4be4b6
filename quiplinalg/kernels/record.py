"""The backend seam: a record of kernels, filled with the generic ones and then overwritten."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from quiplinalg.arrays import to_numpy
from quiplinalg.device_arrays import common_device
from quiplinalg.errors import BackendUnavailableError, InvalidArgumentError

__all__ = [
    "BACKENDS",
    "FACTOR",
    "FOLDED",
    "OUTPUTS",
    "PANEL",
    "SCALE",
    "WALSH",
    "DeviceKernels",
    "Kernels",
    "select",
]

PANEL = 4  # columns of a packed panel of U, in every backend
FACTOR, FOLDED, WALSH, SCALE = range(4)  # steps of a rotation, see incoherence/windows.py
OUTPUTS = 8  # of a dense factor of a rotation, computed at a time: how its panels are packed
BACKENDS = ("auto", "cpu", "generic", "cuda")


@dataclass(frozen=True)
class Kernels:
    """One backend.  Slots do no checks and release the GIL where they can.

    Attributes
    ----------
    name : str
    lanes : callable, dtype -> int
        Rows of a tile of the rounding work arrays.
    tile, rows, block : int
        Columns and rows of a tile of the factorisation in a file; columns of a rounding block.
    update_tile, factor_tile, solve_tile
        The steps of a blocked Cholesky factorisation (src/_tiles.pyx).
    pivot_panel
        The steps that choose their pivots (cpu_pivot.py).
    asymmetry, reverse_rows, unit_rows, pack_feedback, compensate
        Passes over H and its factor (cpu_hessian.py).
    load, accumulate, round_block, store, philox
        Rounding with feedback (cpu_rounding.py).
    fit
        Scale search on rows (cpu_grid.py).
    pack_square, load_errors, residual, descend
        Coordinate descent on codes (cpu_descent.py).
    lloyd, round_levels, level_sums, descend_levels
        Codebooks: k-means, rounding with feedback, sums of H by code, descent (cpu_codebook.py).
    prune_block, eliminate_blocks
        One-pass pruning, and exact pruning of blocks (cpu_prune.py).
    kbest_block, kbest_trace
        The M-algorithm (cpu_kbest.py).
    exact_rows
        Depth-first search for the best codes (cpu_exact.py).
    vector : callable, dtype -> int
        Rows or columns that a rotation takes at a time.
    rotate, mirror
        Rotations, and the copy of one triangle to the other (cpu_rotation.py).
    eliminate_space : callable, n -> int
        Elements of a thread's work space of `eliminate_rows`.
    eliminate_rows
        Elimination of coordinates of rows under a quadratic loss (cpu_obs.py).
    multiply_rows, rank_update, update_factor
        Updates of inverses and of triangular factors (cpu_update.py).
    tiles_from : str
        "cython" or "scipy": where the factorisation steps come from, and why.
    xp : module
        Where its arrays are made: NumPy, or CuPy.
    read : callable, (array, name) -> array
        An argument of the caller as one of its arrays; see `quiplinalg.arrays.to_numpy`.
    running : callable, arrays -> context
        What to be in while its kernels work on these arguments.
    back : callable, (argument, array) -> array
        A result for who passed this argument: on the host unless the argument was elsewhere.
    """

    name: str
    lanes: Callable[[np.dtype], int]
    tile: int
    rows: int
    block: int
    update_tile: Callable
    factor_tile: Callable
    solve_tile: Callable
    pivot_panel: Callable
    asymmetry: Callable
    reverse_rows: Callable
    unit_rows: Callable
    pack_feedback: Callable
    compensate: Callable
    load: Callable
    accumulate: Callable
    round_block: Callable
    store: Callable
    philox: Callable
    fit: Callable
    pack_square: Callable
    load_errors: Callable
    residual: Callable
    descend: Callable
    lloyd: Callable
    round_levels: Callable
    level_sums: Callable
    descend_levels: Callable
    prune_block: Callable
    eliminate_blocks: Callable
    kbest_block: Callable
    kbest_trace: Callable
    exact_rows: Callable
    vector: Callable[[np.dtype], int]
    rotate: Callable
    mirror: Callable
    eliminate_space: Callable[[int], int]
    eliminate_rows: Callable
    multiply_rows: Callable
    rank_update: Callable
    update_factor: Callable
    tiles_from: str
    xp: Any = np
    read: Callable[..., Any] = to_numpy
    running: Callable[..., AbstractContextManager] = lambda *_: nullcontext()
    back: Callable[[Any, Any], Any] = lambda _, a: a


@dataclass(frozen=True, kw_only=True)
class DeviceKernels(Kernels):
    """A backend whose arrays are on a device; its slots only launch kernels, and wait for none.

    Its arrays have one axis more, in front, for the members of a stack: see kernels/cuda.  Where
    the processor accumulates the feedback of a block of columns before it rounds them, a device
    adds the block's own to all later columns: enough rows and columns at a time to fill it.

    Attributes
    ----------
    free_bytes : callable, () -> int
        Memory that could be taken.
    cholesky : callable
        Cholesky factors of a stack in place; whether each could be factored, on the device.
    inverse_in_place : callable
        The inverse of what was factored.
    update : callable
        The feedback of a block to the columns behind it.
    finite, nearest, dequantize, gather_levels, pack, unpack, errors, fit_groups
        What NumPy does for the other backends.
    """

    free_bytes: Callable[[], int]
    cholesky: Callable
    inverse_in_place: Callable
    update: Callable
    finite: Callable
    nearest: Callable
    dequantize: Callable
    gather_levels: Callable
    pack: Callable
    unpack: Callable
    errors: Callable
    fit_groups: Callable


def select(backend: str = "auto", **arrays: Any) -> Kernels:
    """Return the record of a backend, for functions that take these arrays by name.

    Parameters
    ----------
    backend : str
        "cpu" (Numba, Cython), "generic" (NumPy) or "cuda" (CuPy); "auto" is "cuda" where the
        arrays are on a CUDA device, else "cpu".
    **arrays : array or None
        Of the caller; none where the function has no CUDA kernels.

    Raises
    ------
    BackendMismatchError
        Some arrays are on a device and others are not, or on another one.
    BackendUnavailableError
        "cuda" where there is no CuPy or no device, or no kernel.
    """
    if backend not in BACKENDS:
        raise InvalidArgumentError(
            f"backend must be one of {', '.join(BACKENDS)}; got backend={backend!r}. "
            "Leave it at 'auto' to let the arrays decide."
        )
    if backend == "cuda" and not arrays:
        raise BackendUnavailableError(
            "This function has no CUDA kernels; got backend='cuda'. Pass host arrays and "
            "backend='cpu'."
        )
    if backend == "auto":
        backend = "cpu" if not arrays or common_device(**arrays) is None else "cuda"
    elif backend == "cuda":
        common_device(**arrays)
    return _record(backend)


@cache
def _record(backend: str) -> Kernels:
    if backend == "cpu":
        from quiplinalg.kernels.cpu import CPU

        return CPU
    if backend == "generic":
        from quiplinalg.kernels.generic import GENERIC

        return GENERIC
    from quiplinalg.kernels.cuda.record import cuda

    return cuda()
