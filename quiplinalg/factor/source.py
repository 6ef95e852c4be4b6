"""Symmetric matrices that are read piece by piece, because they do not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from quiplinalg.arrays import as_matrix, work_dtype
from quiplinalg.errors import NonFiniteError
from quiplinalg.symmetric import check_symmetry

__all__ = ["ArraySource", "SymmetricSource"]

_BUFFER = 8 << 20  # bytes read at a time, where more would bring nothing
_LARGEST_TILE = 4096


class SymmetricSource:
    """An (n, n) matrix that gives out parts of itself.

    A subclass has a method `block`, and may have a better `fill`.

    Attributes
    ----------
    n : int
    dtype : dtype
        float32 or float64, of what it gives out.
    mirrored : bool
        Whether each element is known to equal its mirror image to the last bit, so that a column
        can be read as a row; `check` finds it out.
    """

    def __init__(self, n: int, dtype: np.dtype, mirrored: bool = False):
        self.n, self.dtype, self.mirrored = n, dtype, mirrored

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Return H[rows, columns] as ``dtype``, for slices with both ends."""
        raise NotImplementedError

    def diagonal(self) -> np.ndarray:
        """Return the diagonal, (n,)."""
        parts = [self.block(part, part).diagonal() for part in _slices(self.n, 256)]
        return np.concatenate(parts) if parts else np.empty(0, self.dtype)

    def fill(self, out: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> None:
        """Write H[rows[t], columns[k]] to out[k, t], which has columns in contiguous memory."""
        if self.mirrored:
            step = max(1, _BUFFER // (16 * max(self.n, 1)))
            for part in _slices(len(columns), step):
                read = [self.block(slice(c, c + 1), slice(0, self.n)) for c in columns[part]]
                out[part] = np.concatenate(read)[:, rows]
            return
        order = np.argsort(rows)
        for part in _slices(self.n, max(1, _BUFFER // (16 * max(self.n, 1)))):
            ends = np.searchsorted(rows, (part.start, part.stop), sorter=order)
            here = order[slice(*ends)]
            if here.size:
                chosen = self.block(part, slice(0, self.n))[:, columns]
                out[:, here] = chosen[rows[here] - part.start].T

    def column_blocks(self, dtype: np.dtype, memory: int) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield (columns, H[:, columns] in ``dtype``), blocks of at most ``memory`` bytes."""
        width = max(1, memory // (max(self.n, 1) * (self.dtype.itemsize + dtype.itemsize)))
        for columns in _slices(self.n, width):
            yield columns, self.block(slice(0, self.n), columns).astype(dtype, copy=False)

    def check(self, memory: int) -> None:
        """Read everything once and raise as `quiplinalg.symmetric.symmetric_matrix` does.

        Parameters
        ----------
        memory : int
            Bytes that it may take.

        Raises
        ------
        NonFiniteError, InvalidArgumentError, NotPositiveDefiniteError
        """
        n = self.n
        if n == 0:
            return
        # two tiles, their difference, and what is not finite
        size = int(min(_LARGEST_TILE, max(32, (memory / (4 * self.dtype.itemsize)) ** 0.5)))
        bad, first, worst = 0, n * n, 0.0
        filled = np.zeros(n, np.bool_)
        parts = _slices(n, size)
        for a, I in enumerate(parts):
            for J in parts[: a + 1]:
                lower = self.block(I, J)
                pair = [(lower, I, J)]
                if I != J:
                    pair.append((lower.T if self.mirrored else self.block(J, I), J, I))
                for tile, rows, columns in pair:
                    finite = np.isfinite(tile)
                    if not finite.all():
                        bad += int(tile.size - np.count_nonzero(finite))
                        i, j = np.unravel_index(int(np.argmin(finite)), tile.shape)
                        first = min(first, (rows.start + int(i)) * n + columns.start + int(j))
                    filled[rows] |= tile.any(axis=1)
                if not bad and not self.mirrored:
                    difference = lower - pair[-1][0].T
                    worst = max(worst, float(np.abs(difference, out=difference).max()))
        if bad:
            raise NonFiniteError("H", divmod(first, n), bad)
        check_symmetry("H", worst, self.diagonal(), lambda i: bool(filled[i]))
        self.mirrored = worst == 0


class ArraySource(SymmetricSource):
    """A source whose matrix is an array in memory.

    Parameters
    ----------
    H : array, (n, n), floating
    """

    def __init__(self, H: Any):
        self._matrix = as_matrix(H, "H", square=True)
        super().__init__(self._matrix.shape[0], work_dtype(self._matrix))

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Return H[rows, columns]."""
        return self._matrix[rows, columns].astype(self.dtype, copy=False)


def _slices(n: int, step: int) -> list[slice]:
    """Return range(n) in slices of ``step``."""
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]
