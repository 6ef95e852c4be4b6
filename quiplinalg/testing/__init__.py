"""Problems, strategies and assertions with which any quantiser can be tested, yours too.

`check_quantizer` runs a callable over a fixed family of adversarial problems and says which
guarantee it breaks.  The assertions take arrays, whoever made them; the builders make problems
from a few integers; the strategies (which need hypothesis) draw those integers.
"""

from importlib import import_module
from typing import Any

_PUBLIC = {
    "HESSIANS": "builders",
    "ORDERS": "builders",
    "Problem": "builders",
    "QuantizerReport": "report",
    "SPECTRA": "families",
    "WEIGHTS": "builders",
    "assert_cholesky": "factors",
    "assert_inverse": "factors",
    "assert_loss_identity": "assertions",
    "assert_lower_bounds": "assertions",
    "assert_monotone": "assertions",
    "assert_on_grid": "assertions",
    "assert_rounds_targets": "assertions",
    "assert_same_rounding": "comparing",
    "assert_udu": "factors",
    "calibration_hessian": "builders",
    "calibration_hessians": "strategies",
    "check_group_quantizer": "groups",
    "check_quantizer": "check",
    "clamped_counterexample": "builders",
    "grids": "strategies",
    "haar": "builders",
    "hessians": "strategies",
    "make_hessian": "builders",
    "make_order": "builders",
    "make_problem": "builders",
    "make_weights": "builders",
    "problems": "strategies",
    "residual_ratio": "factors",
    "seeds": "strategies",
    "spd_families": "families",
    "spd_from_spectrum": "builders",
    "spd_matrices": "strategies",
    "spectrum": "families",
    "weights": "strategies",
}

__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"quiplinalg.testing.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'quiplinalg.testing' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC})
