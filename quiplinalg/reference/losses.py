"""The proxy loss, from its definition."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.precision import working_dtype

__all__ = ["proxy_loss", "row_losses"]


def row_losses(W_hat: np.ndarray, W: np.ndarray, H: np.ndarray) -> np.ndarray:
    """Return e H e^T for each row e of E = W_hat - W.

    Parameters
    ----------
    W_hat, W : ndarray, (m, n)
        Rounded and original weights.
    H : ndarray, (n, n)
        Symmetric; both triangles are read.

    Returns
    -------
    ndarray, (m,), float64, or longdouble if any input is
        Loss of each row.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, equation 1.

    Examples
    --------
    >>> row_losses(np.array([[1.0, 0.0]]), np.zeros((1, 2)), np.diag([3.0, 1.0]))
    array([3.])
    """
    dtype = working_dtype(W_hat, W, H)
    E = np.asarray(W_hat, dtype) - np.asarray(W, dtype)
    return ((E @ np.asarray(H, dtype)) * E).sum(axis=1)


def proxy_loss(W_hat: np.ndarray, W: np.ndarray, H: np.ndarray) -> float:
    """Return tr(E H E^T), E = W_hat - W.

    Parameters
    ----------
    W_hat, W : ndarray, (m, n)
        Rounded and original weights.
    H : ndarray, (n, n)
        Symmetric; both triangles are read.

    Returns
    -------
    float
        The loss; the sum of ``row_losses``.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, equation 1.

    Examples
    --------
    >>> proxy_loss(np.array([[1.0, 0.0]]), np.zeros((1, 2)), np.diag([3.0, 1.0]))
    3.0
    """
    return float(row_losses(W_hat, W, H).sum())
