"""Damping: what is added to the diagonal of H before it is factored."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.errors import (
    DampingWarning,
    InvalidArgumentError,
    NotPositiveDefiniteError,
    level_of_caller,
)

__all__ = ["AbsoluteDamp", "damped", "diagonal_shift", "shift_of", "warn_of_damping"]

_AUTO = (0.01, 0.04, 0.16, 0.64)  # of the mean live diagonal


@dataclass(frozen=True)
class AbsoluteDamp:
    """Damping given in H's own units, as ``damp=AbsoluteDamp(1e-3)``.

    Parameters
    ----------
    value : float
        At least 0 and finite; added to every diagonal element.
    """

    value: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.value) and self.value >= 0):
            raise InvalidArgumentError(
                f"value must be finite and at least 0; got value={self.value!r}. "
                "Damping is added to the diagonal of H."
            )


def diagonal_shift(damp: float | str | AbsoluteDamp, diagonal: np.ndarray) -> Iterator[float]:
    """Yield the absolute damping to try: one value, or with "auto" 1, 4, 16 and 64 % of the mean.

    Parameters
    ----------
    damp : float, "auto" or AbsoluteDamp
        A float in [0, 1) is a fraction of the mean of the live (positive) diagonal of H.
    diagonal : ndarray, (n,)
    """
    if isinstance(damp, AbsoluteDamp):
        yield float(damp.value)
        return
    live = diagonal[diagonal > 0]
    mean = float(live.mean(dtype=np.float64)) if live.size else 0.0
    if isinstance(damp, str) and damp == "auto":
        yield from (fraction * mean for fraction in _AUTO)
        return
    if isinstance(damp, (bool, str)) or not np.isscalar(damp) or not 0 <= as_float(damp) < 1:
        raise InvalidArgumentError(
            'damp must be a fraction of the mean diagonal of H in [0, 1), "auto", or '
            f"AbsoluteDamp(value); got damp={damp!r}. 0.01 is the usual choice."
        )
    yield float(damp) * mean  # type: ignore[arg-type]


def damped(
    attempt: Callable[[float, np.ndarray], Any],
    diagonal: np.ndarray,
    damp: float | str | AbsoluteDamp,
) -> tuple[Any, float, np.ndarray]:
    """Call ``attempt(value, shift)`` with the damping asked for, escalating with "auto".

    Parameters
    ----------
    attempt : callable, (damping, (n,) float64 shift of the diagonal) -> factor
        Raises NotPositiveDefiniteError where it fails.
    diagonal : ndarray, (n,)
    damp : see `diagonal_shift`.

    Returns
    -------
    factor, damp, shift : object, float, ndarray
        The damping used, in H's units, and the shift of each diagonal element: dead columns get
        the damping too, or where it is 0 the mean live diagonal (1 if no column is live).

    Raises
    ------
    NotPositiveDefiniteError
        With the last damping tried.  Never a silent fall-back.
    """
    tried = list(diagonal_shift(damp, diagonal))
    for value in tried:
        shift = shift_of(value, diagonal)
        try:
            factor = attempt(value, shift)
        except NotPositiveDefiniteError:
            if value == tried[-1]:
                raise
            continue
        if value != tried[0]:
            warn_of_damping("H", value, tried)
        return factor, value, shift
    raise AssertionError("unreachable")


def shift_of(value: float, diagonal: np.ndarray) -> np.ndarray:
    """Return what a damping adds to each diagonal element, (n,); see `damped`."""
    shift = np.full(diagonal.shape, value, np.float64)
    if value == 0:
        live = diagonal[diagonal > 0]
        shift[diagonal == 0] = live.mean(dtype=np.float64) if live.size else 1.0
    return shift


def warn_of_damping(name: str, value: float, tried: list[float]) -> None:
    """Warn that "auto" took more damping than the first of what `diagonal_shift` yields."""
    warnings.warn(
        f"{name} was not positive definite at damp={_AUTO[0]} of its mean diagonal; "
        f"damp={_AUTO[tried.index(value)]} was used ({value:.3g} in H's units). "
        "Collect more samples, or accumulate H in float64.",
        DampingWarning,
        stacklevel=level_of_caller(),
    )
