"""Rounding problems from a few integers: Hessians, weights, orders, and all of it together.

Everything is drawn from ``np.random.default_rng`` with the seed that is given, so that a problem is
repeated from its repr.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.reference import minmax_grid

__all__ = [
    "HESSIANS",
    "ORDERS",
    "WEIGHTS",
    "Problem",
    "calibration_hessian",
    "clamped_counterexample",
    "haar",
    "make_hessian",
    "make_order",
    "make_problem",
    "make_weights",
    "spd_from_spectrum",
]

HESSIANS = ("well", "power", "lowrank", "outlier", "diagonal")
WEIGHTS = ("uniform", "normal", "heavy", "outlier")
ORDERS = ("natural", "reversed", "act", "random")


@dataclass(frozen=True, eq=False)
class Problem:
    """One rounding problem; H is positive definite unless it has dead columns.

    Attributes
    ----------
    m, n : int
        W is (m, n) = (out, in), H (n, n).
    bits : int or None
        Width of the codes; None for the unbounded grid.
    hessian, weights, ordering : str
        Kinds, of `HESSIANS`, `WEIGHTS` and `ORDERS`.
    seed, dead : int
        What it was drawn from, and the number of zero rows and columns of H.
    W, H, order : ndarray
        Column ``order[k]`` is rounded at step k.
    """

    m: int
    n: int
    bits: int | None
    hessian: str
    weights: str
    ordering: str
    seed: int
    dead: int = 0
    W: np.ndarray = field(repr=False, default_factory=lambda: np.zeros((0, 0)))
    H: np.ndarray = field(repr=False, default_factory=lambda: np.zeros((0, 0)))
    order: np.ndarray = field(repr=False, default_factory=lambda: np.zeros(0, np.int64))

    @property
    def maxq(self) -> float:
        """The largest code, or inf."""
        return np.inf if self.bits is None else float(2**self.bits - 1)

    def grid(self, sym: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """Return scale and zero, (m, 1), of the min-max grid of each row (3 bits if unbounded)."""
        return minmax_grid(self.W, self.bits or 3, sym)


def haar(n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a Haar-distributed orthogonal matrix.

    Parameters
    ----------
    n : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, (n, n), float64

    Examples
    --------
    >>> Q = haar(3, np.random.default_rng(0))
    >>> bool(np.abs(Q @ Q.T - np.eye(3)).max() < 1e-14)
    True
    """
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    return Q * np.where(np.diag(R) < 0, -1.0, 1.0)


