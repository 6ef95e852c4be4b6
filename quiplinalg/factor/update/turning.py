"""What the updates of triangular factors share: where the factor lies, threads, what failed."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arrays import check_finite, read_only
from quiplinalg.errors import InvalidArgumentError, NonFiniteError, NotPositiveDefiniteError
from quiplinalg.factor.update.checks import flat, layout, stack, writable
from quiplinalg.factor.update.engine import groups
from quiplinalg.kernels.record import Kernels
from quiplinalg.parallel import run_all

__all__ = [
    "check_diagonal",
    "check_lower",
    "copy_lower",
    "factor_in",
    "factor_into",
    "rows_of",
    "turn",
    "turn_from",
    "unit_diagonal",
]

_ROWS = 128


def factor_in(L: Any) -> tuple[np.ndarray, bool]:
    """Return a lower triangular factor as R = L^T, (b, n, n), one of the last axes contiguous."""
    a, single = stack(L, "L")
    size = a.itemsize
    bad = min(a.strides[1:]) != size or max(a.strides[1:]) < a.shape[1] * size
    if a.size and (bad or (len(a) > 1 and a.strides[0] < size * a.shape[1])):
        a = a.copy()  # ascontiguousarray would leave odd strides of a 1 x 1 matrix
    return a.swapaxes(1, 2), single


def factor_into(L: Any) -> tuple[np.ndarray, bool]:
    """Return a factor that is written into as R = L^T, (b, n, n)."""
    a, single = writable(L, "L")
    return a.swapaxes(1, 2), single


def check_diagonal(R: np.ndarray, single: bool) -> None:
    """Raise where a Cholesky factor has no positive diagonal."""
    pivots = R.diagonal(axis1=1, axis2=2)
    check_finite(pivots[0] if single else pivots, "the diagonal of L")
    bad = np.argwhere(pivots <= 0)
    if len(bad):
        m, i = (int(v) for v in bad[0])
        raise NotPositiveDefiniteError(
            i,
            float(pivots[m, i]),
            "L must be a Cholesky factor, with a positive diagonal; change the sign of a column "
            "whose diagonal element is negative.",
            "L L^T" if single else f"L[{m}] L[{m}]^T",
        )


def rows_of(R: np.ndarray) -> bool:
    """Whether rows of R are contiguous, as the kernel turns them: L in Fortran order."""
    return R.size == 0 or R.strides[2] == R.itemsize


def turn(
    R: np.ndarray,
    D: np.ndarray,
    X: np.ndarray,
    sign: int,
    out: np.ndarray,
    kernels: Kernels,
    *,
    single: bool,
    start: np.ndarray | None = None,
    remedy: str,
) -> None:
    """Set out, by rows, to R^T's factor after sign X^T X, from row ``start`` (b,) on; X is lost.

    R and out are (b, n, n), the same or apart; D is (b, n) of an LDL^T, changed, or (b, 0).

    Raises
    ------
    NonFiniteError
        The lower triangle of L holds NaN or infinity: they reach a pivot whatever X is.
    NotPositiveDefiniteError
        With the row and the pivot there.
    InvalidArgumentError
        The larger factor overflows.
    """
    b, n, _ = R.shape
    if n == 0 or b == 0:
        return
    inside = np.may_share_memory(R, out)
    if X.shape[1] == 0 and not inside:  # no vector carries NaN to a pivot
        check_lower(R, single)
    origin = (0, 0, 0)
    if not inside:
        origin = tuple(s // R.itemsize for s in (R.strides[1], R.strides[2], R.strides[0]))  # type: ignore[assignment]
    memory = flat(out, write=True)
    source = read_only(memory) if inside else flat(R if rows_of(R) else R.swapaxes(1, 2))
    first = np.zeros(b, np.int64) if start is None else start
    failed, pivot = np.full(b, -1), np.zeros(b)
    n, lead, step = layout(out)
    run_all(
        kernels.update_factor,
        [
            (source, origin, memory, (n, lead, step, *m), D, X, sign, (first, failed, pivot))
            for m in groups(b, n)
        ],
    )
    if (failed < 0).all():
        return
    m = int(np.flatnonzero(failed >= 0)[0])
    if not inside:
        check_lower(R, single)
    index, value = int(failed[m]), float(pivot[m])
    if np.isnan(value):
        raise NonFiniteError("L" if single else f"L[{m}]", (index, index), 1)
    if sign > 0:
        raise InvalidArgumentError(
            f"the factor of what was added to must stay within the range of {R.dtype}; got a pivot "
            f"beyond it, or beyond it times the old one, in row {index}. Scale L and the vectors "
            "towards 1, or pass float64."
        )
    raise NotPositiveDefiniteError(index, value, remedy, "A" if single else f"A[{m}]")


def check_lower(R: np.ndarray, single: bool) -> None:
    """Raise for NaN and infinity in the lower triangles of L = R^T."""
    for m, member in enumerate(R):
        check_finite(np.tril(member.T), "L" if single else f"L[{m}]")


def copy_lower(source: np.ndarray, out: np.ndarray) -> None:
    """Copy the upper triangle of R = L^T, (b, n, n) on both sides; the rest of out is untouched."""
    n = source.shape[1]
    for j in range(0, n, _ROWS):
        end = min(j + _ROWS, n)
        out[:, j:end, end:] = source[:, j:end, end:]
        upper = np.triu(np.ones((end - j, end - j), bool))
        np.copyto(out[:, j:end, j:end], source[:, j:end, j:end], where=upper)


def turn_from(
    out: np.ndarray,
    X: np.ndarray,
    sign: int,
    start: list[int],
    single: bool,
    kernels: Kernels,
    remedy: str,
) -> None:
    """Let the trailing rows of out, a factor, take sign X^T X; those before ``start`` stay."""
    none, first = np.empty((len(out), 0), out.dtype), np.array(start, np.int64)
    by_rows = out if rows_of(out) else np.empty(out.shape, out.dtype)
    turn(out, none, X, sign, by_rows, kernels, single=single, start=first, remedy=remedy)
    if by_rows is not out:
        copy_lower(by_rows, out)


def unit_diagonal(R: np.ndarray, single: bool) -> None:
    """Raise where the L of an LDL^T has another diagonal than ones."""
    pivots = R.diagonal(axis1=1, axis2=2)
    bad = np.argwhere(pivots != 1)
    if len(bad):
        m, i = (int(v) for v in bad[0])
        where = f"{i}, {i}" if single else f"{m}, {i}, {i}"
        raise InvalidArgumentError(
            f"L must be unit lower triangular; got L[{where}]={pivots[m, i]:.3g}. "
            "A Cholesky factor goes to cholesky_update."
        )
