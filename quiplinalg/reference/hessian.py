"""Second moments, their refreshed inverses and the shifted target, from their definitions."""

from __future__ import annotations

import numpy as np

__all__ = [
    "covariance",
    "cross_moment",
    "probe_diagonal",
    "probe_trace",
    "refreshed_inverse",
    "shift_target",
]


def cross_moment(
    X: np.ndarray, X_tilde: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return sum_t w_t x_t x~_t^T element by element; with X_tilde = X, the second moment.

    Parameters
    ----------
    X, X_tilde : ndarray, (tokens, n)
        In longdouble from here on; Python integers stay exact.
    weights : ndarray, (tokens,), or None
        None: all 1.

    Returns
    -------
    ndarray, (n, n), longdouble

    Examples
    --------
    >>> X = np.array([[1.0, 2.0], [3.0, 0.0]])
    >>> cross_moment(X, X).astype(int)
    array([[10,  2],
           [ 2,  4]])
    """
    tokens, n = np.shape(X)
    w = np.ones(tokens) if weights is None else np.asarray(weights)
    left, right = np.asarray(X, np.longdouble), np.asarray(X_tilde, np.longdouble)
    out = np.zeros((n, n), np.longdouble)
    for i in range(n):
        for j in range(n):
            out[i, j] = (w * left[:, i] * right[:, j]).sum()
    return out


def covariance(X: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the weighted mean of (x - mean)(x - mean)^T, (n, n) longdouble.

    Parameters
    ----------
    X : ndarray, (tokens, n)
    weights : ndarray, (tokens,), or None

    Returns
    -------
    ndarray, (n, n), longdouble

    Examples
    --------
    >>> covariance(np.array([[1.0], [3.0]])).astype(int)
    array([[1]])
    """
    w = np.ones(len(X)) if weights is None else np.asarray(weights)
    X = np.asarray(X, np.longdouble)
    centred = X - (w[:, None] * X).sum(axis=0) / w.sum()
    return cross_moment(centred, centred, w) / w.sum()


def refreshed_inverse(Hinv: np.ndarray, X: np.ndarray, count: int | None = None) -> np.ndarray:
    """Return the inverse of A + X^T X, or of (N H + X^T X) / (N + k), by inverting twice.

    Parameters
    ----------
    Hinv : ndarray, (n, n)
        A^-1, or H^-1 of a mean over N = ``count`` tokens.
    X : ndarray, (k, n)
    count : int or None

    Returns
    -------
    ndarray, (n, n), float64

    Examples
    --------
    >>> refreshed_inverse(np.eye(1), np.array([[1.0]]))
    array([[0.5]])
    """
    H, X = np.linalg.inv(Hinv), np.asarray(X, np.float64)
    if count is None:
        return np.linalg.inv(H + X.T @ X)
    return np.linalg.inv((count * H + X.T @ X) / (count + len(X)))


def probe_trace(A: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Return v^T A v for each column v of V: their mean estimates tr A.

    Parameters
    ----------
    A : ndarray, (n, n)
    V : ndarray, (n, k)

    Returns
    -------
    ndarray, (k,), float64

    References
    ----------
    Hutchinson (1990).

    Examples
    --------
    >>> probe_trace(np.diag([1.0, 2.0]), np.array([[1.0], [-1.0]]))
    array([3.])
    """
    return np.array([v @ A @ v for v in V.T])


def probe_diagonal(A: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Return (sum v * A v) / (sum v * v) over the columns v of V, an estimate of diag A.

    Parameters
    ----------
    A : ndarray, (n, n)
    V : ndarray, (n, k)

    Returns
    -------
    ndarray, (n,), float64

    References
    ----------
    Bekas, Kokiopoulou and Saad (2007), equation 2.

    Examples
    --------
    >>> probe_diagonal(np.diag([1.0, 2.0]), np.array([[1.0], [-1.0]]))
    array([1., 2.])
    """
    above = sum(v * (A @ v) for v in V.T)
    return above / sum(v * v for v in V.T)


def shift_target(W: np.ndarray, X: np.ndarray, X_tilde: np.ndarray) -> np.ndarray:
    """Return the V that minimises the sum of |W x - V x~|^2, by least squares on the tokens.

    Parameters
    ----------
    W : ndarray, (m, n)
    X, X_tilde : ndarray, (tokens, n)

    Returns
    -------
    ndarray, (m, n), float64

    Examples
    --------
    >>> np.round(shift_target(np.array([[3.0]]), np.array([[1.0]]), np.array([[2.0]])), 12)
    array([[1.5]])
    """
    return np.linalg.lstsq(X_tilde, X @ W.T, rcond=None)[0].T
