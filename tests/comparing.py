"""The tie-aware comparer of `quiplinalg.testing`, under the names that the tests use."""

from quiplinalg.testing.comparing import assert_same_rounding, targets, tie_distance, wrongness

__all__ = ["assert_same_rounding", "targets", "tie_distance", "wrongness"]
