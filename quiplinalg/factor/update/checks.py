"""Arguments of the updates: one matrix or a stack of them, a vector or an index for each."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from quiplinalg.arguments import as_float
from quiplinalg.arrays import check_finite, read_only, to_numpy
from quiplinalg.errors import DTypeError, InvalidArgumentError
from quiplinalg.kernels.record import Kernels
from quiplinalg.symmetric import symmetric_matrix

__all__ = [
    "check_index",
    "check_range",
    "flat",
    "indices",
    "layout",
    "member_rows",
    "numbers",
    "scaled",
    "stack",
    "symmetric_stack",
    "vectors",
    "writable",
]


_ELEMENTS = 1 << 16  # of a stack that are checked together


def stack(A: Any, name: str) -> tuple[np.ndarray, bool]:
    """Return (n, n) or (b, n, n) floats as (b, n, n) float32 or float64, and whether it was one."""
    a = to_numpy(A, name)
    if a.ndim not in (2, 3) or a.shape[-1] != a.shape[-2]:
        raise InvalidArgumentError(
            f"{name} must be a square matrix (n, n) or a stack of them (b, n, n); got "
            f"{name}.shape={a.shape}. Pass each matrix with all its rows and columns."
        )
    wide = a.dtype.kind == "f" and a.dtype.itemsize >= 8
    a = a.astype(np.float64 if wide else np.float32, copy=False)
    return (a, False) if a.ndim == 3 else (a[None], True)


def symmetric_stack(A: Any, name: str, kernels: Kernels) -> tuple[np.ndarray, bool]:
    """Return `stack` in C order, both triangles of every member checked: finite and symmetric."""
    a, single = stack(A, name)
    a = np.ascontiguousarray(a)
    if single:
        symmetric_matrix(a[0], name, kernels)
        return a, single
    each = max(1, _ELEMENTS // max(a[0].size if len(a) else 1, 1))
    for first in range(0, len(a), each):
        part = a[first : first + each]
        if not _plainly_symmetric(part):  # then which one, and why
            for m, member in enumerate(part):
                symmetric_matrix(member, f"{name}[{first + m}]", kernels)
    return a, single


def _plainly_symmetric(a: np.ndarray) -> bool:
    """Whether every member of a stack passes `symmetric_matrix` for sure, at one blow."""
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(a - a.swapaxes(1, 2)).max(axis=(1, 2), initial=0)
    least = a.diagonal(axis1=1, axis2=2).min(axis=1, initial=np.inf)
    return bool(((gap <= 1e-6 * least) & (least > 0)).all() and np.isfinite(a).all())


def vectors(X: Any, name: str, A: np.ndarray, single: bool) -> np.ndarray:
    """Return (n,) or (n, k), for a stack (b, n) or (b, n, k), as a fresh (b, k, n) like A."""
    x = to_numpy(X, name)
    b, n, _ = A.shape
    lead = () if single else (b,)
    depth = len(lead)
    if x.ndim not in (depth + 1, depth + 2) or x.shape[: depth + 1] != (*lead, n):
        shape = ", ".join(str(d) for d in (*lead, n))
        raise InvalidArgumentError(
            f"{name} must be ({shape}{',' if single else ''}) or ({shape}, k), a vector or k "
            f"columns for each matrix; got {name}.shape={x.shape}. Transpose it if its vectors "
            "are rows."
        )
    check_finite(x, name)
    x = x.reshape(b, n, 1 if x.ndim == depth + 1 else x.shape[-1])
    out = np.empty((b, x.shape[2], n), A.dtype)
    with np.errstate(over="ignore"):
        out[:] = x.transpose(0, 2, 1)
    check_range(out, name)
    return out


def numbers(s: Any, name: str, A: np.ndarray, single: bool) -> np.ndarray:
    """Return a number, or one for each member of a stack, as (b,) in the dtype of A."""
    x = to_numpy(s, name, integers=True)
    if x.shape != (() if single else (len(A),)):
        raise InvalidArgumentError(
            f"{name} must be {'a number' if single else f'({len(A)},), a number for each matrix'}; "
            f"got {name}.shape={x.shape}. It is one diagonal element."
        )
    check_finite(x.reshape(-1), name)
    with np.errstate(over="ignore"):
        out = x.reshape(-1).astype(A.dtype)
    check_range(out, name)
    return out


def scaled(sigma: Any, X: np.ndarray) -> int:
    """Multiply X by sqrt(|sigma|) in place; return the sign of sigma."""
    value = as_float(sigma)
    if not math.isfinite(value) or value == 0:
        raise InvalidArgumentError(
            f"sigma must be finite and not 0; got sigma={sigma!r}. "
            "1 adds the vectors' outer products, -1 takes them off."
        )
    with np.errstate(over="ignore"):
        X *= X.dtype.type(math.sqrt(abs(value)))
    check_range(X, "sqrt(|sigma|) times the vectors")
    return 1 if value > 0 else -1


def check_range(x: np.ndarray, what: str) -> None:
    """Raise where what was made of finite numbers is not finite, because it overflowed."""
    if not np.isfinite(x).all():
        raise InvalidArgumentError(
            f"{what} must stay within the range of {x.dtype}; got NaN, or a number beyond "
            "it. Scale the matrix and what changes it towards 1, or pass float64."
        )


def check_index(q: Any, name: str, size: int, what: str = "row") -> int:
    """Return a whole number in [0, size) as an int."""
    if isinstance(q, (bool, np.bool_)) or not hasattr(q, "__index__"):
        raise DTypeError(
            f"{name} must be a whole number; got {name}={q!r}. It counts the {what}s from 0."
        )
    index = int(q.__index__())
    if not 0 <= index < size:
        raise InvalidArgumentError(
            f"{name} must be the index of a {what}, 0 to {size - 1}; got {name}={index}. "
            "Negative indices are not taken."
            if size
            else f"{name} must be the index of a {what}, and there is none; got {name}={index}."
        )
    return index


def indices(S: Any, name: str, b: int, size: int, single: bool) -> np.ndarray:
    """Return an index, or several, for each member as (b, k) int64, ascending.

    Of one matrix: a whole number, or a sequence or set of them.  Of a stack: (b,) or (b, k), or a
    whole number that goes for all.
    """
    if isinstance(S, (set, frozenset)):
        S = list(S)
    try:
        a = np.asarray(S)
    except ValueError as error:
        raise InvalidArgumentError(
            f"{name} must hold as many indices for each matrix; got rows that differ in length. "
            "Call once for each matrix."
        ) from error
    if a.ndim == 0:
        return np.full((b, 1), check_index(S, name, size), np.int64)
    if a.size == 0:
        return np.empty((b, 0), np.int64)
    if a.dtype.kind not in "iu":
        raise DTypeError(
            f"{name} must hold whole numbers; got dtype {a.dtype}. "
            f"Pass np.flatnonzero({name}) of a mask."
        )
    if a.ndim > 2 or (single and a.ndim != 1) or (not single and a.shape[0] != b):
        shape = "a number or (k,)" if single else f"({b},) or ({b}, k), a row for each matrix"
        raise InvalidArgumentError(
            f"{name} must be {shape}; got {name}.shape={a.shape}. Each row is one group of indices."
        )
    outside = a[(a < 0) | (a >= size)]
    if outside.size:
        check_index(int(outside[0]), name, size)
    a = np.sort(a.astype(np.int64).reshape(b, -1), axis=1)
    if (np.diff(a, axis=1) == 0).any():
        raise InvalidArgumentError(
            f"{name} must hold each index once; got {name}={np.asarray(S).tolist()}. "
            f"Pass np.unique({name})."
        )
    return a


def member_rows(q: Any, name: str, b: int, size: int, single: bool, what: str = "row") -> list[int]:
    """Return a row (or position) for each member, from one number or (b,) of them."""
    if np.ndim(q) == 0:
        return [check_index(q, name, size, what)] * b
    if single or np.shape(q) != (b,):
        raise InvalidArgumentError(
            f"{name} must be one {what}{'' if single else f', or ({b},) of them'}; got "
            f"{name}.shape={np.shape(q)}. Call once for each."
        )
    return [check_index(p, name, size, what) for p in q]


def layout(A: np.ndarray) -> tuple[int, int, int]:
    """Return (n, lead, step) of a (b, n, n) whose last axis has unit stride."""
    b, n, _ = A.shape
    size = A.itemsize
    lead = A.strides[1] // size if n > 1 else max(n, 1)
    return n, lead, A.strides[0] // size if b > 1 else n * lead


def flat(A: np.ndarray, write: bool = False) -> np.ndarray:
    """Return the memory that a (b, n, n) spans as a vector, as the kernels take it; no copy."""
    b, n, _ = A.shape
    if A.size == 0:
        return np.empty(0, A.dtype)
    _, lead, step = layout(A)
    view = as_strided(A, ((b - 1) * step + (n - 1) * lead + n,), (A.itemsize,))
    return view if write else read_only(view)


def writable(A: Any, name: str) -> tuple[np.ndarray, bool]:
    """Return an array that is written into as (b, n, n), and whether it was one matrix."""
    if type(A) is not np.ndarray or A.dtype not in (np.dtype("f4"), np.dtype("f8")):
        got = A.dtype if isinstance(A, np.ndarray) else type(A).__name__
        raise DTypeError(
            f"{name} must be a NumPy array of native float32 or float64, because it is written "
            f"into; got {got}. Use the form that returns a new array."
        )
    a, single = stack(A, name)
    if not A.flags.writeable:
        raise InvalidArgumentError(
            f"{name} must be writable, because it is written into; got a read-only array. "
            "Use the form that returns a new array."
        )
    size, (b, n, _) = a.itemsize, a.shape
    steps = [stride for stride, length in zip(a.strides, a.shape, strict=True) if length > 1]
    near, far = sorted(a.strides[1:]) if n > 1 else (size, size)
    bad = near != size or far < n * size or any(s % size for s in steps)
    if A.size and (bad or (b > 1 and a.strides[0] < (n - 1) * far + n * size)):
        raise InvalidArgumentError(
            f"{name} must lie in memory by rows or by columns (C or Fortran order, or a leading "
            f"block of such an array); got strides {A.strides}. Pass a copy of it."
        )
    return a, single
