"""quiplinalg: the linear algebra of rounding neural-network weights to a few bits.

W is (m, n) = (out, in); H is the (n, n) second moment of a layer's inputs; the loss of rounding W
to W_hat is tr((W_hat - W) H (W_hat - W)^T).  Start with ``quiplinalg.ldlq(W, H, bits=2)``.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# name -> module; imported when first asked for, so that importing quiplinalg costs nothing
_PUBLIC = {
    "AbsoluteDamp": "factor.damping",
    "BackendMismatchError": "errors",
    "BackendUnavailableError": "errors",
    "Cholesky": "results",
    "ConditioningWarning": "errors",
    "DTypeError": "errors",
    "DampingWarning": "errors",
    "FormatError": "errors",
    "InvalidArgumentError": "errors",
    "LDL": "results",
    "NonFiniteError": "errors",
    "NotPositiveDefiniteError": "errors",
    "ProblemWriter": "files",
    "Quantized": "results",
    "QuipLinalgError": "errors",
    "ResultWriter": "files",
    "UDU": "results",
    "UniformGrid": "grids.uniform",
    "cholesky": "factor.cholesky",
    "gptq": "rounding.gptq",
    "ldl": "factor.ldl",
    "ldlq": "rounding.ldlq",
    "minmax_grid": "grids.search",
    "mse_grid": "grids.search",
    "nearest": "rounding.nearest",
    "num_threads": "parallel",
    "open_keras": "files",
    "open_problem": "files",
    "open_result": "files",
    "pack": "grids.packing",
    "proxy_loss": "losses",
    "rms_grid": "grids.search",
    "udu": "factor.udu",
    "unpack": "grids.packing",
    "verify": "rounding.verify",
}
_MODULES = ("errors", "files", "grids", "parallel", "reference")

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        value = getattr(import_module(f"quiplinalg.{_PUBLIC[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"quiplinalg.{name}")
    raise AttributeError(f"module 'quiplinalg' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_PUBLIC, *_MODULES})
