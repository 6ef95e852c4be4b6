"""The naive definition of each algorithm: NumPy only, slow on purpose, written from the equations.

These are the oracles that the fast paths are tested against.  They compute in float64 (longdouble
where the docstring says so), take an H that is already damped, and use the conventions of the
library: W is (m, n), H is (n, n), column ``order[0]`` is rounded first, and
``W_hat = scale * (code - zero)``.
"""

from quiplinalg.reference.babai import babai
from quiplinalg.reference.bounded import bounded
from quiplinalg.reference.cholesky import cholesky
from quiplinalg.reference.descent import Descended, descend
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
from quiplinalg.reference.ldl import ldl
from quiplinalg.reference.ldlq import ldlq
from quiplinalg.reference.losses import proxy_loss, row_losses
from quiplinalg.reference.min_pivot import min_pivot
from quiplinalg.reference.nearest import nearest
from quiplinalg.reference.obq_fixed import obq_fixed
from quiplinalg.reference.philox import philox2x32, uniforms
from quiplinalg.reference.quip_authors import quip_authors
from quiplinalg.reference.rotation import hartley, rotation, walsh_hadamard
from quiplinalg.reference.rounded import Rounded
from quiplinalg.reference.stochastic import stochastic
from quiplinalg.reference.udu import udu

__all__ = [
    "Descended",
    "Rounded",
    "babai",
    "bounded",
    "cholesky",
    "dequantise",
    "descend",
    "exhaustive",
    "gptq",
    "hartley",
    "ldl",
    "ldlq",
    "min_pivot",
    "minmax_grid",
    "mse_grid",
    "nearest",
    "obq_fixed",
    "per_column",
    "philox2x32",
    "proxy_loss",
    "quantise",
    "quip_authors",
    "rms_grid",
    "rotation",
    "row_losses",
    "stochastic",
    "udu",
    "uniforms",
    "walsh_hadamard",
]
