"""What the tokens behind a second moment are good for: rank, eigenvalues, dead columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiplinalg.parallel import single_blas_thread

__all__ = ["HessianDiagnostics", "diagnose", "sample_verdict"]

_DENSE = 512  # up to here all eigenvalues are cheap
_ENOUGH = 2  # tokens for each live input, below which the small eigenvalues are mostly noise


@dataclass(frozen=True, eq=False)
class HessianDiagnostics:
    """How well tokens determine the second moment H = mean of x x^T of n inputs.

    Attributes
    ----------
    n, count : int
        Inputs, and tokens of weight above 0.
    weight : float
        Sum of the weights.
    effective_samples : float
        (sum w)^2 / sum w^2: how many tokens of equal weight are worth as much; the count, without
        weights.  Tokens that resemble one another are not discounted: see ``effective_rank``.
    rank : int
        Numerical rank: pivots above n eps of the Cholesky factorisation with diagonal pivoting of
        H scaled to a unit diagonal, eps that of ``precision``; never above the count.
    effective_rank : float
        tr(H)^2 / ||H||_F^2, from 1 to n: the number of equal eigenvalues that would have this
        spread (the participation ratio).
    smallest, largest : float
        Eigenvalues of H; the smallest is 0 where H is singular to its precision.
    dead : ndarray, (k,), int64
        Inputs that were zero in every token.
    precision : str
        Of the products.
    verdict : str
        "empty", "too few samples" (the rank, or the effective samples, are below the live
        inputs), "few samples" (below twice the live inputs), or "ok".
    """

    n: int
    count: int
    weight: float
    effective_samples: float
    rank: int
    effective_rank: float
    smallest: float
    largest: float
    dead: np.ndarray
    precision: str
    verdict: str

    @property
    def ok(self) -> bool:
        """Whether there are tokens enough."""
        return self.verdict == "ok"

    @property
    def live(self) -> int:
        """Inputs that are not dead."""
        return self.n - int(self.dead.size)

    @property
    def condition(self) -> float:
        """largest / smallest, infinite where H is singular."""
        return self.largest / self.smallest if self.smallest > 0 else float("inf")

    @property
    def message(self) -> str:
        """The verdict with its reason and a remedy."""
        live, enough = self.live, _ENOUGH * self.live
        if self.verdict == "ok":
            return f"ok: {self.count} tokens for {live} live inputs, rank {self.rank}"
        if self.verdict == "empty":
            return "empty: no tokens were added. Add a batch of activations"
        if self.verdict == "few samples":
            return (
                f"few samples for n={live} live inputs: {self.effective_samples:.6g} effective "
                f"tokens determine the small eigenvalues badly. Use {enough} or more, or damp H"
            )
        if self.effective_samples < live:
            cause = f"{self.effective_samples:.6g} effective tokens give rank {self.rank}"
            remedy = f"Use {enough} or more, or damp H"
        else:
            cause = f"the rank of {self.count} tokens is only {self.rank}"
            remedy = "Inputs depend on one another: add other data, or damp H"
        return f"too few samples for n={live} live inputs: {cause}. {remedy}"


def diagnose(
    H: np.ndarray, count: int, weight: float, weight_squared: float, precision: str
) -> HessianDiagnostics:
    """Return the diagnostics of a mean H, (n, n) float64, of ``count`` tokens.

    Notes
    -----
    All eigenvalues for n <= 512; beyond, the largest by Lanczos' method and the smallest by the
    same on the inverse, from a fixed start.
    """
    n = H.shape[0]
    diagonal = H.diagonal()
    dead = np.flatnonzero(diagonal == 0)
    live = n - dead.size
    samples = weight**2 / weight_squared if weight_squared else 0.0
    eps = float(np.finfo(precision).eps)
    with single_blas_thread():
        rank = min(_rank(H, n * eps), count)
        smallest, largest = _ends(H, n * eps)
    square = float(np.square(H / (diagonal.max(initial=0.0) or 1.0)).sum())
    trace = float(diagonal.sum() / (diagonal.max(initial=0.0) or 1.0))
    verdict = sample_verdict(samples, live)
    if count and rank < live:
        verdict = "too few samples"
    return HessianDiagnostics(
        n=n,
        count=count,
        weight=weight,
        effective_samples=samples,
        rank=rank,
        effective_rank=trace**2 / square if square else 0.0,
        smallest=smallest,
        largest=largest,
        dead=dead,
        precision=precision,
        verdict=verdict,
    )


def sample_verdict(samples: float, live: int) -> str:
    """Say whether as many effective tokens are enough for the live inputs, whatever their rank."""
    if samples <= 0:
        return "empty"
    if samples < live:
        return "too few samples"
    return "few samples" if samples < _ENOUGH * live else "ok"


def _rank(H: np.ndarray, tolerance: float) -> int:
    """The rank of the live part of H, scaled to a unit diagonal."""
    from scipy.linalg import lapack

    live = np.flatnonzero(H.diagonal() > 0)
    if not live.size:
        return 0
    scale = 1 / np.sqrt(H.diagonal()[live])
    A = H[np.ix_(live, live)]
    A *= scale
    A *= scale[:, None]
    return int(lapack.dpstrf(A.T, tol=tolerance, lower=1, overwrite_a=1)[2])


def _ends(H: np.ndarray, tolerance: float) -> tuple[float, float]:
    """The smallest and the largest eigenvalue; the smallest is 0 below ``tolerance`` of that."""
    n = H.shape[0]
    if n == 0:
        return 0.0, 0.0
    if n <= _DENSE:
        values = np.linalg.eigvalsh(H)
        smallest, largest = float(values[0]), max(float(values[-1]), 0.0)
    else:
        smallest, largest = _lanczos_ends(H)
    return (smallest if smallest > tolerance * largest else 0.0), largest


def _lanczos_ends(H: np.ndarray) -> tuple[float, float]:
    from scipy.linalg import lapack
    from scipy.sparse.linalg import LinearOperator, eigsh

    n = H.shape[0]
    start = 1 + 0.5 * np.cos(np.arange(n) * 2.399963)  # no special vector: the golden angle

    def top(product) -> float:
        operator = LinearOperator((n, n), matvec=product, dtype=np.float64)
        found = eigsh(operator, k=1, which="LM", v0=start, tol=1e-6, return_eigenvectors=False)
        return float(found[0])

    largest = top(lambda v: H @ v)
    factor, info = lapack.dpotrf(H.T, lower=1, clean=0)
    if info:
        return 0.0, largest
    return 1 / top(lambda v: lapack.dpotrs(factor, v, lower=1)[0]), largest
