"""Rotations on a device: plans are uploaded once, and all rows are rotated in one launch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from quiplinalg.incoherence.windows import Plan
from quiplinalg.kernels.record import FACTOR, FOLDED, OUTPUTS, WALSH, DeviceKernels

__all__ = ["DevicePlan", "device_plan", "rotate_on_device"]

_ALIGNED = 4  # constants of a step start at a multiple of it: vectors of 16 bytes


@dataclass(frozen=True, eq=False)
class DevicePlan:
    """A `Plan` as kernels/cuda/rotation.cu reads it: arrays on a device, integers int32.

    Attributes
    ----------
    load, store : tuple of (n,) int32 and (n,) floating
    moved, scaled : tuple of bool
        Whether the load and the store permute, and whether they scale.
    steps : (count, 8) int32
        As those of `Plan`, ``at`` in these constants; then log2 of ``inner``, or -1 where that is
        no power of two or the axis does not start at a multiple of its length; 0.
    constants : floating
    dense : tuple of (int, int)
        Size and fibres of each dense factor.
    """

    load: tuple[Any, Any]
    store: tuple[Any, Any]
    moved: tuple[bool, bool]
    scaled: tuple[bool, bool]
    steps: Any
    constants: Any
    dense: tuple[tuple[int, int], ...]


_PLANS: WeakKeyDictionary[Plan, dict[int, DevicePlan]] = WeakKeyDictionary()


def device_plan(plan: Plan, xp: Any) -> DevicePlan:
    """Return a plan on the current device; it is uploaded once, and kept as long as ``plan``."""
    found = _PLANS.setdefault(plan, {})
    device = int(xp.cuda.Device().id)
    if device not in found:
        found[device] = _uploaded(plan, xp)
    return found[device]


def _uploaded(plan: Plan, xp: Any) -> DevicePlan:
    n = plan.load[0].shape[0]
    sides = (plan.load, plan.store)
    steps, constants, used, dense = [], [plan.constants[:0]], 0, []
    for kind, start, outer, size, inner, at in plan.steps.tolist():
        length = 0 if kind == WALSH else size
        if kind in (FACTOR, FOLDED):
            dense.append((size, outer * inner))
            length = _panels(size // 2 + 1) + _panels((size - 1) // 2)
            length = _panels(size) if kind == FACTOR else length
        plain = inner & (inner - 1) == 0 and start % (size * inner) == 0
        log = inner.bit_length() - 1 if plain else -1
        steps.append((kind, start, outer, size, inner, used, log, 0))
        padded = np.zeros(-(-length // _ALIGNED) * _ALIGNED, plan.constants.dtype)
        padded[:length] = plan.constants[at : at + length]
        constants.append(padded)
        used += padded.size

    def kept(a: np.ndarray) -> Any:
        return xp.asarray(a, blocking=True)  # there before another stream uses it

    load, store = ((kept(place.astype(np.int32)), kept(scale)) for place, scale in sides)
    return DevicePlan(
        load=load,
        store=store,
        moved=_of_both(sides, lambda place, _: bool((place != np.arange(n)).any())),
        scaled=_of_both(sides, lambda _, scale: bool((scale != 1).any())),
        steps=kept(np.array(steps, np.int32).reshape(-1, 8)),
        constants=kept(np.concatenate(constants)),
        dense=tuple(dense),
    )


def _of_both(sides: Any, what: Any) -> tuple[bool, bool]:
    load, store = (what(*side) for side in sides)
    return load, store


def _panels(size: int) -> int:
    """Elements of a packed square factor."""
    return -(-size // OUTPUTS) * OUTPUTS * size


def rotate_on_device(
    X: Any, out: Any, layout: tuple[bool, bool, bool], plan: Plan, kernels: DeviceKernels
) -> None:
    """Rotate the rows or columns of X into those of out, as `rotate_into`: the same bits.

    Parameters
    ----------
    X : device array
        Of any dtype and strides; it is copied where it is not in C order and out's dtype.
    out : device array, C order, float32 or float64
        X may be out where both are rows.
    layout : (bool, bool, bool)
        Rows of X, rows of out, only the upper triangle of out.  In the last case what is below the
        diagonal is undefined.
    plan : Plan
    kernels : DeviceKernels

    Notes
    -----
    Rows: one read of X and one write of out.  Columns: one transposition more on the side that has
    them, through a matrix of the size of X.
    """
    if X.size == 0:
        return
    xp = kernels.xp
    X = xp.ascontiguousarray(X, out.dtype)
    kernels.rotate(X, out, layout, device_plan(plan, xp))
