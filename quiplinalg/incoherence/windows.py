"""The structure of a rotation, and its translation into the steps of a kernel.

A window of length p maps p consecutive coordinates by H_walsh kron F_0 kron F_1 kron ...: the
normalised Walsh-Hadamard matrix of a power of two, and small dense orthogonal factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.kernels.record import FACTOR, FOLDED, OUTPUTS, SCALE, WALSH

__all__ = ["Plan", "Window", "check_windows", "frozen", "pack"]


@dataclass(frozen=True)
class Window:
    """Coordinates start .. start + length, mapped by dense factors and a Walsh-Hadamard matrix.

    ``walsh`` is a power of two, 1 where there is no Walsh-Hadamard matrix; ``sizes`` are those of
    the factors.  The last axis is the fastest.
    """

    start: int
    sizes: tuple[int, ...]
    walsh: int = 1

    @property
    def length(self) -> int:
        """Coordinates in the window, the product of all sizes."""
        return prod(self.sizes) * self.walsh


@dataclass(frozen=True, eq=False)
class Plan:
    """What the kernels read, in the working dtype; all arrays are read-only.

    A tile takes column j of X, times ``load[1][j]``, as its coordinate ``load[0][j]``; column j of
    the result is coordinate ``store[0][j]`` of the tile, times ``store[1][j]``.  A step is
    (kind, start, outer, size, inner, at): element k of fibre (o, i) of an axis is coordinate
    start + (o size + k) inner + i, and ``at`` is where the constants of the step begin.
    """

    load: tuple[np.ndarray, np.ndarray]
    store: tuple[np.ndarray, np.ndarray]
    steps: np.ndarray
    constants: np.ndarray

    @property
    def parts(self) -> tuple:
        """The tuple that the kernels take."""
        return self.load, self.store, self.steps, self.constants

    @property
    def largest(self) -> int:
        """Size of the largest dense factor, at least 1: fibres of this length are copied."""
        dense = self.steps[np.isin(self.steps[:, 0], (FACTOR, FOLDED))]
        return int(dense[:, 3].max(initial=1))


def check_windows(n: int, windows: Sequence[Window], factors: Sequence[np.ndarray]) -> None:
    """Raise InvalidArgumentError unless windows fit n coordinates and the factors the windows."""
    if len(windows) > 2:
        raise InvalidArgumentError(f"There are at most two windows; got {len(windows)}.")
    sizes: list[int] = []
    for window in windows:
        power = window.walsh > 0 and window.walsh & (window.walsh - 1) == 0
        inside = window.start >= 0 and window.start + window.length <= n
        if not power or not inside or min(window.sizes, default=1) < 1:
            raise InvalidArgumentError(
                f"A window must lie inside n={n} coordinates, with factors of at least 1 and a "
                f"power of two; got {window}."
            )
        sizes += window.sizes
    if [f.shape for f in factors] != [(s, s) for s in sizes]:
        raise InvalidArgumentError(
            f"The windows need square factors of sizes {sizes}; got shapes "
            f"{[f.shape for f in factors]}."
        )


def _panels(F: np.ndarray) -> np.ndarray:
    """Return F in panels of OUTPUTS output rows, [panel, k, c] = F[OUTPUTS panel + c, k], flat."""
    size = F.shape[0]
    count = -(-size // OUTPUTS)
    padded = np.zeros((count * OUTPUTS, size))
    padded[:size] = F
    return padded.reshape(count, OUTPUTS, size).transpose(0, 2, 1).ravel()


def _packed(F: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the kind of step that multiplies by F, and its constants.

    Where F commutes with the reversal k -> -k (mod size), as a Hartley matrix does, sums and
    differences of x_k and x_-k are multiplied apart, with half the flops::

        e_k = x_k + x_-k,  o_k = x_k - x_-k,  c = C e,  s = S o,  y_k = c_k + s_k,  y_-k = c_k - s_k
    """
    size = F.shape[0]
    back = -np.arange(size) % size
    if size <= OUTPUTS or not np.array_equal(F, F[np.ix_(back, back)]):
        return FACTOR, _panels(F)
    even, odd = size // 2 + 1, (size + 1) // 2
    C = (F + F[:, back])[:even, :even] / 2
    C[:, 0] = F[:even, 0]
    if size % 2 == 0:
        C[:, -1] = F[:even, even - 1]
    S = (F - F[:, back])[1:odd, 1:odd] / 2
    return FOLDED, np.concatenate([_panels(C), _panels(S)])


def pack(
    permutation: np.ndarray,
    signs: np.ndarray,
    inner_signs: np.ndarray,
    windows: Sequence[Window],
    factors: Sequence[np.ndarray],
    backward: bool,
    dtype: np.dtype,
    scales: np.ndarray | None = None,
) -> Plan:
    """Return the plan that applies Q, or Q^T if ``backward``.

    Parameters
    ----------
    permutation, signs : ndarray, (n,)
    inner_signs : ndarray, (length of the second window,) or (0,)
    windows : sequence of Window
    factors : sequence of ndarray
        The factors of all windows, one after the other.
    backward : bool
    dtype : dtype
        float32 or float64.
    scales : ndarray, (n,), optional
        Multiplied to the coordinates before Q, or after Q^T.

    Notes
    -----
    The kernels' Walsh-Hadamard transform is not normalised: its 2^(-k/2) goes into the signs.
    """
    n = permutation.shape[0]
    place = np.empty(n, np.int64)
    place[permutation] = np.arange(n)
    scaled = signs.astype(np.float64)
    steps: list[tuple[int, ...]] = []
    constants: list[np.ndarray] = []
    used, at = 0, 0
    for number, window in enumerate(windows):
        norm = window.walsh**-0.5
        if number == 0:
            scaled[window.start : window.start + window.length] *= norm
        else:
            steps.append((SCALE, window.start, 1, window.length, 1, at))
            constants.append(inner_signs * norm)
            at += window.length
        outer, inner = window.walsh, window.length // window.walsh
        if window.walsh > 1:
            steps.append((WALSH, window.start, 1, window.walsh, inner, at))
        for size in window.sizes:
            inner //= size
            F = factors[used].T if backward else factors[used]
            kind, packed = _packed(F)
            steps.append((kind, window.start, outer, size, inner, at))
            constants.append(packed)
            at, used, outer = at + packed.size, used + 1, outer * size
    own = scaled[place] if scales is None else scaled[place] * scales
    moved, kept = (place, own), (np.arange(n), np.ones(n))
    load, store = (kept, moved) if backward else (moved, kept)
    return Plan(
        load=(frozen(load[0], np.int64), frozen(load[1], dtype)),
        store=(frozen(store[0], np.int64), frozen(store[1], dtype)),
        steps=frozen(np.reshape(steps[::-1] if backward else steps, (-1, 6)), np.int64),
        constants=frozen(np.concatenate([np.zeros(0), *constants]), dtype),
    )


def frozen(a: Any, dtype: Any) -> np.ndarray:
    """Return a read-only copy."""
    copy = np.array(a, dtype)
    copy.flags.writeable = False
    return copy
