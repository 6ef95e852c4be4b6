"""The fixed family of problems that `check_quantizer` runs a quantiser over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference import minmax_grid, nearest, udu
from quiplinalg.testing.builders import (
    clamped_counterexample,
    make_hessian,
    make_order,
    make_weights,
    spd_from_spectrum,
)
from quiplinalg.testing.given import read_order

__all__ = ["COARSE", "Case", "make_cases", "order_of", "tolerance"]

COARSE = 0.1  # steps: the largest tolerance; where it is reached, this precision decides nothing

Order = str | Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Case:
    """A problem, and the guarantee that is checked on it.

    Attributes
    ----------
    name, guarantee : str
    W, H, scale, zero : ndarray, (m, n), (n, n), (m, 1), (m, 1)
        float64, exact in the precision they are passed in.
    maxq : float
    tau : ndarray, (m, 1)
        What rounding errors of a target may be, in steps.
    expected : ndarray, (m, n), or None
        Codes that are the only right ones.
    clips : bool
        Whether some codes are clipped.
    """

    name: str
    guarantee: str
    W: np.ndarray
    H: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    maxq: float
    tau: np.ndarray
    expected: Any = None
    clips: bool = False

    def changed(self, H: np.ndarray) -> Case:
        """Return the case with another H."""
        return replace(self, H=H)

    def only(self, rows: slice) -> Case:
        """Return the case with some of its rows."""
        return replace(
            self,
            W=self.W[rows],
            scale=self.scale[rows],
            zero=self.zero[rows],
            tau=self.tau[rows],
            expected=None if self.expected is None else self.expected[rows],
        )


def order_of(order: Order, H: np.ndarray) -> np.ndarray:
    """Return the permutation of an order for this H."""
    if callable(order):
        return read_order(order(H), len(H))
    if order not in ("natural", "reversed", "act"):
        raise InvalidArgumentError(
            f"order must be 'natural', 'reversed', 'act' or a function of H; got order={order!r}. "
            "'act' is what other libraries call desc_act."
        )
    return make_order(order, H, 0)


def tolerance(W: np.ndarray, H: np.ndarray, scale: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Rounding errors of targets: n eps cond(H) of their terms, at most a tenth of a step.

    cond(H) is of the columns that are not dead; (m, 1), in steps.
    """
    n, live = len(H), np.flatnonzero(H.diagonal())
    values = np.linalg.eigvalsh(H[np.ix_(live, live)])
    condition = values[-1] / max(values[0], 1e-300) if live.size else 1.0
    terms = (np.abs(W) / scale).max(axis=1, keepdims=True) + np.sqrt(n)
    eps = float(np.finfo(dtype).eps)
    return np.minimum(4 * eps * np.sqrt(n) * condition * terms + 64 * eps * terms, COARSE)


def make_cases(
    bits: tuple[int, ...], dtype: np.dtype, max_n: int, order: Order, damp: float
) -> list[Case]:
    """Make the cases for these widths and this precision; see `check_quantizer`."""
    bad = [b for b in bits if not isinstance(b, int) or not 1 <= b <= 8]  # True is one bit
    if bad or not bits:
        raise InvalidArgumentError(
            f"bits must be whole numbers from 1 to 8; got bits={bits!r}. (2, 3, 4, 8) is the usual."
        )
    if not 0 <= as_float(damp) < 1:
        raise InvalidArgumentError(
            f"damp must be a fraction of the mean diagonal in [0, 1); got damp={damp!r}. 0.01 is "
            "what most libraries add."
        )
    order_of(order, np.eye(1))
    return [
        *_general(bits, dtype, max_n),
        *_hard(bits, dtype, max_n),
        *_exact(bits, dtype, order, damp),
    ]


def _case(
    name: str,
    guarantee: str,
    W: np.ndarray,
    H: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    bits: int,
    dtype: np.dtype,
    expected: Any = None,
) -> Case:
    """Finish a case: arrays as they will be passed, and the tolerance."""
    W, H, scale, zero = (a.astype(dtype).astype(np.float64) for a in (W, H, scale, zero))
    H = np.tril(H) + np.tril(H, -1).T
    maxq = float(2**bits - 1)
    code = np.rint(W / scale) + zero
    return Case(
        name=f"{name}, {W.shape[0]} x {W.shape[1]}, {bits} bits",
        guarantee=guarantee,
        W=W,
        H=H,
        scale=scale,
        zero=zero,
        maxq=maxq,
        tau=tolerance(W, H, scale, dtype),
        expected=expected,
        clips=bool(((code < 0) | (code > maxq)).any()),
    )


def _general(bits: tuple[int, ...], dtype: np.dtype, max_n: int) -> Iterator[Case]:
    """Layers of many sizes, on either side of the usual blocks, with a grid of its own a row."""
    kinds = ("power", "well", "lowrank", "outlier") if dtype == np.float64 else ("power", "well")
    weights = ("normal", "heavy", "uniform", "outlier")
    for i, n in enumerate((1, 2, 3, 5, 16, 17, 33, 64, 65, 128, 129, 200, 257)):
        if n > max_n:
            return
        for j in range(2 if n < 100 else 1):
            kind, weight = kinds[(i + j) % len(kinds)], weights[(i + 2 * j) % len(weights)]
            width = bits[(i + j) % len(bits)]
            m = 24 if n < 100 else 8
            W, H = make_weights(weight, m, n, i), make_hessian(kind, n, 10 * i + j)
            if weight == "heavy":
                W = W * 10.0 ** np.linspace(-1, 1, m)[:, None]
            scale, zero = minmax_grid(W, width, bool(j))
            yield _case(
                f"a {kind} H and {weight} weights", "targets", W, H, scale, zero, width, dtype
            )


