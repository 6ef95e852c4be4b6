"""What every topic shares: seeded problems, interleaved timing, the floor, results as files."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

import quiplinalg as ql

__all__ = [
    "CannotRunError",
    "Contestant",
    "Feedback",
    "Floor",
    "Potrf",
    "Report",
    "Settings",
    "blas_threads",
    "check",
    "conditioned",
    "feedback_buffers",
    "hessian",
    "interleave",
    "our_threads",
    "ratio",
    "weights",
]

ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = (
    "quiplinalg", "numpy", "scipy", "numba", "llvmlite", "threadpoolctl", "torch", "llmcompressor",
    "compressed-tensors", "transformers",
)  # fmt: skip
_REST = 0.1  # seconds between contestants: BLAS workers spin for about 0.03 s after a call


class CannotRunError(Exception):
    """A topic needs what this machine has not; the message says what."""


@dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    quick: bool = False
    threads: tuple[int, ...] = (1, 2)
    rounds: int = 5
    output: Path = ROOT / "bench" / "results"


# ---------------------------------------------------------------------------------- problems


def weights(m: int, n: int, seed: int = 0) -> np.ndarray:
    """Return W, (m, n) float32: Student t with 5 degrees of freedom, scaled by row and column."""
    rng = np.random.default_rng([seed, m, n])
    W = np.empty((m, n), np.float32)
    columns = np.exp(0.3 * rng.standard_normal(n)).astype(np.float32)
    for i in range(0, m, 512):
        rows = min(512, m - i)
        scale = 0.02 * np.exp(0.3 * rng.standard_normal((rows, 1)))
        W[i : i + rows] = rng.standard_t(5, (rows, n)) * scale * columns
    return W


@lru_cache(maxsize=1)
def hessian(n: int, seed: int = 0) -> np.ndarray:
    """Return H, (n, n) float32, read-only: X^T X / N + 0.01 mean(diag) I of N = 5n/4 samples.

    X = G diag(k^-1/2) C diag(s): G Gaussian, C the orthonormal cosine transform, which spreads the
    power-law spectrum over all columns, and s log-normal column scales.
    """
    from scipy.fft import dct

    rng = np.random.default_rng([seed, n])
    samples = n + n // 4
    powers = np.arange(1, n + 1, dtype=np.float32) ** np.float32(-0.5)
    columns = np.exp(0.4 * rng.standard_normal(n)).astype(np.float32)
    H = np.zeros((n, n), np.float32)
    for i in range(0, samples, 2048):
        X = rng.standard_normal((min(2048, samples - i), n), np.float32)
        X *= powers
        X = dct(X, axis=1, norm="ortho", overwrite_x=True)
        X *= columns
        H += X.T @ X  # NumPy's syrk: symmetric to the last bit
    H /= np.float32(samples)
    H.flat[:: n + 1] += np.float32(0.01 * H.diagonal().mean(dtype=np.float64))
    H.flags.writeable = False
    return H


def conditioned(n: int, cond: float, seed: int = 0) -> np.ndarray:
    """Return H, (n, n) float64, of this condition number: a random basis, geometric eigenvalues."""
    rng = np.random.default_rng([seed, n])
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    H = (Q * np.geomspace(1.0, 1.0 / cond, n)) @ Q.T
    return (H + H.T) / 2


# ------------------------------------------------------------------------------------ timing


@dataclass
class Contestant:
    """One thing to time: ``prepare()`` is not timed, ``run()`` is, inside ``limit(threads)``."""

    name: str
    run: Callable[[], Any]
    limit: Callable[[int], Any]
    prepare: Callable[[], Any] = lambda: None
    scale: float = 1.0  # of the time, where less than all the work is done


@contextmanager
def our_threads(count: int) -> Iterator[None]:
    """Threads of quiplinalg; its own default is every core."""
    with ql.num_threads(count):
        yield


@contextmanager
def blas_threads(count: int) -> Iterator[None]:
    """Threads of every BLAS and OpenMP pool."""
    with threadpool_limits(limits=count):
        yield


def clock(threads: int) -> Callable[[], float]:
    """Process CPU time for one thread, which a busy machine disturbs little; wall for more."""
    return time.process_time if threads == 1 else time.perf_counter


def interleave(
    contestants: list[Contestant], threads: int, rounds: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Time all contestants in turn, ``rounds`` times over, after ``warm_up`` rounds not counted.

    Every second round runs them in reverse, so that none is always behind the same neighbour.
    Memory is touched before each, or a virtual machine's host would page it in while one is timed.
    """
    now = clock(threads)
    samples: dict[str, list[float]] = {c.name: [] for c in contestants}
    for r in range(-warm_up, rounds):
        for one in contestants if r % 2 == 0 else reversed(contestants):
            _touch()
            one.prepare()
            if threads > 1:
                time.sleep(_REST)
            with one.limit(threads):
                start = now()
                one.run()
                elapsed = now() - start
            if r >= 0:
                samples[one.name].append(elapsed)
    return samples


