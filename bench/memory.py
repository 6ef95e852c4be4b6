"""Peak memory of one call of ldlq beyond its inputs and outputs, each in a fresh process."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import ROOT, Report, Settings, check, hessian, our_threads, weights

SHAPES = ((4096, 4096), (2048, 8192))
CASES = (  # name, keywords
    ("minmax, act", {"clip": "minmax"}),
    ("minmax, natural", {"clip": "minmax", "order": "natural"}),
    ("defaults", {}),
)
COLUMNS = ["(m, n)", "call", "threads", "peak MB", "limit MB", "limit", "in n² · 8 bytes"]
_STATUS = Path("/proc/self/status")


def run(settings: Settings) -> Report:
    """Measure the peak resident memory of `ldlq`."""
    report = Report("memory", "Peak memory beyond inputs and outputs", COLUMNS, settings)
    if not _STATUS.exists():
        report.notes.append("Not measured: this system has no /proc.")
        return report
    for m, n in ((256, 256),) if settings.quick else SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            W, H = weights(m, n), hessian(n)
            np.save(f"{folder}/W.npy", W)
            np.save(f"{folder}/H.npy", H)
            for name, keywords in CASES:
                for threads in settings.threads:
                    _measure(report, folder, (m, n), name, keywords, threads)
    report.notes.append(
        "Linux: the high-water mark of resident memory, reset before the call, less the resident "
        "memory before it and the bytes of the codes and the grid. Kernels are compiled and "
        "loaded before by a call at n = 64. MB is 10⁶ bytes."
    )
    return report


def _measure(
    report: Report,
    folder: str,
    shape: tuple[int, int],
    name: str,
    keywords: dict[str, str],
    threads: int,
) -> None:
    m, n = shape
    done = subprocess.run(
        [sys.executable, "-m", "bench.memory", folder, json.dumps(keywords), str(threads)],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    check(done.returncode == 0, f"the measured process failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    limit = 2 * n * n * 8 + 64e6
    what = f"ldlq ({m}, {n}) {name}, {threads} thread(s), bytes"
    report.add(
        [
            f"({m}, {n})", name, threads, f"{found['peak'] / 1e6:.0f}", f"{limit / 1e6:.0f}",
            report.verdict(found["peak"] / limit, 1, what + " over limit"),
            found["peak"] / (n * n * 8),
        ],
        {"shape": [m, n], "call": name, "threads": threads, "limit": limit, **found},
    )  # fmt: skip


def _resident(key: str) -> int:
    """Return VmRSS or VmHWM in bytes."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"{key} is not in {_STATUS}")


def peak_of(call: Callable[[], Any]) -> tuple[Any, int, str]:
    """Return call()'s result, the peak of resident memory during it beyond before, and how."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        marked = _resident("VmHWM") <= _resident("VmRSS") * 1.01
    except OSError:
        marked = False
    before = _resident("VmRSS")
    if marked:
        result = call()
        return result, _resident("VmHWM") - before, "high-water mark"
    # no reset of the mark: look every millisecond
    highest, done = before, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.001):
            highest = max(highest, _resident("VmRSS"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        result = call()
    finally:
        done.set()
        watcher.join()
    return result, highest - before, "sampled every millisecond"


def main() -> None:
    """Measure one call in this process; print the result as one line of JSON."""
    folder, keywords, threads = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
    W, H = np.load(f"{folder}/W.npy"), np.load(f"{folder}/H.npy")
    with our_threads(threads):
        ql.ldlq(weights(256, 64), hessian(64), bits=2, **keywords)
        q, peak, how = peak_of(lambda: ql.ldlq(W, H, bits=2, **keywords))
    out = q.codes.nbytes + q.grid.scale.nbytes + q.grid.zero.nbytes
    out += 0 if q.permutation is None else q.permutation.nbytes
    print(json.dumps({"peak": max(peak - out, 0), "outputs": out, "how": how}))


if __name__ == "__main__":
    main()
