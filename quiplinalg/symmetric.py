"""Symmetric matrices: the checks before one is factored, and one triangle from the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix, check_finite, work_dtype
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.kernels.record import DeviceKernels, Kernels
from quiplinalg.parallel import run_all

__all__ = ["check_members", "check_symmetry", "mirror", "symmetric_matrix"]

_TOLERANCE = 1e-4  # of the largest diagonal element; bfloat16 products of one H stay far below
_ROWS = 512
_MIRRORED = 256  # rows that a task completes


def symmetric_matrix(H: Any, name: str, kernels: Kernels) -> np.ndarray:
    """Return H as a C-order float32 or float64 array of a backend, after checking both triangles.

    Raises
    ------
    DTypeError, InvalidArgumentError
        Not real floating, not square, or asymmetric by more than 1e-4 of its largest diagonal.
    NonFiniteError
        NaN or infinity anywhere, in either triangle.
    NotPositiveDefiniteError
        A negative diagonal element, or a zero one with a non-zero row.
    """
    matrix = as_matrix(H, name, square=True, read=kernels.read)
    matrix = kernels.xp.ascontiguousarray(matrix, work_dtype(matrix))
    n = matrix.shape[0]
    if n == 0:
        return matrix
    if isinstance(kernels, DeviceKernels):
        check_members(matrix[None], [name], kernels)
        return matrix
    checked = run_all(
        kernels.asymmetry, [(matrix, i, min(i + _ROWS, n)) for i in range(0, n, _ROWS)]
    )
    if not all(finite for _, finite in checked):
        check_finite(matrix, name)
    worst = max(float(w) for w, _ in checked)
    check_symmetry(name, worst, matrix.diagonal(), lambda i: bool(matrix[i].any()))
    return matrix


def check_members(H: Any, names: Sequence[str], kernels: DeviceKernels) -> np.ndarray:
    """Check matrices (b, n, n), n > 0, on a device, each as `symmetric_matrix` does.

    Returns
    -------
    ndarray, (b, n)
        Their diagonals, on the host: with two numbers for each matrix all that is read back, but
        where some are zero also which rows are.
    """
    checked = kernels.asymmetry(H).get()
    diagonals = kernels.xp.ascontiguousarray(H.diagonal(axis1=1, axis2=2)).get()
    filled = np.empty(diagonals.shape, bool)
    if (diagonals == 0).any():
        filled = H.any(axis=2).get()
    for i, (name, (worst, finite)) in enumerate(zip(names, checked, strict=True)):
        if not finite:
            check_finite(H[i], name)
        check_symmetry(name, float(worst), diagonals[i], filled[i].__getitem__)
    return diagonals


def check_symmetry(
    name: str, worst: float, diagonal: np.ndarray, is_filled: Callable[[int], bool]
) -> None:
    """Raise where a finite matrix can be no second moment; see `symmetric_matrix`.

    Parameters
    ----------
    name : str
    worst : float
        The largest |H_ij - H_ji|.
    diagonal : ndarray, (n,), n > 0
    is_filled : callable
        Whether a row has an element that is not zero.
    """
    largest = float(np.abs(diagonal).max())
    if worst > _TOLERANCE * largest:
        raise InvalidArgumentError(
            f"{name} must be symmetric to {_TOLERANCE:g} of its largest diagonal element "
            f"({largest:.3g}); got a difference of {worst:.3g} between {name} and its transpose. "
            f"Pass ({name} + {name}.T) / 2 if that is what you mean."
        )
    negative = np.flatnonzero(diagonal < 0)
    if negative.size:
        index = int(negative[0])
        raise NotPositiveDefiniteError(
            index,
            float(diagonal[index]),
            "A second moment has no negative diagonal: check its sign and how it was accumulated.",
            name,
        )
    for dead in np.flatnonzero(diagonal == 0):
        if is_filled(int(dead)):
            raise NotPositiveDefiniteError(
                int(dead),
                0.0,
                "Its diagonal is zero but its row is not: check how the matrix was accumulated.",
                name,
            )


def mirror(A: np.ndarray, kernels: Kernels) -> np.ndarray:
    """Copy the upper triangle of A, (n, n) in C order, over the lower one, and return A."""
    n = A.shape[0]
    if isinstance(kernels, DeviceKernels):
        kernels.mirror(A[None])
        return A
    run_all(kernels.mirror, [(A, i, min(i + _MIRRORED, n)) for i in range(0, n, _MIRRORED)])
    return A
