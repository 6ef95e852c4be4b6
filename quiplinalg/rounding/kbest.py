"""K-best rounding (the M-algorithm): LDLQ that keeps the K best partial roundings of each row."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from quiplinalg.arguments import suggest_keywords
from quiplinalg.errors import InvalidArgumentError
from quiplinalg.factor.damping import AbsoluteDamp, damped
from quiplinalg.factor.orders import factor_in_order
from quiplinalg.grids.apply import check_range, dequantize
from quiplinalg.grids.search import work_matrix
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.kernels.record import PANEL, Kernels, select
from quiplinalg.losses import proxy_loss
from quiplinalg.restore import like
from quiplinalg.results import Quantized
from quiplinalg.rounding.driver import grid_before, grid_there
from quiplinalg.rounding.kbest_driver import Rounded, round_kbest
from quiplinalg.rounding.options import Options
from quiplinalg.rounding.plan import Plan, check_shapes, layout, pack, undamped
from quiplinalg.symmetric import symmetric_matrix

__all__ = ["kbest"]

_MOST = 4096  # paths; their numbers are kept in 16 bits


@suggest_keywords()
def kbest(
    W: Any,
    H: Any,
    bits: int = 2,
    *,
    k: int = 8,
    grid: UniformGrid | None = None,
    group_size: int | None = None,
    sym: bool = False,
    clip: str = "mse",
    order: str = "act",
    damp: float | str | AbsoluteDamp = 0.01,
    block: int | None = None,
    backend: str = "auto",
) -> Quantized:
    """Round W as `ldlq` does, but keep the k best partial roundings of each row.

    A partial rounding of columns 0 .. j-1 costs sum_{i<j} D_i eta_i^2, its part of the loss; each
    one that is kept offers the codes nearest to its target z_j = W_j + (W - W_hat)_{<j} U_{<j,j}
    for column j, and of all these the k cheapest are kept.

    Parameters
    ----------
    W, H, bits, grid, sym, clip, order, damp, block, backend
        As in `ldlq`.
    k : int
        1 to 4096.  1 is `ldlq`, to the last code.
    group_size : int, optional
        Columns that share a scale, consecutive ones of the original W.

    Returns
    -------
    Quantized
        Of method "kbest".  ``near_tie_rows`` is 0, whatever k: what survives is decided by
        comparing sums of up to n terms, and no distance to a tie tells how such a comparison would
        end in another precision.

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
    LDLQ is run too, and a row whose k paths all end above it keeps its codes: so on the same grid
    the loss of no row is above LDLQ's under the H that is factored, the DAMPED one, as computed (in
    float32, whose targets carry rounding errors, to about 1e-5 of it).  Under H itself a row may
    lose what damping weighs, and with ``clip="best"``, which chooses between grids by the loss
    under H itself, under either.  A larger k is not always better: a path that would win may be
    crowded out.  On an unbounded grid the bound of `ldlq` on the loss holds as well; on a finite
    one, as there, nothing is guaranteed but to be no worse than LDLQ.  Codes are not the rounding
    of their targets.

    Of candidates that cost the same, those of the better path are kept, then those of the code
    nearer to its target.  The same codes for any block and number of threads.

    m n^2 flops for the errors that all paths of a row have in common, which are usually those of
    all but the last block of columns, and up to k times that where they are not; about 100 k ns for
    each weight; n^3/3 flops for the factor.  Memory beside that of `ldlq`: 7 k n bytes (11 in
    float64, 3 more on an unbounded grid) for each row of a tile, of 48 rows with AVX-512 and 24
    with AVX2, but at least 8 MB, a thread: 11 MB with k = 8 and n = 4096.

    References
    ----------
    Anderson, Mohan, Sequential coding algorithms (IEEE Trans. Commun. 32, 1984): the M-algorithm.

    Examples
    --------
    >>> import numpy as np, quiplinalg as ql
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((256, 64)) @ rng.standard_normal((64, 64))
    >>> W, H = rng.standard_normal((32, 64)), X.T @ X / 256
    >>> q = ql.kbest(W, H, bits=2)
    >>> q.loss < 0.9 * ql.ldlq(W, H, bits=2).loss
    True
    """
    options = Options(
        bits=bits, grid=grid, group_size=group_size, static_groups=True, sym=sym, clip=clip,
        order=order, damp=damp, rounding="nearest", seed=None, block=block,
    )  # fmt: skip
    paths = _check_paths(k)
    kernels = select(backend)
    weight = work_matrix(W)
    hessian = symmetric_matrix(H, "H", kernels)
    m, n = weight.shape
    check_shapes(weight, hessian)
    options.check_grid(m, n)
    grid = grid_there(grid, kernels)
    if grid is not None and grid.scale.dtype == np.float64:
        weight = weight.astype(np.float64, copy=False)
    check_range(weight, grid)
    diagonal = hessian.diagonal()
    (factor, permutation), added, shift = damped(
        lambda _, shift: factor_in_order(hessian, order, shift, kernels), diagonal, damp
    )
    D = factor.diagonal()[::-1] ** 2  # no view of it: the factor is freed before the rounding
    place, spans = layout(n, -(-int(block or kernels.block) // PANEL) * PANEL)
    real = place >= 0
    columns = np.where(real, permutation[place], -1) if n else place
    U = pack(factor, place, weight.dtype, kernels)
    del factor
    full_D, full_shift = np.zeros(place.shape), np.zeros(place.shape)
    full_D[real], full_shift[real] = D[place[real]], shift[columns[real]]
    clips = ("mse", "minmax") if clip == "best" and grid is None else (clip,)
    best = None
    for name in clips:
        tried = grid_before(weight, replace(options, clip=name), kernels)
        group = np.zeros(place.shape, np.int32)
        group[real] = tried.columns(n)[columns[real]]
        plan = Plan(weight, columns, U, full_D, full_shift, spans, group)
        rounded = _no_worse_than_ldlq(plan, tried, paths, kernels)
        best = (rounded, tried) if best is None else _better_rows(*best, rounded, tried)
    assert best is not None
    rounded, chosen = best
    loss = undamped(rounded.sums[:, :2], weight.dtype)
    if loss is None:
        loss = proxy_loss(dequantize(rounded.codes, chosen, weight.dtype), weight, hessian)
    return Quantized(
        codes=rounded.codes,
        grid=chosen,
        method="kbest",
        rounding="nearest",
        order=order,
        permutation=None if order == "natural" else permutation,
        loss=loss,
        trace_D=float(D.sum()) - float((shift - added).sum()),  # less what dead columns were given
        damp=added,
        dead=np.flatnonzero(diagonal == 0),
        near_tie_rows=0,
        clipped=float(rounded.sums[:, 2].sum()) / max(m * n, 1),
        precision=weight.dtype.name,
        restore=like(W),
    )


def _check_paths(k: Any) -> int:
    whole = isinstance(k, (int, np.integer)) and not isinstance(k, bool)
    if not whole or not 1 <= k <= _MOST:
        raise InvalidArgumentError(
            f"k must be a whole number of paths from 1 to {_MOST}; got k={k!r}. "
            "8 brings most of the gain; time and memory grow with it."
        )
    return int(k)


def _no_worse_than_ldlq(plan: Plan, grid: UniformGrid, paths: int, kernels: Kernels) -> Rounded:
    """Round with K paths and with one, and keep the better of each row, the one if they tie."""
    single = round_kbest(plan, grid, 1, kernels)
    if paths == 1:
        return single
    several = round_kbest(plan, grid, paths, kernels)
    return single.but_for(several, several.sums[:, 0] < single.sums[:, 0])


def _better_rows(
    first: Rounded, grid: UniformGrid, second: Rounded, other: UniformGrid
) -> tuple[Rounded, UniformGrid]:
    """Of two roundings on two grids of m rows, keep the rows of the smaller loss under H."""
    better = np.subtract(*second.sums[:, :2].T) < np.subtract(*first.sums[:, :2].T)
    scale, zero = (
        np.where(better[:, None], b, a)
        for a, b in ((grid.scale, other.scale), (grid.zero, other.zero))
    )
    return first.but_for(second, better), replace(grid, scale=scale, zero=zero)
