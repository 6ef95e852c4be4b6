"""The theorems as functions: closed forms of losses, bounds, and certificates of quantised layers.

Losses without feedback: `nearest_average`, `nearest_worst`, `nearest_worst_bound`,
`stochastic_average`, `stochastic_worst`; with it: `ldlq_average`, `ldlq_variance`, `ldlq_worst`
(Babai's bound), `ldlq_stochastic_average`, `ldlq_stochastic_worst`, `ldlq_gain` (theorem 4),
`block_ldlq_average`, `block_ldlq_worst`; the pivots they are made of: `pivots`, `block_pivots`.

Bounds: `lemma2`, `hadamard_mu_hessian`, `hadamard_mu_weight`, `safe_margin` and `safe_loss`
(theorem 7), `concave_pivots` and `model_bound` (prefix entropy), `dual_bound` (unconditional, for
given weights), `rate_distortion`.  `certify` has the last three of them for a quantised layer.

Each states its hypothesis.  Nothing here holds for a clamped LDLQ but the lower bounds.
"""

from __future__ import annotations

from quiplinalg.theory.bounds import (
    Lemma2,
    hadamard_mu_hessian,
    hadamard_mu_weight,
    lemma2,
    safe_loss,
    safe_margin,
)
from quiplinalg.theory.certificates import Certificate, certify
from quiplinalg.theory.dual_bound import dual_bound
from quiplinalg.theory.feedback_losses import (
    block_ldlq_average,
    block_ldlq_worst,
    ldlq_average,
    ldlq_gain,
    ldlq_stochastic_average,
    ldlq_stochastic_worst,
    ldlq_variance,
    ldlq_worst,
)
from quiplinalg.theory.losses import (
    nearest_average,
    nearest_worst,
    nearest_worst_bound,
    stochastic_average,
    stochastic_worst,
)
from quiplinalg.theory.model_bound import concave_pivots, model_bound
from quiplinalg.theory.pivots import block_pivots, pivots
from quiplinalg.theory.rate_distortion import rate_distortion

__all__ = [
    "Certificate",
    "Lemma2",
    "block_ldlq_average",
    "block_ldlq_worst",
    "block_pivots",
    "certify",
    "concave_pivots",
    "dual_bound",
    "hadamard_mu_hessian",
    "hadamard_mu_weight",
    "ldlq_average",
    "ldlq_gain",
    "ldlq_stochastic_average",
    "ldlq_stochastic_worst",
    "ldlq_variance",
    "ldlq_worst",
    "lemma2",
    "model_bound",
    "nearest_average",
    "nearest_worst",
    "nearest_worst_bound",
    "pivots",
    "rate_distortion",
    "safe_loss",
    "safe_margin",
    "stochastic_average",
    "stochastic_worst",
]
