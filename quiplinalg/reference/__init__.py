"""The naive definition of each algorithm: NumPy only, slow on purpose, written from the equations.

These are the oracles that the fast paths are tested against.  They compute in float64 (longdouble
where the docstring says so), take an H that is already damped, and use the conventions of the
library: W is (m, n), H is (n, n), column ``order[0]`` is rounded first, and
``W_hat = scale * (code - zero)``.
"""

from quiplinalg.reference.allocation import exhaustive_allocation
from quiplinalg.reference.babai import babai
from quiplinalg.reference.bounded import bounded
from quiplinalg.reference.certificates import concave_pivots, dual_value, rate_distortion
from quiplinalg.reference.cholesky import cholesky
from quiplinalg.reference.codebook import (
    descend_levels,
    fit_levels,
    kmeans,
    level_codes,
    levels_ldlq,
    lnq,
)
from quiplinalg.reference.descent import Descended, descend
from quiplinalg.reference.exact import exact
from quiplinalg.reference.exhaustive import exhaustive
from quiplinalg.reference.gptq import gptq
from quiplinalg.reference.grids import (
    dequantise,
    minmax_grid,
    mse_grid,
    per_column,
    quantise,
    rms_grid,
)
from quiplinalg.reference.hessian import (
    covariance,
    cross_moment,
    probe_diagonal,
    probe_trace,
    refreshed_inverse,
    shift_target,
)
from quiplinalg.reference.kbest import kbest
from quiplinalg.reference.ldl import ldl
from quiplinalg.reference.ldlq import ldlq
from quiplinalg.reference.losses import proxy_loss, row_losses
from quiplinalg.reference.min_pivot import min_pivot
from quiplinalg.reference.nearest import nearest
from quiplinalg.reference.obq import obq
from quiplinalg.reference.obq_fixed import obq_fixed
from quiplinalg.reference.obs import obs, pruned_optimum
from quiplinalg.reference.obs_groups import merge_traces, obs_blocks, obs_columns
from quiplinalg.reference.philox import philox2x32, uniforms
from quiplinalg.reference.quip_authors import quip_authors
from quiplinalg.reference.refit import low_rank, refit, root
from quiplinalg.reference.rotation import hartley, rotation, walsh_hadamard
from quiplinalg.reference.rounded import Rounded
from quiplinalg.reference.sparsegpt import sparsegpt
from quiplinalg.reference.stochastic import stochastic
from quiplinalg.reference.udu import udu
from quiplinalg.reference.updates import (
    cholesky_delete,
    cholesky_downdate,
    cholesky_insert,
    cholesky_update,
    inverse,
    inverse_adjoin,
    inverse_remove,
    ldl_update,
    sherman_morrison,
    woodbury,
)

__all__ = [
    "Descended",
    "Rounded",
    "babai",
    "bounded",
    "cholesky",
    "cholesky_delete",
    "cholesky_downdate",
    "cholesky_insert",
    "cholesky_update",
    "concave_pivots",
    "covariance",
    "cross_moment",
    "dequantise",
    "descend",
    "descend_levels",
    "dual_value",
    "exact",
    "exhaustive",
    "exhaustive_allocation",
    "fit_levels",
    "gptq",
    "hartley",
    "inverse",
    "inverse_adjoin",
    "inverse_remove",
    "kbest",
    "kmeans",
    "ldl",
    "ldl_update",
    "ldlq",
    "level_codes",
    "levels_ldlq",
    "lnq",
    "low_rank",
    "merge_traces",
    "min_pivot",
    "minmax_grid",
    "mse_grid",
    "nearest",
    "obq",
    "obq_fixed",
    "obs",
    "obs_blocks",
    "obs_columns",
    "per_column",
    "philox2x32",
    "probe_diagonal",
    "probe_trace",
    "proxy_loss",
    "pruned_optimum",
    "quantise",
    "quip_authors",
    "rate_distortion",
    "refit",
    "refreshed_inverse",
    "rms_grid",
    "root",
    "rotation",
    "row_losses",
    "sherman_morrison",
    "shift_target",
    "sparsegpt",
    "stochastic",
    "udu",
    "uniforms",
    "walsh_hadamard",
    "woodbury",
]
