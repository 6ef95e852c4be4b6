"""Lower bounds of the best rounding from their definitions: prefix entropy, dual, water-filling."""

from __future__ import annotations

import numpy as np

__all__ = ["concave_pivots", "dual_value", "rate_distortion"]


def concave_pivots(D: np.ndarray) -> np.ndarray:
    """Return exp(slopes of the least concave majorant of k -> S_k = sum_{i <= k} log D_i).

    The majorant at k is the highest of all chords over k::

        M_k = max over i <= k <= j of S_i + (S_j - S_i) (k - i) / (j - i),   D_bar_k = e^(M_k-M_k-1)

    Parameters
    ----------
    D : ndarray, (n,)
        Positive.

    Returns
    -------
    ndarray, (n,)

    References
    ----------
    Rockafellar, Convex analysis, corollary 17.1.5: chords of two points suffice on the line.

    Examples
    --------
    >>> np.round(concave_pivots(np.array([1.0, 4.0, 1.0])), 12)
    array([2., 2., 1.])
    """
    S = np.concatenate([[0.0], np.cumsum(np.log(D))])
    n = len(S) - 1
    M = S.copy()
    for k in range(n + 1):
        for i in range(k):
            for j in range(k + 1, n + 1):
                M[k] = max(M[k], S[i] + (S[j] - S[i]) * (k - i) / (j - i))
    return np.exp(np.diff(M))


def dual_value(f: np.ndarray, H: np.ndarray, lam: np.ndarray) -> float:
    """Return sum(lambda) / 4 - f^T (Lambda^-1 - H^-1)^-1 f, for 0 < Lambda < H.

    A lower bound of min (d - f)^T H (d - f) over all d in Z^n + 1/2, as d_k^2 >= 1/4::

        (d - f)^T H (d - f) + sum_k lambda_k (1/4 - d_k^2),   least over real d

    Parameters
    ----------
    f : ndarray, (n,)
    H : ndarray, (n, n)
        Positive definite.
    lam : ndarray, (n,)
        Positive, H - diag(lam) positive definite.

    Returns
    -------
    float

    References
    ----------
    Boyd and Vandenberghe, Convex optimization, section 5.2: weak duality.

    Examples
    --------
    >>> round(dual_value(np.zeros(2), np.eye(2), np.full(2, 0.5)), 12)
    0.25
    """
    middle = np.linalg.inv(np.diag(1 / lam) - np.linalg.inv(H))
    return float(lam.sum() / 4 - f @ middle @ f)


def rate_distortion(eigenvalues: np.ndarray, variance: float, bits: float) -> float:
    """Return sum min(theta, v lambda_i), theta by bisection of the rate::

        sum_i (1/2) log2 max(1, v lambda_i / theta) = n bits

    Parameters
    ----------
    eigenvalues : ndarray, (n,)
        Not negative.
    variance, bits : float
        v and the rate of a weight.

    Returns
    -------
    float

    References
    ----------
    Cover and Thomas, Elements of information theory, 2nd edition, theorem 10.3.3.

    Examples
    --------
    >>> round(rate_distortion(np.ones(4), 1.0, 2.0), 12)
    0.25
    """
    power = variance * eigenvalues[eigenvalues > 0]
    if not power.size:
        return 0.0
    low, high = (
        np.log(power.min()) - 2 * np.log(2) * len(eigenvalues) * bits - 1,
        np.log(power.max()),
    )
    for _ in range(200):
        middle = (low + high) / 2
        rate = np.maximum(np.log(power) - middle, 0).sum() / (2 * np.log(2))
        low, high = (middle, high) if rate > len(eigenvalues) * bits else (low, middle)
    return float(np.minimum(np.exp(high), power).sum())
