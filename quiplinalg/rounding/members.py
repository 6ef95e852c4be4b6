"""Errors of one member of a stack."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from quiplinalg.errors import InvalidArgumentError, NonFiniteError

__all__ = ["naming"]


@contextmanager
def naming(i: int) -> Iterator[None]:
    """Say which member an error is of."""
    try:
        yield
    except NonFiniteError as error:
        name = f"{error.argument}[{i}]"
        raise NonFiniteError(name, error.index, error.count) from None
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"{error} (Member {i} of the stack.)") from None
