"""The same codes for every number of threads and every block size."""

from __future__ import annotations

import numpy as np

import quiplinalg as ql
from bench.common import Report, Settings, check, conditioned, our_threads, weights

CONDITIONS = (1e2, 1e4, 1e6)
BLOCKS = (None, 64, 200, 1024)
THREADS = (1, 2)
COLUMNS = [
    "(m, n)", "bits", "order", "cond(H)", "runs", "codes that differ", "losses that differ",
    "limit", "rows near a tie", "codes unlike float64's", "rows unlike float64's",
]  # fmt: skip


def run(settings: Settings) -> Report:
    """Count the codes that depend on threads or block, undamped."""
    report = Report("determinism", "Codes for 1 and 2 threads and any block", COLUMNS, settings)
    m, n = (128, 256) if settings.quick else (1024, 2048)
    W = weights(m, n)
    for cond in CONDITIONS:
        H = conditioned(n, cond)
        for bits in (2, 4):
            for order in ("act", "natural"):
                _count(report, W, H, bits, order, cond)
    report.notes.append(
        f"Threads {THREADS} × blocks {BLOCKS}, no damping, float64 factor, min-max grid; each run "
        "is compared with one thread and the block left to the library. The float64 columns "
        "compare with feedback in float64 on the same grid: rows may differ from their first near "
        "tie on."
    )
    return report


def _count(
    report: Report, W: np.ndarray, H: np.ndarray, bits: int, order: str, cond: float
) -> None:
    grid = ql.minmax_grid(W, bits)

    def codes(threads: int, block: int | None) -> ql.Quantized:
        with our_threads(threads):
            return ql.ldlq(W, H, grid=grid, order=order, damp=0.0, block=block)

    first = codes(1, None)
    loss = ql.proxy_loss(first, W, H)
    check(abs(first.loss - loss) < 1e-3 * loss, f"loss {first.loss} is carried, {loss} is so")
    check(loss < first.nearest_loss(W, H), f"loss {loss} is not below nearest's")
    runs = differing = losses = 0
    for threads in THREADS:
        for block in BLOCKS:
            other = codes(threads, block)
            runs += 1
            differing += int((other.codes != first.codes).sum())
            losses += other.loss != first.loss
    wide = ql.ldlq(W.astype(np.float64), H, grid=grid, order=order, damp=0.0)
    unlike = wide.codes != first.codes
    m, n = W.shape
    what = f"codes that differ, {bits} bits, {order} order, cond(H) = {cond:.0e}"
    report.add(
        [
            f"({m}, {n})", bits, order, f"{cond:.0e}", runs, differing, losses,
            report.verdict(differing, 0, what), first.near_tie_rows, int(unlike.sum()),
            int(unlike.any(axis=1).sum()),
        ],
        {
            "shape": [m, n], "bits": bits, "order": order, "cond": cond, "runs": runs,
            "differing_codes": differing, "differing_losses": losses,
            "near_tie_rows": first.near_tie_rows, "unlike_float64": int(unlike.sum()),
            "unlike_float64_rows": int(unlike.any(axis=1).sum()), "loss": first.loss,
            "float64_loss": wide.loss,
        },
    )  # fmt: skip
