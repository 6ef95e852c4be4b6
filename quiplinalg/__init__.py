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
    "BoundedFeedback": "results",
    "Cholesky": "results",
    "ConditioningWarning": "errors",
    "ConvergenceError": "errors",
    "DTypeError": "errors",
    "DampingWarning": "errors",
    "FormatError": "errors",
    "InvalidArgumentError": "errors",
    "LDL": "results",
    "NonFiniteError": "errors",
    "NotPositiveDefiniteError": "errors",
    "ProblemWriter": "files",
    "Processing": "incoherence.process",
    "Quantized": "results",
    "QuipLinalgError": "errors",
    "ResultWriter": "files",
    "Rotation": "incoherence.rotation",
    "UDU": "results",
    "UniformGrid": "grids.uniform",
    "bounded_feedback": "factor.bounded",
    "cholesky": "factor.cholesky",
    "descend": "rounding.descent",
    "gptq": "rounding.gptq",
    "hadamard_orthogonal": "incoherence.hadamard",
    "incoherence_process": "incoherence.process",
    "kronecker_orthogonal": "incoherence.kronecker",
    "ldl": "factor.ldl",
    "ldlq": "rounding.ldlq",
    "minmax_grid": "grids.search",
    "mse_grid": "grids.search",
    "mu_hessian": "incoherence.mu",
    "mu_weight": "incoherence.mu",
    "nearest": "rounding.nearest",
    "num_threads": "parallel",
    "open_keras": "files",
    "open_problem": "files",
    "open_result": "files",
    "pack": "grids.packing",
    "proxy_loss": "losses",
    "quip": "rounding.quip",
    "quip_authors": "rounding.quip_authors",
    "rms_grid": "grids.search",
    "safe": "rounding.safe",
    "udu": "factor.udu",
    "unpack": "grids.packing",
    "verify": "rounding.verify",
}
_MODULES = ("errors", "files", "grids", "incoherence", "parallel", "reference")

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
