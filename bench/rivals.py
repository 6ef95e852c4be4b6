"""llm-compressor's GPTQ and the published GPTQ loop, in torch on the CPU, on the same grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import numpy as np
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.utils import calculate_qparams
from llmcompressor.modifiers.gptq.gptq_quantize import quantize_weight

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

BITS, DAMP, BLOCK = 4, 0.01, 128
LIMIT = 4.5  # llm-compressor's time over ours
ORDERS = {"natural": None, "act": "static"}
COLUMNS = [
    "(m, n)", "order", "threads", "rival", "rival s", "ldlq s", "times faster", "limit",
    "equal codes", "worst code, ours", "worst code, rival's", "loss, rival's / ours",
]  # fmt: skip


def run(settings: Settings) -> Report:
    """Time both rivals and `ldlq` on one min-max grid, 4 bits, one scale a row."""
    report = Report("rivals", "Against GPTQ in torch on the CPU", COLUMNS, settings)
    m = n = 256 if settings.quick else 4096
    W, H = weights(m, n), np.array(hessian(n))
    scale, zero = _their_grid(W)
    grid = ql.UniformGrid(scale.numpy(), zero.numpy().astype(np.float32) + 2 ** (BITS - 1), BITS)
    contestants: list[Contestant] = []
    answers: dict[tuple[str, str], dict[str, float]] = {}
    for order in ORDERS:
        ours = ql.ldlq(W, H, grid=grid, order=order, damp=DAMP)
        rivals = {
            "llmcompressor": _LLMCompressor(W, H, scale, zero, order),
            "gptq": _PublishedGPTQ(W, H, grid, order),
        }
        for name, rival in rivals.items():
            answers[name, order] = _compare(W, H, grid, order, ours, rival)
            contestants.append(
                Contestant(f"{name} {order}", rival.run, torch_threads, rival.prepare)
            )
        contestants.append(Contestant(f"ldlq {order}", _call(W, H, grid, order), our_threads))

    for threads in settings.threads:
        samples = interleave(contestants, threads, settings.rounds)
        for (name, order), answer in answers.items():
            theirs, times = samples[f"{name} {order}"], samples[f"ldlq {order}"]
            value = ratio(theirs, times)
            limit = LIMIT if name == "llmcompressor" else None
            what = f"times faster than {name}, {order} order, {threads} thread(s)"
            report.add(
                [
                    f"({m}, {n})", order, threads, name, median(theirs), median(times),
                    f"{value:.2f}", report.at_least(value, limit, what),
                    f"{answer['equal_codes']:.4%}", f"{answer['worst_of_ours']:.1e}",
                    f"{answer['worst_of_rival']:.1e}", f"{answer['loss_ratio']:.6f}",
                ],
                {
                    "shape": [m, n], "bits": BITS, "order": order, "threads": threads,
                    "rival": name, "rival_samples": theirs, "samples": times,
                    "times_faster": value, "limit": limit, **answer,
                },
            )  # fmt: skip
    report.notes.append(
        "All get the same float32 W and H, the min-max grid of llm-compressor's own definition, "
        f"damping {DAMP} of the mean diagonal. The rivals consume their arguments: the copies are "
        "made outside the timing. Worst code: how far, in steps of the grid, a target computed "
        "in float64 from a result's own codes lies beyond the rounding interval of its code; 0 "
        "is exact, a small number is a near tie that another precision rounds apart. A code that "
        "differs changes the targets after it in its row, so equal codes alone do not tell."
    )
    return report


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Threads of torch and of the pools under it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with blas_threads(count):
            yield
    finally:
        torch.set_num_threads(before)


def _arguments(order: str) -> QuantizationArgs:
    return QuantizationArgs(
        num_bits=BITS, type="int", symmetric=False, strategy="channel", actorder=ORDERS[order]
    )


def _their_grid(W: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.from_numpy(W)
    low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
    return calculate_qparams(low, high, _arguments("natural"))


def _call(W: np.ndarray, H: np.ndarray, grid: Any, order: str) -> Callable[[], Any]:
    return lambda: ql.ldlq(W, H, grid=grid, order=order, damp=DAMP)


class _LLMCompressor:
    """llmcompressor.modifiers.gptq.gptq_quantize.quantize_weight, a batch of one."""

    def __init__(
        self, W: np.ndarray, H: np.ndarray, scale: torch.Tensor, zero: torch.Tensor, order: str
    ):
        self.source = torch.from_numpy(W)[None], torch.from_numpy(H)[None]
        self.grid = scale[None], zero[None]
        self.arguments = _arguments(order)
        self.work: tuple[torch.Tensor, ...] = ()

    def prepare(self) -> None:
        self.work = tuple(x.clone() for x in self.source)

    def run(self) -> np.ndarray:
        with torch.no_grad():
            values, _, fallback = quantize_weight(
                *self.work, *self.grid, None, self.arguments, blocksize=BLOCK, percdamp=DAMP
            )
        check(not bool(fallback.any()), "llm-compressor fell back to nearest")
        return values[0].numpy()


class _PublishedGPTQ:
    """Algorithm 1 of the GPTQ paper: L^T of the Cholesky of H^-1, blocks of 128 columns."""

    def __init__(self, W: np.ndarray, H: np.ndarray, grid: Any, order: str):
        self.source = torch.from_numpy(W), torch.from_numpy(H)
        self.scale = torch.from_numpy(grid.scale[:, 0])
        self.zero = torch.from_numpy(grid.zero[:, 0])
        self.order = order
        self.work: tuple[torch.Tensor, ...] = ()

    def prepare(self) -> None:
        self.work = tuple(x.clone() for x in self.source)

    @torch.no_grad()
    def run(self) -> np.ndarray:
        W, H = self.work
        permutation = None
        if self.order == "act":
            permutation = torch.argsort(H.diagonal(), descending=True, stable=True)
            W, H = W[:, permutation], H[permutation][:, permutation]
        H.diagonal().add_(DAMP * H.diagonal().mean())
        # H = L L^T, H^-1 from L, H^-1 = R^T R with R upper triangular
        R = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True)
        Q = torch.empty_like(W)
        n = W.shape[1]
        for k0 in range(0, n, BLOCK):
            k1 = min(k0 + BLOCK, n)
            W1, R1 = W[:, k0:k1].clone(), R[k0:k1, k0:k1]
            E1 = torch.empty_like(W1)
            for k in range(k1 - k0):
                w = W1[:, k]
                codes = torch.round(w / self.scale).add_(self.zero).clamp_(0, 2**BITS - 1)
                q = (codes - self.zero) * self.scale
                e = (w - q) / R1[k, k]
                W1[:, k:] -= e[:, None] * R1[k, k:]
                Q[:, k0 + k], E1[:, k] = q, e
            W[:, k1:] -= E1 @ R[k0:k1, k1:]
        if permutation is not None:
            Q = Q[:, torch.argsort(permutation)]
        return Q.numpy()


def _compare(
    W: np.ndarray, H: np.ndarray, grid: Any, order: str, ours: Any, rival: Any
) -> dict[str, float]:
    """Check both results by the certificate, and compare codes and losses."""
    rival.prepare()
    values = rival.run()
    codes = np.rint(values / grid.scale) + grid.zero
    worst_of_ours = _beyond(W, H, grid, order, ours.codes)
    worst_of_rival = _beyond(W, H, grid, order, codes)
    loss, their_loss = ql.proxy_loss(ours, W, H), ql.proxy_loss(values, W, H)
    name = type(rival).__name__
    check(abs(ours.loss - loss) < 1e-3 * loss, f"loss {ours.loss} is carried, {loss} is so")
    check(loss < ours.nearest_loss(W, H), "ldlq is not better than nearest")
    check(worst_of_ours < 1e-4, f"our codes lie {worst_of_ours} steps off")
    check(worst_of_rival < 0.02, f"{name}: its codes lie {worst_of_rival} steps off")
    check(abs(their_loss / loss - 1) < 0.01, f"{name}: loss {their_loss}, ours {loss}")
    differ = codes != ours.codes
    return {
        "equal_codes": float(1 - differ.mean()),
        "rows_that_differ": int(differ.any(axis=1).sum()),
        "worst_of_ours": worst_of_ours,
        "worst_of_rival": worst_of_rival,
        "loss": loss,
        "loss_ratio": their_loss / loss,
        "near_tie_rows": ours.near_tie_rows,
    }


def _beyond(W: np.ndarray, H: np.ndarray, grid: Any, order: str, codes: np.ndarray) -> float:
    """Return how far, in steps, a target lies beyond its code's rounding interval, at most.

    The targets W + (W - W_hat) U in float64, U of the damped H in this order, from the codes
    themselves: the certificate of feedback rounding.
    """
    n = W.shape[1]
    columns = np.argsort(-H.diagonal(), kind="stable") if order == "act" else np.arange(n)
    factor = ql.udu(H.astype(np.float64)[np.ix_(columns, columns)], damp=DAMP)
    T = factor.T
    weight, code = W[:, columns].astype(np.float64), codes[:, columns].astype(np.float64)
    scale, zero = grid.scale.astype(np.float64), grid.zero.astype(np.float64)
    error = weight - scale * (code - zero)
    target = (weight + error @ T - error) / scale + zero
    beyond = target - code
    beyond[(code == 2**BITS - 1) & (beyond > 0)] = 0  # clipped: all that is beyond the end
    beyond[(code == 0) & (beyond < 0)] = 0
    return float(max(np.abs(beyond).max() - 0.5, 0.0))
