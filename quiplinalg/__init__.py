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
    "ActiveInverse": "factor.update.chain",
    "BackendMismatchError": "errors",
    "BackendUnavailableError": "errors",
    "BoundedFeedback": "results",
    "Certificate": "theory.certificates",
    "Cholesky": "results",
    "CodebookGrid": "grids.codebook",
    "ConditioningWarning": "errors",
    "ConvergenceError": "errors",
    "CrossMoment": "hessian.cross",
    "DTypeError": "errors",
    "DampingWarning": "errors",
    "DiagonalEstimate": "hessian.estimators",
    "Exact": "rounding.exact",
    "Exported": "export",
    "FormatError": "errors",
    "Hessian": "hessian.accumulate",
    "HessianDiagnostics": "hessian.diagnostics",
    "InsufficientMemoryError": "errors",
    "InvalidArgumentError": "errors",
    "LDL": "results",
    "LowRankCorrection": "grids.correction",
    "LowRankEstimate": "hessian.low_rank",
    "NonFiniteError": "errors",
    "NotPositiveDefiniteError": "errors",
    "OBQTrace": "rounding.obq",
    "PreparedHessian": "rounding.prepared",
    "ProblemWriter": "files",
    "Processing": "incoherence.process",
    "Pruned": "pruning.result",
    "Quantized": "results",
    "QuantizedStack": "stacks",
    "QuipLinalgError": "errors",
    "RefreshedInverse": "hessian.refresh",
    "ResultWriter": "files",
    "Rotation": "incoherence.rotation",
    "StatisticsWriter": "files",
    "TraceEstimate": "hessian.estimators",
    "UDU": "results",
    "UniformGrid": "grids.uniform",
    "WorkerLostError": "errors",
    "bounded_feedback": "factor.bounded",
    "certify": "theory.certificates",
    "cholesky": "factor.cholesky",
    "cholesky_delete": "factor.update.delete",
    "cholesky_delete_into": "factor.update.delete",
    "cholesky_downdate": "factor.update.cholesky",
    "cholesky_downdate_into": "factor.update.cholesky",
    "cholesky_insert": "factor.update.insert",
    "cholesky_insert_into": "factor.update.insert",
    "cholesky_update": "factor.update.cholesky",
    "cholesky_update_into": "factor.update.cholesky",
    "descend": "rounding.descent",
    "exact": "rounding.exact",
    "export_result": "export",
    "gptq": "rounding.gptq",
    "hadamard_orthogonal": "incoherence.hadamard",
    "hutch_pp": "hessian.estimators",
    "hutchinson": "hessian.estimators",
    "hutchinson_diagonal": "hessian.estimators",
    "incoherence_process": "incoherence.process",
    "inverse_adjoin": "factor.update.active",
    "inverse_adjoin_into": "factor.update.active",
    "inverse_remove": "factor.update.active",
    "inverse_remove_into": "factor.update.active",
    "kbest": "rounding.kbest",
    "kronecker_orthogonal": "incoherence.kronecker",
    "ldl": "factor.ldl",
    "ldl_update": "factor.update.ldl",
    "ldl_update_into": "factor.update.ldl",
    "ldlq": "rounding.ldlq",
    "lnq": "rounding.lnq",
    "low_rank": "hessian.low_rank",
    "low_rank_correction": "rounding.low_rank",
    "merge_statistics": "hessian.cross",
    "minmax_grid": "grids.search",
    "mse_grid": "grids.search",
    "mu_hessian": "incoherence.mu",
    "mu_weight": "incoherence.mu",
    "nearest": "rounding.nearest",
    "num_threads": "parallel",
    "obq": "rounding.obq",
    "obq_trace": "rounding.obq",
    "obs_prune": "pruning.obs",
    "open_keras": "files",
    "open_problem": "files",
    "open_result": "files",
    "open_statistics": "files",
    "pack": "grids.packing",
    "prepare": "rounding.prepared",
    "proxy_loss": "losses",
    "prune_columns": "pruning.columns",
    "prune_quantize": "pruning.quantize",
    "quantize_model": "model.quantize",
    "quip": "rounding.quip",
    "quip_authors": "rounding.quip_authors",
    "refit": "rounding.refit",
    "refresh_inverse": "hessian.refresh",
    "rms_grid": "grids.search",
    "safe": "rounding.safe",
    "sherman_morrison": "factor.update.inverse",
    "sherman_morrison_into": "factor.update.inverse",
    "shift_target": "hessian.asymmetric",
    "sparsegpt": "pruning.sparsegpt",
    "udu": "factor.udu",
    "unpack": "grids.packing",
    "verify": "rounding.verify",
    "verify_pruned": "pruning.verify",
    "woodbury": "factor.update.inverse",
    "woodbury_into": "factor.update.inverse",
}
_MODULES = (
    "errors", "export", "files", "grids", "hessian", "incoherence", "model", "parallel",
    "reference", "testing", "theory",
)  # fmt: skip

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
