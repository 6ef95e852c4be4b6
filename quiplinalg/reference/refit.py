"""Least-squares scales and zeros for codes that are given, and the best low-rank correction."""

from __future__ import annotations

import numpy as np

from quiplinalg.reference.grids import per_column
from quiplinalg.reference.precision import working_dtype

__all__ = ["low_rank", "refit", "root"]


def root(H: np.ndarray) -> np.ndarray:
    """Return H^(1/2), symmetric, of a positive semidefinite H.

    Parameters
    ----------
    H : ndarray, (n, n)
        Eigenvalues that are 0 to rounding errors count as 0.

    Returns
    -------
    ndarray, (n, n), float64

    Examples
    --------
    >>> root(np.diag([4.0, 0.0]))
    array([[2., 0.],
           [0., 0.]])
    """
    values, Q = np.linalg.eigh(np.asarray(H, float))
    known = values > len(values) * np.finfo(float).eps * np.abs(values).max(initial=0)
    return (Q * np.sqrt(np.where(known, values, 0))) @ Q.T


def refit(
    W: np.ndarray,
    H: np.ndarray,
    codes: np.ndarray,
    scale: np.ndarray,
    zero: np.ndarray,
    *,
    zeros: bool = False,
    group_index: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales, or scales and zeros, of least e H e^T in each row, all groups at once.

    W_hat = s (codes - zero) is linear in s; with ``zeros`` it is s codes + b, b = -s zero.  The
    rows of ``(x B - w) H^(1/2)`` are a least-squares problem each, of least norm where singular.

    Parameters
    ----------
    W : ndarray, (m, n)
        Weights.
    H : ndarray, (n, n)
        Symmetric positive semidefinite.
    codes : ndarray, (m, n)
        They stay.
    scale, zero : ndarray, (m, groups)
        The grid they are on; only its zeros are looked at, without ``zeros``.
    zeros : bool
        Whether zeros are fitted too.
    group_index : ndarray, (n,), or None
        Group of each column; None needs groups = 1.

    Returns
    -------
    scale, zero : ndarray, (m, groups)
        A scale may come out as 0 or below; its zero is then the old one.

    Examples
    --------
    >>> W, codes = np.array([[2.0, 4.0, 0.0]]), np.array([[1, 2, 0]])
    >>> refit(W, np.eye(3), codes, np.ones((1, 1)), np.zeros((1, 1)))[0]
    array([[2.]])
    """
    (m, n), dtype = np.shape(W), working_dtype(W, H)
    half = root(H)
    groups = scale.shape[1]
    group = np.zeros(n, int) if group_index is None else np.asarray(group_index)
    around = np.broadcast_to(per_column(zero, n, group_index), (m, n))
    new_scale, new_zero = np.array(scale, dtype), np.array(zero, dtype)
    for i in range(m):
        own = (group == np.arange(groups)[:, None]).astype(dtype)
        rows = own * (codes[i] if zeros else codes[i] - around[i])
        B = np.vstack([rows, own]) if zeros else rows
        x = np.linalg.lstsq((B @ half).T, W[i] @ half, rcond=None)[0]
        new_scale[i] = x[:groups]
        if zeros:
            positive = x[:groups] > 0
            new_zero[i, positive] = -x[groups:][positive] / x[:groups][positive]
    return new_scale, new_zero


def low_rank(E: np.ndarray, H: np.ndarray, rank: int) -> tuple[np.ndarray, float]:
    """Return the L R of a rank that makes tr((E - L R) H (E - L R)^T) least, and this least.

    By Eckart and Young: E H^(1/2) = U S V^T is cut off after ``rank`` terms, U_r U_r^T E has that
    product, and the least is the sum of the other S^2.

    Parameters
    ----------
    E : ndarray, (m, n)
        What is left of W.
    H : ndarray, (n, n)
        Symmetric positive semidefinite.
    rank : int
        At most min(m, n).

    Returns
    -------
    ndarray, (m, n), and float

    Examples
    --------
    >>> low_rank(np.diag([3.0, 1.0]), np.eye(2), 1)[1]
    1.0
    """
    U, S, _ = np.linalg.svd(np.asarray(E, float) @ root(H), full_matrices=False)
    leading = U[:, :rank]
    return leading @ (leading.T @ E), float(np.square(S[rank:]).sum())
