"""NumPy in the place of a device, for the benchmarks of one; and their package on the path."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # bench is not installed

from bench import device_machine
from bench.device_timing import Sample

__all__ = ["HostMachine"]


class HostPotrf(device_machine.Potrf):
    def __init__(self, A, lower):
        self.A, self.lower = A, lower

    def prepare(self):
        self.work = np.array(self.A, np.float64)

    def run(self):
        self.L = np.linalg.cholesky(self.work)

    def check(self):
        assert np.isfinite(self.L).all()


class HostMachine(device_machine.Machine):
    """NumPy for a device; ``times`` are what its clock shows, by the name of the call."""

    xp = np

    def __init__(self, times=None, torch_device=None):
        self.times, self.torch_device, self.torch_missing = times, torch_device, "no torch here"
        self.now, self.released = 0.0, 0

    def describe(self):
        return {
            "name": "host", "compute_capability": "0.0", "driver": "1.2", "runtime": "3.4",
            "versions": {"cupy": "0"},
        }  # fmt: skip

    def wait(self):
        pass

    def clock(self, call):
        start = time.perf_counter()
        call.run()
        seconds = max(time.perf_counter() - start, 1e-9)
        if self.times is not None:
            seconds = self.times.get(call.name, 1.0)
        return Sample(seconds, 2 * seconds)

    def mark(self):
        self.now += 1.0
        return self.now

    def seconds(self, before, after):
        return after - before

    def gemm(self, alpha, A, B, beta, c, overwrite_c=1):
        c[:] = alpha * (A @ B) + beta * c

    def potrf(self, A, lower):
        return HostPotrf(A, lower)

    def peak(self, call):
        return call(), device_machine.Peak(1000, 2000)

    def release(self):
        self.released += 1
