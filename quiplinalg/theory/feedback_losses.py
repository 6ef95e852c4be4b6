"""Worst and average losses of rounding with feedback in closed form: LDLQ in any order, BlockLDLQ.

The hypotheses, units and ``scale`` are those of losses.py: unbounded grid, loss in units of H times
the step squared, uniform fractional parts for averages.  Steps of columns are absorbed by
H' = S H S, whose pivots in the same order are s_k^2 D_k.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.arguments import as_float
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.theory.losses import nearest_worst
from quiplinalg.theory.pivots import block_pivots, check_count, pivots, psd_matrix, step_sums

__all__ = [
    "block_ldlq_average",
    "block_ldlq_worst",
    "ldlq_average",
    "ldlq_gain",
    "ldlq_stochastic_average",
    "ldlq_stochastic_worst",
    "ldlq_variance",
    "ldlq_worst",
]


def ldlq_average(H: Any, m: int = 1, scale: Any = 1.0, order: Any = "natural") -> float:
    """Return the average loss of LDLQ (GPTQ) with nearest rounding, (m/12) s^2 tr D.

    H = T diag(D) T^T in the order of rounding; the least of its class (theorem 1).

    Parameters
    ----------
    H, m, scale
        As in `nearest_average`.
    order : str or array, (n,), integers
        "natural", "act", "min-pivot", or the columns in the order they are rounded.

    Returns
    -------
    float

    Notes
    -----
    H is the matrix that is factored AND that measures the loss.  With damping d, H + d I is
    factored: pass that for the damped loss; the undamped one is less by d ||E||^2.  Uniform
    fractional parts on an unbounded grid; on a clipped one the loss may be any number above.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), theorem 1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> H = np.array([[2.0, 1.0], [1.0, 1.0]])
    >>> ql.theory.ldlq_average(H, m=6), ql.theory.nearest_average(H, m=6)
    (1.0, 1.5)
    """
    return _feedback(H, m, scale, order) / 12


def ldlq_variance(H: Any, m: int = 1, scale: Any = 1.0, order: Any = "natural") -> float:
    """Return the variance of LDLQ's loss about `ldlq_average`, (m/180) s^4 sum D^2.

    Parameters
    ----------
    H, m, scale, order
        As in `ldlq_average`.

    Returns
    -------
    float
        In units of the loss squared.

    Notes
    -----
    The loss is sum_k D_k eta_k^2 with the eta_k independent and uniform in +-s/2, so that eta_k^2
    has the variance s^4 / 180.  Hypotheses as in `ldlq_average`.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 3.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.ldlq_variance(np.eye(3), m=60)
    1.0
    """
    D = pivots(H, order)
    return float(step_sums(scale, check_count(m, "m"), D.shape[0], 4) @ np.square(D)) / 180


def ldlq_worst(H: Any, m: int = 1, scale: Any = 1.0, order: Any = "natural") -> float:
    """Return the worst loss of LDLQ with nearest rounding, (m/4) s^2 tr D: Babai's bound.

    With steps by column it is (1/4) sum_k s_k^2 D_k for each row, and holds for every W.

    Parameters
    ----------
    H, m, scale, order
        As in `ldlq_average`.

    Returns
    -------
    float
        The supremum: for integers Z and |eta| < 1/2, W = Z - eta T^-1 has the loss
        sum_k D_k eta_k^2.

    Notes
    -----
    Holds pointwise on an unbounded grid only: a clamped LDLQ may lose more by any factor.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), theorem 1; Babai, On Lovasz' lattice reduction and the
    nearest lattice point problem, Combinatorica 6 (1986).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.ldlq_worst(np.array([[2.0, 1.0], [1.0, 1.0]]), scale=np.array([[2.0, 1.0]]))
    1.25
    """
    return _feedback(H, m, scale, order) / 4


def ldlq_stochastic_average(H: Any, m: int = 1, scale: Any = 1.0, order: Any = "natural") -> float:
    """Return the average loss of LDLQ with stochastic rounding, (m/6) s^2 tr D.

    Parameters
    ----------
    H, m, scale, order
        As in `ldlq_average`.

    Returns
    -------
    float
        Averaged over the weights and over the draws.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), theorem 1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.ldlq_stochastic_average(np.array([[2.0, 1.0], [1.0, 1.0]]), m=3)
    1.0
    """
    return _feedback(H, m, scale, order) / 6


def ldlq_stochastic_worst(H: Any, m: int = 1, scale: Any = 1.0, order: Any = "natural") -> float:
    """Return the worst mean loss of LDLQ with stochastic rounding, at most (m/4) s^2 tr D.

    Parameters
    ----------
    H, m, scale, order
        As in `ldlq_average`.

    Returns
    -------
    float
        An upper bound of the mean over draws, for every W.  A single draw is bounded by 4 times
        as much, since |eta_k| < s.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), theorem 1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.ldlq_stochastic_worst(np.array([[2.0, 1.0], [1.0, 1.0]]), m=2)
    1.0
    """
    return _feedback(H, m, scale, order) / 4


def ldlq_gain(H: Any, order: Any = "natural") -> float:
    """Return tr D / tr H: LDLQ's average and worst loss over those of rounding without feedback.

    Parameters
    ----------
    H, order
        As in `ldlq_average`.

    Returns
    -------
    float
        In (0, 1]; 1 if and only if H is diagonal (theorem 4: no gain without incoherence).  NaN
        for H = 0.

    Notes
    -----
    The worst loss of nearest is at least (m/4) s^2 tr H, so there the gain may be larger.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), theorem 4.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> round(ql.theory.ldlq_gain(np.diag([3.0, 1.0])), 12)
    1.0
    """
    D, total = pivots(H, order), float(psd_matrix(H).trace())
    return min(float(D.sum()) / total, 1.0) if total else float("nan")


def block_ldlq_average(H: Any, block: int, m: int = 1, variance: float = 1 / 12) -> float:
    """Return the average loss of BlockLDLQ, m variance tr D, D the block pivots.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive definite.
    block : int
        Columns rounded together, a divisor of n.
    m : int
        Rows of W.
    variance : float
        Mean square error per weight of the codebook, its errors uncorrelated: 1/12 for the
        integers, 0.0917 for E8P on unit normal weights.

    Returns
    -------
    float

    Notes
    -----
    E eta_b^T D_b eta_b = variance tr D_b where the errors of a block are uncorrelated and of one
    variance.  tr D grows with the block, from scalar LDLQ's to tr H at block = n.

    References
    ----------
    Tseng et al., QuIP# (arXiv 2402.04396), theorem 4.1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> round(ql.theory.block_ldlq_average(np.array([[2.0, 1.0], [1.0, 1.0]]), 2, m=4), 12)
    1.0
    """
    value = as_float(variance)
    if not 0 <= value < np.inf:
        raise InvalidArgumentError(
            f"variance must be finite and at least 0; got variance={variance!r}."
        )
    D = block_pivots(H, block)
    return float(np.einsum("bii->", D)) * value * check_count(m, "m")


def block_ldlq_worst(H: Any, block: int, m: int = 1, scale: float = 1.0) -> float:
    """Return the worst loss of BlockLDLQ with nearest integers inside the blocks.

    (m/4) s^2 sum_b max over signs of sigma^T D_b sigma.

    Parameters
    ----------
    H, block, m
        As in `block_ldlq_average`; block is at most 22.
    scale : float
        The step, one for all.

    Returns
    -------
    float
        Attained in the limit, as any errors |eta| < s/2 are those of some W.

    Notes
    -----
    Unbounded grid.  n 2^(block - 1) block flops.

    References
    ----------
    Tseng et al., QuIP# (arXiv 2402.04396), section 4.1.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> ql.theory.block_ldlq_worst(np.array([[2.0, 1.0], [1.0, 1.0]]), 2)
    1.25
    """
    D = block_pivots(H, block)
    return sum(nearest_worst(one, m, scale) for one in D) if len(D) else 0.0


def _feedback(H: Any, m: int, scale: Any, order: Any) -> float:
    """sum_rk s_rk^2 D_k."""
    D = pivots(H, order)
    return float(step_sums(scale, check_count(m, "m"), D.shape[0]) @ D)
