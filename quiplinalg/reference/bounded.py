"""The bounded feedback of QuIP's algorithm 5, by projected gradients."""

from __future__ import annotations

import numpy as np

__all__ = ["bounded"]


def bounded(H: np.ndarray, c: float, iterations: int = 2000) -> tuple[np.ndarray, float]:
    """Minimise tr(R H R^T) over unit upper triangular R with ||R e_j||^2 <= 1 + c for each j.

    Accelerated projected gradients on X = R - I, with P the projection of each column on the ball
    of radius sqrt(c), and t_0 = 1, Y = X = 0::

        X_+ = P(Y - striu(2 (I + Y) H) / L),   L = 2 lambda_max(H)
        t_+ = (1 + sqrt(1 + 4 t^2)) / 2
        Y   = X_+ + (t - 1) / t_+ (X_+ - X),

    and t starts again from 1 wherever (Y - X_+) : (X_+ - X) > 0, where the momentum leads uphill.

    Parameters
    ----------
    H : ndarray, (n, n)
        Symmetric positive definite, damped already, columns in the order of rounding.
    c : float
        At least 0.
    iterations : int
        Some sqrt(cond(H)) times the digits wanted.

    Returns
    -------
    R : ndarray, (n, n), float64
    objective : float
        tr(R H R^T).

    Notes
    -----
    Computes in float64 always; 2 n^3 flops an iteration, and no certificate.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, algorithm 5.  Beck and Teboulle, A fast iterative
    shrinkage-thresholding algorithm, SIAM J. Imaging Sciences 2 (2009).  O'Donoghue and Candes,
    Adaptive restart for accelerated gradient schemes, Found. Comput. Math. 15 (2015).

    Examples
    --------
    >>> R, objective = bounded(np.array([[5.0, 4.0], [4.0, 4.0]]), 0.25)
    >>> np.round(R, 6), round(objective, 6)
    (array([[ 1. , -0.5],
           [ 0. ,  1. ]]), 6.0)
    """
    H = np.asarray(H, np.float64)
    n = H.shape[0]
    eye, X, Y, t = np.eye(n), np.zeros((n, n)), np.zeros((n, n)), 1.0
    largest = np.linalg.eigvalsh(H)[-1] if n else 1.0
    for _ in range(iterations):
        ahead = Y - np.triu((eye + Y) @ H, 1) / largest
        length = np.sqrt((ahead**2).sum(axis=0))
        ahead *= np.sqrt(c) / np.maximum(length, max(np.sqrt(c), 1e-300))
        if ((Y - ahead) * (ahead - X)).sum() > 0:
            t = 1.0
        longer = (1 + np.sqrt(1 + 4 * t**2)) / 2
        Y = ahead + (t - 1) / longer * (ahead - X)
        X, t = ahead, longer
    R = eye + X
    return R, float(((R @ H) * R).sum())
