"""Randomised Hadamard rotations of any order: the entries of Q are all of about one size."""

from __future__ import annotations

import numpy as np

from quiplinalg.incoherence.draws import check_seed, check_size, signs
from quiplinalg.incoherence.rotation import Rotation
from quiplinalg.incoherence.windows import Window

__all__ = ["hadamard_orthogonal"]

_LARGEST = 127  # odd factor of a single window
_OVERLAP = 32  # factor of a window that has to be one of two


def hadamard_orthogonal(n: int, seed: int) -> Rotation:
    """Draw a randomised Hadamard rotation: signs, then a fast transform that spreads every entry.

    Parameters
    ----------
    n : int
        Order of Q; any number from 0.
    seed : int
        0 .. 2**63 - 1.

    Returns
    -------
    Rotation
        Q = (H_k kron C_q) S: S random signs, H_k the normalised Walsh-Hadamard matrix of 2^k, and
        C_q the Hartley matrix of the rest, q = n / 2^k: cas(2 pi i j / q) / sqrt(q),
        cas = cos + sin.  The signs are all there is to store; a permutation before them brought
        nothing in the benchmarks.

    Raises
    ------
    InvalidArgumentError
        n or seed is not a whole number in range.

    Notes
    -----
    n = 2^k q with q odd and below 128, every common layer width: |Q_ij| <= sqrt(2 / n), and
    sqrt(1 / n) for a power of two, whatever the seed, so one huge weight is spread evenly.  (A
    Haar matrix in the place of C_q would only keep |Q_ij| below sqrt(q / n).)

    Other n take two windows of p coordinates that overlap, one from the start and one to the end,
    with signs between; p = 2^k q is the largest with 16 < q <= 32.  n - p < n / 17 coordinates are
    mixed once, the others twice.  An entry is then a sum with random signs, as in a Haar matrix:
    |Q_ij| sqrt(n) < 2 sqrt((n / p) log(2 n^2 / delta)) for all i, j with probability 1 - delta
    (measured: 3.3 to 6.1 for n from 129 to 11007).

    The seed decides the signs alone, so Q is the same on every platform to 1e-15.  Applying Q costs
    k + 2 q flops an element, k + q for q > 8, where half of the products of C_q are shared.

    References
    ----------
    Tseng et al., QuIP#, arXiv 2402.04396, section 3.  Bracewell, The discrete Hartley transform,
    J. Opt. Soc. Am. 73 (1983).

    Examples
    --------
    >>> import quiplinalg as ql
    >>> ql.hadamard_orthogonal(11008, seed=0)
    Rotation(hadamard, n=11008, seed=0: H256 x 43)
    """
    n, seed = check_size(n), check_seed(seed)
    windows = _windows(n)
    return Rotation(
        kind="hadamard",
        n=n,
        seed=seed,
        permutation=np.arange(n),
        signs=signs(n, seed),
        windows=windows,
        factors=tuple(_hartley(size) for window in windows for size in window.sizes),
        inner_signs=signs(windows[1].length if len(windows) > 1 else 0, seed, 1),
    )


def _hartley(q: int) -> np.ndarray:
    """Return the symmetric orthogonal matrix cas(2 pi i j / q) / sqrt(q)."""
    # a table of the q values: equal entries are equal to the last bit, which `pack` looks for
    angle = 2 * np.pi / q * np.arange(q)
    table = (np.cos(angle) + np.sin(angle)) / np.sqrt(q)
    return table[np.outer(np.arange(q), np.arange(q)) % q]


def _windows(n: int) -> tuple[Window, ...]:
    """Return one window for n = 2^k q with a small odd q, else two that overlap."""
    if n < 2:
        return ()
    walsh = n & -n
    if n // walsh <= _LARGEST:
        return (_window(0, n // walsh, walsh),)
    walsh = 1
    while n // walsh > _OVERLAP:
        walsh *= 2
    q = n // walsh
    q, walsh = q // (q & -q), walsh * (q & -q)
    first = _window(0, q, walsh)
    return first, _window(n - first.length, q, walsh)


def _window(start: int, q: int, walsh: int) -> Window:
    return Window(start, (q,) if q > 1 else (), walsh)
