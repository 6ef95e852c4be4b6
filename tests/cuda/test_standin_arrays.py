"""The stand-in for CuPy: its rules are kept, or stricter ones."""

import operator
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from standin import fake_cupy
from standin.device_arrays import _METHODS


def test_nothing_crosses_to_the_host_unasked(cuda):
    xp = cuda.xp
    a, host = xp.asarray(np.arange(6.0).reshape(2, 3)), np.ones(3)
    assert type(a).__module__ == "cupy" and not isinstance(a, np.ndarray)
    for wrong in (
        lambda: np.asarray(a),
        lambda: np.array([a, a]),
        lambda: np.sum(a),
        lambda: np.concatenate([a, a]),
        lambda: np.add(a, host),
        lambda: a + host,
        lambda: host + a,
        lambda: host @ a.T,
        lambda: xp.maximum(a, host),
        lambda: xp.stack([a[0], host]),
        lambda: xp.where(a > 1, host, a),
        lambda: operator.index(xp.asarray(1)),
        lambda: host.__iadd__(a),
    ):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError, match="non-scalar"):
        a[0] = host
    assert np.array_equal(a.get(), np.arange(6.0).reshape(2, 3))


def test_results_stay_on_the_device(cuda):
    xp = cuda.xp
    host = np.arange(6.0).reshape(2, 3)
    a = xp.asarray(host)
    for found, wanted in (
        (a.sum(), host.sum()),
        (a.max(axis=1), host.max(axis=1)),
        (a[1, 2], host[1, 2]),
        (np.float64(2) * a - 1, 2 * host - 1),
        (2 / (1 + a), 2 / (1 + host)),
        (np.sqrt(a), np.sqrt(host)),
        (a @ a.T, host @ host.T),
        (a[:, xp.asarray([2, 0])], host[:, [2, 0]]),
        (a[:, np.array([2, 0])], host[:, [2, 0]]),
        (a[a > 2], host[host > 2]),
        (xp.count_nonzero(a), 5),
        (xp.array_equal(a, a), True),
        (xp.nonzero(a[0])[0], [1, 2]),
        (xp.einsum("ij,kj->ik", a, a), host @ host.T),
        (xp.argsort(-a, axis=1), [[2, 1, 0]] * 2),
        (abs(-a).astype(np.float32), host.astype(np.float32)),
    ):
        assert type(found) is xp.ndarray
        assert np.array_equal(found.get(), wanted)
        assert found.dtype == np.asarray(wanted).dtype or found.dtype.kind in "ib"
    assert (float(a.sum()), int(a[1, 1]), bool(a[0, 0]), a.max().item()) == (15.0, 4, False, 5.0)
    for number in (int, float):  # bool takes an array of one element
        with pytest.raises(TypeError, match="0-dimensional"):
            number(a[0, :1])
    with pytest.raises(ValueError, match="kind"):
        xp.argsort(a, kind="quicksort")


def test_views_and_memory(cuda):
    xp = cuda.xp
    a = xp.zeros((4, 6), np.float32)
    a[1:3, ::2].fill(2)
    a.T[5] = 3
    cell = a[0, 0]
    cell[...] = 7
    a[3] += a[2]
    wanted = np.zeros((4, 6), np.float32)
    wanted[1:3, ::2], wanted[:, 5], wanted[0, 0] = 2, 3, 7
    wanted[3] += wanted[2]
    assert np.array_equal(a.get(), wanted)
    assert a[1:, 2:].data.ptr == a.data.ptr + 4 * 8 and a.data.ptr % 256 == 0
    assert a.reshape(-1)[6].data.ptr == a[1].data.ptr
    assert xp.may_share_memory(a.T, a) and not xp.may_share_memory(a.copy(), a)
    assert (a.T.flags.c_contiguous, a.T.flags.f_contiguous, a.T.strides) == (False, True, (4, 24))
    assert np.isnan(xp.empty(3).get()).all() and xp.empty(2, np.uint8).get()[0] == 0xA5
    assert xp.empty((0, 3)).data.ptr == 0
    alias = xp.from_dlpack(a)
    assert alias.data.ptr == a.data.ptr and a.__dlpack_device__() == (2, 0)
    assert a.__cuda_array_interface__["data"] == (a.data.ptr, False)
    with pytest.raises(BufferError):
        xp.from_dlpack(np.zeros(2))


