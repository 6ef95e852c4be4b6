"""Cholesky with the factor in a file: left-looking over strips of rows that fit in memory.

The reversed, damped H = L L^T as in `factor_reversed`, L lower triangular.  A strip of rows is
finished from left to right: for each block of columns J, A_IJ -= L_I,<J L_J,<J^T and then
A_IJ L_JJ^-T, where the rows L_J come from the file, or from the strip itself on its diagonal.  L is
that of `factor_recursive` up to rounding, whatever the memory and the number of threads.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.errors import InsufficientMemoryError, NotPositiveDefiniteError
from quiplinalg.factor.recursive import REMEDY
from quiplinalg.factor.source import SymmetricSource
from quiplinalg.kernels.record import Kernels
from quiplinalg.parallel import run_all, single_blas_thread

__all__ = ["FactorFile", "factor_file_bytes", "factor_out_of_core", "least_factor_memory"]

_DOUBLE = 8
_BUFFER = 8 << 20  # bytes read or copied at a time
_OVERHEAD = 3 * _BUFFER  # beside the strip: buffers of the source and of the file
_LEAST_ROWS = 64


@dataclass(frozen=True)
class _Panel:
    """Rows i0 .. i1 of L, columns 0 .. i1, in Fortran order at ``start`` in the file."""

    i0: int
    i1: int
    start: int

    @property
    def end(self) -> int:
        return self.start + _DOUBLE * (self.i1 - self.i0) * self.i1


def _panels(n: int, tile: int) -> list[_Panel]:
    panels: list[_Panel] = []
    for i in range(0, n, tile):
        panels.append(_Panel(i, min(i + tile, n), panels[-1].end if panels else 0))
    return panels


def factor_file_bytes(n: int, tile: int) -> int:
    """Return the bytes on disk of the factor of an (n, n) matrix, about 4 n^2."""
    panels = _panels(n, tile)
    return panels[-1].end if panels else 0


def least_factor_memory(n: int, tile: int) -> int:
    """Return the least ``memory`` of `factor_out_of_core`: two panels of ``tile`` rows."""
    return _DOUBLE * (tile + min(tile, n)) * (tile + n) + _OVERHEAD


class FactorFile:
    """L in a file without a name, which is gone when it is closed, or the process is.

    Parameters
    ----------
    n : int
    tile : int
        Rows of a panel.
    folder : str or path-like
        Where there is room for `factor_file_bytes`.

    Raises
    ------
    OSError
        ENOSPC: there is less room than that, or a write met the end of it.
    """

    def __init__(self, n: int, tile: int, folder: str | os.PathLike):
        self.n, self.tile = n, tile
        self.panels = _panels(n, tile)
        self.pivots = np.empty(n)  # of L, from the first row to the last
        needed, free = factor_file_bytes(n, tile), shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(
                errno.ENOSPC,
                f"scratch must have room for the factor of an H with n={n}; got {free} bytes free "
                f"of the {needed} it takes. Free some, or name a directory on another disk",
                os.fspath(folder),
            )
        self._file: Any = tempfile.TemporaryFile(dir=os.fspath(folder), buffering=0)

    def write(self, panel: _Panel, rows: np.ndarray) -> None:
        """Write a panel from (i1 - i0, i1) rows of L."""
        height = panel.i1 - panel.i0
        step = max(1, _BUFFER // (_DOUBLE * height))
        for j in range(0, panel.i1, step):
            part = np.ascontiguousarray(rows[:, j : j + step].T)
            _write_all(self._file.fileno(), part, panel.start + _DOUBLE * height * j)

    def read_into(self, panel: _Panel, out: np.ndarray, first: int = 0) -> None:
        """Read columns of a panel, from ``first`` on, into (i1 - i0, width) ``out``."""
        height, width = out.shape
        step = max(1, _BUFFER // (_DOUBLE * height))
        for j in range(0, width, step):
            part = np.empty((min(step, width - j), height))
            _read_all(self._file.fileno(), part, panel.start + _DOUBLE * height * (first + j))
            out[:, j : j + step] = part.T

    def columns(self, first: int, last: int) -> np.ndarray:
        """Return L[first:, first:last]^T, C order, which is what packing needs.

        With A = L^T, the rows first .. last of A and its columns from first on.
        """
        out = np.empty((last - first, self.n - first))
        for panel in self.panels[first // self.tile :]:
            a, width = max(panel.i0, first), min(last, panel.i1) - first
            whole = np.empty((panel.i1 - panel.i0, width), order="F")
            self.read_into(panel, whole, first)
            out[:width, a - first : panel.i1 - first] = whole[a - panel.i0 :].T
        return out

    def close(self) -> None:
        """Give the space on the disk back."""
        self._file.close()


def factor_out_of_core(
    source: SymmetricSource,
    order: np.ndarray,
    shift: np.ndarray,
    kernels: Kernels,
    file: FactorFile,
    memory: int,
) -> None:
    """Factor H[order][:, order] + diag(shift) from its last row to its first, into a file.

    Parameters
    ----------
    source : SymmetricSource
    order : ndarray, (n,), int64
    shift : ndarray, (n,), float64
        In the caller's column order.
    kernels : Kernels
    file : FactorFile
        What it held before is overwritten.
    memory : int
        Bytes of work space.

    Raises
    ------
    InsufficientMemoryError
        Less than `least_factor_memory`.
    NotPositiveDefiniteError
        With the row of the caller's H and the pivot there.
    OSError

    Notes
    -----
    n^3/3 flops.  With strips of r rows, about n^3 / (6 r) elements are read from the file; each
    strip takes 8 r n bytes.  The same bits for any memory and number of threads as far as a row of
    a BLAS product does not depend on the rows beside it, and then those of `factor_reversed`.
    """
    n, tile = file.n, file.tile
    if memory < least_factor_memory(n, tile):
        raise InsufficientMemoryError(
            f"memory must hold {least_factor_memory(n, tile)} bytes to factor an H with n={n} on "
            f"disk; got memory={memory}. Raise it."
        )
    if n == 0:
        return
    rows = (memory - _OVERHEAD) // (_DOUBLE * (tile + n)) - tile
    rows = n if rows >= n else rows // tile * tile
    work = np.empty((tile + rows, tile + n), order="F")
    with single_blas_thread():
        for s0 in range(0, n, rows):
            _Strip(work, s0, min(s0 + rows, n), kernels, file).factor(source, order, shift)


class _Strip:
    """Rows s0 .. s1 of L, in an array that has room for what they are multiplied with.

    The first ``tile`` rows of the array are for a block L_J of rows, and its first ``tile`` columns
    for the columns J of both: so that one block update finds all it needs in one array.
    """

    def __init__(self, work: np.ndarray, s0: int, s1: int, kernels: Kernels, file: FactorFile):
        self.work, self.s0, self.s1, self.kernels, self.file = work, s0, s1, kernels, file
        self.tile = file.tile
        self.L = work[self.tile : self.tile + s1 - s0, self.tile :]

    def factor(self, source: SymmetricSource, order: np.ndarray, shift: np.ndarray) -> None:
        """Read the strip of H, finish it, and write it to the file."""
        s0, s1, backwards = self.s0, self.s1, order[::-1]
        # rows of H above the diagonal, as `factor_reversed` reads them
        source.fill(self.L[:, :s1], backwards[:s1], backwards[s0:s1])
        diagonal = np.arange(s1 - s0)
        self.L[diagonal, s0 + diagonal] += shift[backwards[s0:s1]]
        for panel in self.file.panels[: -(-s1 // self.tile)]:
            failed = self._columns(panel)
            if failed:
                row = panel.i0 + failed - 1
                pivot = float(self.work[failed - 1, failed - 1])
                raise NotPositiveDefiniteError(int(order[-1 - row]), pivot, REMEDY)
        for panel in self.file.panels[s0 // self.tile : -(-s1 // self.tile)]:
            rows = self.L[panel.i0 - s0 : panel.i1 - s0]
            self.file.write(panel, rows[:, : panel.i1])
            self.file.pivots[panel.i0 : panel.i1] = rows[:, panel.i0 : panel.i1].diagonal()

    def _columns(self, panel: _Panel) -> int:
        """Finish the columns J of the strip; return the failed row's number in the block, or 0."""
        work, tile, s0 = self.work, self.tile, self.s0
        j0, j1 = panel.i0, panel.i1
        width = j1 - j0
        head = work[:width, tile : tile + j1]
        if j0 < s0:
            self.file.read_into(panel, head)
            work[:width, :width] = head[:, j0:]
        else:
            own = self.L[j0 - s0 : j1 - s0]
            head[:] = own[:, :j1]
            work[:width, :width] = head[:, j0:]
            self.kernels.update_tile(work, 0, width, 0, width, tile, tile + j0)
            failed = self.kernels.factor_tile(work, 0, width)
            if failed:
                return failed
            own[:, j0:j1] = work[:width, :width]

        def below(i0: int, i1: int) -> None:
            work[i0:i1, :width] = work[i0:i1, tile + j0 : tile + j1]
            self.kernels.update_tile(work, i0, i1, 0, width, tile, tile + j0)
            self.kernels.solve_tile(work, i0, i1, 0, width)
            work[i0:i1, tile + j0 : tile + j1] = work[i0:i1, :width]

        first, last = tile + max(j1 - s0, 0), tile + self.s1 - s0
        # two pieces at least for two threads, of whole vectors; tall ones: each packs L_J anew
        half = -(-(last - first) // (2 * _LEAST_ROWS)) * _LEAST_ROWS
        height = min(self.kernels.rows, max(4 * _LEAST_ROWS, half))
        run_all(below, [(i, min(i + height, last)) for i in range(first, last, height)])
        return 0


def _write_all(descriptor: int, data: np.ndarray, offset: int) -> None:
    """Write all of a C-order array; a write may be short, and one above 2 GiB always is."""
    rest = data.reshape(-1).view(np.uint8).data
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def _read_all(descriptor: int, out: np.ndarray, offset: int) -> None:
    """Fill a C-order array."""
    rest = out.reshape(-1).view(np.uint8).data
    while rest:
        read = os.preadv(descriptor, [rest], offset)
        if not read:
            raise OSError(errno.EIO, "the scratch file has become shorter. Run it again")
        rest, offset = rest[read:], offset + read
