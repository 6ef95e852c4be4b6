"""Rounding with feedback of one layer, or of a stack of layers of one shape in one call."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quiplinalg.arrays import check_finite, to_numpy, work_dtype
from quiplinalg.device_arrays import device_of, to_device
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError
from quiplinalg.factor.damping import AbsoluteDamp, diagonal_shift, warn_of_damping
from quiplinalg.kernels.record import DeviceKernels, Kernels, select
from quiplinalg.parallel import num_threads, run_all, thread_count
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import grid_there, places, plain_hessian, round_with_feedback
from quiplinalg.rounding.members import naming
from quiplinalg.rounding.options import Options
from quiplinalg.rounding.prepared import FactoredHessian, PreparedHessian
from quiplinalg.rounding.stack_device import round_stack_on_device
from quiplinalg.stacks import QuantizedStack
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["round_layers"]

_TINY = 1 << 10  # work of a member that is done before another thread has begun
_SHARE = 1 << 15  # work of a member for each of the threads that it can occupy
_WIDEST = 2048  # columns of members that are factored side by side, 8 n^2 bytes each


def round_layers(
    W: Any, H: Any, method: str, options: Options, backend: str
) -> Quantized | QuantizedStack:
    """Round W (m, n), or every member of W (b, m, n); see `quiplinalg.ldlq`."""
    weight = _shape(W, "W")
    if len(weight) == 3:
        return _round_stack(W, H, method, options, backend)
    hessian = getattr(H, "shape", None)
    if len(weight) == 2 and isinstance(hessian, tuple) and len(hessian) == 3:
        raise InvalidArgumentError(
            f"H must be (n, n) for one W (m, n); got W {weight} and H {tuple(hessian)}. "
            "Pass the weights as one stack (b, m, n), or one H."
        )
    return round_with_feedback(W, H, method, options, backend)


def _shape(x: Any, name: str) -> tuple[int, ...]:
    shape = getattr(x, "shape", None)
    if isinstance(shape, tuple):
        return tuple(shape)
    read = to_numpy if device_of(x) is None else to_device
    return read(x, name).shape


def _round_stack(W: Any, H: Any, method: str, options: Options, backend: str) -> QuantizedStack:
    _, m, n = _check_shapes(_shape(W, "W"), _shape(H, "H"))
    options.check_grid(m, n)
    list(diagonal_shift(options.damp, np.empty(0)))  # an error of no member
    kernels = select(backend, W=W, H=plain_hessian(H))
    if isinstance(H, FactoredHessian):
        H.check(options.order, options.damp, kernels)
        H.check_device(W)
    with kernels.running(*places(W, H)):
        if isinstance(kernels, DeviceKernels):
            return round_stack_on_device(W, H, method, options, kernels)
        return _round_on_host(W, H, method, options, kernels, backend)


def _check_shapes(weight: tuple[int, ...], hessian: tuple[int, ...]) -> tuple[int, ...]:
    b, _, n = weight
    if len(hessian) not in (2, 3) or hessian[-2:] != (n, n):
        raise InvalidArgumentError(
            f"H must be (b, n, n) or (n, n) for W (b, m, n) = (members, out, in); got W {weight} "
            f"and H {hessian}. Pass W.swapaxes(1, 2) for Keras or Flax kernels."
        )
    if len(hessian) == 3 and hessian[0] != b:
        raise InvalidArgumentError(
            f"H must be one (n, n) for all members of W or one for each of its {b}; got W "
            f"{weight} and H {hessian}. Give both the same members, in the same order."
        )
    return weight


def _round_on_host(
    W: Any, H: Any, method: str, options: Options, kernels: Kernels, backend: str
) -> QuantizedStack:
    weight = to_numpy(W, "W")
    hessian = H if isinstance(H, FactoredHessian) else to_numpy(H, "H")
    options = replace(options, grid=grid_there(options.grid, kernels))
    check_finite(weight, "W")
    if not isinstance(hessian, FactoredHessian) and hessian.ndim == 2:
        matrix = symmetric_matrix(hessian, "H", kernels)
        hessian = PreparedHessian(matrix, options.order, options.damp, kernels)

    stack = _empty(weight, hessian, method, options)
    each = _Members(weight, hessian, options, kernels, backend, stack)
    threads = 1 if each.work <= _TINY else thread_count()
    with num_threads(threads):
        edge = each.side_by_side(threads)
        tried = run_all(each.round_alone, [(i,) for i in range(edge)])
        tried += [each.round(i) for i in range(edge, len(stack))]
    # from the caller's thread, where the filters are, in the order of members
    for i, values in enumerate(tried):
        value = float(stack.damp[i])
        if value != values[0]:
            warn_of_damping(f"H[{i}]", value, values)
    return replace(stack, restore=like(W))


def _empty(weight: np.ndarray, hessian: Any, method: str, options: Options) -> QuantizedStack:
    """Return the result, its arrays yet to be filled; see `_Members._put`."""
    b, m, n = weight.shape
    grid = options.grid
    index: np.ndarray | None = None
    if grid is None:
        groups = max(1, -(-n // (options.group_size or max(n, 1))))
        scale, zero = (np.empty((b, m, groups), np.float32) for _ in range(2))
        if groups > 1:
            index = np.empty((b, n), np.int32)
    else:
        scale, zero = (np.broadcast_to(a, (b, *a.shape)) for a in (grid.scale, grid.zero))
        if grid.group_index is not None:
            index = np.broadcast_to(grid.group_index, (b, n))
    permutation = None if options.order == "natural" else np.empty((b, n), np.int64)
    wide = grid is not None and grid.dtype == np.float64
    loss, trace, damp, clipped = np.empty((4, b))
    stochastic = options.rounding == "stochastic"
    return QuantizedStack(
        codes=np.empty((b, m, n), np.uint8 if grid is None else grid.code_dtype),
        scale=scale,
        zero=zero,
        group_index=index,
        bits=options.bits if grid is None else grid.bits,
        kind=("sym" if options.sym else "asym") if grid is None else grid.kind,
        method=method,
        rounding=options.rounding,
        order=options.order,
        permutation=permutation,
        loss=loss,
        trace_D=trace,
        damp=damp,
        dead=np.zeros((b, n), bool),
        near_tie_rows=np.empty(b, np.int64),
        clipped=clipped,
        seed=options.seed if stochastic else None,
        precision="float64" if wide else work_dtype(weight).name,
    )


@dataclass(frozen=True)
class _Members:
    """What there is to do, and where its results go."""

    weight: np.ndarray
    hessian: Any  # (b, n, n), or the factored one of all members
    options: Options
    kernels: Kernels
    backend: str
    stack: QuantizedStack

    @property
    def work(self) -> int:
        """Operations of a member, over n."""
        _, m, n = self.stack.shape
        return (m if isinstance(self.hessian, FactoredHessian) else m + n // 3) * n

    def side_by_side(self, threads: int) -> int:
        """Return how many members are rounded each on one thread; the others have them all."""
        b, _, n = self.stack.shape
        occupied = min(threads, max(1, self.work // _SHARE))
        factored = isinstance(self.hessian, FactoredHessian)
        if threads == 1 or min(b, threads) < max(occupied, 2) or (n > _WIDEST and not factored):
            return 0
        # what remains of larger ones would leave threads idle
        return b if occupied < threads else b - b % threads

    def round_alone(self, i: int) -> list[float]:
        """Round a member on this thread, which must not wait for others of its pool."""
        with num_threads(1):
            return self.round(i)

    def round(self, i: int) -> list[float]:
        """Round a member; return what damping there was to try."""
        options, ready = self.options, self.hessian
        if isinstance(ready, FactoredHessian):
            tried = [ready.damping]
        else:
            ready, tried = self._prepared(i)
            options = replace(options, damp=ready.damp)
        with naming(i):
            self._put(
                i,
                round_with_feedback(
                    self.weight[i], ready, self.stack.method, options, self.backend
                ),
            )
        return tried

    def _prepared(self, i: int) -> tuple[PreparedHessian, list[float]]:
        """Return H[i] with the first damping that is enough, and all that was to be tried.

        As `quiplinalg.factor.damping.damped`, but for the warning: another thread is to give it.
        """
        name = f"H[{i}]"
        matrix = symmetric_matrix(self.hessian[i], name, self.kernels)
        tried = list(diagonal_shift(self.options.damp, matrix.diagonal()))
        for value in tried:
            try:
                damp = AbsoluteDamp(value)
                return PreparedHessian(matrix, self.options.order, damp, self.kernels), tried
            except NotPositiveDefiniteError as error:
                failed = error
        raise NotPositiveDefiniteError(failed.index, failed.pivot, failed.remedy, name)

    def _put(self, i: int, q: Quantized) -> None:
        """Keep a result, in the arrays of all."""
        stack = self.stack
        stack.codes[i] = q.codes
        grid: Any = q.grid
        if self.options.grid is None:
            stack.scale[i], stack.zero[i] = grid.scale, grid.zero
            if stack.group_index is not None:
                stack.group_index[i] = grid.group_index
        if stack.permutation is not None:
            stack.permutation[i] = q.permutation
        stack.dead[i, q.dead] = True
        for name in ("loss", "trace_D", "damp", "near_tie_rows", "clipped"):
            getattr(stack, name)[i] = getattr(q, name)
