"""One member of a stack: its errors, and the functions that take no more than one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from quiplinalg.errors import DTypeError, InvalidArgumentError, NonFiniteError
from quiplinalg.results import Quantized
from quiplinalg.stacks import QuantizedStack

__all__ = ["check_layer", "naming", "refuse_stack"]


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


def check_layer(quantized: Any, made_by: str) -> None:
    """Raise DTypeError unless ``quantized`` is the result of one layer; say what makes one."""
    refuse_stack(quantized, "quantized")
    if not isinstance(quantized, Quantized):
        raise DTypeError(
            f"quantized must be a Quantized; got {type(quantized).__name__}. {made_by}"
        )


def refuse_stack(x: Any, name: str) -> None:
    """Raise DTypeError for the results of several layers."""
    if isinstance(x, QuantizedStack):
        raise DTypeError(
            f"{name} must be the result of one layer; got a QuantizedStack of {len(x)}. Pass its "
            "members, stack[i], one by one."
        )
