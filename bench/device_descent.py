"""Coordinate descent on a device: a pass, and all of them, against the product they begin with."""

from __future__ import annotations

from functools import partial

import numpy as np

import quiplinalg as ql
from bench.common import Report, check, hessian, weights
from bench.device_floor import copy_call, gemm_call, gemm_flops
from bench.device_machine import Machine
from bench.device_table import Line, add
from bench.device_timing import Call, device_times, interleave

__all__ = ["run"]

SHAPE, QUICK = (4096, 4096), (128, 192)
BITS = 2
_LOSS = 1e-3


def run(report: Report, machine: Machine) -> None:
    """Time `descend` from the codes of `ldlq`, 2 bits."""
    quick = report.settings.quick
    m, n = QUICK if quick else SHAPE
    W, H = weights(m, n), hessian(n)
    X, A = machine.to_device(W), machine.to_device(H)
    start, start_cpu = ql.ldlq(X, A, bits=BITS), ql.ldlq(W, H, bits=BITS)
    changed, answers = {}, {}
    for passes in (1, None):
        ours = ql.descend(X, A, start, passes=passes)
        cpu = ql.descend(W, H, start_cpu, passes=passes)
        ratio = float(ours.loss) / cpu.loss
        check(abs(ratio - 1) < _LOSS, f"descend, passes={passes}: loss {ours.loss}, {cpu.loss}")
        check(float(ours.loss) <= float(start.loss), "descend raises the loss")
        differ = float((machine.to_host(ours.codes) != cpu.codes).any(axis=1).mean())
        answers[passes] = {"loss_ratio": ratio, "rows_that_differ": differ, "passes": ours.passes}
        # the codes that this many passes leave changed, each of which reads a row of H
        changed[passes] = int((machine.to_host(ours.codes) != machine.to_host(start.codes)).sum())
    size = 128 if quick else 8192
    sgemm, copy = gemm_call(machine, size, np.float32), copy_call(machine, X)
    names = {1: "a pass", None: "to a fixed point"}
    calls = [
        Call(name, partial(ql.descend, X, A, start, passes=passes))
        for passes, name in names.items()
    ]
    plain = Call("ldlq", lambda: ql.ldlq(X, A, bits=BITS, clip="minmax"))
    samples = interleave([sgemm, copy, plain, *calls], machine.clock, report.settings.rounds)
    for passes, name in names.items():
        floor = [
            2.0 * m * n * n / gemm_flops(size) * product
            + changed[passes] * 4.0 * n / (2.0 * W.nbytes) * copied
            for product, copied in zip(
                device_times(samples["sgemm"]), device_times(samples["copy"]), strict=True
            )
        ]
        record = {"shape": [m, n], "bits": BITS, "changed": changed[passes], **answers[passes]}
        case = f"({m}, {n}), {BITS} bits"
        ours = samples[name]
        add(report, Line("descent", case, name, ours, "E H + rows of H", floor, record=record))
        below = device_times(samples["ldlq"])
        add(report, Line("descent", case, name, ours, "ldlq, minmax", below, record=record))
    report.notes.append(
        "Descent: the floor is the product E H, 2 m n² flops at sgemm's rate, and reading a row of "
        "H, at the copy's rate, for each code that ends up changed; rows that are in the L2 cache "
        "cost less."
    )
