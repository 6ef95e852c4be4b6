"""Accumulating second moments against BLAS's syrk, and syrk with an addition in float64."""

from __future__ import annotations

from collections.abc import Callable
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
)
from quiplinalg.hessian.tokens import CHUNK

SIZES = ((1024, 8192), (4096, 8192))  # n, tokens
LIMITS = {"float64": 1 / 0.7, "float32": 1 / 0.5}  # of the time, at the largest size
BATCH = 100  # tokens of a small batch
COLUMNS = ["n", "tokens", "dtype", "threads", "batches", "s", "rival", "s of that", "ratio",
           "limit", "GF/s", "error / bound"]  # fmt: skip


class Rival:
    """Chunks of the same tokens through syrk: float64 in place, float32 then added to float64."""

    def __init__(self, X: np.ndarray):
        from scipy.linalg import blas

        n = X.shape[1]
        self.X = X
        self.wide = X.dtype == np.float64
        self.syrk = blas.dsyrk if self.wide else blas.ssyrk
        self.work = np.zeros((n, n), X.dtype, order="F")
        self.total = self.work if self.wide else np.zeros((n, n))
        self.name = "dsyrk" if self.wide else "ssyrk + add"

    def prepare(self) -> None:
        self.total[...] = 0

    def run(self) -> None:
        if self.wide:
            self.syrk(1.0, self.X.T, beta=1.0, c=self.work, overwrite_c=1, lower=1)
            return
        size = CHUNK[self.X.dtype]
        for i in range(0, len(self.X), size):
            chunk = self.X[i : i + size].T
            self.syrk(1.0, chunk, beta=0.0, c=self.work, overwrite_c=1, lower=1)
            np.add(self.total, self.work.T, out=self.total)

    def lower(self) -> np.ndarray:
        return np.tril(self.total if self.wide else self.total.T)


def run(settings: Settings) -> Report:
    """Time `Hessian.add` in float64 and float32, in one batch and in many small ones."""
    report = Report("hessian", "Accumulating second moments against syrk", COLUMNS, settings)
    sizes = ((96, 1500), (256, 1500)) if settings.quick else SIZES
    for n, tokens in sizes:
        for dtype in (np.float64, np.float32):
            rng = np.random.default_rng([0, n])
            X = rng.standard_normal((tokens, n), np.float32).astype(dtype)
            rival = Rival(X)
            error = _check(X, rival)
            for threads in settings.threads:
                _time(report, X, rival, threads, error, n == sizes[-1][0])
    report.notes.append(
        "Ours includes the check for NaN and infinity, the copy into chunks and the zeroed sum; "
        "the rival's arrays are there before. dsyrk takes all tokens in one call; ssyrk the same "
        f"chunks of {CHUNK[np.dtype(np.float32)]} tokens as ours, each added by NumPy to a float64 "
        f"matrix. Small batches have {BATCH} tokens each. GF/s counts n² tokens flops. The bound "
        "of the error is that of the docstring, against products in float64 for float32 (for "
        "float64: against dsyrk)."
    )
    return report


def _accumulate(X: np.ndarray, batch: int) -> ql.Hessian:
    H = ql.Hessian(X.shape[1])
    for i in range(0, len(X), batch):
        H.add(X[i : i + batch])
    return H


def _check(X: np.ndarray, rival: Rival) -> float:
    """Compare with float64 products, and with the rival; return the error over its bound."""
    tokens, n = X.shape
    whole = _accumulate(X, tokens).sum()
    check(bool((whole == _accumulate(X, BATCH).sum()).all()), f"n={n}: batches change the sum")
    wide = X.astype(np.float64)
    exact = wide.T @ wide
    sizes = np.abs(wide).T @ np.abs(wide)
    narrow = X.dtype == np.float32
    unit = 514 * 2.0**-24 if narrow else 2 * (tokens + 2) * 2.0**-53
    error = float((np.abs(whole - exact) / (unit * sizes)).max())
    check(error <= 1, f"n={n} {X.dtype}: error {error} of its bound")
    rival.prepare()
    rival.run()
    apart = float((np.abs(np.tril(whole) - rival.lower()) / (2 * unit * sizes)).max())
    check(apart <= 1, f"n={n} {X.dtype}: {rival.name} differs, {apart} of the bound")
    return error


def _time(
    report: Report, X: np.ndarray, rival: Rival, threads: int, error: float, limited: bool
) -> None:
    tokens, n = X.shape
    kind = X.dtype.name
    ways: dict[str, Callable[[], Any]] = {
        "one": lambda: _accumulate(X, tokens),
        "small": lambda: _accumulate(X, BATCH),
    }
    contestants = [Contestant(rival.name, rival.run, blas_threads, rival.prepare)]
    contestants += [Contestant(name, way, our_threads) for name, way in ways.items()]
    samples = interleave(contestants, threads, report.settings.rounds)
    for name in ways:
        value = ratio(samples[name], samples[rival.name])
        limit = LIMITS[kind] if limited and name == "one" else None
        what = f"Hessian.add {kind} n={n}, {threads} thread(s)"
        seconds = median(samples[name])
        report.add(
            [
                n, tokens, kind, threads, name, seconds, rival.name, median(samples[rival.name]),
                f"{value:.3f}", report.verdict(value, limit, what),
                n * n * tokens / seconds / 1e9, error,
            ],
            {
                "n": n, "tokens": tokens, "dtype": kind, "threads": threads, "batches": name,
                "median": seconds, "samples": samples[name], "rival": rival.name,
                "rival_samples": samples[rival.name], "ratio": value, "limit": limit,
                "error_over_bound": error,
            },
        )  # fmt: skip
