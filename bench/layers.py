"""The layers on which methods are compared: synthetic ones, and the demo's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

import quiplinalg as ql

__all__ = ["Layer", "demo", "draw", "synthetic"]

Layer = tuple[np.ndarray, np.ndarray]


def synthetic(outlier: bool) -> Iterator[Layer]:
    """Yield three heavy-tailed W (256, 512), RMS 1, each with its power-law H."""
    for seed in range(3):
        W, H = draw(np.random.default_rng(100 + seed), 256, 512, outlier)
        yield W / np.sqrt((W**2).mean()), H


def draw(rng: np.random.Generator, m: int, n: int, outlier: bool) -> Layer:
    """Draw W, (m, n), and H.

    H has eigenvalues k^-1.2 in a Haar basis, mean diagonal 1, plus 1e-3 I; with ``outlier`` its
    channels are scaled by log-normal factors, 1 % of them by 8 more; plus 1e-2 I.  W is Student t
    with 5 degrees of freedom, log-normal row and column scales.
    """
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    H = (Q * np.arange(1, n + 1) ** -1.2) @ Q.T
    H = H / H.diagonal().mean() + 1e-3 * np.eye(n)
    if outlier:
        s = np.exp(0.5 * rng.standard_normal(n))
        s[rng.choice(n, n // 100 + 1, replace=False)] *= 8
        H = s[:, None] * H * s
        H /= H.diagonal().mean()
    H = (H + H.T) / 2 + 1e-2 * np.eye(n)
    W = rng.standard_t(5, (m, n)) * np.exp(0.3 * rng.standard_normal((m, 1)))
    return W * np.exp(0.3 * rng.standard_normal(n)), H


def demo() -> Iterator[Layer]:
    """Yield the three layers of the digits network."""
    with ql.open_problem(Path(ql.__file__).parent / "data" / "digits.h5") as problem:
        for name in problem.names:
            yield problem.weight(name), problem.hessian(name)
