"""Matrix families on which factorisations are tested: those of quiplinalg.testing."""

from quiplinalg.testing import residual_ratio, spd_families

__all__ = ["SIZES", "residual_ratio", "spd_families"]

SIZES = (0, 1, 2, 3, 5, 10, 50)
