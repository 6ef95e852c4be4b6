"""The order in which each step eliminates the least Schur diagonal, by plain elimination."""

from __future__ import annotations

import numpy as np

from quiplinalg.errors import NotPositiveDefiniteError
from quiplinalg.reference.precision import working_dtype

__all__ = ["min_pivot"]


def min_pivot(H: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factor H[order][:, order] = T diag(D) T^T, the order chosen from its end to its start.

    With S = H at first, for k from n - 1 down to 0::

        q = argmin S_qq over the q not yet taken (the lowest q of equal ones)
        order[k] = q,   D_k = S_qq,   t = S_:q / D_k
        S <- S - D_k t t^T

    so that S_qq = H_qq - H_qF H_FF^-1 H_Fq, F what was taken before: what remains of q once all
    that is rounded after it is optimal.  T_ik is t at the index that came to place i < k.

    Parameters
    ----------
    H : ndarray, (n, n)
        Symmetric positive definite.

    Returns
    -------
    order : ndarray, (n,), int64
        Column ``order[0]`` is rounded first; ``order[n - 1]`` was chosen first.
    T : ndarray, (n, n), float64, or longdouble for a longdouble H
        Unit upper triangular.
    D : ndarray, (n,), the dtype of T
        The pivots.

    Raises
    ------
    NotPositiveDefiniteError
        The least pivot is not positive (or all are NaN); ``index`` is its row.

    References
    ----------
    Golub and Van Loan, Matrix Computations, 4.2.8, which takes the greatest pivot instead.

    Examples
    --------
    >>> H = np.array([[1.0, 1.0, 0.0], [1.0, 5.0, 0.0], [0.0, 0.0, 3.0]])
    >>> order, T, D = min_pivot(H)
    >>> order, D
    (array([1, 2, 0]), array([4., 3., 1.]))
    """
    S = np.array(H, working_dtype(H))
    n = S.shape[0]
    order, D, columns = np.zeros(n, np.int64), np.zeros(n, S.dtype), np.zeros_like(S)
    left = list(range(n))
    for k in range(n - 1, -1, -1):
        q = left[0]
        for candidate in left[1:]:
            if S[candidate, candidate] < S[q, q] or np.isnan(S[q, q]):
                q = candidate
        order[k], D[k] = q, S[q, q]
        if not 0 < D[k] < np.inf:
            raise NotPositiveDefiniteError(q, float(D[k]), "Add damping to its diagonal.", "H")
        columns[:, k] = S[:, q] / D[k]
        S -= np.outer(columns[:, k] * D[k], columns[:, k])
        left.remove(q)
    T = np.triu(columns[order], 1) + np.eye(n, dtype=S.dtype)
    return order, T, D