def _touch(count: int = 1 << 30) -> None:
    """Allocate, write and give back a gigabyte: the pages are there for whoever is next."""
    np.empty(count, np.uint8).fill(1)


def ratio(above: list[float], below: list[float]) -> float:
    """Return the median of the ratios of the rounds."""
    return median(a / b for a, b in zip(above, below, strict=True))


def check(condition: bool, message: str) -> None:
    """Stop the benchmark where an answer is wrong: a wrong answer has no speed."""
    if not condition:
        raise SystemExit(f"bench: wrong answer: {message}")


# ------------------------------------------------------------------------------------- floor


class Potrf:
    """LAPACK's potrf of SciPy's OpenBLAS: lower, in place, Fortran order."""

    def __init__(self, A: np.ndarray, dtype: Any = np.float64):
        from scipy.linalg import lapack

        self.call = lapack.dpotrf if np.dtype(dtype) == np.float64 else lapack.spotrf
        self.source = np.asfortranarray(A, dtype)
        self.work = np.empty_like(self.source, order="F")

    def prepare(self) -> None:
        np.copyto(self.work, self.source)

    def run(self) -> None:
        factor, info = self.call(self.work, lower=1, clean=0, overwrite_a=1)
        assert info == 0 and np.shares_memory(factor, self.work)


