"""The builders and strategies of `quiplinalg.testing`, under the names that the tests use."""

from quiplinalg.testing.builders import (
    HESSIANS,
    ORDERS,
    WEIGHTS,
    Problem,
    clamped_counterexample,
    haar,
    make_hessian,
    make_order,
    make_problem,
    make_weights,
)
from quiplinalg.testing.builders import spd_from_spectrum as from_spectrum
from quiplinalg.testing.strategies import hessians, problems, seeds

__all__ = [
    "HESSIANS",
    "ORDERS",
    "WEIGHTS",
    "Problem",
    "clamped_counterexample",
    "from_spectrum",
    "haar",
    "hessians",
    "make_hessian",
    "make_order",
    "make_problem",
    "make_weights",
    "problems",
    "seeds",
]
