"""OBQ in greedy order, against a batched implementation in torch and against its floors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch

import quiplinalg as ql
from bench.common import (
    Contestant,
    Report,
    Settings,
    blas_threads,
    check,
    hessian,
    interleave,
    our_threads,
    ratio,
    weights,
)
from quiplinalg.parallel import run_all

# (m, n), rounds with the rival (None: as asked for; 0: without it), has a limit
SHAPES = (
    ((64, 256), None, False),
    ((64, 512), 3, False),
    ((64, 768), 1, True),
    ((4, 4096), 0, False),
)
QUICK = (((16, 96), None, False), ((4, 256), 0, False))
BITS, DAMP = 3, 0.01
UPDATES = ("torch", "torch in place")
LIMIT = 60  # the rival's time over ours
BLOCK = 64  # steps between two updates of the inverse, for the floor of the traffic
_REPEAT = 3  # calls of ours in one sample, where the rival takes long
_CHUNK_BYTES = 2 << 30  # of the rival's batch of inverses
COLUMNS = [
    "(m, n)", "threads", "obq s", "torch s", "times faster", "limit", "torch in place s",
    "times faster ", "flop floor s", "over it", "traffic floor s", "over it ", "dgemm GF/s",
    "copy GB/s", "equal rows", "loss, torch's / ours",
]  # fmt: skip


def run(settings: Settings) -> Report:
    """Time `obq` with a grid that is given, 3 bits, one scale a row."""
    report = Report("obq", "Greedy OBQ against batched torch and its floors", COLUMNS, settings)
    for (m, n), rounds, limited in QUICK if settings.quick else SHAPES:
        W, H = weights(m, n), hessian(n)
        grid = ql.mse_grid(W, BITS)
        rivals = {} if rounds == 0 else {name: _Batched(W, H, grid, name) for name in UPDATES}
        answer = _checked(W, H, grid, rivals)
        for threads in settings.threads:
            _time(report, W, H, grid, rivals, rounds or settings.rounds, threads, limited, answer)
    report.notes.append(
        "obq: H, damping, inverse, eliminations and loss; the grid is found before. torch: "
        "algorithm 3 of OBC from its equations, all rows at once: argmin over each row, then a "
        "rank-1 update of an (m, n, n) batch of inverses at every step, as in the published code: "
        "the batch less a batch of outer products, in float32; the inverse before in float64. "
        "torch in place: the same with baddbmm_, which makes no such batch. All their steps are "
        "done. Flop floor: "
        "m n³ / 3 flops (the lower triangle of what is left) at the rate of dgemm of the same run "
        f"and threads. Traffic floor: that triangle read and written every {BLOCK} steps, "
        f"8 n³ / (3 · {BLOCK}) bytes a row, and 8 n² to fill it, at the rate of copying 64 MB "
        "with as many threads; a triangle that fits a cache is faster. Equal rows: rows whose "
        "codes are all equal, the rival in float64 where it could be run so (n <= 256), else "
        "float32, where choices part. One thread: process CPU time; more: wall."
    )
    return report


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    """Threads of torch and of the pools under it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with blas_threads(count):
            yield
    finally:
        torch.set_num_threads(before)


