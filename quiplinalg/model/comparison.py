"""What a result is compared with: rounding to zero, and to nearest on the same grid.

Both cost a product with H, twice the flops of the rounding itself, so layers of many rows are
compared on some of them, evenly spaced.  Rows are independent, and their losses are in proportion
to their energies more or less: the ratios on those rows carry over to the layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from quiplinalg.factor.source import SymmetricSource
from quiplinalg.grids.apply import rounded_to_nearest
from quiplinalg.grids.search import work_matrix
from quiplinalg.parallel import run_all, single_blas_thread, thread_count
from quiplinalg.results import Quantized

__all__ = ["Comparison", "column_blocks", "compare", "quadratic_forms", "source_blocks"]

_ROWS = 128  # of a piece; the pieces are the same for any number of threads
_COLUMNS = 256  # of a block of H, laid out alike wherever H is: the same bits

Blocks = Iterable[tuple[slice, np.ndarray]]


@dataclass(frozen=True)
class Comparison:
    """The losses that a result is held against.

    Attributes
    ----------
    energy : float
        tr(W H W^T), the loss of rounding everything to zero.
    nearest_loss : float
        Of rounding every weight by itself on the same grid, in the same basis.
    rows : int
        How many rows were computed; fewer than W has: both are estimates.
    """

    energy: float
    nearest_loss: float
    rows: int


def compare(W: Any, blocks: Blocks, quantized: Quantized, rows: int | None) -> Comparison:
    """Compare a result with zero and with nearest.

    Parameters
    ----------
    W : array, (m, n)
    blocks : iterable of (slice, (n, width) array)
        The columns of H, from `column_blocks`; of a diagonal H the (width,) diagonal.
    quantized : Quantized
        Of W under H.
    rows : int or None
        Rows to compute, evenly spaced; None for all.

    Notes
    -----
    6 rows n^2 flops.  An estimate is the loss of the result times a ratio on the rows computed.
    """
    m = len(W)
    chosen = np.arange(m)
    if rows is not None and rows < m:
        chosen = np.linspace(0, m - 1, rows).round().astype(np.int64)
    everything = len(chosen) == m
    part = work_matrix(W if everything else np.asarray(W)[chosen])
    plain = (
        quantized.method == "nearest"
        and quantized.rounding == "nearest"
        and not quantized.passes
        and quantized.refit is None
        and quantized.correction is None
        and quantized.processing is None
    )
    ours, other = _errors(W, quantized, chosen, part, not everything, not plain)
    wanted = [part, *(E for E in (other, ours) if E is not None)]
    energy, *losses = quadratic_forms(wanted, blocks)
    nearest_loss = quantized.loss if plain else losses.pop(0)
    if everything:
        return Comparison(energy, nearest_loss, m)
    # where the rows have no loss there is no ratio: as many rows, as much energy
    known = losses[0]
    factor = quantized.loss / known if known > 0 else m / max(len(chosen), 1)
    return Comparison(
        energy * factor, quantized.loss if plain else nearest_loss * factor, len(chosen)
    )


def _errors(
    W: Any,
    quantized: Quantized,
    chosen: np.ndarray,
    part: np.ndarray,
    ours: bool,
    others: bool,
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The errors of the result, and of nearest, in the chosen rows; None where not wanted."""
    kind, processing = part.dtype, quantized.processing
    if processing is None:
        some = quantized.of_rows(chosen)
        mine = some.__array__(kind) - part if ours else None
        other = rounded_to_nearest(part, some.grid) - part if others else None
        return mine, other
    mine = quantized.__array__(kind)[chosen] - part if ours else None
    rounded = rounded_to_nearest(processing.weight(work_matrix(W)), quantized.grid)
    return mine, processing.undo(rounded)[chosen] - part


def column_blocks(H: np.ndarray, dtype: np.dtype) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield H in blocks of columns, in ``dtype``; they are its rows, which lie together."""
    for j in range(0, len(H), _COLUMNS):
        columns = slice(j, min(j + _COLUMNS, len(H)))
        yield columns, np.ascontiguousarray(H[columns], dtype).T


def source_blocks(
    source: SymmetricSource, dtype: np.dtype, memory: int
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the same blocks of an H that is read piece by piece, in ``memory`` bytes or so."""
    n = source.n
    each = max(n, 1) * _COLUMNS * (source.dtype.itemsize + dtype.itemsize)
    step = max(1, memory // each) * _COLUMNS  # read together: a triangle is passed over each time
    for j in range(0, n, step):
        rows = source.block(slice(j, min(j + step, n)), slice(0, n))
        for columns, part in column_blocks(rows, dtype):
            yield slice(j + columns.start, j + columns.stop), part


def quadratic_forms(matrices: list[np.ndarray], blocks: Blocks) -> list[float]:
    """Return tr(E H E^T) of each E, in E's precision with float64 sums.

    Ratios for people need no more: half the time of `quiplinalg.proxy_loss`.
    """
    pieces = [
        (k, E[i : i + _ROWS]) for k, E in enumerate(matrices) for i in range(0, len(E), _ROWS)
    ]
    totals = [0.0] * len(matrices)

    def forms(columns: slice, H: np.ndarray) -> list[float]:
        found = []
        for _, E in pieces:
            weighted = E @ H if H.ndim == 2 else E[:, columns] * H
            products = np.einsum("ij,ij->i", weighted, E[:, columns])
            found.append(float(products.sum(dtype=np.float64)))
        return found

    left = iter(blocks)
    with single_blas_thread():
        while batch := list(islice(left, thread_count())):
            for found in run_all(forms, batch):
                for (k, _), value in zip(pieces, found, strict=True):
                    totals[k] += value
    return totals
