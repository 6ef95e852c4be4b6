"""One CPU, any number of threads: the same bits of everything that is returned.

Codes for any block, method by method, are tested beside the methods.
"""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import pytest
from strategies import make_problem

import quiplinalg as ql

METHODS = {
    "ldlq": lambda W, H: ql.ldlq(W, H, clip="best"),
    "groups": lambda W, H: ql.gptq(W, H, group_size=24),
    "min-pivot": lambda W, H: ql.ldlq(W, H, 3, order="min-pivot"),
    "stochastic": lambda W, H: ql.ldlq(W, H, rounding="stochastic", seed=3),
    "nearest": lambda W, H: ql.nearest(W, H, bits=3),
    "descend": lambda W, H: ql.descend(W, H, ql.ldlq(W, H)),
    "quip": lambda W, H: ql.quip(W, H, rotation="kronecker"),
    "safe": lambda W, H: ql.safe(W[:20], H),
    "udu": lambda W, H: ql.udu(H, damp=0.01),
    "process": lambda W, H: ql.incoherence_process(W, H, sides="both"),
}


def digest(value):
    """A hash of every array and number in a result, nested ones too."""
    found = hashlib.sha256()

    def add(x):
        if isinstance(x, np.ndarray):
            found.update(str((x.dtype, x.shape)).encode())
            found.update(np.ascontiguousarray(x).tobytes())
        elif dataclasses.is_dataclass(x):
            for field in dataclasses.fields(x):
                if field.name != "restore":
                    add(getattr(x, field.name))
        elif isinstance(x, (tuple, list)):
            for part in x:
                add(part)
        elif isinstance(x, float):
            found.update(x.hex().encode())
        else:
            found.update(repr(x).encode())

    add(value)
    return found.hexdigest()


@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", METHODS)
def test_every_bit_of_a_result_for_one_and_two_threads(name, dtype):
    p = make_problem(110, 140, 9, 2, "outlier", "heavy")
    W = p.W.astype(dtype)
    found = set()
    for threads in (1, 2):
        with ql.num_threads(threads):
            found.add(digest(METHODS[name](W, p.H)))
    assert len(found) == 1


def test_the_digest_sees_one_bit():
    q = ql.ldlq(np.ones((2, 3)), np.eye(3))
    codes = q.codes.copy()
    codes[0, 0] ^= 1
    assert digest(q) != digest(dataclasses.replace(q, codes=codes))
    assert digest(q) != digest(dataclasses.replace(q, loss=np.nextafter(q.loss, 1.0)))
