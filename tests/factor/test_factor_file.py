"""The factor in a file is the factor in memory; what can go wrong with a file is told."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.factor.out_of_core import (
    FactorFile,
    factor_file_bytes,
    factor_out_of_core,
    least_factor_memory,
)
from quiplinalg.factor.recursive import factor_reversed
from quiplinalg.factor.source import ArraySource
from quiplinalg.kernels.record import select

TILE = 32


def kernels_of(name):
    return replace(select(name), tile=TILE)


def spd(n, seed=0, dtype=np.float64):
    X = np.random.default_rng([seed, n]).standard_normal((n + 9, n))
    return (X.T @ X / (n + 9)).astype(dtype)


def in_memory(H, order, shift, kernels):
    """L, lower triangular, from the factorisation that is in memory."""
    return np.tril(factor_reversed(H, order, shift, kernels, TILE).T)


def lower(file):
    """L from the file, in pieces of columns."""
    L = np.zeros((file.n, file.n))
    for j in range(0, file.n, 20):
        last = min(j + 20, file.n)
        L[j:, j:last] = file.columns(j, last).T
    return np.tril(L)


@pytest.mark.parametrize("backend", ("cpu", "generic"))
@pytest.mark.parametrize("n", (0, 1, 2, 31, 32, 33, 64, 65, 150, 257))
@pytest.mark.parametrize("strips", (1, 2, 100))
def test_the_factor_is_that_in_memory(tmp_path, backend, n, strips):
    kernels = kernels_of(backend)
    rng = np.random.default_rng(n)
    order, shift = rng.permutation(n), rng.uniform(0.1, 1, n)
    for dtype in (np.float32, np.float64):
        H = spd(n, dtype=dtype)
        rows = -(-n // strips // TILE) * TILE or TILE
        memory = least_factor_memory(n, TILE) + 8 * (rows - min(TILE, n)) * (TILE + n)
        file = FactorFile(n, TILE, tmp_path)
        source = ArraySource(H)
        source.check(1 << 20)
        factor_out_of_core(source, order, shift, kernels, file, memory)
        expected = in_memory(H, order, shift, kernels)
        # the same products: apart at most by how BLAS groups the rows of one
        assert np.abs(lower(file) - expected).max(initial=0) <= 4 * np.finfo(float).eps * (
            np.abs(expected).max(initial=0)
        )
        np.testing.assert_allclose(file.pivots, expected.diagonal(), rtol=1e-14)
        file.close()


def test_the_file_has_the_size_that_is_said_and_no_name(tmp_path):
    for n in (1, TILE, 100):
        file = FactorFile(n, TILE, tmp_path)
        order, shift = np.arange(n), np.zeros(n)
        memory = least_factor_memory(n, TILE)
        factor_out_of_core(ArraySource(spd(n)), order, shift, kernels_of("cpu"), file, memory)
        assert os.fstat(file._file.fileno()).st_size == factor_file_bytes(n, TILE)
        assert os.listdir(tmp_path) == []  # a killed process leaves nothing
        file.close()
    assert 4 * 5000**2 < factor_file_bytes(5000, 384) < 4.4 * 5000**2


def test_offsets_pass_32_bits():
    assert factor_file_bytes(53248, 384) > 11e9
    assert least_factor_memory(53248, 384) < 400e6


def test_a_file_can_be_filled_again(tmp_path):
    """As damping by trial does."""
    n, kernels = 70, kernels_of("cpu")
    file, memory = FactorFile(n, TILE, tmp_path), least_factor_memory(n, TILE)
    for value in (0.5, 2.0):
        shift = np.full(n, value)
        factor_out_of_core(ArraySource(spd(n)), np.arange(n), shift, kernels, file, memory)
        assert np.allclose(lower(file), in_memory(spd(n), np.arange(n), shift, kernels))
    file.close()


@pytest.mark.parametrize("backend", ("cpu", "generic"))
@pytest.mark.parametrize("bad", (0, 5, 40, 63, 64, 99))
def test_a_failed_pivot_has_the_callers_index_and_its_value(tmp_path, backend, bad):
    n, kernels = 100, kernels_of(backend)
    order = np.random.default_rng(1).permutation(n)
    H = spd(n)
    H[bad, bad] = 1e-3  # less than its Schur complement takes
    with pytest.raises(ql.NotPositiveDefiniteError) as inside:
        factor_reversed(H, order, np.zeros(n), kernels, TILE)
    file = FactorFile(n, TILE, tmp_path)
    with pytest.raises(ql.NotPositiveDefiniteError) as outside:
        memory = least_factor_memory(n, TILE)
        factor_out_of_core(ArraySource(H), order, np.zeros(n), kernels, file, memory)
    file.close()
    assert outside.value.index == inside.value.index
    assert outside.value.pivot == pytest.approx(inside.value.pivot, rel=1e-9)
    assert outside.value.remedy == inside.value.remedy


def test_too_little_memory_is_refused_with_the_numbers(tmp_path):
    file, least = FactorFile(80, TILE, tmp_path), least_factor_memory(80, TILE)
    with pytest.raises(ql.errors.InsufficientMemoryError, match=f"memory must hold {least} bytes"):
        factor_out_of_core(
            ArraySource(spd(80)), np.arange(80), np.zeros(80), select(), file, least - 1
        )
    file.close()


def test_too_little_disk_is_seen_before_anything_is_read(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    needed = factor_file_bytes(100, TILE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, needed - 1))
    with pytest.raises(OSError, match=f"got {needed - 1} bytes free of the {needed}") as error:
        FactorFile(100, TILE, tmp_path)
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, needed))
    FactorFile(100, TILE, tmp_path).close()


@pytest.mark.parametrize("code", (errno.ENOSPC, errno.EIO))
def test_a_write_that_fails_is_an_error(tmp_path, monkeypatch, code):
    n, calls, write = 100, [], os.pwrite

    def failing(descriptor, data, offset):
        calls.append(len(data))
        if len(calls) == 3:
            raise OSError(code, os.strerror(code))
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", failing)
    file = FactorFile(n, TILE, tmp_path)
    with pytest.raises(OSError, match=os.strerror(code)):
        memory = least_factor_memory(n, TILE)
        factor_out_of_core(
            ArraySource(spd(n)), np.arange(n), np.zeros(n), kernels_of("cpu"), file, memory
        )
    file.close()


def test_short_reads_and_writes_go_on(tmp_path, monkeypatch):
    n, write, read = 100, os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: write(fd, data[:1000], at))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, at: read(fd, [buffers[0][:700]], at))
    file, kernels = FactorFile(n, TILE, tmp_path), kernels_of("cpu")
    memory = least_factor_memory(n, TILE)
    factor_out_of_core(ArraySource(spd(n)), np.arange(n), np.ones(n), kernels, file, memory)
    assert np.allclose(lower(file), in_memory(spd(n), np.arange(n), np.ones(n), kernels))
    os.ftruncate(file._file.fileno(), 1000)
    with pytest.raises(OSError, match="has become shorter"):
        file.columns(0, 20)
    file.close()
