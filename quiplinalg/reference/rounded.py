"""What every reference rounding with feedback returns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiplinalg.reference.grids import dequantise
from quiplinalg.reference.losses import row_losses

__all__ = ["Rounded"]


@dataclass(frozen=True, eq=False)
class Rounded:
    """Codes of a weight matrix and the quantities of its rounding, in the caller's column order.

    Parameters
    ----------
    codes : ndarray, (m, n), int64
        Grid codes.
    W_hat : ndarray, (m, n)
        ``scale * (codes - zero)``.
    E : ndarray, (m, n)
        ``W_hat - W``, W the caller's weights.
    eta : ndarray, (m, n)
        ``W_hat - z``, z the targets that were rounded.
    costs : ndarray, (m, n)
        What each step added to the loss, by the algorithm's own formula.
    loss : ndarray, (m,)
        ``e H e^T`` for each row e of E, from the definition.
    scale, zero : ndarray, (rows, groups)
        The grid that was used.
    group_index : ndarray, (n,), or None
        Group of each column.
    """

    codes: np.ndarray
    W_hat: np.ndarray
    E: np.ndarray
    eta: np.ndarray
    costs: np.ndarray
    loss: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    group_index: np.ndarray | None

    @classmethod
    def of(cls, W, H, codes, z, costs, scale, zero, group_index) -> Rounded:
        """Fill the fields that follow from the codes and the targets."""
        W_hat = dequantise(codes, scale, zero, group_index=group_index)
        loss = row_losses(W_hat, W, H)
        return cls(codes, W_hat, W_hat - W, W_hat - z, costs, loss, scale, zero, group_index)
