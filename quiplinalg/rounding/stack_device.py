"""A stack of layers of one shape, rounded together on a device: one launch for all members.

What is decided on the host (damping, orders, layouts) needs the diagonals only.  For each lot of
members three things are read back: the checks and diagonals before, whether the factors exist, and
the sums of the rows after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quiplinalg.arrays import check_finite, work_dtype
from quiplinalg.factor.damping import diagonal_shift, shift_of, warn_of_damping
from quiplinalg.factor.device import factor_members
from quiplinalg.factor.orders import factor_in_order, order_of_diagonal
from quiplinalg.grids.apply import check_range, dequantize, tie_tolerance
from quiplinalg.grids.search import fit_groups, stored_grid
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import PANEL, DeviceKernels
from quiplinalg.losses import proxy_loss
from quiplinalg.restore import like
from quiplinalg.rounding.driver import grid_there
from quiplinalg.rounding.members import naming
from quiplinalg.rounding.options import NORM, Options
from quiplinalg.rounding.plan import layout, pack_members, undamped
from quiplinalg.rounding.prepared import FactoredHessian, PreparedHessian
from quiplinalg.rounding.rounder_device import Members, RoundedMembers, round_members
from quiplinalg.stacks import QuantizedStack
from quiplinalg.symmetric import check_members

__all__ = ["round_stack_on_device"]

_SHARE = 0.7  # of the free memory that a lot of members may take
_MOST = 65535  # members of a launch
_FLOAT32 = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class _Factored:
    """The factors of some members."""

    U: Any  # (b, N, N), or (1, N, N) for all
    D: np.ndarray  # (b, n) in rounding order
    shift: np.ndarray  # (b, n) in the caller's order
    permutation: np.ndarray  # (b, n)
    damp: np.ndarray  # (b,)
    trace: np.ndarray  # (b,)
    dead: np.ndarray  # (b, n)


def round_stack_on_device(
    W: Any, H: Any, method: str, options: Options, kernels: DeviceKernels
) -> QuantizedStack:
    """Round every member of W (b, m, n); see `quiplinalg.ldlq`.

    Parameters
    ----------
    W : array, (b, m, n)
    H : array, (b, n, n) or (n, n), or PreparedHessian
        Of shapes that fit.

    Notes
    -----
    8 n^2 bytes for a factor, 4 n^2 (8 n^2 in float64) for its feedback, and 13 bytes a weight (25
    in float64): as many members go together as fit into 0.7 of the free memory.
    """
    xp = kernels.xp
    weight = kernels.read(W, "W")
    b, m, n = weight.shape
    options = replace(options, grid=grid_there(options.grid, kernels))
    grid = options.grid
    wide = grid is not None and grid.dtype == np.float64
    kind = np.dtype(np.float64) if wide else work_dtype(weight)
    weight = xp.ascontiguousarray(weight, kind)
    if int(kernels.finite(weight)):
        check_finite(weight, "W")
    for i in range(b if grid is not None else 0):
        with naming(i):
            check_range(weight[i], grid)
    shared = H if isinstance(H, FactoredHessian) else kernels.read(H, "H")
    if not isinstance(shared, FactoredHessian):
        shared = xp.ascontiguousarray(shared, work_dtype(shared))
        if shared.ndim == 2:
            if n:
                check_members(shared[None], ["H"], kernels)
            shared = PreparedHessian(shared, options.order, options.damp, kernels)
    size = int(
        (options.group_size if options.fits_groups else options.block or kernels.block) or PANEL
    )
    place, spans = layout(n, size if options.fits_groups else -(-size // PANEL) * PANEL)
    one = _bytes_of_member(m, n, place.shape[0], kind, isinstance(shared, FactoredHessian))
    step = int(max(1, min(b, _MOST, _SHARE * kernels.free_bytes() // one)))
    lots = []
    for first in range(0, b, step):
        lot = _Lot(weight[first : first + step], first, place, spans, options, kernels)
        lots.append(lot.round(shared if isinstance(shared, FactoredHessian) else shared[lot.own]))
    return _joined(lots, weight.shape, W, method, options, kind, kernels)


def _bytes_of_member(m: int, n: int, N: int, kind: np.dtype, factored: bool) -> int:
    square = 0 if factored else 8 * n * n + kind.itemsize * N * N
    return square + m * N * (2 * kind.itemsize + 5) + 1


class _Lot:
    """Members that are rounded together."""

    def __init__(
        self,
        W: Any,
        first: int,
        place: np.ndarray,
        spans: list[tuple[int, int]],
        options: Options,
        kernels: DeviceKernels,
    ):
        self.W, self.place, self.spans = W, place, spans
        self.options, self.kernels = options, kernels
        self.own = slice(first, first + W.shape[0])
        self.names = [f"H[{first + i}]" for i in range(W.shape[0])]

    def round(self, H: Any) -> tuple[_Factored, RoundedMembers, np.ndarray, np.ndarray]:
        """Return the factors, the rounded members, and the groups and losses of each."""
        factored = self._shared(H) if isinstance(H, FactoredHessian) else self._factor(H)
        plan, group = self._plan(factored)
        best, *others = (self._round(plan, clip) for clip in self._clips())
        for other in others:
            self._keep_better(best, other)
        loss = np.empty(self.W.shape[0])
        for i, rows in enumerate(best.row_loss):
            found = undamped(rows, self.W.dtype)
            loss[i] = self._loss(H, best, group, i) if found is None else found
        return factored, best, group, loss

    def _clips(self) -> tuple[str, ...]:
        return ("mse", "minmax") if self.options.clip == "best" else (self.options.clip,)

    def _shared(self, ready: FactoredHessian) -> _Factored:
        b = self.W.shape[0]
        feedback = ready.feedback(self.place, self.W.dtype)

        def each(a: Any) -> np.ndarray:
            return np.broadcast_to(a, (b, *np.shape(a)))

        dead = np.zeros(ready.shape[0], bool)
        dead[ready.dead] = True
        return _Factored(
            feedback.U[None], each(feedback.D), each(feedback.damping), each(ready.permutation),
            each(ready.damping), each(feedback.trace_D), each(dead),
        )  # fmt: skip

    def _factor(self, H: Any) -> _Factored:
        """Factor every member with the first of its dampings that is enough."""
        options, kernels = self.options, self.kernels
        b, n, _ = H.shape
        diagonals = check_members(H, self.names, kernels) if n else np.zeros((b, 0))
        if options.order == "min-pivot":
            factor_in_order(H[0], options.order, np.zeros(n), kernels)  # says that it cannot
        tried = [list(diagonal_shift(options.damp, d)) for d in diagonals]
        order = np.stack([order_of_diagonal(options.order, d) for d in diagonals])
        damp = np.array([values[0] for values in tried])
        shift = np.stack([shift_of(*each) for each in zip(damp, diagonals, strict=True)])
        A, failed = factor_members(H, order, shift, kernels, names=self.names)
        for i, error in failed.items():
            for value in tried[i][1:]:
                damp[i], shift[i] = value, shift_of(value, diagonals[i])
                one = slice(i, i + 1)
                again, still = factor_members(
                    H[one], order[one], shift[one], kernels, names=self.names[one]
                )
                if not still:
                    A[i] = again[0]
                    warn_of_damping(self.names[i], value, tried[i])
                    break
                error = still[0]
            else:
                raise error
        pivots = kernels.xp.ascontiguousarray(A.diagonal(axis1=1, axis2=2)).get()[:, ::-1]
        U = pack_members(A, self.place, self.W.dtype, kernels)
        D = pivots**2
        trace = D.sum(axis=1) - (shift - damp[:, None]).sum(axis=1)
        return _Factored(U, D, shift, order, damp, trace, diagonals == 0)

    def _plan(self, factored: _Factored) -> tuple[Members, np.ndarray]:
        """Return the layout of all members, and the group of each of the caller's columns."""
        options, place = self.options, self.place
        b, _, n = self.W.shape
        real = place >= 0
        shape = (b, place.shape[0])
        columns = np.full(shape, -1, np.int64)
        columns[:, real] = factored.permutation[:, place[real]]
        D, damping = np.zeros(shape), np.zeros(shape)
        D[:, real] = factored.D[:, place[real]]
        damping[:, real] = np.take_along_axis(factored.shift, columns[:, real], axis=1)
        group = np.zeros(shape, np.int32)
        size = options.group_size or max(n, 1)
        if options.fits_groups:
            group[:, real] = place[real] // size
        elif options.grid is not None:
            group[:, real] = options.grid.columns(n)[columns[:, real]]
        else:
            group[:, real] = columns[:, real] // size
        index = np.empty((b, n), np.int32)
        np.put_along_axis(index, columns[:, real], group[:, real], axis=1)
        members = Members(self.W, columns, factored.U, D, damping, self.spans, group)
        return members, index

    def _round(self, plan: Members, clip: str) -> RoundedMembers:
        kernels, options = self.kernels, replace(self.options, clip=clip)
        xp, kind = kernels.xp, self.W.dtype
        b, m, n = self.W.shape
        grid = options.grid
        each: tuple[Any, ...]
        if grid is not None:
            each = (grid.scale, grid.zero)
        elif options.fits_groups:
            groups = int(plan.group.max(initial=0)) + 1
            each = (xp.ones((1, groups), kind), xp.zeros((1, groups), kind))
        else:
            size = options.group_size or max(n, 1)
            found = fit_groups(
                self.W.reshape(b * m, n), options.bits, options.sym, clip == "mse", NORM, _FLOAT32,
                size, kernels,
            )  # fmt: skip
            index = (np.arange(n) // size).astype(np.int32) if found[0].shape[1] > 1 else None
            stored = stored_grid(*found, options.bits, options.sym, _FLOAT32, index)
            each = tuple(a.reshape(b, m, stored.groups) for a in (stored.scale, stored.zero))
        scale, zero = (xp.empty((b, m, a.shape[-1]), kind) for a in each)
        scale[:], zero[:] = each
        bits = options.bits if grid is None else grid.bits
        return round_members(plan, scale, zero, bits, options, kernels)

    def _keep_better(self, best: RoundedMembers, other: RoundedMembers) -> None:
        """Take the rows whose loss is smaller in another rounding."""
        mine, others = (np.subtract(*np.moveaxis(a.row_loss, 2, 0)) for a in (best, other))
        better = others < mine
        there = self.kernels.xp.asarray(better)
        for name in ("codes", "scale", "zero"):
            getattr(best, name)[there] = getattr(other, name)[there]
        for name in ("ties", "row_loss", "row_clipped"):
            getattr(best, name)[better] = getattr(other, name)[better]

    def _loss(self, H: Any, rounded: RoundedMembers, group: np.ndarray, i: int) -> float:
        """Return the loss of a member by its definition."""
        options = self.options
        matrix = H.hessian if isinstance(H, PreparedHessian) else H[i]
        bits = options.bits if options.grid is None else options.grid.bits
        index = group[i] if rounded.scale.shape[2] > 1 else None
        grid = UniformGrid(rounded.scale[i], rounded.zero[i], bits, index)
        values = dequantize(rounded.codes[i], grid, self.W.dtype)
        return proxy_loss(values, self.W[i], matrix)


def _joined(
    lots: list[tuple[_Factored, RoundedMembers, np.ndarray, np.ndarray]],
    shape: tuple[int, int, int],
    W: Any,
    method: str,
    options: Options,
    kind: np.dtype,
    kernels: DeviceKernels,
) -> QuantizedStack:
    """Return the result of all lots."""
    xp, (b, m, n) = kernels.xp, shape
    grid = options.grid
    stored = _FLOAT32 if grid is None else grid.dtype

    def joined(parts: list[np.ndarray], empty: tuple[int, ...], dtype: Any) -> np.ndarray:
        return np.concatenate(parts) if parts else np.empty((0, *empty), dtype)

    def there(parts: list[Any], empty: tuple[int, ...], dtype: Any) -> Any:
        whole = parts[0] if len(parts) == 1 else None
        if whole is None:
            whole = xp.concatenate(parts) if parts else xp.empty((0, *empty), dtype)
        return kernels.back(W, whole)

    factored, rounded, groups, losses = zip(*lots, strict=True) if lots else ((), (), (), ())
    code_dtype = np.uint8 if grid is None else grid.code_dtype
    ties = joined([r.ties for r in rounded], (m,), float)
    clipped = joined([r.row_clipped for r in rounded], (m,), float)
    index = joined(list(groups), (n,), np.int32)
    groups_of = 1 if options.group_size is None else max(1, -(-n // options.group_size))
    if grid is None:
        scale, zero = (
            there([getattr(r, name).astype(stored) for r in rounded], (m, groups_of), stored)
            for name in ("scale", "zero")
        )
    else:  # one for all members, with as many rows as it was given
        scale, zero = (
            kernels.back(W, xp.broadcast_to(a, (b, *a.shape))) for a in (grid.scale, grid.zero)
        )
    several = scale.shape[2] > 1
    stochastic = options.rounding == "stochastic"
    permutation = joined([f.permutation for f in factored], (n,), np.int64)
    return QuantizedStack(
        codes=there([r.codes for r in rounded], (m, n), code_dtype),
        scale=scale,
        zero=zero,
        group_index=index if several else None,
        bits=options.bits if grid is None else grid.bits,
        kind=("sym" if options.sym else "asym") if grid is None else grid.kind,
        method=method,
        rounding=options.rounding,
        order=options.order,
        permutation=None if options.order == "natural" else permutation,
        loss=joined(list(losses), (), float),
        trace_D=joined([f.trace for f in factored], (), float),
        damp=joined([f.damp for f in factored], (), float),
        dead=joined([f.dead for f in factored], (n,), bool),
        near_tie_rows=(
            np.zeros(b, np.int64) if stochastic else (ties < tie_tolerance(n, kind)).sum(axis=1)
        ),
        clipped=clipped.sum(axis=1) / max(m * n, 1),
        seed=options.seed if stochastic else None,
        precision=kind.name,
        restore=like(W),
    )
