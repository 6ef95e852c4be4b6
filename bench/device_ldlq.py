"""`ldlq` on a device against dpotrf + sgemm there and the eager loop in torch, and its parts."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import Report, hessian, weights
from bench.device_answers import compare, compare_rival
from bench.device_floor import Floor, gemm_call, gemm_flops
from bench.device_machine import Machine
from bench.device_profile import profile
from bench.device_table import Line, add
from bench.device_timing import Call, Sample, device_times, interleave

__all__ = ["run"]

# shapes with the same n follow each other and share H
SHAPES = ((4096, 4096), (1024, 4096), (11008, 4096), (2048, 8192), (8192, 8192))
QUICK = ((256, 256), (128, 384))
CASES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "minmax, natural": {"clip": "minmax", "order": "natural"},
}
WALL = {(4096, 4096): 25e-3, (8192, 8192): 120e-3}  # seconds, 2 bits
FASTER = 20.0  # than the eager loop, at the shape below
JUDGED = (4096, 4096)
SHARE = 0.5  # of the rate of sgemm, of the kernels of the feedback at the shapes of WALL
BITS = 2  # of the rival and of the profile
DAMP = 0.01


def run(report: Report, machine: Machine) -> None:
    """Time every shape with 2 and 4 bits."""
    quick = report.settings.quick
    for m, n in QUICK if quick else SHAPES:
        W, H = weights(m, n), hessian(n)
        _shape(report, machine, W, H)
        machine.release()
    report.notes += [
        "ldlq: floor is dpotrf(n) of the device's library in place, the faster triangle, plus its "
        "sgemm panels of the m n² flops of the feedback, scaled up by the blocks on the diagonal "
        "that they leave out. Milliseconds between events around the call; by the wall clock the "
        "goals in ms. W and H are on the device, float32, before and after.",
        "Eager loop: algorithm 1 of GPTQ in torch operations, float32, blocks of 128 columns, the "
        "same min-max grid; its copies of W and H are made outside the timing."
        if machine.torch_device is not None
        else f"The eager loop in torch is left out: {machine.torch_missing}.",
        "Feedback: m n² flops over the time of the kernels round_nearest and update, by "
        "events around each launch, as a share of the rate of sgemm on a square product.",
    ]


def _call(W: Any, H: Any, **keywords: Any) -> Callable[[], Any]:
    return lambda: ql.ldlq(W, H, damp=DAMP, **keywords)


def _shape(report: Report, machine: Machine, W: np.ndarray, H: np.ndarray) -> None:
    m, n = W.shape
    quick = report.settings.quick
    on_device = machine.to_device(W), machine.to_device(H)
    calls, answers = {}, {}
    for bits in (2, 4):
        for name, keywords in CASES.items():
            call = _call(*on_device, bits=bits, **keywords)
            cpu = _call(W, H, bits=bits, **keywords)()
            answers[bits, name] = compare(machine, call(), cpu, W, H)
            calls[bits, name] = call
    rivals = {} if machine.torch_device is None else _rivals(machine, W, H, *on_device)
    floor = Floor(machine, m, n, on_device[1], quick)
    size = 128 if quick else 8192
    sgemm = gemm_call(machine, size, np.float32)
    timed = [Call(f"ldlq {bits} {name}", call) for (bits, name), call in calls.items()]
    for each in rivals.values():
        timed += each[:2]
    samples = interleave([*floor.calls, sgemm, *timed], machine.clock, report.settings.rounds)
    below, rates = floor.times(samples)
    for bits, name in calls:
        add(
            report,
            Line(
                "ldlq", f"({m}, {n}), {bits} bits", name, samples[f"ldlq {bits} {name}"],
                "dpotrf + sgemm", below,
                wall_goal=WALL.get((m, n)) if bits == 2 else None,
                record={
                    "shape": [m, n], "bits": bits, "floor": rates, "answer": answers[bits, name],
                    "floor_samples": {c.name: device_times(samples[c.name]) for c in floor.calls},
                },
            ),
        )  # fmt: skip
    for order, (theirs, ours, answer) in rivals.items():
        add(
            report,
            Line(
                "ldlq", f"({m}, {n}), {BITS} bits, given grid", f"{order} order",
                samples[ours.name], "eager loop in torch", device_times(samples[theirs.name]),
                kind="faster", goal=FASTER if (m, n) == JUDGED else None,
                record={"shape": [m, n], "bits": BITS, "answer": answer},
            ),
        )  # fmt: skip
    rate = gemm_flops(size) / median(device_times(samples["sgemm"]))
    _parts(report, machine, (m, n), calls[BITS, "defaults"], rate)


def _rivals(
    machine: Machine, W: np.ndarray, H: np.ndarray, W_device: Any, H_device: Any
) -> dict[str, tuple[Call, Call, dict[str, float]]]:
    """Return by order the eager loop and ours on one grid, checked, and how they compare."""
    from bench.eager_gptq import EagerGPTQ

    grid = ql.minmax_grid(W, BITS)
    grid_device = ql.minmax_grid(W_device, BITS)
    found = {}
    for order in ("natural", "act"):
        loop = EagerGPTQ(
            W, H, grid.scale, grid.zero, BITS, act_order=order == "act", damp=DAMP,
            device=str(machine.torch_device),
        )  # fmt: skip
        cpu = _call(W, H, grid=grid, order=order)()
        ours = _call(W_device, H_device, grid=grid_device, order=order)
        compare(machine, ours(), cpu, W, H)
        answer = compare_rival(loop.codes(), cpu, W, H)
        found[order] = (
            Call(f"eager {order}", loop.run, loop.prepare),
            Call(f"ldlq grid {order}", ours),
            answer,
        )
    return found


def _parts(
    report: Report,
    machine: Machine,
    shape: tuple[int, int],
    call: Callable[[], Any],
    rate: float,
) -> None:
    """Add the share of the feedback's kernels, and a note of where the time goes."""
    m, n = shape
    found = profile(machine, call)
    feedback = found["feedback"]
    if not all(feedback):  # no kernels of the device
        return
    add(
        report,
        Line(
            "feedback", f"({m}, {n}), {BITS} bits", "round_nearest, update",
            [Sample(t, t) for t in feedback], "m n² flops at sgemm's rate",
            [m * n * n / rate] * len(feedback), kind="share",
            goal=SHARE if shape in WALL else None,
            record={"shape": [m, n], "sgemm_gflops": rate / 1e9, "profile": found},
        ),
    )  # fmt: skip
    spent, whole = found["parts"], found["whole"]
    shares = ", ".join(f"{name} {t * 1e3:.3g} ms ({t / whole:.0%})" for name, t in spent.items())
    report.notes.append(
        f"Where the time goes at ({m}, {n}), {BITS} bits, defaults, {whole * 1e3:.3g} ms with "
        f"events around every launch: {shares}."
    )