class _Batched:
    """Greedy OBQ of all rows at once, each with its own copy of the inverse of the damped H."""

    def __init__(
        self, W: np.ndarray, H: np.ndarray, grid: Any, update: str, dtype: Any = torch.float32
    ):
        self.in_place = update == "torch in place"
        self.W, self.H = torch.from_numpy(W).to(dtype), torch.from_numpy(np.array(H)).double()
        self.scale = torch.from_numpy(grid.scale).to(dtype)
        self.zero = torch.from_numpy(grid.zero).to(dtype)
        self.top = float(grid.maxq)

    @torch.no_grad()
    def run(self) -> np.ndarray:
        H = self.H.clone()
        H.diagonal().add_(DAMP * H.diagonal().mean())
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(H)).to(self.W.dtype)
        m, n = self.W.shape
        step = max(1, _CHUNK_BYTES // (n * n * inverse.element_size()))
        parts = [self._rows(slice(i, i + step), inverse) for i in range(0, m, step)]
        return torch.cat(parts).numpy()

    def _rows(self, rows: slice, inverse: torch.Tensor) -> torch.Tensor:
        w, scale, zero = self.W[rows].clone(), self.scale[rows], self.zero[rows]
        m, n = w.shape
        X = inverse.expand(m, n, n).clone()
        at = torch.arange(m)
        done = torch.zeros(m, n, dtype=torch.bool)
        codes = torch.zeros(m, n, dtype=w.dtype)
        for _ in range(n):
            # q = argmin over F of e^2 / X_qq
            code = (torch.round(w / scale) + zero).clamp_(0, self.top)
            e = w - scale * (code - zero)
            diagonal = X.diagonal(dim1=1, dim2=2)
            q = (e * e / diagonal).masked_fill_(done, torch.inf).argmin(1)
            column, pivot = X[at, q], diagonal[at, q]
            codes[at, q] = code[at, q]
            done[at, q] = True
            # w -= (e / X_qq) X_:q, X -= X_:q X_q: / X_qq
            w -= (e[at, q] / pivot)[:, None] * column
            column = column * pivot.rsqrt()[:, None]
            if self.in_place:
                X.baddbmm_(column[:, :, None], column[:, None, :], alpha=-1)
            else:
                X -= torch.bmm(column[:, :, None], column[:, None, :])
            X[at, q, q] = 1  # what is left of a row that is done: no division by zero
        return codes


def _call(W: np.ndarray, H: np.ndarray, grid: Any) -> Callable[[], Any]:
    return lambda: ql.obq(W, H, grid=grid, damp=DAMP)


def _checked(
    W: np.ndarray, H: np.ndarray, grid: Any, rivals: dict[str, _Batched]
) -> dict[str, Any]:
    """Check our result and the rivals', and compare codes and losses."""
    trace = ql.obq_trace(W, H, grid=grid, damp=DAMP)
    ours = trace.quantized
    E = np.asarray(ours, np.float64) - W
    loss = ql.proxy_loss(np.asarray(ours, np.float64), W, H)
    check(abs(ours.loss - loss) < 1e-9 * loss, f"loss {ours.loss} is carried, {loss} is so")
    check(loss < ours.nearest_loss(W, H), "obq is not better than nearest")
    whole = loss + ours.damp * float(np.square(E).sum())
    check(abs(trace.costs.sum() - whole) < 1e-9 * whole, "the costs do not add up to the loss")
    answer = {"loss": loss, "near_tie_rows": ours.near_tie_rows, "trace_D": ours.trace_D}
    if not rivals:
        return answer
    small = W.shape[1] <= 256  # the same choices, with as many digits as ours; else one is enough
    codes = rivals["torch in place"].run()
    for name in UPDATES if small else ():
        codes = _Batched(W, H, grid, name, torch.float64).run()
        differ = int((codes != ours.codes).any(axis=1).sum())
        check(differ <= W.shape[0] // 16, f"{differ} rows differ from those of {name} in float64")
    theirs = ql.proxy_loss(grid.scale * (codes - grid.zero), W, H)
    check(abs(theirs / loss - 1) < 0.03, f"torch's loss is {theirs}, ours {loss}")
    equal = float((codes == ours.codes).all(axis=1).mean())
    return {**answer, "equal_rows": equal, "loss_ratio": theirs / loss}


def _floors(threads: int, quick: bool) -> tuple[list[Contestant], float, float]:
    """Return dgemm and a copy to be timed, and the flops and bytes of a sample of each."""
    from scipy.linalg import blas

    size, count = (128, 1 << 16) if quick else (1536, 1 << 23)
    A, B = (np.asfortranarray(np.random.default_rng(i).random((size, size))) for i in (0, 1))
    C = np.zeros((size, size), order="F")
    source, target = np.ones(count), np.zeros(count)
    edges = [count * i // threads for i in range(threads + 1)]

    def copy() -> None:
        run_all(lambda i, j: np.copyto(target[i:j], source[i:j]), list(pairwise(edges)))

    contestants = [
        Contestant(
            "dgemm", lambda: blas.dgemm(1.0, A, B, beta=0.0, c=C, overwrite_c=1), blas_threads
        ),
        Contestant("copy", copy, our_threads),
    ]
    return contestants, 2.0 * size**3, 16.0 * count


def _time(
    report: Report,
    W: np.ndarray,
    H: np.ndarray,
    grid: Any,
    rivals: dict[str, _Batched],
    rounds: int,
    threads: int,
    limited: bool,
    answer: dict[str, Any],
) -> None:
    m, n = W.shape
    floors, flops, traffic = _floors(threads, report.settings.quick)
    call = _call(W, H, grid)
    few = rounds < report.settings.rounds and bool(rivals)
    repeat = _REPEAT if few else 1
    ours = Contestant("obq", lambda: [call() for _ in range(repeat)], our_threads)
    theirs = [Contestant(name, rival.run, _torch_threads) for name, rival in rivals.items()]
    # where the rivals take long, what warms up is the check of the answers
    for one in (*floors, ours) if few else ():
        one.run()
    samples = interleave([*floors, ours, *theirs], threads, rounds, warm_up=0 if few else 1)
    times = [t / repeat for t in samples["obq"]]
    rate, bandwidth = flops / median(samples["dgemm"]), traffic / median(samples["copy"])
    flop_floor = m * n**3 / 3 / rate
    traffic_floor = m * (8 * n**3 / (3 * BLOCK) + 8 * n * n) / bandwidth
    faster = {name: ratio(samples[name], times) for name in rivals}
    verdict, cells = "–", ["–"] * 4
    if rivals:
        what = f"times faster than torch, ({m}, {n}), {threads} thread(s)"
        verdict = report.at_least(faster["torch"], LIMIT if limited else None, what)
        cells = [f"{x:.4g}" for name in rivals for x in (median(samples[name]), faster[name])]
    report.add(
        [
            f"({m}, {n})", threads, median(times), *cells[:2], verdict, *cells[2:], flop_floor,
            f"{median(times) / flop_floor:.2f}", traffic_floor,
            f"{median(times) / traffic_floor:.2f}", rate / 1e9, bandwidth / 1e9,
            f"{answer['equal_rows']:.0%}" if rivals else "–",
            f"{answer['loss_ratio']:.6f}" if rivals else "–",
        ],
        {
            "shape": [m, n], "bits": BITS, "threads": threads, "samples": samples,
            "calls_in_a_sample_of_obq": repeat, "median": median(times), "times_faster": faster,
            "limit": LIMIT if limited else None, "flop_floor": flop_floor,
            "traffic_floor": traffic_floor, "dgemm_gflops": rate / 1e9,
            "copy_gbytes": bandwidth / 1e9, "answer": answer,
        },
    )  # fmt: skip
