"""Problems for tests: builders from seeds, and hypothesis strategies over them.

A strategy draws sizes, kinds and a seed, and builds with ``np.random.default_rng(seed)``; so a
failing example shrinks in its sizes and is repeated from the few integers in its repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

HESSIANS = ("well", "power", "lowrank", "outlier", "diagonal")
WEIGHTS = ("uniform", "normal", "heavy", "outlier")
ORDERS = ("natural", "reversed", "act", "random")


@dataclass(frozen=True, eq=False)
class Problem:
    """One rounding problem; H is positive definite unless it has dead columns."""

    m: int
    n: int
    bits: int | None
    hessian: str
    weights: str
    ordering: str
    seed: int
    dead: int = 0
    W: np.ndarray = field(repr=False, default=None)
    H: np.ndarray = field(repr=False, default=None)
    order: np.ndarray = field(repr=False, default=None)

    @property
    def maxq(self) -> float:
        """The largest code, or inf."""
        return np.inf if self.bits is None else float(2**self.bits - 1)


def haar(n: int, rng: np.random.Generator) -> np.ndarray:
    """A Haar-distributed orthogonal matrix."""
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)


def from_spectrum(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A symmetric matrix with these eigenvalues and Haar eigenvectors."""
    Q = haar(len(values), rng)
    H = (Q * values) @ Q.T
    return (H + H.T) / 2


def make_hessian(kind: str, n: int, seed: int, dead: int = 0) -> np.ndarray:
    """A Hessian with mean diagonal near 1, positive definite if ``dead`` is 0.

    "well": eigenvalues in [0.5, 2]; "power": k**-1.5; "lowrank": a Gram of n // 3 + 1 samples;
    "outlier": power law with log-normal channel scales and 1 % of the channels times 8;
    "diagonal": log-normal diagonal.  All but "well" and "diagonal" are damped by 1e-2.
    ``dead`` columns (and rows) are set to zero after that.
    """
    rng = np.random.default_rng([seed, 1])
    if kind == "well":
        H = from_spectrum(rng.uniform(0.5, 2.0, n), rng)
    elif kind in ("power", "outlier"):
        H = from_spectrum(np.arange(1, n + 1) ** -1.5, rng)
        if kind == "outlier":
            s = np.exp(0.5 * rng.standard_normal(n))
            s[rng.choice(n, min(n, n // 100 + 1), replace=False)] *= 8
            H = s[:, None] * H * s
    elif kind == "lowrank":
        X = rng.standard_normal((n // 3 + 1, n))
        H = X.T @ X / len(X)
    elif kind == "diagonal":
        H = np.diag(np.exp(rng.standard_normal(n)))
    else:
        raise ValueError(kind)
    H = H / max(np.trace(H) / max(n, 1), 1e-300)
    if kind in ("power", "lowrank", "outlier"):
        H = H + 1e-2 * np.eye(n)
    lost = rng.choice(n, min(dead, n), replace=False)
    H[lost, :] = 0
    H[:, lost] = 0
    return H


def make_weights(kind: str, m: int, n: int, seed: int) -> np.ndarray:
    """Weights of RMS about 1: "uniform", "normal", "heavy" (Student t), or one huge "outlier"."""
    rng = np.random.default_rng([seed, 2])
    if kind == "uniform":
        return rng.uniform(-1.7, 1.7, (m, n))
    W = rng.standard_t(5, (m, n)) if kind == "heavy" else rng.standard_normal((m, n))
    if kind == "heavy":
        W *= np.exp(0.3 * rng.standard_normal((m, 1))) * np.exp(0.3 * rng.standard_normal(n))
    elif kind == "outlier" and W.size:
        W[rng.integers(m), rng.integers(n)] = 50.0
    return W


def make_order(kind: str, H: np.ndarray, seed: int) -> np.ndarray:
    """A permutation: natural, reversed, act (descending diagonal) or random."""
    n = len(H)
    if kind == "natural":
        return np.arange(n)
    if kind == "reversed":
        return np.arange(n)[::-1].copy()
    if kind == "act":
        return np.argsort(-np.diag(H), kind="stable")
    return np.random.default_rng([seed, 3]).permutation(n)


def make_problem(
    m: int,
    n: int,
    seed: int,
    bits: int | None = 2,
    hessian: str = "power",
    weights: str = "normal",
    ordering: str = "natural",
    dead: int = 0,
) -> Problem:
    """Build a problem from its sizes, kinds and seed."""
    H = make_hessian(hessian, n, seed, dead)
    W, order = make_weights(weights, m, n, seed), make_order(ordering, H, seed)
    return Problem(m, n, bits, hessian, weights, ordering, seed, dead, W, H, order)


def clamped_counterexample(n: int, c: float = 0.01, m: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """W and H of section 5.2 of QuIP, on which clamped LDLQ loses to nearest.

    For columns rounded left to right, the unit grid {0 .. 3}.
    """
    H = np.ones((n, n)) + np.eye(n)
    H[n - 1, n - 1] = 1
    H[0, 1 : n - 1] += 2 * c
    H[1 : n - 1, 0] += 2 * c
    H[0, n - 1] += c
    H[n - 1, 0] += c
    H[0, 0] += 4 * c + n * c**2
    return np.tile(0.499 + 0.002 * (np.arange(n) % 2), (m, 1)), H


seeds = st.integers(0, 2**32 - 1)


@st.composite
def hessians(draw, min_n: int = 1, max_n: int = 12, kinds=HESSIANS, max_dead: int = 0):
    """Hessian matrices alone."""
    n = draw(st.integers(min_n, max_n))
    dead = draw(st.integers(0, min(max_dead, n)))
    return make_hessian(draw(st.sampled_from(kinds)), n, draw(seeds), dead)


@st.composite
def problems(
    draw,
    min_m: int = 1,
    max_m: int = 6,
    min_n: int = 1,
    max_n: int = 12,
    bits=(1, 2, 3, 4, 8, None),
    hessian_kinds=HESSIANS,
    weight_kinds=WEIGHTS,
    order_kinds=ORDERS,
    max_dead: int = 0,
):
    """Rounding problems; ``max_dead`` > 0 lets some columns of H be zero."""
    m, n = draw(st.integers(min_m, max_m)), draw(st.integers(min_n, max_n))
    return make_problem(
        m,
        n,
        draw(seeds),
        draw(st.sampled_from(bits)),
        draw(st.sampled_from(hessian_kinds)),
        draw(st.sampled_from(weight_kinds)),
        draw(st.sampled_from(order_kinds)),
        draw(st.integers(0, min(max_dead, n))),
    )