def test_devices_streams_and_the_pool(cuda):
    xp = cuda.xp
    a = xp.ones(3)
    with xp.cuda.Device(1):
        b = xp.ones(3)
        for wrong in (lambda: a + b, lambda: a.sum(), lambda: a.__setitem__(0, 1)):
            with pytest.raises(ValueError, match="array device = 0 while current = 1"):
                wrong()
    assert (a.device.id, b.device.id, xp.cuda.Device().id) == (0, 1, 0)
    assert xp.cuda.runtime.pointerGetAttributes(b.data.ptr + 8).device == 1
    assert xp.cuda.runtime.getDeviceCount() == 2
    start, stop = xp.cuda.Event(), xp.cuda.Event()
    with xp.cuda.Stream(non_blocking=True) as stream:
        assert xp.cuda.get_current_stream() is stream
        start.record()
        stop.record(stream)
    assert xp.cuda.get_elapsed_time(start, stop) >= 0
    assert xp.cuda.get_current_stream() is xp.cuda.Stream.null
    pool = xp.get_default_memory_pool()
    used = pool.used_bytes()
    c = xp.empty(1000)
    assert pool.used_bytes() == used + 8000
    pool.set_limit(used + 8000)
    with pytest.raises(xp.cuda.memory.OutOfMemoryError):
        xp.empty(1000)
    del c
    assert pool.used_bytes() == used


def test_libraries_are_column_major(cuda):
    xp = cuda.xp
    from cupy_backends.cuda.libs import cublas, cusolver

    rng = np.random.default_rng(3)
    blas, solver = xp.cuda.device.get_cublas_handle(), xp.cuda.device.get_cusolver_handle()
    X = rng.standard_normal((3, 5, 8))
    H = X @ X.transpose(0, 2, 1)
    A, info = xp.asarray(H), xp.full(3, 9, np.int32)
    lower, one = cublas.CUBLAS_FILL_MODE_LOWER, np.ones(())
    pointers = xp.asarray(np.array([A[i].data.ptr for i in range(3)], np.uintp))
    cusolver.dpotrfBatched(solver, lower, 5, pointers.data.ptr, 5, info.data.ptr, 3)
    L = A.get().transpose(0, 2, 1)
    assert np.isnan(L[:, 0, 1:]).all()  # the other triangle is the library's
    L = np.tril(L)
    assert np.allclose(L @ L.transpose(0, 2, 1), H) and not info.get().any()
    # B <- B L^-T, column-major (2, 5), that is L^-1 B^T row-major (5, 2)
    B = xp.asarray(X[:, :, :2])
    targets = xp.asarray(np.array([B[i].data.ptr for i in range(3)], np.uintp))
    right, turned = cublas.CUBLAS_SIDE_RIGHT, cublas.CUBLAS_OP_T
    cublas.dtrsmBatched(
        blas, right, lower, turned, cublas.CUBLAS_DIAG_NON_UNIT, 2, 5,
        one.ctypes.data, pointers.data.ptr, 5, targets.data.ptr, 2, 3,
    )  # fmt: skip
    assert np.allclose(L @ B.get(), X[:, :, :2])
    C, work = xp.ones((3, 4, 2)), xp.asarray(X[:, :4, :3])
    # row-major C = 2 work B[:, :3] is column-major C^T = 2 B^T work^T
    two, none = np.full((), 2.0), np.zeros(())
    cublas.dgemmStridedBatched(
        blas, cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_N, 2, 4, 3, two.ctypes.data,
        B.data.ptr, 2, 10, work.data.ptr, 3, 12, none.ctypes.data, C.data.ptr, 2, 8, 3,
    )  # fmt: skip
    assert np.allclose(C.get(), 2 * X[:, :4, :3] @ B.get()[:, :3])
    A = xp.asarray(np.float32(H[0]))
    size = cusolver.spotrf_bufferSize(solver, lower, 5, A.data.ptr, 5)
    work = xp.empty(size, np.float32)
    for matrix, wanted in ((H[0], 0), (np.diag([1.0, 1, -1, 1, 1]), 3)):
        A = xp.asarray(np.float32(matrix))
        cusolver.spotrf(solver, lower, 5, A.data.ptr, 5, work.data.ptr, size, info.data.ptr)
        assert int(info[0]) == wanted
    with pytest.raises(RuntimeError, match="INVALID_VALUE"):
        cusolver.spotrf(solver, lower, 5, A.data.ptr, 4, work.data.ptr, size, info.data.ptr)


def test_the_stand_in_goes_away(cuda):
    import cupy

    assert cupy is cuda.xp
    with fake_cupy.installed() as other:
        assert sys.modules["cupy"] is other
    assert sys.modules["cupy"] is cupy


@pytest.mark.skipif(find_spec("cupy") is None, reason="compares with CuPy")
def test_real_cupy_has_every_name_of_the_stand_in():
    names = fake_cupy.build()
    wanted = {
        module: sorted(n for n in vars(names[module]) if not n.startswith("_"))
        for module in ("cupy", "cupy.linalg", "cupy.cuda", "cupy.cuda.runtime", "cupyx")
    } | {"cupy.cuda.device": ["get_cublas_handle", "get_cusolver_handle"]}
    code = (
        "import importlib, cupy\n"
        f"for module, names in {wanted!r}.items():\n"
        "    m = importlib.import_module(module)\n"
        "    for n in names: assert hasattr(m, n), (module, n)\n"
        f"for n in {sorted(_METHODS)!r}: assert hasattr(cupy.ndarray, n), n\n"
        "assert not hasattr(cupy.ndarray, '__index__')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
