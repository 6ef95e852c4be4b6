"""Symmetric positive definite matrices of many kinds, after LAPACK's testers (dlatms)."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.testing.builders import spd_from_spectrum

__all__ = ["SPECTRA", "spd_families", "spectrum"]

SPECTRA = (
    "one large eigenvalue",
    "one small eigenvalue",
    "geometric spectrum",
    "arithmetic spectrum",
    "log-uniform spectrum",
)


def spectrum(kind: str, n: int, kappa: float, rng: np.random.Generator) -> np.ndarray:
    """Return eigenvalues between 1/kappa and 1: modes 1 to 5 of LAPACK's dlatms.

    Parameters
    ----------
    kind : str
        One of `SPECTRA`.
    n : int
    kappa : float
        Condition number, at least 1.
    rng : numpy.random.Generator
        Drawn from by "log-uniform spectrum" alone.

    Returns
    -------
    ndarray, (n,), float64

    Examples
    --------
    >>> spectrum("geometric spectrum", 3, 100.0, np.random.default_rng(0))
    array([1.  , 0.1 , 0.01])
    """
    if not kappa >= 1:
        raise InvalidArgumentError(
            f"kappa must be at least 1, largest over least eigenvalue; got kappa={kappa!r}. "
            "1 is a multiple of the identity."
        )
    steps = np.arange(n) / max(n - 1, 1)
    if kind == "one large eigenvalue":
        values = np.full(n, 1 / kappa)
        values[:1] = 1
    elif kind == "one small eigenvalue":
        values = np.ones(n)
        values[-1:] = 1 / kappa
    elif kind == "geometric spectrum":
        values = kappa**-steps
    elif kind == "arithmetic spectrum":
        values = 1 - steps * (1 - 1 / kappa)
    elif kind == "log-uniform spectrum":
        values = np.exp(rng.uniform(-np.log(kappa), 0, n))
    else:
        raise InvalidArgumentError(
            f"kind must be one of {', '.join(SPECTRA)}; got kind={kind!r}. "
            "'geometric spectrum' is the usual."
        )
    return values


def spd_families(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Make (n, n) symmetric positive definite matrices of many kinds, by name.

    Parameters
    ----------
    n : int
    seed : int

    Returns
    -------
    dict of str to ndarray, (n, n), float64
        Five spectra of condition 1e8, scaled near over- and underflow, graded, known closed forms
        (Kac-Murdock-Szego, minij, Moler, and Hilbert up to n = 10), Gram matrices of few samples,
        outlier channels, duplicate columns, and one rounded through float16.

    Examples
    --------
    >>> spd_families(2)["minij"]
    array([[1., 1.],
           [1., 2.]])
    """
    rng = np.random.default_rng([seed, n])
    k = np.arange(1, n + 1, dtype=float)
    values = {kind: spectrum(kind, n, 1e8, rng) for kind in SPECTRA}
    families = {name: spd_from_spectrum(each, rng) for name, each in values.items()}
    X = rng.standard_normal((n // 2 + 1, n))
    few = X.T @ X / (n // 2 + 1)
    twice = few[np.ix_(np.arange(n) // 2, np.arange(n) // 2)]
    outlier = np.cov(rng.standard_normal((2 * n + 2, n)), rowvar=False).reshape(n, n) * 1.0
    outlier[: n // 3] *= 30
    outlier[:, : n // 3] *= 30
    i, j = np.indices((n, n))
    families |= {
        "identity": np.eye(n),
        "near overflow": families["geometric spectrum"] * 1e300,
        "near underflow": families["arithmetic spectrum"] * 1e-290,
        "graded": np.diag(2.0**-k) @ (np.eye(n) + 0.3 / max(n, 1)) @ np.diag(2.0**-k),
        "Kac-Murdock-Szego": 0.9 ** np.abs(i - j),
        "minij": np.minimum(i, j) + 1.0,
        "Moler": np.where(i == j, i + 1.0, np.minimum(i, j) - 1.0),
        "few samples, damped": few + 0.01 * np.eye(n),
        "outlier channels": outlier + 1e-3 * np.eye(n),
        "duplicate columns, damped": twice + 1e-3 * np.eye(n),
        "rounded through float16": (few + 0.05 * np.eye(n)).astype(np.float16).astype(float),
    }
    if n <= 10:
        families["Hilbert"] = 1 / (i + j + 1.0)
    return {name: (A + A.T) / 2 for name, A in families.items()}
