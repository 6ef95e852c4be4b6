"""Rotations on a device against copying the matrix, and against their factors' products."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import Report, check, weights
from bench.device_floor import copy_call, gemm_call, gemm_flops
from bench.device_machine import Machine
from bench.device_table import Line, add
from bench.device_timing import Call, device_times, interleave, summed

__all__ = ["run"]

SIZES, QUICK = ((8192, 8192), (4096, 11008)), ((256, 256), (64, 344))  # of W
SHARE = 0.6  # of the rate of a copy: Hadamard, on the right, of the first size
MAKERS = {"hadamard": ql.hadamard_orthogonal, "kronecker": ql.kronecker_orthogonal}
_ROWS = 64  # that are compared with the CPU
_EXACT = {np.float32: 1e-5, np.float64: 1e-13}  # errors, of the norm of a row


def run(report: Report, machine: Machine) -> None:
    """Time `apply` on both sides and back, in float32 and float64."""
    quick = report.settings.quick
    sizes = QUICK if quick else SIZES
    for m, n in sizes:
        W = weights(m, n)
        for dtype in (np.float32, np.float64):
            X = machine.to_device(W.astype(dtype))
            for kind in MAKERS:
                _rotate(report, machine, W.astype(dtype), X, kind, (m, n) == sizes[0])
            del X
            machine.release()
    report.notes.append(
        "Rotation: copy reads and writes the matrix once, into an array that is there; apply "
        "allocates its result. Hadamard: share of the copy's rate. Kronecker: over the copy plus "
        "the flops of its dense factors at the rate of gemm in that precision."
    )


def _rotate(
    report: Report, machine: Machine, W: np.ndarray, X: Any, kind: str, judged: bool
) -> None:
    m, n = W.shape
    V, U = MAKERS[kind](n, 0), MAKERS[kind](m, 0)
    _check(machine, V, W, X)
    calls = {
        "apply": (V, partial(V.apply, X)),
        "apply_transposed": (V, partial(V.apply_transposed, X)),
        "apply, left": (U, partial(U.apply, X, side="left")),
    }
    quick = report.settings.quick
    size = 128 if quick else 4096
    gemm = gemm_call(machine, size, W.dtype)
    timed = [copy_call(machine, X), gemm, *(Call(k, call) for k, (_, call) in calls.items())]
    samples = interleave(timed, machine.clock, 3 * report.settings.rounds)
    copies = device_times(samples["copy"])
    for name, (Q, _) in calls.items():
        sizes = sum(sum(w.sizes) * w.length for w in Q.windows) / max(Q.n, 1)
        dense = 2.0 * m * n * sizes / gemm_flops(size)
        products = [dense * t for t in device_times(samples[gemm.name])]
        against: dict[str, Any] = {"against": "copy", "theirs": copies, "kind": "share"}
        if kind == "kronecker":
            against = {"against": f"copy + {gemm.name}", "theirs": summed(copies, products)}
        goal = SHARE if judged and kind == "hadamard" and name == "apply" else None
        add(
            report,
            Line(
                "rotation", f"({m}, {n}), {W.dtype}", f"{kind}, {name}", samples[name],
                **against, goal=goal,
                record={
                    "shape": [m, n], "dtype": str(W.dtype), "rotation": repr(Q),
                    "copy_gbytes": [2e-9 * W.nbytes / t for t in copies],
                },
            ),
        )  # fmt: skip


def _check(machine: Machine, V: Any, W: np.ndarray, X: Any) -> None:
    """The first rows are those of the CPU, and all of them come back."""
    turned = V.apply(X)
    rows = machine.to_host(turned[:_ROWS])
    expected = V.apply(W[:_ROWS])
    norm = float(np.linalg.norm(W[:_ROWS], axis=1).max())
    most = _EXACT[W.dtype.type] * norm
    error = float(np.abs(rows - expected).max())
    check(error <= most, f"{V}: off by {error} of rows of norm {norm}")
    largest = float(np.sqrt(np.square(W, dtype=np.float64).sum(axis=1).max()))
    back = machine.to_host(V.apply_transposed(turned))
    error = float(np.abs(back - W).max())
    check(error <= _EXACT[W.dtype.type] * largest, f"{V}: undone with an error of {error}")
