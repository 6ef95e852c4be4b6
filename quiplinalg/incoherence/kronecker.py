"""Random orthogonal Kronecker products, QuIP's rotations."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt, prod
from typing import Any

import numpy as np

from quiplinalg.errors import InvalidArgumentError
from quiplinalg.incoherence.draws import check_seed, check_size, haar, permutation, signs
from quiplinalg.incoherence.rotation import Rotation
from quiplinalg.incoherence.windows import Window

__all__ = ["kronecker_orthogonal"]

_DENSE = 128  # up to here one dense factor costs what the two factors of n = 4096 cost
_UNBALANCED = 8  # a pair of divisors further apart than this costs more than two windows


def kronecker_orthogonal(n: int, seed: int, factors: Sequence[int] | None = None) -> Rotation:
    """Draw a random orthogonal Q, a Kronecker product of small Haar matrices.

    Parameters
    ----------
    n : int
        Order of Q; any number from 0.
    seed : int
        0 .. 2**63 - 1.
    factors : sequence of int, optional
        Two or more sizes whose product is n, the slowest axis first.

    Returns
    -------
    Rotation
        Q = (F_0 kron F_1) S P, with P a random permutation and S random signs.

    Raises
    ------
    InvalidArgumentError
        n or seed is not a whole number in range; factors do not multiply to n.

    Notes
    -----
    Without ``factors``: one dense Haar matrix up to n = 128; else the pair of divisors nearest
    sqrt(n) (4096 = 64 x 64, 11008 = 86 x 128) if they are within a ratio of 8; else two windows of
    p = a b coordinates, a = floor(sqrt(n)), b = floor(n / a), one from the start and one to the
    end, each with factors of its own: n - p < sqrt(n) coordinates are mixed once, the others twice.

    Permutation and signs are the same on every platform; the factors the same to about 1e-13
    (see draws.py).  Applying Q costs 2 (a + b) flops an element.  The entries of a product of two
    Haar matrices have heavy tails: max |Q_ij| sqrt(n) is 11 to 16 at n = 4096 and 11008, so one
    huge weight stays visible; `hadamard_orthogonal` spreads it evenly.

    References
    ----------
    Chee et al., QuIP, arXiv 2307.13304, section 4.

    Examples
    --------
    >>> import quiplinalg as ql
    >>> ql.kronecker_orthogonal(4096, seed=0)
    Rotation(kronecker, n=4096, seed=0: 64 x 64)
    """
    n, seed = check_size(n), check_seed(seed)
    windows = _windows(n) if factors is None else (Window(0, _explicit(n, factors)),)
    sizes = [size for window in windows for size in window.sizes]
    return Rotation(
        kind="kronecker",
        n=n,
        seed=seed,
        permutation=permutation(n, seed),
        signs=signs(n, seed),
        windows=windows,
        factors=tuple(haar(size, seed, index) for index, size in enumerate(sizes)),
        inner_signs=signs(windows[1].length if len(windows) > 1 else 0, seed, 1),
    )


def _explicit(n: int, factors: Any) -> tuple[int, ...]:
    """Return the caller's sizes after checking them."""
    try:
        sizes = tuple(factors)
    except TypeError:
        sizes = ()
    whole = all(isinstance(s, int | np.integer) and not isinstance(s, bool) for s in sizes)
    if not whole or len(sizes) < 2 or min(sizes) < 1 or prod(int(s) for s in sizes) != n:
        raise InvalidArgumentError(
            f"factors must be two or more positive whole numbers whose product is n={n}; got "
            f"factors={factors!r}. Leave it out to have a pair near sqrt(n) chosen."
        )
    return tuple(int(s) for s in sizes)


def _windows(n: int) -> tuple[Window, ...]:
    """Return the default windows: one dense, one of a divisor pair, or two that overlap."""
    if n < 2:
        return ()
    if n <= _DENSE:
        return (Window(0, (n,)),)
    a = next(a for a in range(isqrt(n), 0, -1) if n % a == 0)
    b = n // a
    if b <= _UNBALANCED * a:
        return (Window(0, (a, b)),)
    a = isqrt(n)
    b = n // a
    return Window(0, (a, b)), Window(n - a * b, (a, b))
