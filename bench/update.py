"""Updates of factors and inverses against factoring anew and against the traffic of memory."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import (
    Contestant,
    Potrf,
    Report,
    Settings,
    blas_threads,
    check,
    hessian,
    interleave,
    our_threads,
    ratio,
)

SIZES = (1024, 4096)
RANKS = (1, 16)
COLUMNS = ["n", "threads", "function", "k", "s", "over dpotrf", "over its memory floor", "floor s",
           "error / (n eps)"]  # fmt: skip


def run(settings: Settings) -> Report:
    """Time the updates in float64, where they lie in memory."""
    report = Report("update", "Updates of factors and inverses", COLUMNS, settings)
    for n in (128, 256) if settings.quick else SIZES:
        problem = _Problem(n)
        problem.check()
        for threads in settings.threads:
            _time(report, problem, threads)
    report.notes.append(
        "float64, the in-place forms, on a copy made outside the timing; factors in Fortran order. "
        "dpotrf: LAPACK's, in place. Memory floor of a factor: reading and writing its triangle "
        "once, at the rate of the copy; of an inverse: copying its n^2 elements. Sherman–Morrison "
        "has to read the inverse once more for the product with u. One matrix is updated by one "
        "thread, but for the inverse. Errors: of L L^T or L D L^T relative to ‖A‖₁; of an inverse, "
        "‖(B H − I) z‖∞ / ‖z‖∞ for a random z, over n eps too."
    )
    return report


class _Problem:
    """A of order n, its factors and inverse, vectors, and a work array of each."""

    def __init__(self, n: int):
        self.n = n
        self.A = hessian(n).astype(np.float64)
        rng = np.random.default_rng([1, n])
        scale = 0.1 * np.sqrt(self.A.diagonal().mean())
        self.X = {k: scale * rng.standard_normal((n, k)) / np.sqrt(k) for k in RANKS}
        self.L = ql.cholesky(self.A).L
        self.M, self.D = (f := ql.ldl(self.A)).L, f.D
        self.inverse = ql.ActiveInverse(self.A).inverse.copy()
        self.z = rng.standard_normal(n)
        self.work = np.empty((n, n), order="F")
        self.pivots = np.empty(n)
        self.row = n // 3

    def load(self, source: np.ndarray) -> Callable[[], None]:
        """Return what fills the work array."""

        def fill() -> None:
            np.copyto(self.work, source)
            np.copyto(self.pivots, self.D)

        return fill

    def contestants(self) -> dict[tuple[str, int], tuple[Callable[[], Any], np.ndarray]]:
        """(function, k) -> what runs it, and what the work array holds before."""
        calls: dict[tuple[str, int], tuple[Callable[[], Any], np.ndarray]] = {}
        for k in RANKS:
            X = self.X[k]
            more = ql.cholesky_update(self.L, X)
            calls["cholesky_update", k] = (self._call(ql.cholesky_update_into, X), self.L)
            calls["cholesky_downdate", k] = (self._call(ql.cholesky_downdate_into, X), more)
            calls["ldl_update", k] = (self._ldl(X, 1.0), self.M)
            calls["ldl_downdate", k] = (self._ldl(X, -1e-4), self.M)
            calls["woodbury", k] = (self._call(ql.woodbury_into, X), self.inverse)
            rows = np.arange(self.row, self.row + k)
            calls["inverse_remove", k] = (self._call(ql.inverse_remove_into, rows), self.inverse)
        calls["cholesky_delete", 1] = (self._call(ql.cholesky_delete_into, self.row), self.L)
        return calls

    def _call(self, function: Callable[..., Any], argument: Any) -> Callable[[], Any]:
        return lambda: function(self.work, argument)

    def _ldl(self, X: np.ndarray, sigma: float) -> Callable[[], Any]:
        return lambda: ql.ldl_update_into(self.work, self.pivots, X, sigma)

    def check(self) -> None:
        """Stop where an answer is wrong, before anything is timed."""
        self.errors: dict[tuple[str, int], float] = {}
        n, A, z = self.n, self.A, self.z
        unit = n * float(np.finfo(np.float64).eps)
        F = np.delete(np.arange(n), self.row)
        for (name, k), (run, source) in self.contestants().items():
            self.load(source)()
            out = run()
            X = self.X[k]
            if name in ("woodbury", "inverse_remove"):
                left = np.delete(np.arange(n), np.arange(self.row, self.row + k))
                v = z[left] if name == "inverse_remove" else z
                image = A[np.ix_(left, left)] @ v if name == "inverse_remove" else None
                image = A @ z + X @ (X.T @ z) if image is None else image
                error = float(np.abs(out @ image - v).max() / np.abs(v).max()) / unit
                limit = 1e4  # cond(H) is about this
            else:
                L = np.tril(out[0] if name.startswith("ldl") else out)
                made = (L * self.pivots if name.startswith("ldl") else L) @ L.T
                added = {"cholesky_update": 1.0, "ldl_update": 1.0, "ldl_downdate": -1e-4}
                exact = A + added.get(name, 0.0) * (X @ X.T)
                exact = exact[np.ix_(F, F)] if name == "cholesky_delete" else exact
                error = float(np.abs(made - exact).sum(0).max() / np.abs(exact).sum(0).max()) / unit
                limit = 1.0
            check(error <= limit, f"{name} k={k} n={n}: error {error} n eps")
            self.errors[name, k] = error


def _time(report: Report, problem: _Problem, threads: int) -> None:
    n = problem.n
    potrf = Potrf(problem.A)
    target = np.empty((n, n))
    source = problem.inverse
    everything = [
        Contestant("dpotrf", potrf.run, blas_threads, potrf.prepare),
        Contestant("copy", lambda: np.copyto(target, source), our_threads),
    ]
    calls = problem.contestants()
    for (name, k), (run, before) in calls.items():
        everything.append(Contestant(f"{name} {k}", run, our_threads, problem.load(before)))
    rounds = report.settings.rounds * (3 if n == SIZES[0] else 1)
    samples = interleave(everything, threads, rounds, warm_up=2)
    for name, k in calls:
        times = samples[f"{name} {k}"]
        inverse = name in ("woodbury", "inverse_remove")
        share = 1.0 if inverse else (n + 1) / (2 * n)
        floor = [t * share for t in samples["copy"]]
        over, above = ratio(times, samples["dpotrf"]), ratio(times, floor)
        report.add(
            [
                n, threads, name, k, median(times), f"{over:.4f}", f"{above:.2f}", median(floor),
                problem.errors[name, k],
            ],
            {
                "n": n, "threads": threads, "function": name, "k": k, "samples": times,
                "dpotrf_samples": samples["dpotrf"], "copy_samples": samples["copy"],
                "over_dpotrf": over, "over_memory_floor": above, "floor_share_of_copy": share,
                "error_over_n_eps": problem.errors[name, k],
            },
        )  # fmt: skip