def _hard(bits: tuple[int, ...], dtype: np.dtype, max_n: int) -> Iterator[Case]:
    """Clipped grids, QuIP's counterexample, near-singular, indefinite and singular H."""
    n, few = min(48, max_n), min(bits)
    W, H = make_weights("normal", 24, n, 50), make_hessian("power", n, 50)
    scale, zero = minmax_grid(W, few)
    yield _case("a grid that clips", "targets", W, H, scale * 0.4, zero, few, dtype)
    if 2 in bits:
        W, H = clamped_counterexample(min(64, max_n))
        one = np.ones((1, 1))
        yield _case("QuIP's counterexample", "targets", W, H, one, 0 * one, 2, dtype)
    rng = np.random.default_rng(51)
    n = min(40, max_n)
    kappa = 1e8 if dtype == np.float64 else 1e3
    H = spd_from_spectrum(kappa ** -(np.arange(n) / max(n - 1, 1)), rng)
    W = make_weights("normal", 16, n, 51)
    scale, zero = minmax_grid(W, max(bits))
    yield _case(f"an H of condition {kappa:.0e}", "targets", W, H, scale, zero, max(bits), dtype)
    H = make_hessian("power", n, 52)
    for guarantee in ("units", "rows", "repeat"):
        yield _case("a power H", guarantee, W, H, scale, zero, max(bits), dtype)
    H = spd_from_spectrum(np.concatenate([[-2.0], np.arange(1.0, n)]), rng)
    yield _case("an indefinite H", "refusal", W, H + 0, scale, zero, max(bits), dtype)
    dead = [0, n // 2, n - 1]
    H = make_hessian("power", n, 53)
    H[dead, :] = H[:, dead] = 0
    H *= max(n - len({*dead}), 1) / max(np.trace(H), 1e-300)  # 1 is the mean, with ones there too
    yield _case("an H with dead columns", "dead columns", W, H, scale, zero, max(bits), dtype)


def _exact(bits: tuple[int, ...], dtype: np.dtype, order: Order, damp: float) -> Iterator[Case]:
    """Problems of which the only right codes, or their mean loss, are known beforehand."""
    rng, width = np.random.default_rng(60), max(bits)
    W, H = make_weights("normal", 24, 20, 60), make_hessian("diagonal", 20, 60)
    scale, zero = minmax_grid(W, width)
    case = _case("a diagonal H", "diagonal", W, H, scale, zero, width, dtype)
    yield replace(case, expected=nearest(case.W, case.scale, case.zero, case.maxq))
    # steps and weights are dyadic and H is the identity: every target is exact
    one = np.ones((12, 1))
    middle = float(2 ** (width - 1))
    W = rng.integers(-int(middle) + 1, int(middle) - 1, (12, 16)) + 0.5
    case = _case("exact halves", "ties", W, np.eye(16), one, middle * one, width, dtype)
    yield replace(case, expected=nearest(case.W, case.scale, case.zero, case.maxq))
    codes = rng.integers(0, 2**width, (12, 16))
    H = make_hessian("power", 16, 61)
    W = 0.25 * (codes - middle)
    yield _case("grid points", "idempotent", W, H, 0.25 * one, middle * one, width, dtype, codes)
    if 8 not in bits:
        return
    yield from _wide(dtype, order, damp, rng)


def _wide(dtype: np.dtype, order: Order, damp: float, rng: np.random.Generator) -> Iterator[Case]:
    """On 256 levels, and weights in the middle of them, nothing is clipped."""
    n, m = 16, 4000
    H = make_hessian("power", n, 62)
    W = rng.uniform(-20, 20, (m, n))
    one = np.ones((m, 1))
    yield _case("uniform weights", "feedback", W, H, one, 128 * one, 8, dtype)
    if dtype != np.float64:
        return
    # the inverse map: W = Z - eta T^-1 is rounded to Z, for any |eta| < 1/2
    n, m = 24, 60
    H = make_hessian("well", n, 63)
    H = np.tril(H) + np.tril(H, -1).T
    perm = order_of(order, H)
    T, _ = udu((H + damp * np.trace(H) / n * np.eye(n))[np.ix_(perm, perm)])
    Z = rng.integers(-9, 10, (m, n))
    eta = np.where(rng.random((m, n)) < 0.5, -0.5 + 1e-9, 0.5 - 1e-9)
    W = np.empty((m, n))
    W[:, perm] = Z[:, perm] - np.linalg.solve(T.T, eta.T).T
    one = np.ones((m, 1))
    yield _case("targets 1e-9 from a tie", "near ties", W, H, one, 128 * one, 8, dtype, Z + 128)
