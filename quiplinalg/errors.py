"""Every exception and warning of the library.

A message says what was expected, what came (``name=value``), and what to do about it.
"""

from __future__ import annotations

import os
import sys

import numpy as np

__all__ = [
    "BackendMismatchError",
    "BackendUnavailableError",
    "ConditioningWarning",
    "ConvergenceError",
    "DTypeError",
    "DampingWarning",
    "FormatError",
    "InsufficientMemoryError",
    "InvalidArgumentError",
    "NonFiniteError",
    "NotPositiveDefiniteError",
    "QuipLinalgError",
    "WorkerLostError",
    "level_of_caller",
]

_PACKAGE = os.path.dirname(__file__) + os.sep


class QuipLinalgError(Exception):
    """Base class of every error that quiplinalg raises on purpose."""


class InvalidArgumentError(QuipLinalgError, ValueError):
    """An argument has a value or a shape that has no meaning here."""


class DTypeError(QuipLinalgError, TypeError):
    """An argument has a dtype or a type that the function does not take."""


class BackendMismatchError(QuipLinalgError, TypeError):
    """Arrays of one call live on different devices."""


class BackendUnavailableError(QuipLinalgError, ImportError):
    """A backend was asked for whose package is not installed; the message has the install line."""


class ConvergenceError(QuipLinalgError, ArithmeticError):
    """An iteration ended before its result was as accurate as was asked for."""


class InsufficientMemoryError(QuipLinalgError, MemoryError):
    """A layer does not fit into the memory that it may use; raised before any work is done."""


class NonFiniteError(QuipLinalgError, ValueError):
    """An argument holds NaN or infinity.

    Attributes: ``argument`` (its name), ``index`` (the first bad element), ``count``.
    """

    def __init__(self, argument: str, index: tuple[int, ...], count: int):
        self.argument, self.index, self.count = argument, index, count
        place = ", ".join(str(i) for i in index)
        super().__init__(
            f"{argument} must be finite; got {count} NaN or infinite "
            f"value{'s' if count != 1 else ''}, the first at {argument}[{place}]. "
            f"Find where {argument} was made, or drop the samples that produced it."
        )

    def __reduce__(self):
        return type(self), (self.argument, self.index, self.count)


class NotPositiveDefiniteError(QuipLinalgError, np.linalg.LinAlgError):
    """A factorisation met a pivot that is not positive.

    Attributes: ``index`` (row of the caller's matrix), ``pivot`` (its value), ``remedy``.
    """

    def __init__(self, index: int, pivot: float, remedy: str, name: str = "H"):
        self.index, self.pivot, self.remedy, self.name = index, pivot, remedy, name
        super().__init__(
            f"{name} must be positive definite; the pivot of row {index} is {pivot:.3g}. {remedy}"
        )

    def __reduce__(self):
        return type(self), (self.index, self.pivot, self.remedy, self.name)


class FormatError(QuipLinalgError, ValueError):
    """A file is not what it should be.  Attributes: ``path``, ``dataset`` (or None)."""

    def __init__(self, message: str, path: str = "", dataset: str | None = None):
        self.message, self.path, self.dataset = message, str(path), dataset
        where = f" [{self.path}{f':{dataset}' if dataset else ''}]" if self.path else ""
        super().__init__(message + where)

    def __reduce__(self):
        return type(self), (self.message, self.path, self.dataset)


class WorkerLostError(QuipLinalgError, RuntimeError):
    """A worker ended before its task did: killed, crashed, or out of reach."""


class DampingWarning(UserWarning):
    """More damping than was asked for went into a factorisation (only with ``damp="auto"``)."""


class ConditioningWarning(UserWarning):
    """A result may be far less accurate than its precision suggests."""


def level_of_caller() -> int:
    """Return the ``stacklevel`` for which `warnings.warn`, called beside this, names the line that
    called the library: warnings are shown, and filtered, by it.
    """
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    return level
