"""Matrix families on which factorisations are tested, after LAPACK's testers."""

from __future__ import annotations

import numpy as np
from strategies import from_spectrum

SIZES = (0, 1, 2, 3, 5, 10, 50)


def spd_families(n: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Symmetric positive definite (n, n) float64 matrices of many kinds, by name."""
    rng = np.random.default_rng([seed, n])
    k = np.arange(1, n + 1, dtype=float)
    kappa = 1e8
    ends = np.ones(n)
    ends[-1:] = 1 / kappa
    first = np.full(n, 1 / kappa)
    first[:1] = 1
    steps = np.arange(n) / max(n - 1, 1)
    spectra = {
        "one large eigenvalue": first,
        "one small eigenvalue": ends,
        "geometric spectrum": kappa**-steps,
        "arithmetic spectrum": 1 - steps * (1 - 1 / kappa),
        "log-uniform spectrum": np.exp(rng.uniform(-np.log(kappa), 0, n)),
    }
    families = {name: from_spectrum(values, rng) for name, values in spectra.items()}
    X = rng.standard_normal((n // 2 + 1, n))
    few = X.T @ X / (n // 2 + 1)
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
        "rounded through float16": (few + 0.05 * np.eye(n)).astype(np.float16).astype(float),
    }
    if n <= 10:
        families["Hilbert"] = 1 / (i + j + 1.0)
    return {name: (A + A.T) / 2 for name, A in families.items()}


def residual_ratio(product: np.ndarray, A: np.ndarray, unit: float) -> float:
    """LAPACK's ||product - A||_1 / (n ||A||_1 u), computed in longdouble."""
    n = len(A)
    if n == 0:
        return 0.0
    A = A.astype(np.longdouble)
    norm = np.abs(A).sum(axis=0).max()
    error = np.abs(product.astype(np.longdouble) - A).sum(axis=0).max()
    return float(error / (n * norm * unit))
