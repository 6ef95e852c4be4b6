"""A decoder layer from file to file, against the sum of `ldlq` on arrays in memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import ROOT, Report, Settings, check, hessian, our_threads, weights

BITS = 2
HIDDEN, INNER = 4096, 11008  # of Llama 2 7B
DECODER_LAYERS = 32
LIMIT = 1.25  # of the file's wall time over the sum in memory
MEMORY = 4e9  # bytes, one job
# a process's peak begins with that of the process that starts it, so a small one does
LAUNCH = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - start
process.returncode = os.waitstatus_to_exitcode(status)
print(json.dumps([process.returncode, seconds, usage.ru_maxrss * 1024]), file=sys.stderr)
"""
COLUMNS = ["what", "jobs x threads", "seconds", "over the sum", "limit", "peak MB", "limit MB"]


def layers(hidden: int, inner: int) -> dict[str, tuple[int, int, str]]:
    """Return (out, in, name of the first layer with this Hessian) by name."""
    return {
        "q_proj": (hidden, hidden, "q_proj"),
        "k_proj": (hidden, hidden, "q_proj"),
        "v_proj": (hidden, hidden, "q_proj"),
        "o_proj": (hidden, hidden, "o_proj"),
        "gate_proj": (inner, hidden, "gate_proj"),
        "up_proj": (inner, hidden, "gate_proj"),
        "down_proj": (hidden, inner, "down_proj"),
    }


def run(settings: Settings) -> Report:
    """Quantise the file by the command, and each of its layers in memory, in turn."""
    report = Report("model", "A decoder layer of Llama-2-7B's shape", COLUMNS, settings)
    sizes = (256, 688) if settings.quick else (HIDDEN, INNER)
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "layer.h5")
        _write(source, *sizes)
        plans = [(1, threads) for threads in settings.threads]
        if max(settings.threads) > 1:
            plans.append((max(settings.threads), 1))
        found: dict[tuple[int, int], list[dict[str, Any]]] = {plan: [] for plan in plans}
        sums: dict[int, list[dict[str, float]]] = {t: [] for t in settings.threads}
        first = os.path.join(folder, "first.h5")
        _command(source, first, 1, max(settings.threads))  # what is compiled is in the cache
        _verify(source, first)
        for _ in range(min(settings.rounds, 3)):
            for threads in settings.threads:
                sums[threads].append(_in_memory(source, threads))
            for jobs, threads in plans:
                target = os.path.join(folder, f"{jobs}x{threads}.h5")
                found[jobs, threads].append(_command(source, target, jobs, threads))
                check(_bytes(target) == _bytes(first), f"{jobs} x {threads}: other bytes")
                os.unlink(target)
    _tell(report, found, sums)
    return report


def _tell(
    report: Report,
    found: dict[tuple[int, int], list[dict[str, Any]]],
    sums: dict[int, list[dict[str, float]]],
) -> None:
    for threads, rounds in sums.items():
        total = median(sum(each.values()) for each in rounds)
        report.add(
            ["sum of ldlq in memory", f"1 x {threads}", f"{total:.2f}", "", "", "", ""],
            {"what": "memory", "threads": threads, "rounds": rounds},
        )
    for (jobs, threads), rounds in found.items():
        base = sums[jobs * threads if jobs == 1 else max(sums)]
        ratio = median(
            each["seconds"] / sum(memory.values())
            for each, memory in zip(rounds, base, strict=True)
        )
        limit = LIMIT if jobs == 1 else None
        verdict = report.verdict(ratio, limit, f"file to file, {jobs} x {threads}")
        peak = max(each["peak"] for each in rounds)
        over = report.verdict(peak / MEMORY, 1 if jobs == 1 else None, f"peak memory, {threads}")
        seconds = median(each["seconds"] for each in rounds)
        report.add(
            ["file to file", f"{jobs} x {threads}", f"{seconds:.2f}", ratio, verdict,
             f"{peak / 1e6:.0f}", over if jobs == 1 else "–"],
            {"what": "file", "jobs": jobs, "threads": threads, "rounds": rounds, "ratio": ratio},
        )  # fmt: skip
        names = {
            name: median(each["layers"][name] for each in rounds) for name in rounds[0]["layers"]
        }
        report.notes.append(
            f"{jobs} x {threads}, seconds by layer without the file: "
            + ", ".join(f"{name} {value:.2f}" for name, value in names.items())
            + f"; {DECODER_LAYERS} such layers: {DECODER_LAYERS * seconds / 60:.1f} minutes."
        )
    report.notes.append(
        f"`quiplinalg quantize layer.h5 out.h5 --bits {BITS}` as a process of its own, wall time "
        "from start to end: interpreter, reading float16 weights and lower triangles of float32 "
        "Hessians, content hashes, rounding, comparison with nearest, shards on the disk, and the "
        "result file. In memory: the seven calls of `ldlq` on the same arrays, each with a factor "
        "of its own; reading them is not timed. q, k and v share a Hessian, gate and up another: "
        "the file's are factored once. Peak: the largest process, beside the others where there "
        "are several jobs. All results have the same bytes, and verify passes."
    )


def _write(path: str, hidden: int, inner: int) -> None:
    with ql.ProblemWriter(path) as file:
        for k, (name, (m, n, owner)) in enumerate(layers(hidden, inner).items()):
            W = weights(m, n, seed=k).astype(np.float16)
            if owner == name:
                file.add(name, W, hessian(n, seed=k), n_samples=n + n // 4)
            else:
                file.add(name, W, shared_hessian_of=owner)


def _command(source: str, target: str, jobs: int, threads: int) -> dict[str, Any]:
    """Run the command; return its wall time, its peak memory, and the seconds of each layer."""
    words = ["quantize", source, target, "--json", "--bits", str(BITS), "--overwrite"]
    words += ["--jobs", str(jobs), "--threads", str(threads)]
    command = [sys.executable, "-m", "quiplinalg.cli.main", *words]
    done = subprocess.run(
        [sys.executable, "-c", LAUNCH, *command], cwd=ROOT, capture_output=True, text=True
    )
    code, seconds, peak = json.loads(done.stderr.splitlines()[-1])
    check(code == 0, f"quantize ended with {code}: {done.stderr}")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    by_layer = {e["layer"]: e["seconds"] for e in events if e["event"] == "layer"}
    return {"seconds": seconds, "peak": peak, "layers": by_layer}


def _verify(source: str, target: str) -> None:
    words = [sys.executable, "-m", "quiplinalg.cli.main", "verify", source, target]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    check(done.returncode == 0, f"verify: {done.stdout[-2000:]}{done.stderr[-2000:]}")


def _in_memory(source: str, threads: int) -> dict[str, float]:
    """Return the seconds of `ldlq` on the arrays of each layer."""
    found = {}
    with ql.open_problem(source) as problem, our_threads(threads):
        ql.ldlq(weights(64, 64), hessian(64), bits=BITS)
        for name in problem.names:
            W, H = problem.weight(name), problem.hessian(name)
            start = time.perf_counter()
            ql.ldlq(W, H, bits=BITS)
            found[name] = time.perf_counter() - start
    return found


def _bytes(path: str) -> bytes:
    return Path(path).read_bytes()
