"""pack and unpack: the packbits layout, every width, every refusal."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quiplinalg as ql


@given(bits=st.integers(1, 8), m=st.integers(0, 9), n=st.integers(0, 70), seed=st.integers(0, 99))
def test_round_trip_and_layout(bits, m, n, seed):
    codes = np.random.default_rng(seed).integers(0, 1 << bits, (m, n)).astype(np.uint8)
    packed = ql.pack(codes, bits)
    assert packed.shape == (m, -(-n * bits // 8)) and packed.dtype == np.uint8
    assert (ql.unpack(packed, bits, n) == codes).all()
    for i in range(m):  # code j takes bits j*bits .. (j+1)*bits - 1 of one little-endian number
        number = int.from_bytes(packed[i].tobytes(), "little")
        assert [(number >> (j * bits)) & ((1 << bits) - 1) for j in range(n)] == codes[i].tolist()
        assert number >> (n * bits) == 0


def test_wide_rows_are_packed_in_pieces():
    codes = (np.arange(3 * 3_000_000) % 8).astype(np.uint8).reshape(3, -1)
    assert (ql.unpack(ql.pack(codes, 3), 3, 3_000_000) == codes).all()


def test_numbers_may_be_of_numpy():
    codes = np.arange(100, dtype=np.uint8)[None]
    packed = ql.pack(codes, np.uint8(7))
    assert (packed == ql.pack(codes, 7)).all()
    assert (ql.unpack(packed, np.int64(7), np.uint8(100)) == codes).all()


def test_what_is_packed_may_be_strided_and_is_not_changed():
    codes = (np.arange(7 * 90) % 8).astype(np.uint8).reshape(90, 7)
    kept = codes.copy()
    packed = ql.pack(codes.T[::2], 3)
    assert (packed == ql.pack(np.ascontiguousarray(codes.T[::2]), 3)).all()
    assert (codes == kept).all()
    wide = np.repeat(packed, 2, axis=1)
    assert (ql.unpack(wide[:, ::2], 3, 90) == codes.T[::2]).all()
    assert (wide[:, ::2] == packed).all()


@pytest.mark.parametrize("bits", (0, 9, -1, 2.0, "2", True, None))
def test_bad_bits(bits):
    with pytest.raises(ql.InvalidArgumentError, match="bits must be"):
        ql.pack(np.zeros((1, 1), np.uint8), bits)
    with pytest.raises(ql.InvalidArgumentError, match="bits must be"):
        ql.unpack(np.zeros((1, 1), np.uint8), bits, 1)


def test_codes_that_do_not_fit():
    with pytest.raises(ql.InvalidArgumentError, match="below 2\\*\\*bits = 4; got a code of 7"):
        ql.pack(np.array([[1, 7]], np.uint8), 2)
    with pytest.raises(ql.DTypeError, match="uint8"):
        ql.pack(np.zeros((2, 2), np.int32), 2)
    with pytest.raises(ql.InvalidArgumentError, match="2 bytes a row for n=5"):
        ql.unpack(np.zeros((1, 3), np.uint8), 2, 5)
