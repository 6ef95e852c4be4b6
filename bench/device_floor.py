"""What the device's own libraries need for the same work: the floors of its benchmarks."""

from __future__ import annotations

from statistics import median
from typing import Any

import numpy as np

from bench.common import Feedback, check, feedback_buffers
from bench.device_machine import Machine
from bench.device_timing import Call, Sample, device_times, interleave, summed

__all__ = ["Floor", "copy_call", "gemm_call", "gemm_flops"]

_WIDTHS, _QUICK_WIDTHS = (512, 1024, 2048), (64, 96)  # of the panels
_TRIANGLES = {"dpotrf lower": True, "dpotrf upper": False}


class Floor:
    """dpotrf(n) and the sgemm panels of the feedback of (m, n), on the device.

    As `bench.common.Floor`: the panels are tried right- and left-looking at three widths, the two
    fastest take part in the rounds and the one with the lower median counts.  Of the two triangles
    that dpotrf may factor, the faster counts.
    """

    def __init__(self, machine: Machine, m: int, n: int, H: Any, quick: bool):
        self.m, self.n = m, n
        factorings = {name: machine.potrf(H, lower) for name, lower in _TRIANGLES.items()}
        for one in factorings.values():
            one.prepare()
            one.run()
            one.check()
        self.factorings = [Call(name, one.run, one.prepare) for name, one in factorings.items()]
        xp = machine.xp
        buffers = {
            name: xp.asfortranarray(machine.to_device(a))
            for name, a in feedback_buffers(m, n).items()
        }
        tried = []
        for width in _QUICK_WIDTHS if quick else _WIDTHS:
            for side in ("right", "left"):
                panels = Feedback(m, n, width, side, buffers, machine.gemm)
                whole = all(a.flags.f_contiguous for step in panels.steps for a in step)
                check(whole, "the panels of sgemm are copies")
                name = f"sgemm {side} {width}"
                tried.append(Call(name, panels.run, scale=panels.scale))
        samples = interleave(tried, machine.clock, 1, warm_up=1)
        self.tried = {name: device_times(each)[0] for name, each in samples.items()}
        tried.sort(key=lambda one: self.tried[one.name])
        self.panels = tried[:2]

    @property
    def calls(self) -> list[Call]:
        """What takes part in the rounds."""
        return [*self.factorings, *self.panels]

    def times(self, samples: dict[str, list[Sample]]) -> tuple[list[float], dict[str, Any]]:
        """Return the floor of each round, in seconds, and the rates behind it."""

        def fastest(calls: list[Call]) -> str:
            return min((one.name for one in calls), key=lambda k: median(device_times(samples[k])))

        factoring, panels = fastest(self.factorings), fastest(self.panels)
        factor, products = device_times(samples[factoring]), device_times(samples[panels])
        m, n = self.m, self.n
        return summed(factor, products), {
            "dpotrf": factoring,
            "dpotrf_median": median(factor),
            "dpotrf_gflops": n**3 / 3 / median(factor) / 1e9,
            "panels": panels,
            "panels_median": median(products),
            "panels_scaled_by": next(p.scale for p in self.panels if p.name == panels),
            "sgemm_gflops": m * n * n / median(products) / 1e9,
            "tried_once": self.tried,
        }


def gemm_flops(size: int) -> float:
    """Flops of what `gemm_call` times."""
    return 2.0 * size**3


def gemm_call(machine: Machine, size: int, dtype: Any) -> Call:
    """Return "sgemm" or "dgemm": a square product of this order, whose rate counts."""
    rng = np.random.default_rng(size)
    kind = np.dtype(dtype)
    xp = machine.xp
    A, B = (
        xp.asfortranarray(machine.to_device(rng.standard_normal((size, size), kind)))
        for _ in range(2)
    )
    C = xp.zeros((size, size), kind, order="F")
    return Call(
        f"{'s' if kind == np.float32 else 'd'}gemm", lambda: machine.gemm(1.0, A, B, 0.0, C)
    )


def copy_call(machine: Machine, A: Any, name: str = "copy") -> Call:
    """Return the copy of an array to another that is there: its bytes are read and written."""
    target = machine.xp.empty_like(A)
    return Call(name, lambda: machine.xp.copyto(target, A))