def spd_from_spectrum(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a symmetric matrix with these eigenvalues and Haar eigenvectors.

    Parameters
    ----------
    values : ndarray, (n,)
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, (n, n), float64
        Symmetric to the last bit.

    Examples
    --------
    >>> H = spd_from_spectrum(np.array([1.0, 2.0]), np.random.default_rng(0))
    >>> np.round(np.linalg.eigvalsh(H), 12)
    array([1., 2.])
    """
    Q = haar(len(values), rng)
    H = (Q * values) @ Q.T
    return (H + H.T) / 2


def make_hessian(kind: str, n: int, seed: int, dead: int = 0) -> np.ndarray:
    """Make a Hessian with mean diagonal near 1, positive definite if ``dead`` is 0.

    Parameters
    ----------
    kind : str
        "well": eigenvalues in [0.5, 2]; "power": k**-1.5; "lowrank": the Gram matrix of n // 3 + 1
        samples; "outlier": power law with log-normal channel scales and 1 % of the channels times
        8; "diagonal": log-normal diagonal.  All but "well" and "diagonal" are damped by 1e-2.
    n : int
    seed : int
    dead : int
        Columns (and rows) set to zero after that.

    Returns
    -------
    ndarray, (n, n), float64

    Examples
    --------
    >>> make_hessian("diagonal", 2, seed=0).shape
    (2, 2)
    """
    rng = np.random.default_rng([seed, 1])
    if kind == "well":
        H = spd_from_spectrum(rng.uniform(0.5, 2.0, n), rng)
    elif kind in ("power", "outlier"):
        H = spd_from_spectrum(np.arange(1, n + 1) ** -1.5, rng)
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
        raise InvalidArgumentError(
            f"kind must be one of {', '.join(HESSIANS)}; got kind={kind!r}. 'power' is the usual."
        )
    H = H / max(np.trace(H) / max(n, 1), 1e-300)
    if kind in ("power", "lowrank", "outlier"):
        H = H + 1e-2 * np.eye(n)
    lost = rng.choice(n, min(dead, n), replace=False)
    H[lost, :] = 0
    H[:, lost] = 0
    return H


def calibration_hessian(n: int, samples: int, seed: int, damp: float = 0.01) -> np.ndarray:
    """Make the H of a layer from calibration samples: correlated inputs, a few large channels.

    Parameters
    ----------
    n : int
    samples : int
        At least 1; with fewer than n, H has no full rank before damping.
    seed : int
    damp : float
        Fraction of the mean diagonal that is added to the diagonal.

    Returns
    -------
    ndarray, (n, n), float64
        X^T X / samples + damp mean(diag) I.

    Examples
    --------
    >>> H = calibration_hessian(8, samples=3, seed=0, damp=0.0)
    >>> int(np.linalg.matrix_rank(H))
    3
    """
    if samples < 1:
        raise InvalidArgumentError(f"samples must be at least 1; got samples={samples}. Try n.")
    rng = np.random.default_rng([seed, 4])
    mixing = rng.standard_normal((n, n)) * np.arange(1, n + 1) ** -0.6
    channels = np.exp(0.5 * rng.standard_normal(n))
    channels[rng.choice(n, min(n, n // 50 + 1), replace=False)] *= 10
    X = (rng.standard_normal((samples, n)) @ mixing.T) * channels
    H = X.T @ X / samples
    H = (H + H.T) / 2
    return H + damp * np.trace(H) / max(n, 1) * np.eye(n)


def make_weights(kind: str, m: int, n: int, seed: int) -> np.ndarray:
    """Make weights of RMS about 1.

    Parameters
    ----------
    kind : str
        "uniform", "normal", "heavy" (Student t with scales of rows and columns), or "outlier" (one
        weight of 50).
    m, n : int
    seed : int

    Returns
    -------
    ndarray, (m, n), float64

    Examples
    --------
    >>> float(make_weights("outlier", 4, 4, seed=0).max())
    50.0
    """
    if kind not in WEIGHTS:
        raise InvalidArgumentError(
            f"kind must be one of {', '.join(WEIGHTS)}; got kind={kind!r}. 'normal' is the usual."
        )
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
    """Make an order of rounding.

    Parameters
    ----------
    kind : str
        "natural", "reversed", "act" (descending diagonal, ties in natural order) or "random".
    H : ndarray, (n, n)
    seed : int

    Returns
    -------
    ndarray, (n,), int64
        Column ``order[k]`` is rounded at step k.

    Examples
    --------
    >>> make_order("act", np.diag([1.0, 3.0, 2.0]), seed=0)
    array([1, 2, 0])
    """
    n = len(H)
    if kind == "natural":
        return np.arange(n)
    if kind == "reversed":
        return np.arange(n)[::-1].copy()
    if kind == "act":
        return np.argsort(-np.diag(H), kind="stable")
    if kind != "random":
        raise InvalidArgumentError(
            f"kind must be one of {', '.join(ORDERS)}; got kind={kind!r}. 'natural' is the usual."
        )
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
    """Build a problem from its sizes, kinds and seed.

    Parameters
    ----------
    m, n, seed, bits, hessian, weights, ordering, dead
        See `Problem`, `make_hessian`, `make_weights` and `make_order`.

    Returns
    -------
    Problem

    Examples
    --------
    >>> make_problem(2, 3, seed=7).W.shape
    (2, 3)
    """
    H = make_hessian(hessian, n, seed, dead)
    W, order = make_weights(weights, m, n, seed), make_order(ordering, H, seed)
    return Problem(m, n, bits, hessian, weights, ordering, seed, dead, W, H, order)


def clamped_counterexample(n: int, c: float = 0.01, m: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Make the W and H of QuIP's section 5.2, on which clamped LDLQ loses to nearest.

    Parameters
    ----------
    n : int
        At least 1; the more, the greater the loss.
    c : float
    m : int
        Rows, all the same.

    Returns
    -------
    W, H : ndarray (m, n), ndarray (n, n)
        For columns rounded left to right on the unit grid {0 .. 3}.

    References
    ----------
    Chee, Cai, Kuleshov, De Sa, QuIP (arXiv 2307.13304), section 5.2.

    Examples
    --------
    >>> W, H = clamped_counterexample(4)
    >>> W
    array([[0.499, 0.501, 0.499, 0.501]])
    """
    if n < 1:
        raise InvalidArgumentError(f"n must be at least 1; got n={n}. 16 shows it well.")
    H = np.ones((n, n)) + np.eye(n)
    H[n - 1, n - 1] = 1
    H[0, 1 : n - 1] += 2 * c
    H[1 : n - 1, 0] += 2 * c
    H[0, n - 1] += c
    H[n - 1, 0] += c
    H[0, 0] += 4 * c + n * c**2
    return np.tile(0.499 + 0.002 * (np.arange(n) % 2), (m, 1)), H
