"""What the assertions are given: arrays of any framework in, calls without a meaning refused.

A call that cannot be right (shapes, orders, grids) raises an error of the library; codes that are
no codes are a finding, an AssertionError.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix, to_numpy
from quiplinalg.errors import InvalidArgumentError

__all__ = [
    "read_codes",
    "read_grid",
    "read_hessian",
    "read_numbers",
    "read_order",
    "read_pair",
    "read_uniforms",
]

_EXACT = 2.0**53  # whole numbers beyond are not all float64s
_SYMMETRY = 1e-4  # of the largest diagonal element, as everywhere in the library


def read_hessian(H: Any, n: int) -> np.ndarray:
    """Return H as (n, n) float64; refuse another shape, and one triangle alone."""
    matrix = as_matrix(H, "H", square=True).astype(np.float64)
    if len(matrix) != n:
        raise InvalidArgumentError(
            f"H must be ({n}, {n}), a row and a column for each column of W; got "
            f"H.shape={matrix.shape}. Is W transposed? It is (out, in)."
        )
    worst = float(np.abs(matrix - matrix.T).max(initial=0.0))
    if worst > _SYMMETRY * float(np.abs(matrix.diagonal()).max(initial=0.0)):
        raise InvalidArgumentError(
            f"H must be symmetric; got a difference of {worst:.3g} between H and its transpose. "
            "Mirror the triangle that you have."
        )
    return matrix


def read_pair(W_hat: Any, W: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return W_hat and W in their precision; AssertionError where their shapes part."""
    rounded, weight = to_numpy(W_hat, "W_hat", integers=True), as_matrix(W, "W")
    if rounded.shape != weight.shape:
        raise AssertionError(f"W_hat must be {weight.shape}, as W; it is {rounded.shape}")
    return rounded, weight


def read_order(order: Any, n: int) -> np.ndarray:
    """Return a permutation of 0 .. n-1; the natural one for None."""
    if order is None:
        return np.arange(n)
    perm = to_numpy(order, "order", integers=True)
    if perm.dtype.kind not in "iu" or not np.array_equal(np.sort(perm, axis=None), np.arange(n)):
        raise InvalidArgumentError(
            f"order must hold each of 0 to {n - 1} once, the column of each step; got "
            f"order={perm!r}. For descending diagonals: np.argsort(-H.diagonal(), kind='stable')."
        )
    return perm.reshape(-1).astype(np.int64)


def read_grid(
    scale: Any, zero: Any, maxq: float, m: int, n: int, group_index: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return scale and zero, (rows, groups) float64 with rows m or 1, and the (n,) groups."""
    if not (maxq == np.inf or (maxq >= 1 and maxq == np.floor(maxq))):
        raise InvalidArgumentError(
            f"maxq must be a whole number from 1 on, or inf; got maxq={maxq!r}. It is 2**bits - 1."
        )
    found = []
    for name, parameter in (("scale", scale), ("zero", zero)):
        array = to_numpy(parameter, name, integers=True).astype(np.float64)
        array = array.reshape(-1, 1) if array.ndim < 2 else array
        if array.ndim != 2 or array.shape[0] not in (1, m):
            raise InvalidArgumentError(
                f"{name} must be (rows, groups) with 1 or {m} rows; got {name}.shape="
                f"{np.shape(parameter)}. One for each row is {name}.reshape(-1, 1)."
            )
        found.append(array)
    s, o = found
    if not ((s > 0).all() and np.isfinite(s).all() and np.isfinite(o).all()):
        raise InvalidArgumentError(
            f"scale must be positive and finite, and zero finite; got a least scale of "
            f"{s.min():.3g}. The sign belongs to the codes: w_hat = scale * (code - zero)."
        )
    groups = min(s.shape[1], o.shape[1])
    group = np.zeros(n, np.int64) if group_index is None else np.asarray(group_index)
    inside = group.shape == (n,) and group.dtype.kind in "iu" and (group >= 0).all()
    if not inside or group.max(initial=0) >= groups or (group_index is None and groups > 1):
        raise InvalidArgumentError(
            f"group_index must be ({n},) whole numbers from 0 to {groups - 1}, the group of each "
            f"column; got group_index={group_index!r}. For columns in order: np.arange(n) // size."
        )
    return s, o, group


def read_numbers(x: Any, name: str) -> np.ndarray:
    """Return an array or a list of numbers as float64."""
    array = to_numpy(x if hasattr(x, "shape") else np.asarray(x), name, integers=True)
    return array.astype(np.float64)


def read_codes(codes: Any, name: str, shape: tuple[int, ...], maxq: float) -> np.ndarray:
    """Return codes as int64; AssertionError where they are not (m, n) whole numbers 0 .. maxq."""
    array = to_numpy(codes if hasattr(codes, "shape") else np.asarray(codes), name, integers=True)
    if array.shape != shape:
        raise AssertionError(f"{name} must be {shape}; it is {array.shape}")
    if array.dtype.kind not in "iub" and not np.array_equal(array, np.rint(array)):
        raise AssertionError(f"{name} must be whole numbers; rounded weights are no codes")
    if array.size:
        low, high = float(array.min()), float(array.max())
        if np.isfinite(maxq) and not 0 <= low <= high <= maxq:
            raise AssertionError(
                f"{name} must be in 0 .. {maxq:g}; it is outside, in {low:g} .. {high:g}"
            )
        if not -_EXACT <= low <= high <= _EXACT:
            raise AssertionError(f"{name} is in {low:g} .. {high:g}, beyond 2**53")
    return array.astype(np.int64)


def read_uniforms(uniforms: Any, m: int, n: int) -> np.ndarray:
    """Return the random numbers of stochastic rounding, (m, n) float64 in [0, 1)."""
    array = to_numpy(uniforms, "uniforms").astype(np.float64)
    if array.shape != (m, n) or not ((array >= 0) & (array < 1)).all():
        raise InvalidArgumentError(
            f"uniforms must be ({m}, {n}) numbers in [0, 1); got uniforms.shape={array.shape}. "
            "They are of the caller's columns, not of steps."
        )
    return array
