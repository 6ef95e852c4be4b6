"""Random draws that stay the same for ever: permutations, signs and Haar matrices from a seed.

NumPy keeps the streams of its bit generators fixed (NEP 19) but not what `Generator` makes of
them, so everything here is made from the raw 64-bit integers of PCG64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.parallel import single_blas_thread

__all__ = ["check_seed", "check_size", "haar", "permutation", "signs"]

# The third word of the seed sequence: what a stream is for.  Never renumber.
_PERMUTATION, _SIGNS, _FACTOR = 1, 2, 3
_LARGEST_SEED = 2**63 - 1
_LARGEST_SIZE = 2**31 - 1  # an index is counted as 32 bits


def check_seed(seed: Any) -> int:
    """Return the seed as an int; InvalidArgumentError unless it is 0 .. 2**63 - 1."""
    whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
    if not whole or not 0 <= int(seed) <= _LARGEST_SEED:
        raise InvalidArgumentError(
            f"seed must be a whole number from 0 to 2**63 - 1; got seed={seed!r}. "
            "Pass any fixed number, such as seed=0: the result depends on nothing else."
        )
    return int(seed)


def check_size(n: Any) -> int:
    """Return n as an int; InvalidArgumentError unless it is 0 .. 2**31 - 1."""
    whole = isinstance(n, int | np.integer) and not isinstance(n, bool)
    if not whole or not 0 <= int(n) <= _LARGEST_SIZE:
        raise InvalidArgumentError(
            f"n must be a whole number from 0 to 2**31 - 1; got n={n!r}. "
            "Pass the number of columns of W, W.shape[1]."
        )
    return int(n)


def _raw(seed: int, role: int, index: int, count: int) -> np.ndarray:
    """Return `count` raw 64-bit integers of the stream (seed, role, index)."""
    # always four words: a shorter list is padded with zeros, and a wide integer takes two words
    words = [seed & 0xFFFFFFFF, seed >> 32, role, index]
    return np.random.PCG64(np.random.SeedSequence(words)).random_raw(count)


def permutation(n: int, seed: int) -> np.ndarray:
    """Return a random permutation of 0 .. n-1, (n,) int64: the same on every platform.

    Notes
    -----
    The stable order of n raw integers; two of them are equal with probability below n^2 / 2^65.
    """
    return np.argsort(_raw(seed, _PERMUTATION, 0, n), kind="stable").astype(np.int64)


def signs(n: int, seed: int, index: int = 0) -> np.ndarray:
    """Return n random signs, (n,) int8 of +1 and -1: the same on every platform.

    Notes
    -----
    The top bit of raw integer i decides sign i, so a longer draw starts with a shorter one.
    """
    top = (_raw(seed, _SIGNS, index, n) >> np.uint64(63)).astype(np.int8)
    return (1 - 2 * top).astype(np.int8)


def _normals(count: int, seed: int, index: int) -> np.ndarray:
    """Return standard normals by Box and Muller from pairs of raw integers, (count,) float64."""
    pairs = (count + 1) // 2
    raw = (_raw(seed, _FACTOR, index, 2 * pairs) >> np.uint64(11)).astype(np.float64)
    # 53 bits each: u in (0, 1] for the logarithm, v in [0, 1) for the angle
    u, v = (raw[:pairs] + 1.0) * 2.0**-53, raw[pairs:] * 2.0**-53
    radius, angle = np.sqrt(-2.0 * np.log(u)), 2.0 * np.pi * v
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def haar(size: int, seed: int, index: int = 0) -> np.ndarray:
    """Return a Haar-distributed orthogonal matrix, (size, size) float64.

    Notes
    -----
    Q of the QR factorisation of a normal matrix, with the diagonal of R made positive.  The
    logarithms, cosines and LAPACK behind it differ in their last bits: the same to about 1e-13
    on every platform, not bit for bit.  4/3 size^3 flops for R, as much again for Q.

    References
    ----------
    Mezzadri, How to generate random matrices from the classical compact groups,
    arXiv math-ph/0609050.
    """
    normal = _normals(size * size, seed, index).reshape(size, size)
    with single_blas_thread():
        Q, R = np.linalg.qr(normal)
    return Q * np.where(R.diagonal() < 0, -1.0, 1.0)
