"""Run as a program: the peak memory of one call, with the factor on disk and in memory, as JSON.

Argument: a directory.
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import quiplinalg as ql
from quiplinalg.rounding.out_of_core import least_memory, round_out_of_core

M, N = 600, 2560


def resident(key: str) -> int:
    """VmRSS or VmHWM in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def peak_of(call: Callable[[], Any]) -> int:
    """The most resident memory during a call, beyond what there was before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
    before = resident("VmRSS")
    result = call()
    del result
    return resident("VmHWM") - before


def main() -> None:
    """Measure both paths on a problem file."""
    folder = sys.argv[1]
    path = f"{folder}/problem.h5"
    rng = np.random.default_rng(0)
    with ql.ProblemWriter(path) as file:
        for name, m, n in (("small", 60, 70), ("large", M, N)):
            X = rng.standard_normal((n, 40)).astype(np.float32)
            H = X @ X.T / 40 + np.eye(n, dtype=np.float32)
            file.add(name, rng.standard_normal((m, n)).astype(np.float16), H)
    del X, H
    memory = least_memory(M, N, 4, ql.parallel.thread_count())
    with ql.open_problem(path) as file:

        def on_disk(name: str, W: np.ndarray, memory: int) -> ql.Quantized:
            source = file.hessian_source(name)
            return round_out_of_core(W, source, "ldlq", {}, scratch=folder, memory=memory)

        weight = file.weight("small")
        on_disk("small", weight, 1 << 30)  # kernels are compiled, libraries loaded
        ql.ldlq(weight, file.hessian("small"))
        W = file.weight("large")
        peak = peak_of(lambda: on_disk("large", W, memory))
        in_memory = peak_of(lambda: ql.ldlq(W, file.hessian("large")))
    print(json.dumps({"memory": memory, "peak": peak, "in_memory": in_memory}))


if __name__ == "__main__":
    main()
