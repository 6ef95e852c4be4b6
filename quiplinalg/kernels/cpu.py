"""The CPU backend: Numba for the recurrences, Cython for the BLAS and LAPACK calls."""

from __future__ import annotations

from dataclasses import replace

from quiplinalg.kernels import (
    cpu_codebook,
    cpu_descent,
    cpu_exact,
    cpu_grid,
    cpu_hessian,
    cpu_kbest,
    cpu_lanes,
    cpu_obs,
    cpu_pivot,
    cpu_prune,
    cpu_rotation,
    cpu_rounding,
    cpu_tile,
    cpu_update,
)
from quiplinalg.kernels.announce import announce_compilation
from quiplinalg.kernels.generic import GENERIC

__all__ = ["CPU"]

announce_compilation()

CPU = replace(
    GENERIC,
    name="cpu",
    lanes=cpu_tile.lanes,
    block=256,
    pivot_panel=cpu_pivot.pivot_panel,
    asymmetry=cpu_hessian.asymmetry,
    reverse_rows=cpu_hessian.reverse_rows,
    unit_rows=cpu_hessian.unit_rows,
    pack_feedback=cpu_hessian.pack_feedback,
    compensate=cpu_hessian.compensate,
    load=cpu_rounding.load,
    accumulate=cpu_rounding.accumulate,
    round_block=cpu_rounding.round_block,
    store=cpu_rounding.store,
    philox=cpu_rounding.philox,
    fit=cpu_grid.fit,
    pack_square=cpu_descent.pack_square,
    load_errors=cpu_descent.load_errors,
    residual=cpu_descent.residual,
    descend=cpu_descent.descend,
    lloyd=cpu_codebook.lloyd,
    round_levels=cpu_codebook.round_levels,
    level_sums=cpu_codebook.level_sums,
    descend_levels=cpu_codebook.descend_levels,
    prune_block=cpu_prune.prune_block,
    eliminate_blocks=cpu_prune.eliminate_blocks,
    kbest_block=cpu_kbest.kbest_block,
    kbest_trace=cpu_kbest.kbest_trace,
    exact_rows=cpu_exact.exact_rows,
    vector=cpu_lanes.vector,
    rotate=cpu_rotation.rotate,
    mirror=cpu_rotation.mirror,
    multiply_rows=cpu_update.multiply_rows,
    rank_update=cpu_update.rank_update,
    update_factor=cpu_update.update_factor,
    eliminate_space=cpu_obs.eliminate_space,
    eliminate_rows=cpu_obs.eliminate_rows,
)

try:
    from quiplinalg.kernels import _tiles
except ImportError as error:  # no C compiler when the package was installed
    CPU = replace(CPU, tiles_from=f"scipy (the compiled extension is missing: {error})")
else:
    CPU = replace(
        CPU,
        update_tile=_tiles.update_tile,
        factor_tile=_tiles.factor_tile,
        solve_tile=_tiles.solve_tile,
        tiles_from="cython",
    )
