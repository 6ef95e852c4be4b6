"""A stored Hessian that is read piece by piece, because it does not fit in memory."""

from __future__ import annotations

from itertools import pairwise
from math import isqrt

import h5py
import numpy as np

from quiplinalg.factor.source import SymmetricSource
from quiplinalg.files.elements import float_dtype, read_part
from quiplinalg.files.guard import format_errors
from quiplinalg.files.measure import check_chunks
from quiplinalg.files.triangle import packed_size

__all__ = ["HessianSource"]

_BUFFER = 8 << 20  # bytes of the triangle read at a time


class HessianSource(SymmetricSource):
    """The Hessian of an open problem file, for `quiplinalg.rounding.out_of_core`.

    Parameters
    ----------
    dataset : h5py.Dataset, (n, n) or (n (n + 1) / 2,)
        One that :func:`check_hessian` has let pass.
    n : int

    Notes
    -----
    A full matrix is read by its rows, once found to be symmetric to the last bit, else in passes
    over all of it; a triangle in passes.
    """

    def __init__(self, dataset: h5py.Dataset, n: int):
        self._dataset, self._packed = dataset, dataset.ndim == 1
        self._where = dataset.file.filename, dataset.name
        check_chunks(dataset)
        wide = float_dtype(dataset) == np.float64
        super().__init__(n, np.dtype(np.float64 if wide else np.float32), mirrored=self._packed)

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Return H[rows, columns]."""
        if not self._packed:
            return self._read(rows, columns)
        out = np.empty((rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        for i in range(rows.start, rows.stop):  # on and below the diagonal
            end = min(columns.stop, i + 1)
            if end > columns.start:
                part = self._row(i, columns.start, end)
                out[i - rows.start, : end - columns.start] = part
        for j in range(max(columns.start, rows.start + 1), columns.stop):  # above, mirrored
            end = min(rows.stop, j)
            out[: end - rows.start, j - columns.start] = self._row(j, rows.start, end)
        return out

    def fill(self, out: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
        """Write H[rows[t], columns[k]] to out[k, t]; in one pass over a stored triangle."""
        if not self._packed:
            super().fill(out, rows, columns)
            return
        row_order, column_order = np.argsort(rows), np.argsort(columns)
        sorted_rows, sorted_columns = rows[row_order], columns[column_order]
        place = np.full((2, self.n), -1)  # of each of the caller's indices in rows, and in columns
        place[0, rows], place[1, columns] = np.arange(len(rows)), np.arange(len(columns))
        for first, last in self._passes():
            stored = self._read(slice(packed_size(first), packed_size(last)))
            for i in range(first, last):
                start = packed_size(i) - packed_size(first)
                row = stored[start : start + i + 1]
                t, k = place[:, i]
                if t >= 0:
                    count = np.searchsorted(sorted_columns, i, side="right")
                    out[column_order[:count], t] = row[sorted_columns[:count]]
                if k >= 0:
                    count = np.searchsorted(sorted_rows, i, side="right")
                    out[k, row_order[:count]] = row[sorted_rows[:count]]

    def _passes(self) -> list[tuple[int, int]]:
        """Rows whose part of the triangle is read at a time."""
        edges = [0]
        while edges[-1] < self.n:
            end = packed_size(edges[-1]) + _BUFFER // self.dtype.itemsize
            last = (isqrt(8 * end + 1) - 1) // 2  # the largest whose rows end by then
            edges.append(min(max(last, edges[-1] + 1), self.n))
        return list(pairwise(edges))

    def _row(self, i: int, j0: int, j1: int) -> np.ndarray:
        """H[i, j0:j1] for j1 <= i + 1."""
        return self._read(slice(packed_size(i) + j0, packed_size(i) + j1))

    def _read(self, *part: slice) -> np.ndarray:
        with format_errors(*self._where):
            return read_part(self._dataset, part).astype(self.dtype, copy=False)