class Feedback:
    """The sgemm panels of the triangular feedback C += E U, panels of ``width`` columns.

    Right-looking: C[:, k1:] += E[:, k0:k1] U[k0:k1, k1:].  Left-looking:
    C[:, k0:k1] += E[:, :k0] U[:k0, k0:k1].  Everything is in Fortran order and U is stored panel
    by panel beforehand, so that nothing is copied.  The blocks on the diagonal, where rounding
    goes on, are not in the panels: ``flops`` is what is done, ``whole / flops`` scales to m n^2.
    ``gemm`` takes the arguments of SciPy's, which is the default.
    """

    def __init__(
        self,
        m: int,
        n: int,
        width: int,
        side: str,
        buffers: dict[str, Any],
        gemm: Callable[..., Any] | None = None,
    ):
        from scipy.linalg import blas

        self.gemm = gemm or blas.sgemm
        self.C, self.E = buffers["C"], buffers["E"]
        width = min(width, max(n // 2, 1))
        pieces = buffers["U"]  # flat: the panels reuse it
        self.steps = []
        at, self.flops, self.whole = 0, 0, m * n * n
        for k0 in range(0, n, width):
            k1 = min(k0 + width, n)
            rows, columns = (k1 - k0, n - k1) if side == "right" else (k0, k1 - k0)
            if rows == 0 or columns == 0:
                continue
            panel = pieces[at : at + rows * columns].reshape((rows, columns), order="F")
            at += rows * columns
            if side == "right":
                self.steps.append((self.E[:, k0:k1], panel, self.C[:, k1:]))
            else:
                self.steps.append((self.E[:, :k0], panel, self.C[:, k0:k1]))
            self.flops += 2 * m * rows * columns
        self.scale = self.whole / self.flops

    def run(self) -> None:
        for E, U, C in self.steps:
            self.gemm(1.0, E, U, beta=1.0, c=C, overwrite_c=1)


def feedback_buffers(m: int, n: int) -> dict[str, np.ndarray]:
    """Return what every variant of `Feedback` works on; small values, no denormals."""
    rng = np.random.default_rng(1)
    return {
        "C": np.asfortranarray(rng.standard_normal((m, n), np.float32)),
        "E": np.asfortranarray(rng.standard_normal((m, n), np.float32)),
        "U": rng.standard_normal(n * n // 2 + 1, np.float32) * np.float32(0.01),
    }


class Floor:
    """dpotrf(n) and the panels of the feedback of (m, n): the least one matrix can cost.

    Six variants of the panels are tried once; the two fastest take part in the rounds, and the
    one with the lower median there is the floor.
    """

    def __init__(self, m: int, n: int, H: np.ndarray, threads: int, quick: bool):
        self.m, self.n = m, n
        potrf = Potrf(H)
        buffers = feedback_buffers(m, n)
        variants = []
        for width in (64, 96) if quick else (256, 384, 512):
            for side in ("right", "left"):
                panels = Feedback(m, n, width, side, buffers)
                check(
                    all(np.shares_memory(c, buffers["C"]) for _, _, c in panels.steps),
                    "the panels of sgemm are copies",
                )
                name = f"sgemm {side} {width}"
                variants.append(Contestant(name, panels.run, blas_threads, scale=panels.scale))
        tried = interleave(variants, threads, 1)
        self.tried = {one.name: tried[one.name][0] * one.scale for one in variants}
        variants.sort(key=lambda one: self.tried[one.name])
        self.variants = variants[:2]
        potrf_part = Contestant("dpotrf", potrf.run, blas_threads, potrf.prepare)
        self.contestants = [potrf_part, *self.variants]

    def times(self, samples: dict[str, list[float]]) -> dict[str, Any]:
        """Return the floor of each round, and the rates behind it."""
        scaled = {one.name: [t * one.scale for t in samples[one.name]] for one in self.variants}
        best = min(scaled, key=lambda name: median(scaled[name]))
        scale = next(one.scale for one in self.variants if one.name == best)
        rounds = [a + b for a, b in zip(samples["dpotrf"], scaled[best], strict=True)]
        m, n = self.m, self.n
        return {
            "rounds": rounds,
            "median": median(rounds),
            "panels": best,
            "panels_median": median(scaled[best]),
            "panels_scaled_by": scale,
            "dpotrf_median": median(samples["dpotrf"]),
            "sgemm_gflops": m * n * n / median(scaled[best]) / 1e9,
            "dpotrf_gflops": n**3 / 3 / median(samples["dpotrf"]) / 1e9,
            "tried_once": self.tried,
        }


# ----------------------------------------------------------------------------------- results


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _features() -> list[str]:
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features()
    return [name for name in ("avx2", "fma", "avx512f", "amx-bf16", "neon") if features.get(name)]


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """Return versions, machine, commit and date."""
    from quiplinalg.kernels.record import select

    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    versions.setdefault("quiplinalg", ql.__version__)
    pools = [
        {key: pool.get(key) for key in ("internal_api", "version", "architecture", "prefix")}
        for pool in threadpool_info()
    ]
    changed = _git("status", "--porcelain", "--", "quiplinalg", "src", "setup.py")
    set_here = [
        name
        for name in os.environ
        if name.endswith("_NUM_THREADS") or name.startswith(("NUMBA_", "OPENBLAS_", "MKL_", "OMP_"))
    ]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(changed),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "features": _features(),
        "tiles_from": select().tiles_from.split(" (")[0],
        "versions": versions,
        "pools": pools,
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "environment_variables": sorted(set_here),
    }


class Report:
    """The results of one topic: rows of a table, and everything measured, as JSON."""

    def __init__(self, topic: str, title: str, columns: list[str], settings: Settings):
        self.topic, self.title, self.columns, self.settings = topic, title, columns, settings
        self.rows: list[list[str]] = []
        self.records: list[dict[str, Any]] = []
        self.notes: list[str] = []
        self.missed: list[str] = []
        self.where = environment()

    def add(self, cells: list[Any], record: dict[str, Any]) -> None:
        """Add a row of the table and the record behind it, and print the row."""
        row = [_cell(c) for c in cells]
        self.rows.append(row)
        self.records.append(record)
        pairs = zip(self.columns, row, strict=True)
        print("  " + "; ".join(f"{name} {cell}" for name, cell in pairs), flush=True)

    def verdict(self, value: float, limit: float | None, what: str) -> str:
        """Return "<= limit: yes" or "NO", and remember the misses."""
        if limit is None or self.settings.quick:
            return "–"
        kept = value <= limit
        if not kept:
            self.missed.append(f"{what}: {value:.4g}, limit {limit:g}")
        return f"≤ {limit:g}: {'yes' if kept else 'NO'}"

    def at_least(self, value: float, limit: float | None, what: str) -> str:
        """Return ">= limit: yes" or "NO", and remember the misses."""
        if limit is None or self.settings.quick:
            return "–"
        if value < limit:
            self.missed.append(f"{what}: {value:.4g}, at least {limit:g} wanted")
        return f"≥ {limit:g}: {'yes' if value >= limit else 'NO'}"

    def markdown(self, where: dict[str, Any]) -> str:
        commit = (where["commit"] or "unknown")[:12]
        commit += " with uncommitted changes" if where["uncommitted_changes"] else ""
        versions = ", ".join(f"{k} {v}" for k, v in where["versions"].items())
        features = ", ".join(where["features"])
        load = "" if where["load"] is None else f", load {where['load']:.1f} at the start"
        lines = [f"# {self.title}", ""]
        if self.settings.quick:
            lines += ["**Quick run at small sizes: shows that the suite works, no figures.**", ""]
        lines += [
            f"{where['date']}, commit {commit}, {where['cpu']} ({features}), "
            f"{where['cores']} cores{load}, Python {where['python']}; {versions}.",
            "",
            *_device(where.get("device")),
            "| " + " | ".join(self.columns) + " |",
            "|" + "---|" * len(self.columns),
            *("| " + " | ".join(row) + " |" for row in self.rows),
            "",
            *(f"{note}\n" for note in self.notes),
        ]
        if not self.settings.quick:
            missed = [f"* {miss}" for miss in self.missed]
            lines += ["Limits missed:", "", *missed] if missed else ["All limits are kept."]
        return "\n".join(lines).rstrip() + "\n"

    def write(self) -> None:
        """Write <topic>.json and <topic>.md, and print the table."""
        self.save()
        print(self.markdown(self.where))

    def save(self) -> None:
        """Write <topic>.json and <topic>.md, each moved in place whole."""
        where = self.where
        folder = self.settings.output
        folder.mkdir(parents=True, exist_ok=True)
        data = {
            "topic": self.topic,
            "title": self.title,
            "quick": self.settings.quick,
            "environment": where,
            "results": self.records,
            "notes": self.notes,
            "missed": self.missed,
        }
        text = json.dumps(data, indent=1, default=_plain) + "\n"
        for name, content in (("json", text), ("md", self.markdown(where))):
            part = folder / f".{self.topic}.{name}.part"
            part.write_text(content, encoding="utf-8")
            part.replace(folder / f"{self.topic}.{name}")


def _device(device: dict[str, Any] | None) -> list[str]:
    """Return the line that says what device was timed, where there is one."""
    if device is None:
        return []
    versions = ", ".join(f"{k} {v}" for k, v in device["versions"].items())
    return [
        f"Device: {device['name']}, compute capability {device['compute_capability']}, CUDA driver "
        f"{device['driver']}, runtime {device['runtime']}; {versions}.",
        "",
    ]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"not JSON: {type(value)}")
