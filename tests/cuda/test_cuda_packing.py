"""pack and unpack on a device give the bytes and the codes of the host."""

import numpy as np
import pytest

import quiplinalg as ql

SMALL = [(m, n) for m in (0, 1, 3) for n in range(18)]
# around a block of 4096 codes: rows that end in it, after it, aligned for vectors and not
LARGE = [(1, 8192), (2, 4096), (3, 4112), (3, 4097), (2, 5000), (65, 130), (257, 33), (1, 12289)]


def check(cuda, codes, bits):
    packed = ql.pack(codes, bits)
    got = ql.pack(cuda.xp.asarray(codes), bits)
    assert type(got) is cuda.xp.ndarray and got.dtype == np.uint8
    np.testing.assert_array_equal(got.get(), packed)
    back = ql.unpack(cuda.xp.asarray(packed), bits, codes.shape[1])
    assert type(back) is cuda.xp.ndarray and back.dtype == np.uint8
    np.testing.assert_array_equal(back.get(), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_bytes_are_those_of_the_host(cuda, bits):
    rng = np.random.default_rng(bits)
    for shape in SMALL + LARGE:
        check(cuda, rng.integers(0, 1 << bits, shape).astype(np.uint8), bits)


def test_numbers_may_be_of_numpy(cuda):
    codes = (np.arange(600) % 128).astype(np.uint8).reshape(2, 300)
    packed = ql.pack(cuda.xp.asarray(codes), np.uint8(7))
    np.testing.assert_array_equal(packed.get(), ql.pack(codes, 7))
    np.testing.assert_array_equal(ql.unpack(packed, np.uint8(7), np.int16(300)).get(), codes)


@pytest.mark.parametrize("way", ("reverse", 7))
def test_the_order_of_threads_does_not_matter(cuda, way):
    codes = np.random.default_rng(1).integers(0, 8, (3, 4500)).astype(np.uint8)
    with cuda.order(way):
        check(cuda, codes, 3)
        check(cuda, codes[:, :4096], 3)


@pytest.mark.parametrize("view", [
    lambda a: a[:, ::2], lambda a: a[::-1, ::-1], lambda a: a.T, lambda a: a[1:, 3:]
])  # fmt: skip
def test_views(cuda, view):
    codes = np.random.default_rng(2).integers(0, 16, (34, 4100)).astype(np.uint8)
    on_device = cuda.xp.asarray(codes)
    packed = ql.pack(view(on_device), 4)
    np.testing.assert_array_equal(packed.get(), ql.pack(view(codes), 4))
    n = view(codes).shape[1]
    np.testing.assert_array_equal(ql.unpack(packed, 4, n).get(), view(codes))


def test_memory_at_odd_addresses(cuda):
    codes = np.random.default_rng(3).integers(0, 32, (2, 4096)).astype(np.uint8)
    flat = cuda.xp.empty(codes.size + 1, np.uint8)
    flat[1:] = cuda.xp.asarray(codes.ravel())
    packed = ql.pack(flat[1:].reshape(2, 4096), 5)
    np.testing.assert_array_equal(packed.get(), ql.pack(codes, 5))
    flat = cuda.xp.empty(packed.size + 1, np.uint8)
    flat[1:] = packed.ravel()
    back = ql.unpack(flat[1:].reshape(packed.shape), 5, 4096)
    np.testing.assert_array_equal(back.get(), codes)


@pytest.mark.parametrize("place", [(0, 0), (1, 4095), (1, 4096), (2, 5000)])
@pytest.mark.parametrize("bits", (1, 3, 7))
def test_codes_that_do_not_fit(cuda, place, bits):
    codes = np.zeros((3, 5001), np.uint8)
    codes[place] = 1 << bits
    with pytest.raises(ql.InvalidArgumentError, match=rf"2\*\*bits = {1 << bits}; got a code of"):
        ql.pack(cuda.xp.asarray(codes), bits)
    codes[2, 1] = (1 << bits) + 1
    with pytest.raises(ql.InvalidArgumentError, match=f"got a code of {(1 << bits) + 1}"):
        ql.pack(cuda.xp.asarray(codes), bits)


def test_what_the_host_refuses(cuda):
    xp = cuda.xp
    with pytest.raises(ql.DTypeError, match=r"codes must be an .* uint8 array; got int32"):
        ql.pack(xp.zeros((2, 2), np.int32), 2)
    with pytest.raises(ql.DTypeError, match="packed must be a 2-D uint8 array; got uint8 of shape"):
        ql.unpack(xp.zeros(2, np.uint8), 2, 2)
    with pytest.raises(ql.InvalidArgumentError, match="2 bytes a row for n=5"):
        ql.unpack(xp.zeros((1, 3), np.uint8), 2, 5)
    with pytest.raises(ql.InvalidArgumentError, match="bits must be"):
        ql.pack(xp.zeros((1, 3), np.uint8), 9)


def test_the_other_device(cuda):
    codes = np.random.default_rng(4).integers(0, 4, (3, 70)).astype(np.uint8)
    with cuda.xp.cuda.Device(1):
        there = cuda.xp.asarray(codes)
    packed = ql.pack(there, 2)
    assert packed.device.id == 1 and cuda.xp.cuda.Device().id == 0
    back = ql.unpack(packed, 2, 70)
    assert back.device.id == 1
    with cuda.xp.cuda.Device(1):
        np.testing.assert_array_equal(back.get(), codes)
