"""The second moment of a layer's inputs, accumulated from batches of activations."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import ConditioningWarning, InvalidArgumentError
from quiplinalg.hessian.diagnostics import HessianDiagnostics, diagnose
from quiplinalg.hessian.products import add_product, weighted, widen, zeros
from quiplinalg.hessian.tokens import Chunk, TokenBuffer, read_tokens
from quiplinalg.incoherence.draws import check_size
from quiplinalg.kernels.record import select
from quiplinalg.symmetric import mirror

__all__ = ["Hessian", "Sums"]

PRECISIONS = ("auto", "float64")


@dataclass
class Sums:
    """What has been added up: the upper triangle of sum w x x^T, and the sums beside it."""

    second: np.ndarray
    first: np.ndarray | None
    weight: float = 0.0
    weight_squared: float = 0.0
    narrow: bool = False  # some product was taken in float32

    def add(self, chunk: Chunk, index: int = 0) -> None:
        """Add a chunk that `widen` has seen."""
        X = chunk.arrays[index]
        left = weighted(chunk, index)
        add_product(left, X, self.second, upper=True)
        if self.first is not None:
            self.first += np.add.reduce(left, axis=0, dtype=np.float64)
        w = chunk.weights
        self.weight += chunk.size if w is None else float(w.sum())
        self.weight_squared += chunk.size if w is None else float(np.square(w).sum())
        self.narrow |= X.dtype == np.float32

    def merge(self, other: Sums) -> None:
        self.second += other.second
        if self.first is not None and other.first is not None:
            self.first += other.first
        self.weight += other.weight
        self.weight_squared += other.weight_squared
        self.narrow |= other.narrow

    def copy(self) -> Sums:
        first = None if self.first is None else self.first.copy()
        return Sums(self.second.copy(), first, self.weight, self.weight_squared, self.narrow)


class Hessian:
    """Accumulate H = sum_t w_t x_t x_t^T over the tokens of batches of activations.

    The second moment of a layer's inputs is the Hessian of its squared output error: mean() is
    what `ldlq`, `gptq` and the others take.  Nothing is ever damped here.

    Parameters
    ----------
    n : int
        Inputs of the layer.
    precision : str
        Of the products; the sums are always float64.  "auto": float64 for float64 batches,
        float32 for narrower ones.  "float64": always.
    track_mean : bool
        Sum the inputs themselves too, for `input_mean` and `covariance`.

    Attributes
    ----------
    n : int
    count : int
        Tokens of weight above 0.
    weight : float
        Sum of their weights: the count, without weights.
    precision : str
        "float32" if any product so far was taken in float32, else "float64".

    Notes
    -----
    Tokens are collected into chunks, 2048 in float64 and 512 in float32, cut by their number and
    not by batch: any split of the same tokens gives the same bits, as does any number of threads
    (fixed tiles of the upper triangle, each on one BLAS thread).  Reading a sum does not end the
    chunk; `merge`, and a batch of the other precision, do.  n^2 flops a token.  8 n^2 bytes (as
    many again for what is returned), a chunk of 16384 n (float32: 2048 n) bytes, and 4 MB a thread.

    With u = 2^-24, float32 products are within 513 u = 3.1e-5 of sum |x_i x_j| of the exact sum,
    for any data (514 u with weights), and 2^-100 a token more where products fall below the range
    of float32; float64 sums add 2^-53 of it for each chunk.  Sums of small integers are exact.
    Chunks whose largest products could leave the range of float32 are taken in float64.  Squares
    of inputs below 2^-511 leave that of float64: an input that is never larger counts as dead.  One
    object is not for several threads at once: give each its own, and merge.  After an interrupted
    `add` (Ctrl-C), a part of its batch may have been added.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> H = ql.Hessian(2)
    >>> H.add(np.array([[1.0, 2.0], [3.0, 0.0]]))
    >>> H.add(np.array([1.0, 1.0]))
    >>> H.count, H.sum()
    (3, array([[11.,  3.],
           [ 3.,  5.]]))
    """

    def __init__(self, n: int, *, precision: str = "auto", track_mean: bool = False):
        self.n = check_size(n)
        if precision not in PRECISIONS:
            raise InvalidArgumentError(
                f"precision must be one of {', '.join(PRECISIONS)}; got precision={precision!r}. "
                '"auto" takes float32 products of float32 and narrower batches.'
            )
        self.count = 0
        self._precision = precision
        self._buffer = TokenBuffer(self.n, 1, precision)
        first = np.zeros(self.n) if track_mean else None
        self._sums = Sums(zeros(self.n), first)

    @property
    def weight(self) -> float:
        """Sum of the weights of the tokens."""
        return self._scalars()[0]

    @property
    def tracks_mean(self) -> bool:
        """Whether the inputs themselves are summed."""
        return self._sums.first is not None

    @property
    def precision(self) -> str:
        """The narrowest precision in which a product was taken."""
        return "float32" if self._scalars()[2] else "float64"

    @suggest_keywords({"mask": ("weights",), "attention_mask": ("weights",)})
    def add(self, X: Any, *, weights: Any = None) -> None:
        """Add the tokens of a batch.

        Parameters
        ----------
        X : array, (..., n), floating
            Activations with any leading axes, of any framework, in host memory; converted before
            they are multiplied, not changed.
        weights : array, (...,), optional
            Weight of each token, or a mask: tokens of weight 0 are neither read nor counted.

        Raises
        ------
        NonFiniteError
            NaN or infinity in X, with its index; nothing of the batch was added.
        InvalidArgumentError, DTypeError
            Another width than n; weights that do not fit; not real floating-point numbers.
        """
        rows, given = read_tokens((X,), ("X",), self.n, weights)
        for chunk in self._buffer.feed(rows, given):
            self._sums.add(widen(chunk))
        self.count += rows[0].shape[0]

    def sum(self) -> np.ndarray:
        """Return sum w x x^T, (n, n) float64, symmetric, both triangles, a new array."""
        return mirror(self._whole().second, select())

    def mean(self) -> np.ndarray:
        """Return sum w x x^T / sum w, (n, n) float64: the H that the rounding methods take.

        Raises
        ------
        InvalidArgumentError
            Nothing was added.

        Warns
        -----
        ConditioningWarning
            Fewer tokens than live inputs: H is singular, whatever the data are.
        """
        self._need_tokens()
        H = self.sum()
        H /= self.weight
        live = int(np.count_nonzero(H.diagonal()))
        if self.count < live:
            warnings.warn(
                f"H of {self.count} tokens has a rank of at most {self.count}, below its "
                f"n={live} live inputs. Add more tokens, or damp H (damp=0.01) when it is used.",
                ConditioningWarning,
                stacklevel=2,
            )
        return H

    def input_mean(self) -> np.ndarray:
        """Return sum w x / sum w, (n,) float64; needs ``track_mean=True``."""
        self._need_tokens()
        return self._first(self._whole()) / self.weight

    def covariance(self) -> np.ndarray:
        """Return mean() - input_mean() input_mean()^T, (n, n) float64; needs ``track_mean=True``.

        Notes
        -----
        Where the mean of an input is far above its spread, digits cancel: the error is relative
        to the second moment, not to the covariance.
        """
        self._need_tokens()
        sums = self._whole()
        average = self._first(sums) / sums.weight
        C = sums.second
        C /= sums.weight
        C -= np.outer(average, average)
        return mirror(C, select())

    def merge(self, other: Hessian) -> None:
        """Add the sums of another accumulator, which is not changed; see `merge_statistics`.

        Raises
        ------
        InvalidArgumentError
            Of another n, or only one of the two tracks the mean.
        """
        self._check_fit(other)
        if self._buffer.pending() is not None:
            self._sums.add(widen(self._buffer.take()))
        self._sums.merge(other._whole() if other._buffer.pending() is not None else other._sums)
        self.count += other.count

    def copy(self) -> Hessian:
        """Return an accumulator with the same sums, whose last chunk has ended."""
        out = self._empty(self.n, self._precision)
        out.count, out._sums = self.count, self._whole()
        return out

    def diagnostics(self) -> HessianDiagnostics:
        """Return what the tokens so far are good for: counts, rank, eigenvalues, dead columns.

        Notes
        -----
        Two Cholesky factorisations, 2 n^3 / 3 flops, and a few dozen products with vectors; three
        arrays of n^2.
        """
        weight, squares, narrow = self._scalars()
        H = self.sum()
        H /= weight or 1.0
        return diagnose(H, self.count, weight, squares, "float32" if narrow else "float64")

    def to_parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return scalars ("n", "count", "weight", "weight_squared", "precision") and arrays.

        The arrays are "second" (n, n), and "first" (n,) if the mean is tracked: `from_parts`
        makes an accumulator of the same sums, bit for bit.
        """
        sums = self._whole()
        scalars = {
            "n": self.n,
            "count": self.count,
            "weight": sums.weight,
            "weight_squared": sums.weight_squared,
            "precision": "float32" if sums.narrow else "float64",
        }
        arrays = {"second": mirror(sums.second, select())}
        if sums.first is not None:
            arrays["first"] = sums.first
        return scalars, arrays

    @classmethod
    def from_parts(cls, scalars: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """Make an accumulator from what `to_parts` gave; the arrays become its own."""
        n, count = check_size(scalars["n"]), scalars["count"]
        second, first = arrays["second"], arrays.get("first")
        fits = second.shape == (n, n) and (first is None or first.shape == (n,))
        fits = fits and all(a is None or a.dtype == np.float64 for a in (second, first))
        if not fits:
            raise InvalidArgumentError(
                f"second must be ({n}, {n}) and first ({n},), both float64; got "
                f"{ {key: (a.dtype.name, a.shape) for key, a in arrays.items()} }. Pass what "
                "to_parts gave."
            )
        weight, squares = scalars["weight"], scalars["weight_squared"]
        known = scalars["precision"] in ("float32", "float64")
        if not (known and count >= 0 and 0 <= weight < np.inf and 0 <= squares < np.inf):
            raise InvalidArgumentError(
                f"count and weights must be finite and at least 0, precision float32 or float64; "
                f"got {dict(scalars)}. Pass what to_parts gave."
            )
        if not all(a is None or np.isfinite(a).all() for a in (second, first)) or (
            (second.diagonal() < 0).any() or (count == 0) != (weight == 0)
        ):
            raise InvalidArgumentError(
                f"second must be finite, with no negative diagonal, and zero only without tokens; "
                f"got a sum of count={count}, weight={weight:g} that is not. Accumulate it again."
            )
        out = cls._empty(n, "auto")
        out.count = count
        out._sums = Sums(
            np.require(second, requirements=["C", "W"]),
            first if first is None else np.require(first, requirements=["C", "W"]),
            weight,
            squares,
            scalars["precision"] == "float32",
        )
        return out

    @classmethod
    def _empty(cls, n: int, precision: str) -> Self:
        """An accumulator whose sums are yet to be set."""
        out = cls(0, precision=precision)
        out.n, out._buffer = n, TokenBuffer(n, 1, precision)
        return out

    def _whole(self) -> Sums:
        """A copy of the sums with the chunk that is not full."""
        sums, pending = self._sums.copy(), self._buffer.pending()
        if pending is not None:
            sums.add(widen(pending))
        return sums

    def _scalars(self) -> tuple[float, float, bool]:
        """The weight, that of the squares, and whether some product is in float32."""
        weight, squares, narrow = self._sums.weight, self._sums.weight_squared, self._sums.narrow
        pending = self._buffer.pending()
        if pending is None:
            return weight, squares, narrow
        w = np.ones(pending.size) if pending.weights is None else pending.weights
        narrow |= widen(pending).arrays[0].dtype == np.float32
        return weight + float(w.sum()), squares + float(np.square(w).sum()), narrow

    def _first(self, sums: Sums) -> np.ndarray:
        if sums.first is None:
            raise InvalidArgumentError(
                "the mean of the inputs was not tracked; got track_mean=False. Make the "
                "accumulator with Hessian(n, track_mean=True) before the first batch."
            )
        return sums.first

    def _need_tokens(self) -> None:
        if not self.count:
            raise InvalidArgumentError(
                "a mean needs tokens; got count=0. Add a batch of activations first, or read sum()."
            )

    def _check_fit(self, other: Hessian) -> None:
        if not isinstance(other, Hessian) or other.n != self.n:
            got = f"n={other.n}" if isinstance(other, Hessian) else type(other).__name__
            raise InvalidArgumentError(
                f"what is merged must be a Hessian of n={self.n}; got {got}. Merge the shards of "
                "one layer only."
            )
        if other.tracks_mean != self.tracks_mean:
            raise InvalidArgumentError(
                f"both or neither must track the mean; got track_mean={self.tracks_mean} and "
                f"track_mean={other.tracks_mean}. Accumulate every shard in the same way."
            )

    def __repr__(self) -> str:
        return f"Hessian(n={self.n}, {self.count} tokens, {self.precision} products)"
