"""Structured rotations as dense matrices."""

from __future__ import annotations

import numpy as np

__all__ = ["hartley", "rotation", "walsh_hadamard"]


def walsh_hadamard(size: int) -> np.ndarray:
    """Return the normalised Walsh-Hadamard matrix of a power of two, (size, size) float64.

    Sylvester's recursion: H_1 = [1], H_2s = [[H_s, H_s], [H_s, -H_s]] / sqrt(2).

    Examples
    --------
    >>> walsh_hadamard(4) * 2
    array([[ 1.,  1.,  1.,  1.],
           [ 1., -1.,  1., -1.],
           [ 1.,  1., -1., -1.],
           [ 1., -1., -1.,  1.]])
    """
    H = np.ones((1, 1))
    while H.shape[0] < size:
        H = np.block([[H, H], [H, -H]])
    return H / np.sqrt(size)


def hartley(size: int) -> np.ndarray:
    """Return the orthogonal Hartley matrix, entries (cos + sin)(2 pi i j / size) / sqrt(size).

    Examples
    --------
    >>> hartley(2).round(3)
    array([[ 0.707,  0.707],
           [ 0.707, -0.707]])
    """
    F = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            angle = 2 * np.pi * (i * j % size) / size
            F[i, j] = (np.cos(angle) + np.sin(angle)) / np.sqrt(size)
    return F


def rotation(
    permutation: np.ndarray,
    signs: np.ndarray,
    windows: list[tuple[int, np.ndarray, list[np.ndarray]]],
) -> np.ndarray:
    """Return Q = ... W_1 S_1 W_0 S_0 P as an (n, n) matrix.

    Parameters
    ----------
    permutation : ndarray, (n,)
        (P x)_i = x[permutation[i]].
    signs : ndarray, (n,)
        S_0.
    windows : list of (start, signs, factors)
        Each multiplies the coordinates from ``start`` by its signs, then by the Kronecker product
        of its factors; the others are left alone.  Ones for the first: its signs are S_0.

    Returns
    -------
    ndarray, (n, n)
        float64.

    Notes
    -----
    O(n^3): for small n only.

    Examples
    --------
    >>> window = (0, np.ones(2), [walsh_hadamard(2)])
    >>> rotation(np.array([1, 0]), np.array([1, -1]), [window]).round(3)
    array([[-0.707,  0.707],
           [ 0.707,  0.707]])
    """
    n = len(permutation)
    Q = np.zeros((n, n))
    for i in range(n):
        Q[i, permutation[i]] = signs[i]
    for start, inner_signs, factors in windows:
        F = np.ones((1, 1))
        for factor in factors:
            F = np.kron(F, factor)
        W = np.eye(n)
        stop = start + F.shape[0]
        W[start:stop, start:stop] = F * inner_signs  # F times the diagonal of the signs
        Q = W @ Q
    return Q
