"""Orthogonal matrices Q that are applied fast and stored in few bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from quiplinalg.arrays import as_matrix, to_numpy, work_dtype
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.incoherence.apply import empty, rotate_into
from quiplinalg.incoherence.draws import check_seed, check_size
from quiplinalg.incoherence.parts import (
    as_kind,
    as_orthogonal,
    as_permutation,
    as_scales,
    as_signs,
)
from quiplinalg.incoherence.windows import Plan, Window, check_windows, pack
from quiplinalg.kernels.record import Kernels, select
from quiplinalg.symmetric import mirror

__all__ = ["KINDS", "Rotation"]

KINDS = ("kronecker", "hadamard")
_plans: WeakKeyDictionary[Rotation, dict[tuple[bool, np.dtype], Plan]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False, repr=False)
class Rotation:
    """An (n, n) orthogonal Q = W_1 S_1 W_0 S_0 P, never formed.

    P permutes, (P x)_i = x[permutation[i]]; S_0 and S_1 are random signs; W_0 and W_1 are windows:
    Kronecker products of small orthogonal matrices on some consecutive coordinates, the identity
    on the rest.  W_1 S_1 is there only where n does not divide well.  Made by
    `kronecker_orthogonal` and `hadamard_orthogonal`.

    Attributes
    ----------
    kind : str
        "kronecker" or "hadamard".
    n : int
    seed : int
        What it was drawn from.  The arrays count: nothing is drawn again.
    permutation : ndarray, (n,) int64
    signs : ndarray, (n,) int8
    inner_signs : ndarray, int8
        S_1, of the length of the second window; empty where there is one window.
    windows : tuple of Window
        None (n < 2), one or two.
    factors : tuple of ndarray
        The small dense orthogonal matrices, float64, window after window.

    Notes
    -----
    With V a Rotation: W' = V.apply(W), H' = V.conjugate(H), and back W = V.apply_transposed(W').
    tr(W' H' W'^T) = tr(W H W^T) up to rounding.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> V = ql.hadamard_orthogonal(6, seed=0)
    >>> W = np.arange(12.0).reshape(2, 6)
    >>> bool(np.abs(V.apply_transposed(V.apply(W)) - W).max() < 1e-13)
    True
    """

    kind: str
    n: int
    seed: int
    permutation: np.ndarray
    signs: np.ndarray
    windows: tuple[Window, ...]
    factors: tuple[np.ndarray, ...] = ()
    inner_signs: np.ndarray = field(default_factory=lambda: np.empty(0, np.int8))

    def __post_init__(self) -> None:
        """Check the parts against each other and freeze them."""
        n = check_size(self.n)
        if self.kind not in KINDS:
            raise InvalidArgumentError(
                f"kind must be one of {', '.join(KINDS)}; got kind={self.kind!r}."
            )
        check_windows(n, self.windows, self.factors)
        inner = self.windows[1].length if len(self.windows) > 1 else 0
        kept: dict[str, Any] = {
            "n": n,
            "seed": check_seed(self.seed),
            "permutation": as_permutation(self.permutation, n),
            "signs": as_signs("signs", self.signs, n),
            "inner_signs": as_signs("inner_signs", self.inner_signs, inner),
            "factors": tuple(as_orthogonal(i, F) for i, F in enumerate(self.factors)),
        }
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        parts = []
        for window in self.windows:
            sizes = [f"H{window.walsh}"] * (window.walsh > 1) + [str(s) for s in window.sizes]
            parts.append(" x ".join(sizes) or "1")
        return f"Rotation({self.kind}, n={self.n}, seed={self.seed}: {', '.join(parts) or '1'})"

    @property
    def storage_bits(self) -> int:
        """Bits to store: 1 a sign, 32 an index of the permutation, 64 an entry of a factor.

        The factors of "hadamard" follow from n, and so does a permutation that moves nothing.
        """
        signs = self.signs.size + self.inner_signs.size
        entries = sum(F.size for F in self.factors) if self.kind == "kronecker" else 0
        return signs + 32 * self.n * self._moves + 64 * entries

    @property
    def _moves(self) -> bool:
        return bool((self.permutation != np.arange(self.n)).any())

    def apply(
        self,
        X: Any,
        side: str = "right",
        backend: str = "auto",
        scales: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return X Q^T (each row x becomes Q x), or Q X with side="left".

        Parameters
        ----------
        X : array, (m, n), floating; (n, k) on the left
            Not changed.
        side : str
            "right" or "left".
        backend : str
            "auto", "cpu", "generic" or "cuda"; "auto" works where the array is.
        scales : array, (n,), on the host, optional
            d, for Q diag(d) in the place of Q, at no cost.

        Returns
        -------
        ndarray
            The shape of X, C order; float64 for float64, else float32.

        Raises
        ------
        InvalidArgumentError, DTypeError
            A wrong shape or side; not a real floating array.
        BackendMismatchError
            ``scales`` on a device.

        Notes
        -----
        Per element 2 log2 of the Walsh-Hadamard size plus twice the sizes of the factors, in
        flops, against 2 n for a dense Q; X is read once and the result written once.  Rounding
        errors are relative to a row's norm.  The same bits for any number of threads.  NaN and
        infinity are not looked for: they spread over their row.
        """
        return self._apply(X, side, backend, scales, backward=False)

    def apply_transposed(
        self,
        X: Any,
        side: str = "right",
        backend: str = "auto",
        scales: np.ndarray | None = None,
    ) -> np.ndarray:
        """Return X Q, or Q^T X with side="left": what undoes `apply`.

        Parameters
        ----------
        X : array, (m, n), floating; (n, k) on the left
            Not changed.
        side : str
            "right" or "left".
        backend : str
            "auto", "cpu", "generic" or "cuda"; "auto" works where the array is.
        scales : array, (n,), on the host, optional
            d, for Q diag(d) in the place of Q: X Q diag(d), or diag(d) Q^T X.

        Returns
        -------
        ndarray
            As `apply`.

        Raises
        ------
        InvalidArgumentError, DTypeError
            As `apply`.
        """
        return self._apply(X, side, backend, scales, backward=True)

    def conjugate(
        self,
        H: Any,
        backend: str = "auto",
        scales: np.ndarray | None = None,
        dtype: Any = None,
    ) -> np.ndarray:
        """Return Q H Q^T, exactly symmetric.

        Parameters
        ----------
        H : array, (n, n), floating
            Symmetric: taken to be so, not checked.  Not changed.
        backend : str
            "auto", "cpu", "generic" or "cuda"; "auto" works where the array is.
        scales : array, (n,), on the host, optional
            d, for Q diag(d) in the place of Q, at no cost.
        dtype : dtype, optional
            float32 or float64, of the result and of all that is computed; default: as H.

        Returns
        -------
        ndarray, (n, n)
            C order; float64 for float64, else float32, unless ``dtype`` says so.  Its lower
            triangle is a copy of the upper.

        Raises
        ------
        InvalidArgumentError, DTypeError
            Not square of order n; not a real floating array; another dtype.
        BackendMismatchError
            ``scales`` on a device.

        Notes
        -----
        Twice the work of `apply`, in the memory of the result.  The same bits for any number of
        threads.
        """
        kernels = select(backend, H=H)
        with kernels.running(H):
            matrix = as_matrix(H, "H", square=True, read=kernels.read)
            if matrix.shape[0] != self.n:
                raise InvalidArgumentError(
                    f"H must be ({self.n}, {self.n}) for a rotation of n={self.n}; got "
                    f"H.shape={matrix.shape}. Make the rotation with n=H.shape[0]."
                )
            kind = work_dtype(matrix) if dtype is None else as_kind(dtype)
            out = empty(matrix.shape, kind, kernels)
            plan = self._plan(False, out.dtype, scales)
            # (H Q^T)^T = Q H is written by columns, and its rows are then rotated where they are
            rotate_into(matrix, out, (True, False, False), plan, kernels)
            rotate_into(out, out, (True, True, True), plan, kernels)
            return kernels.back(H, mirror(out, kernels))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return all it takes to make the rotation again, under flat names for a file.

        Returns
        -------
        dict of str to ndarray
            "signs", "inner_signs" (int8), "factor0", "factor1", ... (float64), "windows" (int64),
            a row (start, walsh, number of factors) for each window, and "permutation" (int64)
            unless it moves nothing.
        """
        windows = [(w.start, w.walsh, len(w.sizes)) for w in self.windows]
        return {
            **({"permutation": self.permutation} if self._moves else {}),
            "signs": self.signs,
            "inner_signs": self.inner_signs,
            "windows": np.array(windows, np.int64).reshape(-1, 3),
            **{f"factor{i}": F for i, F in enumerate(self.factors)},
        }

    @classmethod
    def from_arrays(cls, kind: str, n: int, seed: int, arrays: Mapping[str, Any]) -> Rotation:
        """Make a rotation from the arrays of `to_arrays`; nothing is drawn.

        Parameters
        ----------
        kind : str
            "kronecker" or "hadamard".
        n, seed : int
        arrays : mapping of str to array
            As `to_arrays` returns them; unsigned or narrower integers do as well.

        Raises
        ------
        InvalidArgumentError
            A missing or unknown name, a wrong shape, no permutation, signs that are not +-1, or
            factors that are not orthogonal to 1e-9.
        DTypeError
            Arrays of a kind that has no meaning here.
        """
        if not isinstance(arrays, Mapping):
            raise InvalidArgumentError(
                f"arrays must be a mapping of names to arrays; got {type(arrays).__name__}. "
                "Pass what Rotation.to_arrays() returned."
            )
        count = sum(name.startswith("factor") for name in arrays)
        names = {"signs", "inner_signs", "windows"} | ({"permutation"} & set(arrays))
        names |= {f"factor{i}" for i in range(count)}
        if set(arrays) != names:
            raise InvalidArgumentError(
                f"A rotation has the arrays {sorted(names)}; got {sorted(arrays)}. "
                "Pass what Rotation.to_arrays() returned."
            )
        table = to_numpy(arrays["windows"], "windows", integers=True)
        if table.ndim != 2 or table.shape[1] != 3 or table.dtype.kind not in "iu":
            raise InvalidArgumentError(
                "windows must be whole numbers (w, 3), a row (start, walsh, number of factors) for "
                f"each window; got windows.shape={table.shape}, {table.dtype}."
            )
        if int(table[:, 2].sum()) != count or (table[:, 2] < 0).any():
            raise InvalidArgumentError(
                f"factor0, factor1, ... must be {int(table[:, 2].sum())} arrays, as windows says; "
                f"got {count}. Pass what Rotation.to_arrays() returned."
            )
        factors = [as_matrix(arrays[f"factor{i}"], f"factor{i}", square=True) for i in range(count)]
        windows, used = [], 0
        for start, walsh, number in table.tolist():
            sizes = tuple(F.shape[0] for F in factors[used : used + max(number, 0)])
            windows.append(Window(start, sizes, walsh))
            used += len(sizes)
        return cls(
            kind=kind,
            n=n,
            seed=seed,
            permutation=to_numpy(
                arrays.get("permutation", np.arange(n)), "permutation", integers=True
            ),
            signs=to_numpy(arrays["signs"], "signs", integers=True),
            windows=tuple(windows),
            factors=tuple(factors),
            inner_signs=to_numpy(arrays["inner_signs"], "inner_signs", integers=True),
        )

    def _plan(self, backward: bool, dtype: np.dtype, scales: np.ndarray | None) -> Plan:
        scales = as_scales(scales, self.n)
        parts = (self.permutation, self.signs, self.inner_signs, self.windows, self.factors)
        if scales is not None:
            return pack(*parts, backward, dtype, scales)
        known = _plans.setdefault(self, {})  # a device keeps its copy of a plan that stays
        plan = known.get((backward, dtype))
        if plan is None:
            plan = known[backward, dtype] = pack(*parts, backward, dtype)
        return plan

    def _apply(
        self, X: Any, side: str, backend: str, scales: np.ndarray | None, backward: bool
    ) -> np.ndarray:
        if side not in ("right", "left"):
            raise InvalidArgumentError(
                f"side must be 'right' or 'left'; got side={side!r}. "
                "Use 'right' for the columns of X, 'left' for its rows."
            )
        kernels = select(backend, X=X)
        with kernels.running(X):
            return kernels.back(X, self._rotated(X, side, kernels, scales, backward))

    def _rotated(
        self, X: Any, side: str, kernels: Kernels, scales: np.ndarray | None, backward: bool
    ) -> Any:
        matrix = as_matrix(X, "X", read=kernels.read)
        rows = side == "right"
        if matrix.shape[1 if rows else 0] != self.n:
            expected = f"(m, {self.n})" if rows else f"({self.n}, k)"
            raise InvalidArgumentError(
                f"X must be {expected} for a rotation of n={self.n} on the {side}; got "
                f"X.shape={matrix.shape}. Pass side={'left' if rows else 'right'!r} to rotate the "
                "other axis."
            )
        out = empty(matrix.shape, work_dtype(matrix), kernels)
        plan = self._plan(backward, out.dtype, scales)
        rotate_into(matrix, out, (rows, rows, False), plan, kernels)
        return out
