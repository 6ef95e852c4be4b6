"""The blocks of MatMulNBits: its definition, in NumPy, gives the weights of the layer."""

import numpy as np
import pytest
from export_layers import GROUPED, make_layer

from quiplinalg.export.blocks import BLOCKS, lay_out
from quiplinalg.export.codes import integer_codes
from quiplinalg.grids.packing import unpack


def weights(blocks, m, n):
    """W_hat, (m, n), as MatMulNBits and the nodes after it define it."""
    count = blocks.scale.shape[1]
    codes = unpack(blocks.codes.reshape(m, -1), blocks.bits, count * blocks.size).astype(int)
    zero = np.full((m, count), 1 << (blocks.bits - 1))
    if blocks.zero is not None:
        zero = unpack(blocks.zero, blocks.bits, count)
    columns = np.arange(n) if blocks.columns is None else blocks.columns
    each = np.arange(len(columns)) // blocks.size
    laid = blocks.scale[:, each].astype(np.float64) * (codes[:, : len(columns)] - zero[:, each])
    if blocks.rest is not None:
        assert len(columns) == count * blocks.size  # sums of whole blocks
        laid -= blocks.rest[:, each]
    out = np.zeros((m, n + 1))
    np.add.at(out, (slice(None), columns), laid)
    return out[:, :n]


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize("bits", range(1, 9))
def test_the_blocks_are_the_layer(name, bits):
    q = make_layer(bits=bits, **GROUPED[name])
    blocks = lay_out(integer_codes(q))
    assert blocks.bits in (2, 4, 8) and blocks.bits >= bits and blocks.size in BLOCKS
    assert blocks.codes.dtype == np.uint8
    assert blocks.codes.shape == (*blocks.scale.shape, blocks.size * blocks.bits // 8)
    exact = q.__array__(np.dtype(np.float64))
    np.testing.assert_allclose(weights(blocks, *q.shape), exact, rtol=0, atol=2e-6 * 2**bits)


def test_nothing_is_moved_that_need_not_be():
    for options, moved in (
        ({}, False), ({"n": 45}, False), ({"group_size": 16}, False), ({"act": True}, False),
        ({"kind": "rms"}, False), ({"kind": "rms", "n": 45}, True), ({"group_size": 8}, True),
        ({"group_size": 16, "act": True}, True),
    ):  # fmt: skip
        blocks = lay_out(integer_codes(make_layer(**options)))
        assert (blocks.columns is not None) == moved, options


def test_zeros_are_left_out_where_they_are_the_middle_code_of_the_node():
    for bits, left_out in ((2, True), (4, True), (8, True), (1, False), (3, False), (6, False)):
        blocks = lay_out(integer_codes(make_layer(bits=bits, kind="sym")))
        assert (blocks.zero is None) == left_out


def test_the_size_of_blocks_takes_the_fewest_bits():
    sizes = {64: 64, 128: 128, 96: 32, 20: 32, 16: 16, 5: 16, 512: 128}
    for group_size, size in sizes.items():
        q = make_layer(n=2 * group_size, group_size=group_size, bits=4)
        assert lay_out(integer_codes(q)).size == size, group_size
