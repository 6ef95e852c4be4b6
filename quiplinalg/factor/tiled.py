"""The tiled left-looking Cholesky factorisation that all factorisations run on."""

from __future__ import annotations

from threading import Event

import numpy as np

from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.device import REMEDY, factor_members
from quiplinalg.kernels.record import DeviceKernels, Kernels
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["factor_reversed", "factor_tiled"]

_ROWS = 256
_LEAST_ROWS = 256  # of a tile below the diagonal


def factor_tiled(A: np.ndarray, kernels: Kernels, block: int | None) -> int:
    """Overwrite the lower triangle of A with L, A = L L^T; return -1, or the index that failed.

    Parameters
    ----------
    A : ndarray, (n, n), float32 or float64, Fortran order
        Only the lower triangle is read and written.  After a failure at index i, A[i, i] is the
        pivot that was not positive.
    block : int or None
        Columns of a tile; None for the backend's choice.

    Notes
    -----
    For each block column J: A_IJ -= sum_{K<J} L_IK L_JK^T, L_JJ = chol(A_JJ), L_IJ = A_IJ L_JJ^-T.
    Tiles have fixed boundaries and one BLAS thread each, so the bits of L do not depend on how
    many threads share them.  n^3/3 flops, no work space.
    """
    n = A.shape[0]
    _check_block(block)
    columns = block or kernels.tile
    with single_blas_thread():
        for j0 in range(0, n, columns):
            info = _block_column(A, j0, min(j0 + columns, n), kernels)
            if info:
                return j0 + info - 1
    return -1


def _block_column(A: np.ndarray, j0: int, j1: int, kernels: Kernels) -> int:
    """Finish columns j0 .. j1 of L, given those before; return the failed row's number, or 0."""
    n = A.shape[0]
    info = 0
    known = Event()

    def diagonal() -> None:
        nonlocal info
        try:
            kernels.update_tile(A, j0, j1, j0, j1, 0, j0)
            info = kernels.factor_tile(A, j0, j1)
        finally:
            known.set()

    def below(i0: int, i1: int) -> None:
        kernels.update_tile(A, i0, i1, j0, j1, 0, j0)
        known.wait()  # never for long: the diagonal tile was started first
        if not info:
            kernels.solve_tile(A, i0, i1, j0, j1)

    # Two tiles at least for two cores; tall ones, because each packs A_JK anew.
    height = min(kernels.rows, max(_LEAST_ROWS, -(-(n - j1) // 128) * 64))
    tiles = [(i, min(i + height, n)) for i in range(j1, n, height)]
    run_all(lambda task, *rows: task(*rows), [(diagonal,), *((below, *rows) for rows in tiles)])
    return info


def factor_reversed(
    H: np.ndarray,
    order: np.ndarray,
    shift: np.ndarray,
    kernels: Kernels,
    block: int | None = None,
    dtype: type = np.float64,
    name: str = "H",
) -> np.ndarray:
    """Factor H[order][:, order] + diag(shift) from its last row to its first.

    Parameters
    ----------
    H : ndarray, (n, n), symmetric, C order
    order : ndarray, (n,), int64
    shift : ndarray, (n,), float64
        In the caller's column order.

    Returns
    -------
    array of the backend, (n, n), ``dtype``, C order
        A with A[n-1-k, n-1-i] = T[i, k] sqrt(D_k) for i <= k, in the permuted order; zero below,
        but on a device, where it is undefined.

    Raises
    ------
    NotPositiveDefiniteError
        With the row of the caller's H and the pivot there.
    """
    n = H.shape[0]
    remedy = REMEDY if name == "H" else f"Add a multiple of the identity to {name}."
    if isinstance(kernels, DeviceKernels):
        _check_block(block)
        factors, errors = factor_members(
            H[None], order[None], shift[None], kernels, dtype, [name], remedy
        )
        if errors:
            raise errors[0]
        return factors[0]
    A: np.ndarray = np.zeros((n, n), dtype)
    permuted = shift[order]
    tasks = [(H, order, permuted, A, j, min(j + _ROWS, n)) for j in range(0, n, _ROWS)]
    run_all(kernels.reverse_rows, tasks)
    failed = factor_tiled(A.T, kernels, block)
    if failed >= 0:
        index = int(order[n - 1 - failed])
        raise NotPositiveDefiniteError(index, float(A[failed, failed]), remedy, name)
    return A


def _check_block(block: int | None) -> None:
    if block is not None and (not isinstance(block, int) or block < 1):
        raise InvalidArgumentError(
            f"block must be a whole number of at least 1, or None; got block={block!r}. "
            "Leave it at None for the backend's choice."
        )
