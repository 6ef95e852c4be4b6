"""LDLQ and GPTQ for an H that does not fit in memory: the factor on disk, rounding as ever."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np

from quiplinalg.arrays import as_matrix, check_finite
from quiplinalg.errors import InsufficientMemoryError, InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp
from quiplinalg.factor.orders import check_order, order_of_diagonal
from quiplinalg.factor.out_of_core import (
    FactorFile,
    factor_file_bytes,
    factor_out_of_core,
    least_factor_memory,
)
from quiplinalg.factor.source import SymmetricSource
from quiplinalg.grids.apply import dequantize
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import PANEL, Kernels, select
from quiplinalg.parallel import run_all, single_blas_thread, thread_count
from quiplinalg.results import Quantized
from quiplinalg.rounding.gptq import gptq
from quiplinalg.rounding.ldlq import ldlq
from quiplinalg.rounding.plan import Footprint, pack_columns
from quiplinalg.rounding.prepared import FactoredHessian, Feedback

__all__ = [
    "OutOfCoreHessian",
    "least_memory",
    "round_out_of_core",
    "scratch_bytes",
]

_METHODS = {"ldlq": ldlq, "gptq": gptq}
_THREAD = 4 << 20  # bytes of a thread: packed tiles of BLAS, and small arrays
_BUFFERS = 16 << 20  # bytes for reading from the file
_ROWS = 16  # whose loss is computed at a time


def round_out_of_core(
    W: Any,
    source: SymmetricSource,
    method: str,
    keywords: Mapping[str, Any],
    *,
    scratch: str | os.PathLike,
    memory: int,
    backend: str = "auto",
) -> Quantized:
    """Round W by ``method``, "ldlq" or "gptq", under an H that is read piece by piece.

    Parameters
    ----------
    W : array, (m, n), floating
        Not changed, and converted a few rows at a time.
    source : SymmetricSource
        The (n, n) H.
    method : str
    keywords : mapping
        Of `ldlq`; ``order`` "act" or "natural".
    scratch : str or path-like
        A directory with room for `scratch_bytes`.  What is written there has no name, and is gone
        when the call ends, however it does.
    memory : int
        Bytes that the call may take beside W, its result included; at least `least_memory`.
    backend : str

    Returns
    -------
    Quantized
        What ``method`` returns for H in memory: the codes differ only where rounding errors in
        float64 decide.

    Raises
    ------
    InvalidArgumentError
        Another method or order.
    InsufficientMemoryError
        Before anything is read, with what it takes.
    OSError
        ENOSPC: ``scratch`` has too little room, seen before anything is read if it has it then.
    NotPositiveDefiniteError, NonFiniteError, DTypeError

    Warns
    -----
    DampingWarning
        As `ldlq`.

    Notes
    -----
    The flops of `ldlq`.  H is read twice (a stored triangle once for each strip of rows), the
    factor, 4 n^2 bytes, n / (3 r) + 1 times for strips of r rows, and once more for each part of
    the rows of W that fits in memory.
    """
    if method not in _METHODS:
        raise InvalidArgumentError(
            f"method must be 'ldlq' or 'gptq' where H does not fit in memory; got {method!r}. "
            "Use one of these, or more memory."
        )
    function = _METHODS[method]
    parameters = inspect.signature(function).parameters
    order, damp = (keywords.get(name, parameters[name].default) for name in ("order", "damp"))
    with OutOfCoreHessian(
        source, order, damp, select(backend), scratch=scratch, memory=memory
    ) as hessian:
        return function(W, hessian, **{**keywords, "backend": backend})


def scratch_bytes(n: int) -> int:
    """Return the room on disk that `round_out_of_core` needs: about 4 n^2 bytes."""
    return factor_file_bytes(n, select().tile)


def least_memory(m: int, n: int, itemsize: int, threads: int) -> int:
    """Return the least ``memory`` of `round_out_of_core`, in bytes.

    Parameters
    ----------
    m, n : int
        The shape of W.
    itemsize : int
        Of the work dtype: 8 for float64 weights, else 4.
    threads : int

    Notes
    -----
    Of grids with few groups and blocks of the usual width: groups that are fitted while rounding
    (``group_size`` without ``static_groups``) and wider than that take 12 n bytes for each column
    more.
    """
    kernels = select()
    columns = -(-n // PANEL) * PANEL
    work = Footprint(m, columns, min(kernels.block, columns), 1, itemsize, 1)
    rounding = _least_for_rounding(work, kernels.lanes(np.dtype(f"f{itemsize}")), threads)
    return max(least_factor_memory(n, kernels.tile) + threads * _THREAD, rounding)


def _fixed(work: Footprint, threads: int) -> int:
    """Bytes of the rounding, however few rows it takes at a time: a block of the feedback."""
    return work.width * work.columns * (8 + work.itemsize) + _BUFFERS + threads * _THREAD


def _least_for_rounding(work: Footprint, lanes: int, threads: int) -> int:
    rows = min(lanes, work.rows)
    # at the end the parts of the result are put together
    return max(work.result + _fixed(work, threads) + rows * work.row, 2 * work.result)


class OutOfCoreHessian(FactoredHessian):
    """An H whose factor is in a file; it is checked and factored when it is first needed.

    Parameters
    ----------
    source, scratch, memory
        As in `round_out_of_core`.
    order, damp
        As in `ldlq`.
    kernels : Kernels
    """

    def __init__(
        self,
        source: SymmetricSource,
        order: str,
        damp: float | str | AbsoluteDamp,
        kernels: Kernels,
        *,
        scratch: str | os.PathLike,
        memory: int,
    ):
        check_order(order)
        if order == "min-pivot":
            raise InvalidArgumentError(
                "order must be 'act' or 'natural' where H does not fit in memory; got "
                "order='min-pivot'. It changes all of H at each step: use one of these, or more "
                "memory."
            )
        self._source, self._memory = source, memory
        self._is_factored = False
        self._file = FactorFile(source.n, kernels.tile, scratch)
        try:
            super().__init__(source.diagonal(), order, damp, kernels)
        except BaseException:
            self._file.close()
            raise

    def weight(self, W: Any) -> np.ndarray:
        matrix = as_matrix(W, "W")
        if matrix.dtype.itemsize > 8:  # a long double may be more than float64 holds
            return work_matrix(matrix)
        check_finite(matrix, "W")
        return matrix

    def rows_at_once(self, work: Footprint) -> int:
        threads, lanes = thread_count(), self._kernels.lanes(np.dtype(f"f{work.itemsize}"))
        least = max(
            _least_for_rounding(work, lanes, threads),
            least_factor_memory(self.shape[0], self._kernels.tile) + threads * _THREAD,
        )
        if self._memory < least:
            wide = work.width > self._kernels.block
            remedy = " or pass static_groups=True: groups fitted on the way are read whole."
            raise InsufficientMemoryError(
                f"memory must hold {least} bytes to round {work.rows} rows of {self.shape[0]} with "
                f"the factor on disk; got memory={self._memory}. Raise it{remedy if wide else '.'}"
            )
        rows = (self._memory - work.result - _fixed(work, threads)) // work.row
        return work.rows if rows >= work.rows else max(rows // lanes, 1) * lanes

    def feedback(self, place: np.ndarray, dtype: np.dtype) -> Feedback:
        if not self._is_factored:
            self._source.check(self._memory)
            self._factor_damped()
            self._is_factored = True
        D = self._file.pivots[::-1] ** 2
        reader = _FeedbackReader(self._file, place, dtype, self._kernels)
        return Feedback(reader, D, self._shift, float(D.sum()) - self._invented())

    def loss(
        self, codes: np.ndarray, grid: UniformGrid, weight: np.ndarray, dtype: np.dtype
    ) -> float:
        m = weight.shape[0]

        def part(i: int, columns: slice, H: np.ndarray) -> float:
            rows = slice(i, i + _ROWS)
            own = grid
            if grid.scale.shape[0] > 1:
                own = replace(grid, scale=grid.scale[rows], zero=grid.zero[rows])
            E = dequantize(codes[rows], own, dtype).astype(np.float64)
            E -= weight[rows].astype(dtype)
            return float(np.einsum("ij,ij->", E @ H, E[:, columns]))

        total = 0.0
        with single_blas_thread():
            for columns, H in self._source.column_blocks(np.dtype(np.float64), self._memory // 4):
                total += sum(run_all(part, [(i, columns, H) for i in range(0, m, _ROWS)]))
        return total

    def _factor_with(self, shift: np.ndarray) -> tuple[FactorFile, np.ndarray]:
        permutation = order_of_diagonal(self.order, self._diagonal)
        memory = self._memory - thread_count() * _THREAD
        factor_out_of_core(self._source, permutation, shift, self._kernels, self._file, memory)
        return self._file, permutation

    def close(self) -> None:
        """Give the space on the disk back."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _FeedbackReader:
    """Packs the feedback of a block of columns from the file when it is asked for."""

    def __init__(self, file: FactorFile, place: np.ndarray, dtype: np.dtype, kernels: Kernels):
        self._file, self._place, self._dtype, self._kernels = file, place, dtype, kernels

    def panels(self, c0: int, c1: int) -> np.ndarray:
        """Return the packed feedback of work columns c0 .. c1."""
        n = self._file.n
        places = self._place[c0:c1]
        places = places[places >= 0]
        columns = self._file.columns(n - 1 - int(places[-1]), n - int(places[0]))
        return pack_columns(columns, self._place, (c0, c1), self._dtype, self._kernels)
