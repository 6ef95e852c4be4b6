"""Orders in which columns are rounded."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.errors import BackendUnavailableError, InvalidArgumentError
from quiplinalg.factor.min_pivot import factor_min_pivot
from quiplinalg.factor.recursive import factor_reversed
from quiplinalg.kernels.record import DeviceKernels, Kernels

__all__ = [
    "ORDERS",
    "check_order",
    "factor_in_order",
    "host_diagonal",
    "order_of_diagonal",
]

ORDERS = ("natural", "act", "min-pivot")


def check_order(order: Any) -> None:
    """Raise InvalidArgumentError unless ``order`` is one of `ORDERS`."""
    if not isinstance(order, str) or order not in ORDERS:
        raise InvalidArgumentError(
            f"order must be one of {', '.join(ORDERS)}; got order={order!r}. "
            'order="act" is what other libraries call desc_act or act-order.'
        )


def factor_in_order(
    H: np.ndarray, order: str, shift: np.ndarray, kernels: Kernels
) -> tuple[np.ndarray, np.ndarray]:
    """Factor H + diag(shift), columns in the order of rounding.

    Parameters
    ----------
    H : ndarray, (n, n), symmetric, C order
    order : str
        "natural": 0 .. n-1; "act": by descending diagonal of H, ties in natural order;
        "min-pivot": the column of the least Schur diagonal last, and so on (`factor_min_pivot`).
    shift : ndarray, (n,), float64
        In the caller's column order.
    kernels : Kernels

    Returns
    -------
    A : ndarray, (n, n), float64, rows contiguous
        As `factor_reversed`.
    permutation : ndarray, (n,), int64
        The columns in the order they are rounded.

    Raises
    ------
    InvalidArgumentError
        Another order.
    NotPositiveDefiniteError
        With the row of the caller's H and the pivot there.
    """
    check_order(order)
    if order == "min-pivot":  # known only once the factor is
        if isinstance(kernels, DeviceKernels):
            raise BackendUnavailableError(
                "order='min-pivot' has no CUDA kernel; got arrays on a device. Pass order='act', "
                "or host arrays."
            )
        return factor_min_pivot(H, shift, kernels)
    permutation = order_of_diagonal(order, host_diagonal(H))
    return factor_reversed(H, permutation, shift, kernels), permutation


def host_diagonal(H: Any) -> np.ndarray:
    """Return the diagonal of a matrix, which may be on a device, as a NumPy array."""
    diagonal = H.diagonal()
    return diagonal if isinstance(diagonal, np.ndarray) else diagonal.copy().get()


def order_of_diagonal(order: str, diagonal: np.ndarray) -> np.ndarray:
    """Return the permutation of "natural" or "act", which the diagonal of H alone decides."""
    if order == "act":
        return np.argsort(-diagonal, kind="stable")
    return np.arange(diagonal.shape[0])
