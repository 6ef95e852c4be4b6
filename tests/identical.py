"""Two results that must be equal, field by field and bit by bit."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

import quiplinalg as ql


def assert_identical(a: ql.Quantized, b: ql.Quantized, but: tuple[str, ...] = ()) -> None:
    """Compare every field of two results, except for those named."""
    for field in fields(a):
        one, other = getattr(a, field.name), getattr(b, field.name)
        if field.name == "restore" or field.name in but:
            continue
        if isinstance(one, ql.UniformGrid):
            assert (one.bits, one.kind) == (other.bits, other.kind)
            for part in ("scale", "zero", "group_index"):
                _equal(getattr(one, part), getattr(other, part), f"grid.{part}")
        else:
            _equal(one, other, field.name)


def _equal(one: object, other: object, name: str) -> None:
    assert type(one) is type(other), name
    if isinstance(one, np.ndarray):
        assert one.dtype == other.dtype, name
    np.testing.assert_array_equal(one, other, err_msg=name)
