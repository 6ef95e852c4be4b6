"""Blocked UDU^T factorisation, H = T D T^T, T unit upper triangular: the library's convention."""

from __future__ import annotations

from typing import Any

import numpy as np

from quiplinalg.factor.damping import AbsoluteDamp, damped
from quiplinalg.factor.orders import host_diagonal
from quiplinalg.factor.recursive import factor_reversed
from quiplinalg.kernels.record import DeviceKernels, select
from quiplinalg.parallel import run_all
from quiplinalg.results import UDU
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["udu"]

_ROWS = 128


def udu(
    H: Any,
    *,
    damp: float | str | AbsoluteDamp = 0.0,
    block: int | None = None,
    backend: str = "auto",
) -> UDU:
    """Factor H + damp I = T diag(D) T^T, T = I + U unit upper triangular.

    Parameters
    ----------
    H : array, (n, n), floating
        Symmetric positive semidefinite; both triangles are checked.  Not changed.
    damp : float, "auto" or AbsoluteDamp
        Fraction of the mean live diagonal added to the diagonal; "auto" starts at 0.01 and
        multiplies by 4 until the factorisation succeeds, with a DampingWarning.
    block : int, optional
        As in `cholesky`.
    backend : str
        "auto", "cpu", "generic" or "cuda"; "auto" works where H is.

    Returns
    -------
    UDU
        ``T`` (n, n), laid out as L of `cholesky`, ``D`` (n,), ``damp`` in H's units, ``dead`` (the
        columns whose diagonal is zero), with ``reconstruct()`` and ``solve(b)``.

    Raises
    ------
    NotPositiveDefiniteError
        With the index in H and the value of the pivot.  With damp = 0 a dead column raises it.
    NonFiniteError, InvalidArgumentError, DTypeError
        As `cholesky`.

    Notes
    -----
    One Cholesky of the index-reversed H: J H J = L L^T, T = J L diag(L)^-1 J.  D_k is the
    conditional variance 1 / [(H_FF)^-1]_kk, F = {k, .., n-1}: no inverse is formed.
    n^3/3 flops; one n x n copy, in place after that.

    References
    ----------
    Chee et al., QuIP (arXiv 2307.13304), section 3.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> factor = ql.udu(np.array([[4.0, 2.0], [2.0, 2.0]]))
    >>> factor.T
    array([[1., 1.],
           [0., 1.]])
    >>> factor.D
    array([2., 2.])
    """
    kernels = select(backend, H=H)
    with kernels.running(H):
        matrix = symmetric_matrix(H, "H", kernels)
        n = matrix.shape[0]
        order = np.arange(n)
        diagonal = host_diagonal(matrix)
        dead = np.flatnonzero(diagonal == 0)
        kind = np.float64 if isinstance(kernels, DeviceKernels) else matrix.dtype.type

        def attempt(value: float, _: np.ndarray) -> np.ndarray:
            # exactly H + damp I, dead columns too: the result must reconstruct
            shift = np.full(n, value)
            return factor_reversed(matrix, order, shift, kernels, block, kind)

        factor, value, _ = damped(attempt, diagonal, damp)
        if isinstance(kernels, DeviceKernels):
            T, D = kernels.xp.empty_like(factor), kernels.xp.empty(n)
            kernels.unit_rows(factor[None], T[None], D[None])
            T, D = (kernels.back(H, a.astype(matrix.dtype, copy=False)) for a in (T, D))
            return UDU(T=T, D=D, damp=value, dead=dead)
    pivots = factor.diagonal()[::-1].copy()
    half = (n + 1) // 2
    run_all(kernels.unit_rows, [(factor, j, min(j + _ROWS, half)) for j in range(0, half, _ROWS)])
    return UDU(T=factor.T, D=pivots**2, damp=value, dead=dead)
