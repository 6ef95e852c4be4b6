"""Packages that only exports need, imported when they are."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from quiplinalg.errors import BackendUnavailableError

__all__ = ["require"]


def require(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Raises
    ------
    BackendUnavailableError
        It is not installed; with the line that installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise BackendUnavailableError(
            f"This export needs the package {module.partition('.')[0]!r}; got {error}. "
            f"Install it: pip install 'quiplinalg[{extra}]'."
        ) from error
