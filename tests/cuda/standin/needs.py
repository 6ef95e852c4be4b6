"""Skip a test where a compiler is missing, or fail it where nothing may be skipped."""

from __future__ import annotations

import os

import pytest

__all__ = ["needed"]


def needed(what: str) -> None:
    """Skip, or fail if QUIPLINALG_REQUIRE_CXX is set."""
    if os.environ.get("QUIPLINALG_REQUIRE_CXX"):
        pytest.fail(f"QUIPLINALG_REQUIRE_CXX is set, and there is no {what}")
    pytest.skip(f"needs {what}")
