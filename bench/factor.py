"""cholesky, ldl and udu against LAPACK's potrf; the min-pivot factor against our plain one."""

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
from quiplinalg.factor.orders import factor_in_order
from quiplinalg.kernels.record import select

SIZES = (1024, 2048, 4096)
LIMITS = {"cholesky": 1.1, "udu": 1.2, "min-pivot": 2.0}  # float64 at the largest size
COLUMNS = ["n", "dtype", "threads", "function", "s", "over", "s of that", "ratio", "limit",
           "GF/s of that", "backward error / (n eps)"]  # fmt: skip
FUNCTIONS: dict[str, Callable[[np.ndarray], Any]] = {
    "cholesky": ql.cholesky,
    "udu": ql.udu,
    "ldl": ql.ldl,
}


def run(settings: Settings) -> Report:
    """Time the factorisations in float64 and float32."""
    report = Report("factor", "Factorisations against LAPACK's potrf", COLUMNS, settings)
    sizes = (128, 256) if settings.quick else SIZES
    for n in sizes:
        for dtype in (np.float64, np.float32):
            A = hessian(n).astype(dtype)
            errors = {name: _backward_error(A, factor(A)) for name, factor in FUNCTIONS.items()}
            if dtype == np.float64:
                errors["min-pivot"] = _min_pivot_error(A)
            for name, error in errors.items():
                check(error < 1, f"{name} n={n} {A.dtype}: backward error {error} n eps")
            for threads in settings.threads:
                _time(report, A, threads, errors, n == sizes[-1] and dtype == np.float64)
    report.notes.append(
        "Ours includes the check of both triangles and the copy; potrf works in place on a copy "
        "made outside the timing. Backward error: ‖reconstruct − A‖₁ / ‖A‖₁. min-pivot is what "
        'ldlq(order="min-pivot") factors with, over what order="natural" does: both copy, neither '
        "checks."
    )
    return report


def _backward_error(A: np.ndarray, factor: Any) -> float:
    """Return ||reconstruct() - A||_1 / (n eps ||A||_1)."""
    return _distance(factor.reconstruct().astype(np.float64), A)


def _min_pivot_error(A: np.ndarray) -> float:
    R, order = _in_order(A, "min-pivot")
    return _distance((R.T @ R)[::-1, ::-1], A[np.ix_(order, order)])


def _in_order(A: np.ndarray, order: str) -> tuple[np.ndarray, np.ndarray]:
    return factor_in_order(A, order, np.zeros(A.shape[0]), select("cpu"))


def _distance(product: np.ndarray, A: np.ndarray) -> float:
    wide = A.astype(np.float64)
    difference = product - wide
    norm = np.abs(wide).sum(axis=0).max()
    bound = A.shape[0] * float(np.finfo(A.dtype).eps) * norm
    return float(np.abs(difference).sum(axis=0).max() / bound)


def _time(
    report: Report, A: np.ndarray, threads: int, errors: dict[str, float], limited: bool
) -> None:
    n, kind = A.shape[0], A.dtype.name
    potrf = Potrf(A, A.dtype)
    contestants = [Contestant("potrf", potrf.run, blas_threads, potrf.prepare)]
    for name, factor in FUNCTIONS.items():
        contestants.append(Contestant(name, lambda f=factor: f(A), our_threads))
    if "min-pivot" in errors:
        for name, order in (("plain", "natural"), ("min-pivot", "min-pivot")):
            contestants.append(Contestant(name, lambda o=order: _in_order(A, o), our_threads))
    rounds = 3 * report.settings.rounds  # short runs on a shared machine scatter
    samples = interleave(contestants, threads, rounds, warm_up=2)
    for name in errors:
        over = "plain" if name == "min-pivot" else "potrf"
        below = samples[over]
        value = ratio(samples[name], below)
        limit = LIMITS.get(name) if limited else None
        what = f"{name} {kind} n={n}, {threads} thread(s)"
        report.add(
            [
                n, kind, threads, name, median(samples[name]), over, median(below), f"{value:.3f}",
                report.verdict(value, limit, what), n**3 / 3 / median(below) / 1e9, errors[name],
            ],
            {
                "n": n, "dtype": kind, "threads": threads, "function": name,
                "median": median(samples[name]), "samples": samples[name],
                "over": over, "below_samples": below, "ratio": value, "limit": limit,
                "backward_error_over_n_eps": errors[name],
            },
        )  # fmt: skip
