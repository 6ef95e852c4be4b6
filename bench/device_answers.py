"""What is checked before a device is timed: its codes are the CPU's, near ties apart."""

from __future__ import annotations

from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import check
from bench.device_machine import Machine
from quiplinalg.grids.apply import tie_tolerance
from quiplinalg.testing.comparing import assert_same_rounding

__all__ = ["compare", "compare_rival"]

_ROWS = 256  # that are certified in float64, of those that differ
_OTHER_GRIDS = 0.05  # most of the rows whose ranges may be another of equal sums
_LOSS = 1e-3
_DRIFT = 4  # tie tolerances that a float32 target may be off
_RIVAL_ROWS, _RIVAL_TIE, _RIVAL_LOSS = 64, 0.05, 0.01  # float32 all through, by way of an inverse


def compare(machine: Machine, q: Any, cpu: Any, W: np.ndarray, H: np.ndarray) -> dict[str, float]:
    """Check a result of the device against the CPU's of the same W and H.

    Rows with equal grids must have equal codes up to a near tie of a target; what differs after
    one must still be the rounding of its own targets.  Rows with another grid, where the sums of
    two ranges are equal up to rounding, must be the rounding of their targets on it.
    """
    codes, scale, zero = (machine.to_host(a) for a in (q.codes, q.grid.scale, q.grid.zero))
    what = f"{q!r}, on the CPU {cpu!r}"
    check(codes.shape == cpu.codes.shape, f"codes of shape {codes.shape}: {what}")
    order = None if q.permutation is None else machine.to_host(q.permutation)
    own = cpu.permutation
    same_order = order is own if own is None or order is None else np.array_equal(order, own)
    check(bool(same_order), f"another order: {what}")
    same_grid = ((scale == cpu.grid.scale) & (zero == cpu.grid.zero)).all(axis=1)
    same_grid = np.broadcast_to(same_grid, codes.shape[:1])
    differ = (codes != cpu.codes).any(axis=1)
    other_grids = float(1 - same_grid.mean())
    check(other_grids <= _OTHER_GRIDS, f"{other_grids:.1%} of the rows have other grids: {what}")
    tau = _DRIFT * tie_tolerance(W.shape[1], np.dtype(np.float32))
    for rows, other in ((same_grid & differ, cpu.codes), (~same_grid, codes)):
        _certify(np.flatnonzero(rows)[:_ROWS], codes, other, W, H, (scale, zero), cpu, tau)
    loss_ratio = float(q.loss) / cpu.loss
    check(abs(loss_ratio - 1) < _LOSS, f"loss {q.loss}, on the CPU {cpu.loss}: {what}")
    return {
        "loss": float(q.loss),
        "loss_ratio": loss_ratio,
        "rows_that_differ": float(differ.mean()),
        "rows_with_other_grids": other_grids,
        "near_tie_rows": cpu.near_tie_rows / max(codes.shape[0], 1),
    }


def compare_rival(codes: np.ndarray, cpu: Any, W: np.ndarray, H: np.ndarray) -> dict[str, float]:
    """Check the codes of the eager loop against ours on the same grid."""
    grid = cpu.grid
    loss = ql.proxy_loss(grid.scale * (codes.astype(np.float32) - grid.zero), W, H)
    check(abs(loss / cpu.loss - 1) < _RIVAL_LOSS, f"the rival's loss is {loss}, ours {cpu.loss}")
    rows = np.arange(min(_RIVAL_ROWS, W.shape[0]))
    _certify(rows, codes, codes, W, H, (grid.scale, grid.zero), cpu, _RIVAL_TIE)
    return {"loss_ratio": loss / cpu.loss, "equal_codes": float((codes == cpu.codes).mean())}


def _certify(
    rows: np.ndarray,
    codes: np.ndarray,
    other: np.ndarray,
    W: np.ndarray,
    H: np.ndarray,
    grid: tuple[np.ndarray, np.ndarray],
    cpu: Any,
    tau: float,
) -> None:
    """Check that two sets of codes are the same rounding of some rows, ties apart."""
    if rows.size == 0:
        return
    damped = H.astype(np.float64)
    damped.flat[:: H.shape[0] + 1] += cpu.damp
    scale, zero = (a[rows] if a.shape[0] > 1 else a for a in grid)
    try:
        assert_same_rounding(
            codes[rows], other[rows], W[rows], damped, scale, zero, cpu.grid.maxq,
            cpu.permutation, tau,
        )  # fmt: skip
    except AssertionError as error:
        check(False, f"{error}; {cpu!r}")
