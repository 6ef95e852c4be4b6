"""A low-rank correction of rounded weights: W_hat + left right, stored in float16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiplinalg.errors import InvalidArgumentError

__all__ = ["LowRankCorrection"]

_ROWS = 256


@dataclass(frozen=True, eq=False)
class LowRankCorrection:
    """What is added to rounded weights: left @ right, of rank r.

    Parameters
    ----------
    left : ndarray, (m, r), float16
    right : ndarray, (r, n), float16
        Finite.

    Raises
    ------
    InvalidArgumentError
        Factors of another dtype, that do not fit each other, or that are not finite.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> left, right = np.ones((3, 1), np.float16), np.ones((1, 4), np.float16)
    >>> correction = ql.LowRankCorrection(left, right)
    >>> correction.shape, correction.rank, correction.storage_bits
    ((3, 4), 1, 112)
    """

    left: np.ndarray
    right: np.ndarray

    def __post_init__(self) -> None:
        left, right = self.left, self.right
        if not (
            left.ndim == right.ndim == 2
            and left.shape[1] == right.shape[0]
            and left.dtype == right.dtype == np.float16
        ):
            raise InvalidArgumentError(
                "left and right must be float16 arrays (m, r) and (r, n); got "
                f"{left.dtype} of shape {left.shape} and {right.dtype} of shape {right.shape}."
            )
        if not (np.isfinite(left).all() and np.isfinite(right).all()):
            raise InvalidArgumentError(
                "left and right must be finite in float16, in which they are stored; got others. "
                "Bring the weights nearer to 1."
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the weights that it corrects."""
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """The columns of left, r."""
        return self.left.shape[1]

    @property
    def storage_bits(self) -> int:
        """Bits that the two factors take on disk, 16 r (m + n)."""
        return 8 * (self.left.nbytes + self.right.nbytes)

    def add_to(self, W_hat: np.ndarray) -> None:
        """Add it to (m, n) weights in place, computed in their dtype."""
        right = self.right.astype(W_hat.dtype)
        for i in range(0, W_hat.shape[0], _ROWS):
            W_hat[i : i + _ROWS] += self.left[i : i + _ROWS].astype(W_hat.dtype) @ right

    def of_rows(self, rows: slice | np.ndarray) -> LowRankCorrection:
        """The correction of some rows."""
        return LowRankCorrection(self.left[rows], self.right)
