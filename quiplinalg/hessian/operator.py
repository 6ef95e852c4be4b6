"""A matrix that is only known by its products with vectors, of any library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from quiplinalg.arrays import check_finite, to_numpy
from quiplinalg.errors import DTypeError, InvalidArgumentError
from quiplinalg.incoherence.draws import check_seed, check_size, signs
from quiplinalg.restore import like as restored_like

__all__ = ["Operator", "check_count", "standard_error"]


class Operator:
    """A callable v -> A v, or V -> A V, as NumPy float64 blocks; it counts."""

    def __init__(self, product: Callable[[Any], Any], n: Any, seed: Any, like: Any, blocks: bool):
        if not callable(product):
            raise DTypeError(
                f"product must be a callable that returns A v; got {type(product).__name__}. Pass "
                "lambda v: A @ v for a matrix A."
            )
        self.n, self.seed = check_size(n), check_seed(seed)
        self.product, self.blocks = product, blocks
        self.restore = (lambda a: a) if like is None else restored_like(like)
        self.products = 0

    def probes(self, count: int, first: int = 0) -> np.ndarray:
        """Rademacher probes ``first``, ``first + 1``, ... as columns, (n, count) float64."""
        columns = [signs(self.n, self.seed, first + i) for i in range(count)]
        return np.array(columns, np.float64).reshape(count, self.n).T

    def __call__(self, V: np.ndarray) -> np.ndarray:
        count = V.shape[1]
        self.products += count
        if self.blocks:
            return self._read(self.product(self.restore(V.copy(order="C"))), V.shape)
        out = np.empty(V.shape)
        for j in range(count):
            v = V[:, j].copy()  # its own: a product may work in place
            out[:, j] = self._read(self.product(self.restore(v)), v.shape)
        return out

    def _read(self, value: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = to_numpy(value, "product(v)")
        if array.shape != shape:
            raise InvalidArgumentError(
                f"product must keep the shape of its vectors, {shape}; got {array.shape}. Flatten "
                "the parameters into one vector, or pass blocks=True for a product of blocks."
            )
        array = array.astype(np.float64)
        check_finite(array, "product(v)")
        return array


def check_count(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise InvalidArgumentError(
            f"{name} must be a whole number of at least {least}; got {name}={value!r}. Each costs "
            "one product with A."
        )
    return int(value)


def standard_error(samples: np.ndarray) -> np.ndarray:
    """Standard error of the mean over the last axis; infinite from one sample."""
    k = samples.shape[-1]
    if k < 2:
        return np.full(samples.shape[:-1], np.inf)
    return samples.std(axis=-1, ddof=1) / np.sqrt(k)
