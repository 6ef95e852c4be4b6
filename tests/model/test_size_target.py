"""How large a result may be, in words."""

import numpy as np
import pytest

from quiplinalg.model.size_target import SizeTarget, byte_count


@pytest.mark.parametrize(
    "given, average, total",
    [
        (2.5, 2.5, None),
        (3, 3.0, None),
        (np.float32(2.5), 2.5, None),
        ("2.5", 2.5, None),
        (" 2.5 bits", 2.5, None),
        (".5bit", 0.5, None),
        ("3GB", None, 3 * 10**9),
        ("3 GiB", None, 3 * 2**30),
        ("1.5k", None, 1536),
        ("300 B", None, 300),
        (SizeTarget(total=7), None, 7),
    ],
)
def test_what_is_meant(given, average, total):
    assert SizeTarget.of(given) == SizeTarget(average, total)


@pytest.mark.parametrize(
    "given", [0, -1, 65, 3e9, "300", "0", np.nan, np.inf, "3 cows", "", "bits", True, None, [2]]
)
def test_what_is_no_size(given):
    with pytest.raises((TypeError, ValueError)):
        SizeTarget.of(given)


def test_bits_of_all_weights():
    assert SizeTarget(total=10).bits(7) == 80
    assert SizeTarget(average=2.5).bits(1000) == pytest.approx(2500)
    for size in range(1, 2000, 37):  # an average that was computed from a size gives that size
        assert size <= SizeTarget(average=size / 997).bits(997) < size + 1e-6
    assert str(SizeTarget(total=10)) == "10 bytes"
    assert str(SizeTarget(average=2.5)) == "2.5 bits a weight"
    assert byte_count(5) == 5
