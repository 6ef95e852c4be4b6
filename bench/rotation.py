"""Rotations against a copy of the matrix, and against the products their factors need."""

from __future__ import annotations

from functools import partial
from statistics import median
from typing import Any

import numpy as np

import quiplinalg as ql
from bench.common import (
    Contestant,
    Report,
    Settings,
    blas_threads,
    check,
    interleave,
    our_threads,
    ratio,
    weights,
)

SIZES = ((4096, 4096), (2048, 11008))  # of W, rotated on the right
CONJUGATED = (4096, 11008)  # orders of H
COPIES = {  # most multiples of copying the matrix, by what is done, kind and n
    ("apply", "hadamard", 4096): 4.0,
    ("apply", "hadamard", 11008): 6.0,
    ("conjugate", "hadamard", 4096): 8.0,
    ("apply", "kronecker", 4096): 5.0,
    ("apply", "kronecker", 11008): 7.0,
    ("conjugate", "kronecker", 4096): 10.0,
}
FLOOR = 1.3  # most multiples of (copy + sgemm of the factors' flops): Kronecker, every size
MAKERS = {"hadamard": ql.hadamard_orthogonal, "kronecker": ql.kronecker_orthogonal}
COLUMNS = ["matrix", "call", "rotation", "threads", "s", "copy s", "over copy", "over floor",
           "limit"]  # fmt: skip
_GEMM = 1024  # order of the sgemm whose rate counts


def run(settings: Settings) -> Report:
    """Time `apply`, `apply_transposed` and `conjugate` in float32."""
    report = Report("rotation", "Rotations against a copy", COLUMNS, settings)
    for m, n in ((256, 256), (128, 688)) if settings.quick else SIZES:
        W = weights(m, n)
        for kind, make in MAKERS.items():
            V, U = make(n, 0), make(m, 0)
            _check_apply(V, W)
            calls = {
                "apply": (V, partial(V.apply, W)),
                "apply_transposed": (V, partial(V.apply_transposed, W)),
                "apply, left": (U, partial(U.apply, W, side="left")),
            }
            for threads in settings.threads:
                _time(report, W, kind, calls, threads)
    for n in (256,) if settings.quick else CONJUGATED:
        X = weights(64, n)
        H = X.T @ X
        for kind, make in MAKERS.items():
            V = make(n, 0)
            _check_conjugate(V, H, X)
            for threads in settings.threads:
                _time(report, H, kind, {"conjugate": (V, partial(V.conjugate, H))}, threads)
    report.notes += [
        "copy: np.copyto into an array that is there already; ours allocates its result, a fresh "
        "one each time. floor: that copy, and sgemm at the same threads with the flops of the "
        "dense factors (twice for conjugate); a Hadamard rotation has few, so its floor is the "
        "copy.",
        "Limits count copies, and floors where there are dense factors: on a machine where copying "
        "is fast and sgemm is not, the floor of 64 x 64 alone is more than 5 copies.",
    ]
    return report


def _check_apply(V: Any, W: np.ndarray) -> None:
    """Q^T Q x = x, and norms stay, to rounding."""
    turned = V.apply(W)
    norms = [np.linalg.norm(A.astype(np.float64), axis=1) for A in (W, turned)]
    check(bool(np.allclose(*norms, rtol=1e-5)), f"{V}: norms of rows change")
    error = float(np.abs(V.apply_transposed(turned) - W).max() / norms[0].max())
    check(error < 1e-5, f"{V}: undone with an error of {error}")
    spread = float(np.abs(turned - W).max())
    check(spread > 0, f"{V}: nothing was rotated")


def _check_conjugate(V: Any, H: np.ndarray, X: np.ndarray) -> None:
    """Q H Q^T is the Gram matrix of the rotated X, and symmetric to the last bit."""
    turned, Y = V.conjugate(H), V.apply(X)
    check(bool((turned[:64] == turned[:, :64].T).all()), f"{V}: not symmetric")
    error = float(np.abs(turned[:64] - Y[:, :64].T @ Y).max() / np.abs(turned[:64]).max())
    check(error < 1e-4, f"{V}: conjugated with an error of {error}")


def _time(
    report: Report, A: np.ndarray, kind: str, calls: dict[str, tuple[Any, Any]], threads: int
) -> None:
    target = np.ones_like(A)
    rng = np.random.default_rng(0)
    left, right = (rng.standard_normal((_GEMM, _GEMM), np.float32) for _ in range(2))
    product = np.empty_like(left)
    contestants = [
        Contestant("copy", partial(np.copyto, target, A), our_threads),
        Contestant("sgemm", partial(np.matmul, left, right, out=product), blas_threads),
    ]
    contestants += [Contestant(name, call, our_threads) for name, (_, call) in calls.items()]
    rounds = report.settings.rounds * (1 if report.settings.quick or A.size > 1 << 26 else 3)
    samples = interleave(contestants, threads, rounds, warm_up=2)
    m, n = A.shape
    for name, (V, _) in calls.items():
        sizes = sum(sum(w.sizes) * w.length for w in V.windows) / V.n
        passes = 2 if name == "conjugate" else 1
        flops = 2.0 * m * n * sizes * passes if kind == "kronecker" else 0.0
        scale = flops / (2.0 * _GEMM**3)
        pairs = zip(samples["copy"], samples["sgemm"], strict=True)
        floor = [copy + scale * gemm for copy, gemm in pairs]
        copies, floors = ratio(samples[name], samples["copy"]), ratio(samples[name], floor)
        what = f"{name}, {kind}, ({m}, {n}), {threads} thread(s)"
        verdict = report.verdict(copies, COPIES.get((name, kind, n)), what + ", over copy")
        if kind == "kronecker" and name in ("apply", "conjugate"):
            verdict += ", floor " + report.verdict(floors, FLOOR, what + ", over floor")
        report.add(
            [f"{m} x {n}", name, repr(V).split(": ")[-1].rstrip(")"), threads,
             median(samples[name]), median(samples["copy"]), f"{copies:.2f}", f"{floors:.2f}",
             verdict],
            {
                "m": m, "n": n, "call": name, "kind": kind, "rotation": repr(V),
                "threads": threads, "median": median(samples[name]), "samples": samples[name],
                "copy_samples": samples["copy"], "sgemm_samples": samples["sgemm"],
                "sgemm_order": _GEMM, "flops": flops, "over_copy": copies, "over_floor": floors,
            },
        )  # fmt: skip
