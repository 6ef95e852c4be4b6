"""What the updates of an inverse share: B -> B[keep][:, keep] + sign V^T V, threads, and V."""

from __future__ import annotations

import numpy as np

from quiplinalg.arrays import read_only
from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.factor.update.checks import check_range, flat, layout
from quiplinalg.kernels.record import Kernels
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["MANY", "add_many", "apply", "check_squares", "condense", "groups", "product"]

MANY = 32  # vectors, from which on matrix products are the faster way at n of 1000 and more
_COLUMNS = 2048  # of a product that one task makes
_SIDE = 256  # of a tile, a task of such products
_ELEMENTS = 1 << 18  # of a stack that one task takes


def groups(b: int, n: int) -> list[tuple[int, int]]:
    """Return fixed ranges of the members of a stack, one a task."""
    each = max(1, _ELEMENTS // max(n * n, 1))
    return [(m, min(m + each, b)) for m in range(0, b, each)]


def product(A: np.ndarray, U: np.ndarray, kernels: Kernels) -> np.ndarray:
    """Return U[m] A[m] for a symmetric A (b, n, n) and U (b, k, n)."""
    (b, n, _), W = A.shape, np.empty_like(U)
    if U.shape[1] >= MANY:

        def columns(m: int, j: int) -> None:
            W[m, :, j : j + _SIDE] = U[m] @ A[m, :, j : j + _SIDE]

        with single_blas_thread(), np.errstate(over="ignore", invalid="ignore"):
            run_all(columns, [(m, j) for m in range(b) for j in range(0, n, _SIDE)])
        return W
    memory, where, u = flat(A), layout(A), read_only(U)
    tasks = [
        (memory, where, u, W, members, (c, min(c + _COLUMNS, n)))
        for members in groups(b, n)
        for c in range(0, n, _COLUMNS)
    ]
    run_all(kernels.multiply_rows, tasks)
    return W


def condense(
    C: np.ndarray, W: np.ndarray, rows: np.ndarray | None, remedy: str, name: str, single: bool
) -> np.ndarray:
    """Return V = G^-1 W with C = G G^T, (b, k, k) float64 and (b, k, n); V^T V = W^T C^-1 W.

    Raises
    ------
    NotPositiveDefiniteError
        A C is not; the index is that of ``rows`` (b, k), else of C.
    InvalidArgumentError
        C or V^T V overflows.
    """
    b, k, _ = C.shape
    check_range(C, name)
    if k == 1:  # all members at once, each element for itself: the same bits as one by one
        bad = np.flatnonzero(~(C[:, 0, 0] > 0))
        failed = [(int(bad[0]), 0, float(C[bad[0], 0, 0]))] if bad.size else []
        V = W if failed else W / np.sqrt(C).astype(W.dtype)
    else:
        from scipy.linalg import lapack

        failed, V = [], np.empty_like(W)
        with single_blas_thread():
            for m in range(b if k else 0):
                G, info = lapack.dpotrf(C[m], lower=1)
                if info > 0:
                    failed = [(m, info - 1, float(G[info - 1, info - 1]))]
                    break
                V[m] = lapack.dtrtrs(G, W[m].astype(np.float64), lower=1)[0]
    if failed:
        m, p, pivot = failed[0]
        index = p if rows is None else int(rows[m, p])
        raise NotPositiveDefiniteError(index, pivot, remedy, name if single else f"{name}[{m}]")
    check_squares(V, "the changed inverse")
    return V


def check_squares(V: np.ndarray, what: str) -> None:
    """Raise where V^T V overflows."""
    largest = np.maximum(V.max(axis=2, initial=0), -V.min(axis=2, initial=0))
    with np.errstate(over="ignore"):
        check_range(np.square(largest).sum(axis=1), what)


def apply(
    A: np.ndarray, V: np.ndarray, sign: int, keep: np.ndarray, out: np.ndarray, kernels: Kernels
) -> None:
    """Set out = A[keep][:, keep] + sign V^T V, with zeros where keep is -1; out may overlay A.

    A (b, n, n), V (b, k, n'), keep (b, n') ascending but for the -1, out (b, n', n').  Both
    triangles come from the same products: out is as symmetric as A, to the last bit.
    """
    b, n, _ = out.shape
    if out.size == 0:
        return
    memory, target = flat(out, write=True), layout(out)
    inside = np.may_share_memory(A, out)
    whole = inside and n != A.shape[1]  # rows move, and must not overtake each other
    members = groups(b, n) if b > 1 or whole else []
    rows = [(m0 * n, m1 * n) for m0, m1 in members]
    rows = rows or [(i, min(i + 256, n)) for i in range(0, n, 256)]
    fixed = (flat(A), layout(A), read_only(V), sign, read_only(keep), memory, target)
    run_all(kernels.rank_update, [(*fixed, span) for span in rows])


def add_many(A: np.ndarray, V: np.ndarray, sign: int, out: np.ndarray) -> None:
    """Set out = A + sign V^T V, of the upper triangle of A, by matrix products on fixed tiles.

    A (b, n, n), V (b, k, n), out (b, n, n), which may be A.  out is symmetric to the last bit.
    """
    b, n, _ = out.shape
    edges = [(i, min(i + _SIDE, n)) for i in range(0, n, _SIDE)]

    def tile(m: int, rows: tuple[int, int], columns: tuple[int, int]) -> None:
        above, left = slice(*columns), slice(*rows)
        product = V[m][:, left].T @ V[m][:, above]  # syrk, and so symmetric, on the diagonal
        product *= sign
        product += A[m, left, above]
        if rows == columns:
            product = np.triu(product) + np.triu(product, 1).T
        else:
            out[m, above, left] = product.T
        out[m, left, above] = product

    with single_blas_thread():
        run_all(tile, [(m, I, J) for m in range(b) for I in edges for J in edges if J >= I])
