"""Hypothesis strategies over the builders.

A strategy draws sizes, kinds and a seed, and builds from them; so a failing example shrinks in its
sizes and is repeated from the few integers in its repr.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from quiplinalg.errors import BackendUnavailableError, InvalidArgumentError
from quiplinalg.reference import minmax_grid, mse_grid, rms_grid
from quiplinalg.testing.builders import (
    HESSIANS,
    ORDERS,
    WEIGHTS,
    Problem,
    calibration_hessian,
    make_hessian,
    make_problem,
    make_weights,
    spd_from_spectrum,
)
from quiplinalg.testing.families import SPECTRA, spectrum

try:
    from hypothesis import strategies as st
except ImportError as error:
    raise BackendUnavailableError(
        "The strategies of quiplinalg.testing need hypothesis, which is not installed. Install it "
        "with: pip install 'quiplinalg[test]'. The assertions, the builders and check_quantizer "
        "work without."
    ) from error

__all__ = [
    "calibration_hessians",
    "grids",
    "hessians",
    "problems",
    "seeds",
    "spd_matrices",
    "weights",
]

Draw = Callable[[Any], Any]

seeds = st.integers(0, 2**32 - 1)


@st.composite
def spd_matrices(
    draw: Draw,
    min_n: int = 1,
    max_n: int = 12,
    kinds: Sequence[str] = SPECTRA,
    max_kappa: float = 1e8,
) -> np.ndarray:
    """Draw symmetric positive definite matrices by spectrum, with Haar eigenvectors.

    Parameters
    ----------
    min_n, max_n : int
    kinds : sequence of str
        Of `SPECTRA`.
    max_kappa : float
        Largest condition number; powers of 10 from 1 on are drawn.

    Returns
    -------
    strategy of ndarray, (n, n), float64

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=5, deadline=None)
    ... @given(spd_matrices(max_kappa=1e4))
    ... def test_a_cholesky(A):
    ...     np.linalg.cholesky(A)
    >>> test_a_cholesky()
    """
    n = draw(st.integers(min_n, max_n))
    kappa = 10.0 ** draw(st.integers(0, int(np.log10(max_kappa) + 1e-9)))
    rng = np.random.default_rng(draw(seeds))
    return spd_from_spectrum(spectrum(draw(st.sampled_from(list(kinds))), n, kappa, rng), rng)


@st.composite
def hessians(
    draw: Draw,
    min_n: int = 1,
    max_n: int = 12,
    kinds: Sequence[str] = HESSIANS,
    max_dead: int = 0,
) -> np.ndarray:
    """Draw Hessians of layers; see `make_hessian`.

    Parameters
    ----------
    min_n, max_n : int
    kinds : sequence of str
        Of `HESSIANS`.
    max_dead : int
        Most zero rows and columns.

    Returns
    -------
    strategy of ndarray, (n, n), float64

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=5, deadline=None)
    ... @given(hessians(max_dead=1))
    ... def test_a_column_may_be_dead(H):
    ...     assert (H.diagonal() <= 0).sum() <= 1
    >>> test_a_column_may_be_dead()
    """
    n = draw(st.integers(min_n, max_n))
    dead = draw(st.integers(0, min(max_dead, n)))
    return make_hessian(draw(st.sampled_from(kinds)), n, draw(seeds), dead)


@st.composite
def calibration_hessians(
    draw: Draw, min_n: int = 1, max_n: int = 12, min_samples: int = 1, damp: float = 0.01
) -> np.ndarray:
    """Draw Hessians of 1 to 2n calibration samples, damped; see `calibration_hessian`.

    Parameters
    ----------
    min_n, max_n : int
    min_samples : int
    damp : float

    Returns
    -------
    strategy of ndarray, (n, n), float64

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=5, deadline=None)
    ... @given(calibration_hessians(min_n=4))
    ... def test_damping_makes_it_definite(H):
    ...     assert np.linalg.eigvalsh(H)[0] > 0
    >>> test_damping_makes_it_definite()
    """
    n = draw(st.integers(min_n, max_n))
    samples = draw(st.integers(min_samples, max(2 * n, min_samples)))
    return calibration_hessian(n, samples, draw(seeds), damp)


@st.composite
def weights(
    draw: Draw,
    min_m: int = 1,
    max_m: int = 6,
    min_n: int = 1,
    max_n: int = 12,
    kinds: Sequence[str] = WEIGHTS,
) -> np.ndarray:
    """Draw weights, outliers among them; see `make_weights`.

    Parameters
    ----------
    min_m, max_m, min_n, max_n : int
    kinds : sequence of str
        Of `WEIGHTS`.

    Returns
    -------
    strategy of ndarray, (m, n), float64

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> @settings(max_examples=5, deadline=None)
    ... @given(weights(max_m=3, max_n=5))
    ... def test_they_are_finite(W):
    ...     assert W.shape <= (3, 5) and np.isfinite(W).all()
    >>> test_they_are_finite()
    """
    m, n = draw(st.integers(min_m, max_m)), draw(st.integers(min_n, max_n))
    return make_weights(draw(st.sampled_from(kinds)), m, n, draw(seeds))


@st.composite
def grids(
    draw: Draw, W: np.ndarray, bits: int, kinds: Sequence[str] = ("minmax", "mse", "rms", "odd")
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a grid for the rows of W.

    Parameters
    ----------
    W : ndarray, (m, n)
    bits : int
    kinds : sequence of str
        "minmax" and "mse" (symmetric or not), "rms" (no zero level: zero is maxq / 2), or "odd":
        any step between a tenth and ten times the min-max one, any zero in range.

    Returns
    -------
    strategy of (scale, zero), ndarray, (m, 1), float64

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> W = np.array([[0.3, -1.0]])
    >>> @settings(max_examples=5, deadline=None)
    ... @given(grids(W, 2))
    ... def test_steps_are_positive(grid):
    ...     assert (grid[0] > 0).all()
    >>> test_steps_are_positive()
    """
    unknown = {*kinds} - {"minmax", "mse", "rms", "odd"}
    if unknown:
        raise InvalidArgumentError(
            f"kinds must be of minmax, mse, rms, odd; got {', '.join(sorted(unknown))}. 'odd' has "
            "the most to find."
        )
    kind = draw(st.sampled_from(list(kinds)))
    if kind == "rms":
        return rms_grid(W, bits, draw(st.floats(0.5, 3.0)))
    if kind in ("minmax", "mse"):
        find = mse_grid if kind == "mse" else minmax_grid
        return find(W, bits, draw(st.booleans()))
    rng = np.random.default_rng(draw(seeds))
    scale, _ = minmax_grid(W, bits)
    zero = rng.integers(0, 2**bits, scale.shape).astype(float)
    return scale * 10.0 ** rng.uniform(-1, 1, scale.shape), zero


