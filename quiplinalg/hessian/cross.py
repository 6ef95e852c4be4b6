"""Second moments across two networks, for calibration on the inputs a quantised network sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.hessian.accumulate import PRECISIONS, Hessian, Sums
from quiplinalg.hessian.products import add_product, weighted, widen, zeros
from quiplinalg.hessian.tokens import Chunk, TokenBuffer, read_tokens
from quiplinalg.incoherence.draws import check_size

__all__ = ["CrossMoment", "merge_statistics"]

Statistics = TypeVar("Statistics", Hessian, "CrossMoment")


class CrossMoment:
    """Accumulate G = sum w x x~^T and H~ = sum w x~ x~^T over pairs of inputs of one layer.

    x are the inputs of the layer in the original network, x~ those of the same token in the
    network whose earlier layers are already quantised; `shift_target` makes of them the weight to
    round.

    Parameters
    ----------
    n : int
        Inputs of the layer.
    precision : str
        As of `Hessian`.

    Attributes
    ----------
    n, count : int
    weight : float

    Notes
    -----
    3 n^2 flops a token, in 16 n^2 bytes and two chunks.  Chunks, tiles, determinism and error
    bounds are those of `Hessian`.  G is not symmetric.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> moments = ql.CrossMoment(2)
    >>> moments.add(np.array([[1.0, 2.0]]), np.array([[3.0, 0.0]]))
    >>> moments.mean()
    array([[3., 0.],
           [6., 0.]])
    """

    def __init__(self, n: int, *, precision: str = "auto"):
        self.n = check_size(n)
        if precision not in PRECISIONS:
            raise InvalidArgumentError(
                f"precision must be one of {', '.join(PRECISIONS)}; got precision={precision!r}. "
                '"auto" takes float32 products of float32 and narrower batches.'
            )
        self.count = 0
        self._precision = precision
        self._buffer = TokenBuffer(self.n, 2, precision)
        self._cross = zeros(self.n)
        self._sums = Sums(zeros(self.n), None)

    @property
    def weight(self) -> float:
        """Sum of the weights of the tokens."""
        pending = self._buffer.pending()
        if pending is None:
            return self._sums.weight
        w = pending.weights
        return self._sums.weight + (pending.size if w is None else float(w.sum()))

    @suggest_keywords({"mask": ("weights",), "attention_mask": ("weights",)})
    def add(self, X: Any, X_tilde: Any, *, weights: Any = None) -> None:
        """Add the tokens of a batch, as both networks see them.

        Parameters
        ----------
        X, X_tilde : array, (..., n), floating
            Inputs in the original network, and those in the quantised one, of the same tokens.
        weights : array, (...,), optional
            Weight of each token, or a mask.

        Raises
        ------
        NonFiniteError, InvalidArgumentError, DTypeError
            As `Hessian.add`; nothing of the batch was added.
        """
        names = ("X", "X_tilde")
        rows, given = read_tokens((X, X_tilde), names, self.n, weights)
        for chunk in self._buffer.feed(rows, given):
            _add(self._cross, self._sums, widen(chunk))
        self.count += rows[0].shape[0]

    def sum(self) -> np.ndarray:
        """Return G = sum w x x~^T, (n, n) float64, a new array."""
        return self._whole()[0]

    def mean(self) -> np.ndarray:
        """Return sum w x x~^T / sum w, (n, n) float64: the G of `shift_target`.

        Raises
        ------
        InvalidArgumentError
            Nothing was added.
        """
        if not self.count:
            raise InvalidArgumentError(
                "a mean needs tokens; got count=0. Add a batch of activations first, or read sum()."
            )
        G = self.sum()
        G /= self.weight
        return G

    def hessian(self) -> Hessian:
        """Return the second moment H~ of the inputs x~ as an accumulator of its own."""
        out = Hessian._empty(self.n, self._precision)
        out.count, out._sums = self.count, self._whole()[1]
        return out

    def merge(self, other: CrossMoment) -> None:
        """Add the sums of another accumulator, which is not changed; see `merge_statistics`.

        Raises
        ------
        InvalidArgumentError
            Of another n.
        """
        if not isinstance(other, CrossMoment) or other.n != self.n:
            got = f"n={other.n}" if isinstance(other, CrossMoment) else type(other).__name__
            raise InvalidArgumentError(
                f"what is merged must be a CrossMoment of n={self.n}; got {got}. Merge the shards "
                "of one layer only."
            )
        if self._buffer.pending() is not None:
            _add(self._cross, self._sums, widen(self._buffer.take()))
        cross, sums = other._whole()
        self._cross += cross
        self._sums.merge(sums)
        self.count += other.count

    def copy(self) -> CrossMoment:
        """Return an accumulator with the same sums, whose last chunk has ended."""
        return self._of(self.n, self._precision, self.count, *self._whole())

    def to_parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the scalars and arrays of `Hessian.to_parts` of x~, and "cross" (n, n)."""
        scalars, arrays = self.hessian().to_parts()
        return scalars, {**arrays, "cross": self.sum()}

    @classmethod
    def from_parts(cls, scalars: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """Make an accumulator from what `to_parts` gave; the arrays become its own."""
        hessian, cross = Hessian.from_parts(scalars, arrays), arrays["cross"]
        n = hessian.n
        if cross.shape != (n, n) or cross.dtype != np.float64 or not np.isfinite(cross).all():
            raise InvalidArgumentError(
                f"cross must be ({n}, {n}), float64 and finite; got {cross.dtype} of shape "
                f"{cross.shape}. Pass what to_parts gave."
            )
        cross = np.require(cross, requirements=["C", "W"])
        return cls._of(n, "auto", hessian.count, cross, hessian._sums)

    @classmethod
    def _of(cls, n: int, precision: str, count: int, cross: np.ndarray, sums: Sums) -> Self:
        out = cls(0, precision=precision)
        out.n, out.count, out._cross, out._sums = n, count, cross, sums
        out._buffer = TokenBuffer(n, 2, precision)
        return out

    def _whole(self) -> tuple[np.ndarray, Sums]:
        """Copies of G and of the sums of x~, with the chunk that is not full."""
        cross, sums, pending = self._cross.copy(), self._sums.copy(), self._buffer.pending()
        if pending is not None:
            _add(cross, sums, widen(pending))
        return cross, sums

    def __repr__(self) -> str:
        return f"CrossMoment(n={self.n}, {self.count} tokens)"


def _add(cross: np.ndarray, sums: Sums, chunk: Chunk) -> None:
    add_product(weighted(chunk, 0), chunk.arrays[1], cross, upper=False)
    sums.add(chunk, 1)


def merge_statistics(parts: Iterable[Statistics]) -> Statistics:
    """Add up the accumulators of the shards of one layer, in the order given.

    Parameters
    ----------
    parts : iterable of Hessian, or of CrossMoment
        At least one; not changed.

    Returns
    -------
    Hessian or CrossMoment
        ((parts[0] + parts[1]) + parts[2]) + ..., of all their tokens.

    Raises
    ------
    InvalidArgumentError
        No parts, of different n or kinds, or only some track the mean.

    Notes
    -----
    n^2 additions a part.  The same shards in the same order give the same bits, wherever and with
    however many threads each was made; another order, or another cut into shards, changes the
    last bits (each addition rounds by 2^-53, relative).  Sums of small integers are exact in any
    order.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> shards = [ql.Hessian(2), ql.Hessian(2)]
    >>> for shard, x in zip(shards, ([1.0, 2.0], [3.0, 4.0])):
    ...     shard.add(x)
    >>> ql.merge_statistics(shards).sum()
    array([[10., 14.],
           [14., 20.]])
    """
    parts = list(parts) if isinstance(parts, Iterable) else [parts]
    if not parts or not isinstance(parts[0], Hessian | CrossMoment):
        got = type(parts[0]).__name__ if parts else "none"
        raise InvalidArgumentError(
            f"parts must hold one Hessian or CrossMoment, or more; got {got}. Pass a list of the "
            "accumulators of the shards."
        )
    total = parts[0].copy()
    for part in parts[1:]:
        total.merge(part)
    return total
