"""What a result is compared with, on all rows and on some."""

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.factor.source import ArraySource
from quiplinalg.model.comparison import column_blocks, compare, quadratic_forms, source_blocks


def problem(m=12, n=16, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((4 * n, n))
    return rng.standard_normal((m, n)).astype(np.float32), (X.T @ X / len(X)).astype(np.float32)


def blocks(H, W):
    return column_blocks(H, np.dtype(np.float64 if W.dtype == np.float64 else np.float32))


@pytest.mark.parametrize("method", ["nearest", "gptq", "ldlq", "quip", "kbest"])
@pytest.mark.parametrize("dtypes", ["ff", "fd", "df", "ef"])
def test_on_all_rows_both_losses_are_those_of_the_definition(method, dtypes):
    W, H = (A.astype(dtype) for A, dtype in zip(problem(), dtypes, strict=True))
    q = getattr(ql, method)(W, H, bits=2)
    found = compare(W, blocks(H, W), q, None)
    assert found.rows == len(W)
    for value, definition in (
        (found.energy, ql.proxy_loss(0 * W, W, H)),
        (found.nearest_loss, q.nearest_loss(W, H)),
    ):
        assert abs(value - definition) <= 1e-5 * definition


def test_one_scale_for_all_rows():
    W, H = problem(40)
    q = ql.ldlq(W, H, grid=ql.rms_grid(W, bits=2, rho=2.4, per_tensor=True))
    whole, some = (compare(W, blocks(H, W), q, rows) for rows in (None, 40))
    assert whole == some


@pytest.mark.parametrize("method", ["nearest", "ldlq", "quip"])
def test_rows_that_are_alike_tell_all(method):
    """Where every row has the same ratio of losses, some rows give the losses of all."""
    W, H = problem(4)
    W = np.repeat(W[:1], 50, axis=0)
    keywords = {"rotation": None, "rho": 3.0} if method == "quip" else {}
    q = getattr(ql, method)(W, H, bits=3, **keywords)
    whole, some = (compare(W, blocks(H, W), q, rows) for rows in (None, 7))
    assert some.rows == 7
    assert abs(some.energy - whole.energy) <= 1e-4 * whole.energy
    assert abs(some.nearest_loss - whole.nearest_loss) <= 1e-4 * whole.nearest_loss


def test_an_estimate_has_the_ratios_of_its_rows():
    W, H = problem(30)
    q = ql.ldlq(W, H, bits=2)
    found = compare(W, blocks(H, W), q, 5)
    rows = np.linspace(0, 29, 5).round().astype(int)
    loss = ql.proxy_loss(q.dequantize()[rows], W[rows], H)
    energy = ql.proxy_loss(0 * W[rows], W[rows], H)
    assert abs(found.energy / q.loss - energy / loss) <= 1e-4 * energy / loss


def test_rows_without_loss_stand_for_as_many():
    H = problem(20)[1]
    W = np.random.default_rng(0).integers(0, 4, (20, 16)).astype(np.float32)
    W[:, :2] = 0, 3  # every row spans its grid, which has all of these values
    q = ql.ldlq(W, H, bits=2, clip="minmax")
    assert q.loss == 0
    whole, some = (compare(W, blocks(H, W), q, rows) for rows in (None, 4))
    energies = np.einsum("ij,jk,ik->i", W, H, W)
    rows = np.linspace(0, 19, 4).round().astype(int)
    assert abs(some.energy - 5 * energies[rows].sum()) <= 1e-4 * some.energy
    assert abs(whole.energy - energies.sum()) <= 1e-4 * whole.energy
    assert some.nearest_loss == whole.nearest_loss == 0


def test_nothing_to_compare():
    for m, n in ((0, 4), (3, 0), (0, 0)):
        W, H = np.ones((m, n), np.float32), np.eye(n, dtype=np.float32)
        q = ql.nearest(W, bits=2)
        assert compare(W, blocks(H, W), q, 128).energy == 0.0


@pytest.mark.parametrize("threads", [1, 2])
def test_the_same_bits_for_any_number_of_threads(threads):
    W, H = problem(150, 40)
    with ql.num_threads(threads):
        value = quadratic_forms([W, W[:70]], blocks(H, W))
    with ql.num_threads(3):
        assert value == quadratic_forms([W, W[:70]], blocks(H, W))


def test_blocks_in_another_precision_are_the_whole():
    _, H = problem(8, 2100)
    parts = list(column_blocks(H, np.dtype(np.float64)))
    assert len(parts) == 9 and all(part.dtype == np.float64 for _, part in parts)
    np.testing.assert_array_equal(np.hstack([part for _, part in parts]), H)


@pytest.mark.parametrize("memory", [0, 5 << 20, 1 << 30])
def test_an_h_on_the_disk_gives_the_same_bits(memory):
    W, H = problem(8, 700)
    q = ql.ldlq(W, H, bits=2)
    there = source_blocks(ArraySource(H), W.dtype, memory)
    assert compare(W, there, q, 5) == compare(W, blocks(H, W), q, 5)