@st.composite
def problems(
    draw: Draw,
    min_m: int = 1,
    max_m: int = 6,
    min_n: int = 1,
    max_n: int = 12,
    bits: Sequence[int | None] = (1, 2, 3, 4, 8, None),
    hessian_kinds: Sequence[str] = HESSIANS,
    weight_kinds: Sequence[str] = WEIGHTS,
    order_kinds: Sequence[str] = ORDERS,
    max_dead: int = 0,
) -> Problem:
    """Draw whole rounding problems: W, H, bits, order; `Problem.grid` gives a grid.

    Parameters
    ----------
    min_m, max_m, min_n, max_n : int
    bits : sequence of int or None
    hessian_kinds, weight_kinds, order_kinds : sequence of str
    max_dead : int
        Above 0 some columns of H may be zero.

    Returns
    -------
    strategy of Problem

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> import quiplinalg as ql
    >>> @settings(max_examples=5, deadline=None)
    ... @given(problems(bits=(2, 3)))
    ... def test_codes_fit(p):
    ...     assert ql.ldlq(p.W, p.H, p.bits).codes.max() <= p.maxq
    >>> test_codes_fit()
    """
    m, n = draw(st.integers(min_m, max_m)), draw(st.integers(min_n, max_n))
    return make_problem(
        m,
        n,
        draw(seeds),
        draw(st.sampled_from(bits)),
        draw(st.sampled_from(hessian_kinds)),
        draw(st.sampled_from(weight_kinds)),
        draw(st.sampled_from(order_kinds)),
        draw(st.integers(0, min(max_dead, n))),
    )
