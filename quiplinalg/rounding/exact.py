"""The best codes of all for rows of a few dozen columns, by branch and bound."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp, damped
from quiplinalg.factor.orders import factor_in_order
from quiplinalg.grids.apply import check_reached, code_ends, dequantize
from quiplinalg.grids.codebook import uniform_grid
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import select
from quiplinalg.losses import proxy_loss
from quiplinalg.parallel import run_all, single_blas_thread
from quiplinalg.results import Quantized
from quiplinalg.rounding.kbest import kbest
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["Exact", "exact"]

_ROWS = 4  # of a piece: rows take very different times
_PATHS = 8  # of the K-best rounding that the search starts with


@dataclass(frozen=True, eq=False, repr=False)
class Exact:
    """The best codes of each row, and for which rows they are known to be that.

    Attributes
    ----------
    quantized : Quantized
        Of method "exact"; its codes are those found, proven or not.
    proven : ndarray, (m,), bool
        True where no codes on the grid have a smaller loss under H with its damping, as computed
        in float64.  False where ``max_nodes`` were spent: the codes are the best found.
    nodes : ndarray, (m,), int64
        Partial roundings of the row that were looked at.
    row_loss : ndarray, (m,), float64
        (W_hat - w) H' (W_hat - w)^T of each row, H' being H with its damping.
    """

    quantized: Quantized
    proven: np.ndarray
    nodes: np.ndarray
    row_loss: np.ndarray

    def __repr__(self) -> str:
        m, n = self.quantized.shape
        missing = int((~self.proven).sum())
        state = f"{missing} of {m} rows NOT PROVEN: raise max_nodes" if missing else "all proven"
        return (
            f"Exact({m}x{n}: {state}, loss {self.quantized.loss:.4g}, "
            f"{int(self.nodes.sum())} nodes)"
        )


@suggest_keywords()
def exact(
    W: Any,
    H: Any,
    bits: int = 2,
    *,
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    sym: bool = False,
    clip: str = "mse",
    order: str = "min-pivot",
    damp: float | str | AbsoluteDamp = 0.01,
    max_nodes: int = 10_000_000,
    backend: str = "auto",
) -> Exact:
    """Find the codes of least (W_hat - w) H' (W_hat - w)^T of each row, H' = H + damp I.

    H' = T D T^T makes the loss sum_k D_k eta_k^2, of which a partial rounding already has its part;
    a depth-first search takes the codes nearest to each target first, and turns back where that
    part is no smaller than the best loss so far (Schnorr and Euchner).

    Parameters
    ----------
    W, H, bits, grid, sym, clip, damp, backend
        As in `ldlq`; ``clip="best"`` takes the grid of each row that is better for `kbest`.
    group_size : int, optional
        Columns that share a scale, consecutive ones of the original W.
    order : str
        Of the search, as in `ldlq`.  It changes the time, by a factor of 1000 where some columns
        of H stand out, but not the least loss.
    max_nodes : int
        Partial roundings to look at for a row, at least 1.  One takes 50 to 100 ns at n = 32.

    Returns
    -------
    Exact
        ``quantized``, and for each row ``proven``, ``nodes`` and ``row_loss``.

    Raises
    ------
    NotPositiveDefiniteError, NonFiniteError, DTypeError, InvalidArgumentError,
    BackendUnavailableError
        As `ldlq`.

    Warns
    -----
    DampingWarning
        ``damp="auto"`` had to go beyond 0.01.

    Notes
    -----
    The optimum is that of the DAMPED H, because H alone may be singular, and then the search would
    not end; under H itself other codes may be better.  ``damp=AbsoluteDamp(0.0)`` gives the optimum
    of H.  It is one for the given grid: another scale may have a better one.

    Nodes grow exponentially with n, and faster for ill-conditioned H: in min-pivot order, with 2
    bits and eigenvalues k^-1.2, a row takes about 1e4 at n = 32, 1e5 at n = 40 and 1e6 at n = 48,
    where a few rows in a hundred spend all of ``max_nodes``; fewer, mostly, where columns differ in
    scale.  Such a row keeps the best codes found, never worse than those of `kbest` with 8 paths,
    with which the search starts, and so never worse than LDLQ's (under the damped H).  On a finite
    grid only legal codes are visited, and a side is done at its end.

    Floating point cannot cut off the best codes.  A code vector has one computed loss, whatever
    the way the search took to it: a sum of terms >= 0, each added to what was before, so that the
    computed cost of a partial rounding is at most that of every completion.  Each term is the
    square of a rounded difference that grows with the distance of the code from its target on
    either side.  So what is turned back from is above the best, as computed, without any slack; the
    codes are of least computed loss, and those of the least true one are within rounding errors
    (n eps terms) of it.  Of equal losses the first that is found is kept.  The same codes for any
    number of threads.

    O(n) flops a node and n^3/3 for the factor; 8 n^2 bytes a thread beside those of `kbest`.

    References
    ----------
    Schnorr, Euchner, Lattice basis reduction (Math. Programming 66, 1994); Agrell, Eriksson, Vardy,
    Zeger, Closest point search in lattices (IEEE Trans. Inf. Theory 48, 2002).

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((64, 16))
    >>> W, H = rng.standard_normal((8, 16)), X.T @ X / 64
    >>> best = ql.exact(W, H, bits=2)
    >>> bool(best.proven.all()), best.quantized.loss <= ql.ldlq(W, H, bits=2).loss
    (True, True)
    """
    budget = _check_budget(max_nodes)
    kernels = select(backend)
    start = kbest(
        W, H, bits, k=_PATHS, grid=grid, group_size=group_size, sym=sym, clip=clip, order=order,
        damp=damp, backend=backend,
    )  # fmt: skip
    weight = work_matrix(W).astype(start.precision, copy=False)
    hessian = symmetric_matrix(H, "H", kernels)
    m, n = start.shape
    (factor, permutation), _, _ = damped(
        lambda _, shift: factor_in_order(hessian, order, shift, kernels),
        hessian.diagonal(),
        AbsoluteDamp(start.damp),
    )
    pivots = factor.diagonal()[::-1].copy()
    # A is the upper factor of the index-reversed H: H = R R^T, R = (J A J)^T, T = R / pivots
    U = np.triu(factor[::-1, ::-1].T / pivots, 1) if n else np.zeros((0, 0))
    D = pivots**2
    chosen = uniform_grid(start.grid)
    low, high = code_ends(chosen.bits)
    columns = chosen.columns(n)[permutation]
    codes = start.codes[:, permutation].astype(np.int64)
    row_loss, nodes, proven = np.zeros(m), np.zeros(m, np.int64), np.ones(m, bool)
    clipped = np.zeros(m, np.int64)

    def search(i: int) -> None:
        rows = slice(i, min(i + _ROWS, m))
        own = slice(None) if chosen.scale.shape[0] == 1 else rows
        w = weight[rows][:, permutation].astype(np.float64)
        s, o = (
            np.ascontiguousarray(np.broadcast_to(a[own][:, columns].astype(np.float64), w.shape))
            for a in (chosen.scale, chosen.zero)
        )
        found = (codes[rows], row_loss[rows], nodes[rows], proven[rows])
        kernels.exact_rows(w, U, D, (s, o, low, high), budget, *found)
        target = w + (w - s * (codes[rows] - o)) @ U
        whole = np.floor(o)
        free = np.rint(target / s + (o - whole)) + whole
        clipped[rows] = ((free < low) | (free > high)).sum(axis=1)

    with single_blas_thread():
        run_all(search, [(i,) for i in range(0, m, _ROWS)] if n else [])
    check_reached(chosen.bits, clipped.sum())
    best = np.empty((m, n), chosen.code_dtype)
    best[:, permutation] = codes
    quantized = replace(
        start,
        codes=best,
        method="exact",
        loss=proxy_loss(dequantize(best, chosen, weight.dtype), weight, hessian),
        clipped=float(clipped.sum()) / max(m * n, 1),
    )
    return Exact(quantized=quantized, proven=proven, nodes=nodes, row_loss=row_loss)


def _check_budget(max_nodes: Any) -> int:
    whole = isinstance(max_nodes, (int, np.integer)) and not isinstance(max_nodes, bool)
    if not whole or not 1 <= max_nodes < 1 << 62:
        raise InvalidArgumentError(
            f"max_nodes must be a whole number of at least 1; got max_nodes={max_nodes!r}. "
            "10_000_000 are about a second a row."
        )
    return int(max_nodes)
