"""A stack of layers in one call of `ldlq` against a call for each of them."""

from __future__ import annotations

from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import Report, check, hessian, weights
from bench.device_answers import compare
from bench.device_machine import Machine
from bench.device_table import Line, add
from bench.device_timing import Call, device_times, interleave

__all__ = ["run", "together"]

MEMBERS, SHAPE = 64, (1280, 2560)
QUICK_MEMBERS, QUICK_SHAPE = 3, (64, 96)
HESSIANS = 8  # distinct ones
BITS = 2
FASTER = 1.5
_COMPARED = 2  # members that are compared with the CPU


def together(W: Any, H: Any) -> Any:
    """Return the codes, (b, m, n), of one call for all layers."""
    return ql.ldlq(W, H, bits=BITS).codes


def run(report: Report, machine: Machine) -> None:
    """Time one call for the stack, and one for each member."""
    quick = report.settings.quick
    members, (m, n) = (QUICK_MEMBERS, QUICK_SHAPE) if quick else (MEMBERS, SHAPE)
    W = np.stack([weights(m, n, seed=k) for k in range(members)])
    different = [hessian(n, seed=k) for k in range(min(HESSIANS, members))]
    H = np.stack([different[k % len(different)] for k in range(members)])
    stack, factors = machine.to_device(W), machine.to_device(H)

    def singles() -> list[Any]:
        return [ql.ldlq(w, h, bits=BITS) for w, h in zip(stack, factors, strict=True)]

    alone = singles()
    codes = machine.to_host(together(stack, factors))
    check(codes.shape == W.shape, f"codes of shape {codes.shape} for W of shape {W.shape}")
    differ = []
    for k, one in enumerate(alone):
        if k < _COMPARED:
            compare(machine, one, ql.ldlq(W[k], H[k], bits=BITS), W[k], H[k])
        differ.append(float((machine.to_host(one.codes) != codes[k]).any(axis=1).mean()))
        loss = ql.proxy_loss(_values(machine, one, codes[k]), W[k], H[k])
        error = abs(loss / float(one.loss) - 1)
        check(error < 1e-3, f"member {k}: loss {loss} in the stack, {one.loss} alone")
    del alone
    machine.release()
    calls = [Call("stack", lambda: together(stack, factors)), Call("singles", singles)]
    samples = interleave(calls, machine.clock, report.settings.rounds)
    add(
        report,
        Line(
            "stack", f"{members} x ({m}, {n}), {BITS} bits", "one call", samples["stack"],
            f"{members} calls", device_times(samples["singles"]), kind="faster", goal=FASTER,
            record={"members": members, "shape": [m, n], "rows_that_differ": differ},
        ),
    )  # fmt: skip
    report.notes.append(
        f"Stack: {members} weights and {len(different)} Hessians, in turn, default options; "
        f"{np.mean(differ):.2%} of the rows have other codes than in a call for their layer alone."
    )


def _values(machine: Machine, q: Any, codes: np.ndarray) -> np.ndarray:
    """Return W_hat of some codes on the grid of a result."""
    scale, zero = machine.to_host(q.grid.scale), machine.to_host(q.grid.zero)
    return scale * (codes.astype(np.float32) - zero)
