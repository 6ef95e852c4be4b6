"""Orders in which columns are rounded."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import InvalidArgumentError

__all__ = ["ORDERS", "rounding_order"]

ORDERS = ("natural", "act")


def rounding_order(order: str, diagonal: np.ndarray) -> np.ndarray:
    """Return the (n,) permutation in which columns are rounded.

    Parameters
    ----------
    order : str
        "natural": 0 .. n-1; "act": by descending diagonal of H, ties in natural order.
    diagonal : ndarray, (n,)

    Raises
    ------
    InvalidArgumentError
        Another order.
    """
    if order == "natural":
        return np.arange(diagonal.shape[0])
    if order == "act":
        return np.argsort(-diagonal, kind="stable")
    raise InvalidArgumentError(
        f"order must be one of {', '.join(ORDERS)}; got order={order!r}. "
        'order="act" is what other libraries call desc_act or act-order.'
    )
