"""Layers of one shape, quantised together: a sequence of results that share their arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from operator import index
from typing import Any, overload

import numpy as np

from quiplinalg.arrays import check_finite
from quiplinalg.errors import BackendMismatchError, DTypeError, InvalidArgumentError
from quiplinalg.foreign import short
from quiplinalg.grids.apply import dequantize
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.results import Quantized

__all__ = ["QuantizedStack"]

_STACKED = (
    "codes", "scale", "zero", "group_index", "permutation", "loss", "trace_D", "damp", "dead",
    "near_tie_rows", "clipped",
)  # fmt: skip


@dataclass(frozen=True, eq=False, repr=False)
class QuantizedStack(Sequence[Quantized]):
    """Quantised (m, n) weights of b members: a sequence of `Quantized`, made when asked for.

    ``stack[i]`` is what a call for member i alone returns, to the last bit in host memory, and on a
    device but for rounding errors of the factor; its arrays are views.  Slices are stacks.  All
    arrays have the b members in front.

    Attributes
    ----------
    codes : ndarray, (b, m, n), uint8 (int32 on an unbounded grid), in the caller's column order
        Of CuPy, and so ``scale`` and ``zero``, where W was on a device.
    scale, zero : ndarray, (b, rows, groups)
        Of the grids.  Views of it where one grid was given for all members, which are not to be
        written to: NumPy's are read-only, those of CuPy are not.
    group_index : ndarray, (b, n), or None
        Group of each column; None: one group.
    bits : int or None
    kind : str
        Of the grids, as in `UniformGrid`.
    method, rounding, order, seed, precision
        As in `Quantized`, the same for all members.
    permutation : ndarray, (b, n), int64, or None
        None for the natural order.
    loss, trace_D, damp, clipped : ndarray, (b,), float64
    dead : ndarray, (b, n), bool
        True where the diagonal of H is zero.
    near_tie_rows : ndarray, (b,), int64
    restore : callable or None
        Turns W_hat into the caller's kind of array.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    group_index: np.ndarray | None
    bits: int | None
    kind: str
    method: str
    rounding: str
    order: str
    permutation: np.ndarray | None
    loss: np.ndarray
    trace_D: np.ndarray
    damp: np.ndarray
    dead: np.ndarray
    near_tie_rows: np.ndarray
    clipped: np.ndarray
    seed: int | None = None
    precision: str = "float32"
    restore: Callable[[np.ndarray], Any] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(b, m, n)."""
        return self.codes.shape  # type: ignore[return-value]

    def __len__(self) -> int:
        return self.codes.shape[0]

    @overload
    def __getitem__(self, i: int) -> Quantized: ...
    @overload
    def __getitem__(self, i: slice) -> QuantizedStack: ...
    def __getitem__(self, i: int | slice) -> Quantized | QuantizedStack:
        if isinstance(i, slice):
            arrays = {name: getattr(self, name) for name in _STACKED}
            part: dict[str, Any] = {k: None if a is None else a[i] for k, a in arrays.items()}
            return replace(self, **part)
        at = _member(i)
        if not -len(self) <= at < len(self):
            raise IndexError(f"the members are 0 to {len(self) - 1}; got {at}.")
        return Quantized(
            codes=self.codes[at],
            grid=self._grid(at),
            method=self.method,
            rounding=self.rounding,
            order=self.order,
            permutation=None if self.permutation is None else self.permutation[at],
            loss=float(self.loss[at]),
            trace_D=float(self.trace_D[at]),
            damp=float(self.damp[at]),
            dead=np.flatnonzero(self.dead[at]),
            near_tie_rows=int(self.near_tie_rows[at]),
            clipped=float(self.clipped[at]),
            seed=self.seed,
            precision=self.precision,
            restore=self.restore,
        )

    def __iter__(self) -> Iterator[Quantized]:
        return map(self.__getitem__, range(len(self)))

    @property
    def bits_per_weight(self) -> float:
        """The mean over members; NaN on an unbounded grid, and of no members."""
        return sum(q.bits_per_weight for q in self) / len(self) if len(self) else float("nan")

    def dequantize(self) -> Any:
        """Return W_hat, (b, m, n), in the kind and dtype of W."""
        values = self.values(np.dtype(self.precision))
        return values if self.restore is None else self.restore(values)

    def to_host(self) -> QuantizedStack:
        """Return the results with their arrays in host memory, where a device has them."""
        if isinstance(self.codes, np.ndarray):
            return self
        codes, scale, zero = (getattr(self, name).get() for name in ("codes", "scale", "zero"))
        return replace(self, codes=codes, scale=scale, zero=zero, restore=None)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("W_hat is computed from the codes: it cannot be had without a copy.")
        if not isinstance(self.codes, np.ndarray):
            raise BackendMismatchError(
                "Results on a device are no NumPy array, and nothing is moved to the host "
                "silently; got codes of CuPy. Pass stack.to_host(), or use stack.dequantize() "
                "there."
            )
        return self.values(dtype)

    def values(self, dtype: Any = None) -> Any:
        """Return W_hat, (b, m, n), as an array of NumPy, or of CuPy where the codes are."""
        # float64 on request is exact, as in Quantized
        wide = dtype is not None and np.dtype(dtype) == np.float64
        kind = np.result_type(self.scale.dtype, np.float64 if wide else np.float32)
        b, m, n = self.shape
        kernels = select("auto", codes=self.codes)
        with kernels.running(self.codes):
            if self._is_one_grid():  # of b m rows
                index = None if self.group_index is None else self.group_index[0]
                scale, zero = (a.reshape(b * m, -1) for a in (self.scale, self.zero))
                grid = UniformGrid(scale, zero, self.bits, index, self.kind)
                out = dequantize(self.codes.reshape(b * m, n), grid, kind).reshape(self.shape)
            else:
                out = kernels.xp.empty(self.shape, kind)
                for at in range(b):
                    out[at] = dequantize(self.codes[at], self._grid(at), kind)
            return out if dtype is None else out.astype(dtype, copy=False)

    def _is_one_grid(self) -> bool:
        """Whether every row has its scales and all members have the same groups of columns."""
        index = self.group_index
        alike = index is None or bool((index == index[:1]).all())
        return 0 not in self.shape and self.scale.shape[1] == self.shape[1] and alike

    def nearest_loss(self, W: Any, H: Any) -> np.ndarray:
        """Return the losses (b,) of rounding each W to nearest on its grid, 2 b m n^2 flops.

        Parameters
        ----------
        W : array, (b, m, n)
        H : array, (b, n, n) or (n, n)
            What was quantised.
        """
        kernels = select("auto", W=W, H=H, codes=self.codes)
        with kernels.running(W, H):
            return self._nearest_loss(W, H, kernels)

    def _nearest_loss(self, W: Any, H: Any, kernels: Kernels) -> np.ndarray:
        weight, hessian = kernels.read(W, "W"), kernels.read(H, "H")
        b, _, n = self.shape
        if weight.shape != self.shape:
            raise InvalidArgumentError(
                f"W must be the weights that were quantised, {self.shape}; got {weight.shape}. "
                "Pass them as they were given then; a slice of the stack takes that slice of W."
            )
        if hessian.shape not in ((n, n), (b, n, n)):
            raise InvalidArgumentError(
                f"H must be ({b}, {n}, {n}), one for each member, or ({n}, {n}) for all; got "
                f"{hessian.shape}. Pass it as it was given then."
            )
        check_finite(weight, "W")
        if hessian.ndim == 2:
            hessian = kernels.xp.broadcast_to(hessian.astype(np.float64, copy=False), (b, n, n))
        return np.array(
            [q.nearest_loss(w, h) for q, w, h in zip(self, weight, hessian, strict=True)],
            np.float64,
        )

    def _grid(self, at: int) -> UniformGrid:
        groups = None if self.group_index is None else self.group_index[at]
        return UniformGrid(self.scale[at], self.zero[at], self.bits, groups, self.kind)

    def __repr__(self) -> str:
        width = "unbounded" if self.bits is None else f"{self.bits} bits"
        notes = ["no members"]
        if len(self):
            worst = int(np.argmax(self.loss))
            notes = [
                f"loss {self.loss.sum():.4g}",
                f"worst {self.loss[worst]:.4g} of member {worst}",
                f"{self.bits_per_weight:.3f} bits/weight",
                f"{self.order} order",
            ]
            clipped, near = float(self.clipped.mean()), int(self.near_tie_rows.sum())
            notes += [f"{100 * clipped:.2g}% clipped"] if clipped else []
            notes += [f"{near} rows near a tie"] if near else []
        shape = "x".join(map(str, self.shape))
        return f"QuantizedStack({shape}, {self.method}, {width}: {', '.join(notes)})"


def _member(i: Any) -> int:
    try:
        if not isinstance(i, bool):
            return index(i)
    except TypeError:
        pass
    raise DTypeError(
        f"stack[i] takes the number of a member, or a slice; got i={short(i)}. Of some members "
        "make a list, [stack[i] for i in np.flatnonzero(mask)]."
    )
