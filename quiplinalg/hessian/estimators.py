"""Trace and diagonal of a Hessian that is only known by its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.hessian.operator import Operator, check_count, standard_error
from quiplinalg.parallel import single_blas_thread

__all__ = [
    "DiagonalEstimate",
    "TraceEstimate",
    "hutch_pp",
    "hutchinson",
    "hutchinson_diagonal",
]


@dataclass(frozen=True)
class TraceEstimate:
    """An estimate of tr A: ``trace``, its ``standard_error``, and the ``products`` it took."""

    trace: float
    standard_error: float
    products: int


@dataclass(frozen=True, eq=False)
class DiagonalEstimate:
    """``diagonal`` and the ``standard_error`` of each element, (n,), and the ``products`` taken."""

    diagonal: np.ndarray
    standard_error: np.ndarray
    products: int


@suggest_keywords({"samples": ("probes",), "num_samples": ("probes",)})
def hutchinson(
    product: Callable[[Any], Any],
    n: int,
    *,
    probes: int = 32,
    seed: int = 0,
    like: Any = None,
    blocks: bool = False,
) -> TraceEstimate:
    """Estimate tr A = E v^T A v from products with random signs v.

    Parameters
    ----------
    product : callable
        v (n,) -> A v (n,) for a symmetric A: any Hessian-vector product.
    n : int
        Order of A.
    probes : int
        k, at least 1.
    seed : int
        0 to 2**63 - 1; the probes depend on nothing else.
    like : array, optional
        An array of the library, dtype and device whose vectors `product` takes; None: NumPy
        float64.  What it returns may be of any library.
    blocks : bool
        `product` takes and returns blocks (n, k), a vector a column.

    Returns
    -------
    TraceEstimate
        Unbiased for every A.

    Raises
    ------
    InvalidArgumentError, NonFiniteError, DTypeError
        Shapes or numbers that do not fit; NaN or infinity from `product`.

    Notes
    -----
    k products.  Variance 2 (||A||_F^2 - sum a_ii^2) / k, none for a diagonal A.  The standard error
    is estimated from the spread of the probes: honest from about 20 probes on, too small where a
    few rare signs decide (one pair of inputs that dominates), infinite from a single one.

    References
    ----------
    Hutchinson, A stochastic estimator of the trace of the influence matrix (1990).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.hutchinson(lambda v: np.array([1.0, 2.0, 3.0]) * v, 3, probes=4)
    TraceEstimate(trace=6.0, standard_error=0.0, products=4)
    """
    operator = Operator(product, n, seed, like, blocks)
    V = operator.probes(check_count(probes, "probes", 1))
    samples = (V * operator(V)).sum(axis=0)
    return TraceEstimate(float(samples.mean()), float(standard_error(samples)), operator.products)


@suggest_keywords({"samples": ("products",), "num_samples": ("products",)})
def hutch_pp(
    product: Callable[[Any], Any],
    n: int,
    *,
    products: int = 48,
    seed: int = 0,
    like: Any = None,
    blocks: bool = False,
) -> TraceEstimate:
    """Estimate tr A as the trace on a sketched subspace plus Hutchinson's estimate of the rest.

    With Q an orthonormal basis of A S, S random signs, and P = I - Q Q^T:
    tr A = tr(Q^T A Q) + E v^T P A P v.

    Parameters
    ----------
    product, n, seed, like, blocks
        As of `hutchinson`.
    products : int
        At least 3, a third each for the subspace, its trace and the rest.

    Returns
    -------
    TraceEstimate
        Unbiased for every A; the standard error is that of the rest.

    Raises
    ------
    InvalidArgumentError, NonFiniteError, DTypeError
        As `hutchinson`.

    Notes
    -----
    Only for spectra that decay: on eigenvalues i^-2 its standard deviation is some ten times
    below Hutchinson's with as many products, on a flat spectrum its variance is above twice as
    large.  Exact, with standard error 0, from 3 n products on.  2 n k^2 flops beside the products,
    k a third of them.

    References
    ----------
    Meyer, Musco, Musco and Woodruff, Hutch++, arXiv 2010.09649.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> A = np.diag([4.0, 2.0]) + 1
    >>> round(ql.hutch_pp(lambda v: A @ v, 2, products=6).trace, 12)
    8.0
    """
    operator = Operator(product, n, seed, like, blocks)
    third = check_count(products, "products", 3) // 3
    rest = products - 2 * third
    sketch = min(third, operator.n)
    with single_blas_thread():
        Q, _ = np.linalg.qr(operator(operator.probes(sketch)))
        inside = float((Q * operator(Q)).sum())
        if sketch == operator.n:
            return TraceEstimate(inside, 0.0, operator.products)
        V = operator.probes(rest, first=sketch)
        V -= Q @ (Q.T @ V)
        samples = (V * operator(V)).sum(axis=0)
    error = float(standard_error(samples))
    return TraceEstimate(inside + float(samples.mean()), error, operator.products)


@suggest_keywords({"samples": ("probes",), "num_samples": ("probes",)})
def hutchinson_diagonal(
    product: Callable[[Any], Any],
    n: int,
    *,
    probes: int = 32,
    seed: int = 0,
    like: Any = None,
    blocks: bool = False,
) -> DiagonalEstimate:
    """Estimate diag A = E v * (A v) from products with random signs v.

    Parameters
    ----------
    product, n, seed, like, blocks
        As of `hutchinson`.
    probes : int
        k, at least 1.

    Returns
    -------
    DiagonalEstimate
        ``diagonal`` and ``standard_error``, (n,) float64; unbiased for every A.

    Raises
    ------
    InvalidArgumentError, NonFiniteError, DTypeError
        As `hutchinson`.

    Notes
    -----
    k products.  The variance of element i is sum_{j != i} a_ij^2 / k, none for a diagonal A: it
    does not fall with a_ii, so small elements are known badly, and may come out negative.  The
    standard errors are honest from about 20 probes on; of n of them, expect some beyond 3.

    References
    ----------
    Bekas, Kokiopoulou and Saad, An estimator for the diagonal of a matrix (2007).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.hutchinson_diagonal(lambda v: np.array([1.0, 2.0]) * v, 2).diagonal
    array([1., 2.])
    """
    operator = Operator(product, n, seed, like, blocks)
    V = operator.probes(check_count(probes, "probes", 1))
    samples = V * operator(V)
    return DiagonalEstimate(samples.mean(axis=1), standard_error(samples), operator.products)
