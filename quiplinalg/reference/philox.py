"""The counter-based random numbers of stochastic rounding."""

from __future__ import annotations

import numpy as np

__all__ = ["philox2x32", "uniforms"]

MULTIPLIER = np.uint64(0xD256D193)
WEYL = 0x9E3779B9
MASK = np.uint64(0xFFFFFFFF)


def philox2x32(
    counter0: np.ndarray, counter1: np.ndarray, key: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the two words of Philox-2x32 with 10 rounds.

    A round is ``(c0, c1) <- (hi(M c0) xor key xor c1, lo(M c0))`` with M = 0xD256D193, where hi
    and lo are the halves of the 64-bit product; the key then grows by 0x9E3779B9 modulo 2**32.

    Parameters
    ----------
    counter0, counter1 : ndarray, uint32 values
        The counter; they broadcast.
    key : int
        0 .. 2**32 - 1.

    Returns
    -------
    word0, word1 : ndarray, uint32
        Random words.

    References
    ----------
    Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.

    Examples
    --------
    >>> [hex(int(word)) for word in philox2x32(0, 0, 0)]
    ['0xff1dae59', '0x6cd10df2']
    """
    c0, c1 = np.broadcast_arrays(np.asarray(counter0, np.uint64), np.asarray(counter1, np.uint64))
    for _ in range(10):
        product = MULTIPLIER * c0  # below 2**64: both factors are below 2**32
        c0, c1 = (product >> np.uint64(32)) ^ np.uint64(key) ^ c1, product & MASK
        key = (key + WEYL) & 0xFFFFFFFF
    return c0.astype(np.uint32), c1.astype(np.uint32)


def uniforms(seed: int, rows: np.ndarray | int, columns: np.ndarray | int) -> np.ndarray:
    """Return the u of each weight, which depends on nothing but the seed, its row and its column.

    ``u = (word0 >> 8) * 2**-24``, counter0 = row, counter1 = column, and the key is the low 32
    bits of ``seed xor (seed >> 32)``.

    Parameters
    ----------
    seed : int
        0 .. 2**64 - 1.
    rows : ndarray, (m,), or int
        Row numbers; an int m stands for 0 .. m - 1.
    columns : ndarray, (n,), or int
        The caller's column numbers, whatever the order of rounding; an int n stands for
        0 .. n - 1.

    Returns
    -------
    ndarray, (m, n), float32
        Multiples of 2**-24 in [0, 1).

    References
    ----------
    Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3, SC 2011.

    Examples
    --------
    >>> uniforms(0, 1, 1) == np.float32((0xFF1DAE59 >> 8) / 2**24)
    array([[ True]])
    """
    r, c = (np.arange(int(a)) if np.ndim(a) == 0 else np.asarray(a) for a in (rows, columns))
    word, _ = philox2x32(r[:, None], c[None, :], (seed ^ (seed >> 32)) & 0xFFFFFFFF)
    return (word >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
