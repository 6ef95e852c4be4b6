"""torch, JAX and Numba on a real device: no copy, the same kind back, streams in order."""

import ml_dtypes
import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.arrays import to_numpy
from quiplinalg.device_arrays import common_device, device_of, to_device
from quiplinalg.errors import BackendMismatchError, BackendUnavailableError, DTypeError
from quiplinalg.restore import like

W = np.arange(12, dtype=np.float32).reshape(3, 4) / 8 - 0.5
NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
LONG = 200_000_000  # cycles that a stream is kept busy for, about 0.1 s


@pytest.fixture
def cupy(request):
    if request.config.getoption("--backend", default=None) != "cuda":
        pytest.skip("run with --backend cuda")
    return pytest.importorskip("cupy")


@pytest.fixture
def torch(cupy):
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("torch has no CUDA device")
    return module


@pytest.fixture
def jax(cupy, monkeypatch):
    # read when JAX makes its first array: CuPy and torch need memory too
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    module = pytest.importorskip("jax")
    if not any(d.platform == "gpu" for d in module.devices()):
        pytest.skip("JAX has no CUDA device")
    return module


# -- torch ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("grad", (False, True))
@pytest.mark.parametrize("name", ("float16", "float32", "float64"))
def test_torch_in_and_back_without_a_copy(cupy, torch, name, grad):
    x = torch.from_numpy(W).to("cuda", getattr(torch, name)).requires_grad_(grad)
    a = to_device(x, "W")
    assert isinstance(a, cupy.ndarray) and a.dtype == name and a.data.ptr == x.data_ptr()
    assert device_of(x) == common_device(W=x, H=a) == x.device.index
    np.testing.assert_array_equal(a.get(), W)
    result = cupy.asarray(W).astype(name)
    back = like(x)(result)
    assert isinstance(back, torch.Tensor) and back.device == x.device and back.dtype == x.dtype
    assert back.data_ptr() == result.data.ptr and not back.requires_grad
    np.testing.assert_array_equal(back.cpu().numpy(), W)


@pytest.mark.parametrize("view", [
    lambda x: x.T, lambda x: x[:, ::2], lambda x: x[1:, 1:], lambda x: x[:0],
])  # fmt: skip
def test_torch_views(cupy, torch, view):
    x = torch.from_numpy(W).cuda()
    a = to_device(view(x), "W")
    assert a.shape == tuple(view(x).shape)
    np.testing.assert_array_equal(a.get(), view(W))
    np.testing.assert_array_equal(like(x)(a).cpu().numpy(), view(W))


@pytest.mark.parametrize("grad", (False, True))
@pytest.mark.parametrize("name", NARROW)
def test_torch_narrow_floats(cupy, torch, name, grad):
    dtype = np.dtype(getattr(ml_dtypes, name))
    every = np.arange(1 << 8 * dtype.itemsize).astype(f"u{dtype.itemsize}").reshape(-1, 16)
    signed = torch.int16 if dtype.itemsize == 2 else torch.uint8
    bits = torch.from_numpy(every.view(str(signed).rpartition(".")[2])).cuda()
    x = bits.view(getattr(torch, name))
    values = every.view(dtype).astype(np.float32)
    a = to_device(x.T.requires_grad_(grad), "W")
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a.get(), values.T)
    finite = np.where(np.isfinite(values), values, 0)
    back = like(x)(cupy.asarray(finite))
    assert back.dtype == x.dtype and back.device == x.device
    np.testing.assert_array_equal(back.float().cpu().numpy(), finite)


def test_torch_refusals(cupy, torch):
    x = torch.eye(3, device="cuda")
    with pytest.raises(DTypeError, match="to_dense"):
        to_device(x.to_sparse(), "W")
    with pytest.raises(DTypeError, match=r"W\.real"):
        to_device(x.to(torch.complex64).conj(), "W")
    with pytest.raises(DTypeError, match=r"W\.resolve_neg\(\)"):
        to_device(x.to(torch.complex64).conj().imag, "W")
    with pytest.raises(DTypeError, match=r"W\.dtype=int64"):
        to_device(x.long(), "W")
    with pytest.raises(BackendMismatchError, match=r"torch.as_tensor\(H, device=W.device\)"):
        common_device(W=x, H=W)
    with pytest.raises(BackendMismatchError, match=r"H.to\(W.device\)"):
        common_device(W=x, H=x.cpu())
    with pytest.raises(BackendUnavailableError, match=r"W\.detach\(\)\.cpu\(\)"):
        to_numpy(x, "W")


def test_torch_parameters(cupy, torch):
    p = torch.nn.Linear(4, 3).cuda().weight
    a = to_device(p, "W")
    assert a.data.ptr == p.data_ptr()
    assert type(like(p)(a)) is torch.Tensor


@pytest.mark.parametrize("own", (False, True))
def test_cupy_waits_for_the_stream_of_torch(cupy, torch, own):
    x = torch.zeros(1 << 20, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream() if own else torch.cuda.current_stream()
    with torch.cuda.stream(stream), cupy.cuda.Stream(non_blocking=True):
        torch.cuda._sleep(LONG)
        x.fill_(1.0)
        total = to_device(x, "W").sum()  # on the other stream
        assert float(total) == 1 << 20


@pytest.mark.parametrize("own", (False, True))
def test_torch_waits_for_the_stream_of_cupy(cupy, torch, own):
    x = torch.zeros(1, device="cuda")
    slow = cupy.RawKernel(
        """extern "C" __global__ void slow(long long cycles) {
            for (long long start = clock64(); clock64() - start < cycles;) {}
        }""",
        "slow",
    )
    result = cupy.zeros(1 << 20, np.float32)
    cupy.cuda.Device().synchronize()
    stream = torch.cuda.Stream() if own else torch.cuda.current_stream()
    with torch.cuda.stream(stream), cupy.cuda.Stream(non_blocking=True):
        slow((1,), (1,), (np.int64(LONG),))
        result.fill(1.0)
        assert float(like(x)(result).sum()) == 1 << 20


def test_memory_that_torch_gives_away_is_not_read_after(cupy, torch):
    """Every tensor that goes out of use waits for what was computed from it."""
    codes = torch.randint(0, 8, (64, 4096), dtype=torch.uint8, device="cuda")
    wanted = codes.clone()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()), cupy.cuda.Stream(non_blocking=True):
        packed = ql.pack(codes, 3)
        codes.fill_(255)
        again = ql.unpack(packed, 3, 4096)
        packed.fill_(255)
    torch.cuda.synchronize()
    assert torch.equal(again, wanted)


def test_the_second_device_of_torch(cupy, torch):
    if torch.cuda.device_count() < 2:
        pytest.skip("one device only")
    x = torch.from_numpy(W).to("cuda:1")
    a = to_device(x, "W")
    assert a.device.id == 1 and a.data.ptr == x.data_ptr() and torch.cuda.current_device() == 0
    assert like(x)(a).device == x.device
    np.testing.assert_array_equal(to_device(x.bfloat16(), "W").get(), W)
    with pytest.raises(BackendMismatchError, match=r"H.to\(W.device\)"):
        common_device(W=x, H=x.to("cuda:0"))


# -- JAX ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("float16", "float32"))
def test_jax_in_and_back_without_a_copy(cupy, jax, name):
    x = jax.numpy.asarray(W).astype(name)
    a = to_device(x, "W")
    assert a.dtype == name and a.data.ptr == x.unsafe_buffer_pointer()
    assert device_of(x) == common_device(W=x, H=a)
    np.testing.assert_array_equal(a.get(), W)
    result = cupy.asarray(W).astype(name)
    back = like(x)(result)
    assert isinstance(back, jax.Array) and back.dtype == x.dtype and back.device == x.device
    assert back.unsafe_buffer_pointer() == result.data.ptr
    np.testing.assert_array_equal(np.asarray(back), W)


@pytest.mark.parametrize("name", NARROW)
def test_jax_narrow_floats(cupy, jax, name):
    dtype = np.dtype(getattr(ml_dtypes, name))
    every = np.arange(1 << 8 * dtype.itemsize).astype(f"u{dtype.itemsize}").reshape(-1, 16)
    x = jax.numpy.asarray(every.view(dtype))
    values = every.view(dtype).astype(np.float32)
    a = to_device(x, "W")
    assert a.dtype == np.float32
    np.testing.assert_array_equal(a.get(), values)
    finite = np.where(np.isfinite(values), values, 0)
    back = like(x)(cupy.asarray(finite))
    assert back.dtype == x.dtype and back.device == x.device
    np.testing.assert_array_equal(np.asarray(back).astype(np.float32), finite)


def test_jax_refusals(cupy, jax):
    x = jax.numpy.eye(3)
    with pytest.raises(DTypeError, match="outside jit"):
        jax.jit(lambda w: to_device(w, "W"))(x)
    with pytest.raises(BackendMismatchError, match=r"jax.device_put\(H, W.device\)"):
        common_device(W=x, H=W)
    with pytest.raises(BackendUnavailableError, match=r"jax.device_get\(W\)"):
        to_numpy(x, "W")


def test_the_streams_of_jax(cupy, jax):
    x = jax.numpy.ones((4096, 4096))
    with cupy.cuda.Stream(non_blocking=True):
        for _ in range(20):  # long enough that who does not wait reads too early
            x = x @ x / 4096
        a = to_device(x, "W")
        assert float(a.sum()) == 4096.0**2
        result = cupy.ones((4096, 4096), np.float32)
        for _ in range(20):
            result = result @ result / np.float32(4096)
        assert float(like(x)(result).sum()) == 4096.0**2


# -- others ---------------------------------------------------------------------------------------


def test_numba(cupy):
    numba_cuda = pytest.importorskip("numba.cuda")
    if not numba_cuda.is_available():
        pytest.skip("Numba has no CUDA device")
    x = numba_cuda.to_device(W)
    a = to_device(x, "W")
    assert device_of(x) == 0 and a.data.ptr == x.__cuda_array_interface__["data"][0]
    np.testing.assert_array_equal(a.get(), W)
    assert isinstance(like(x)(a), cupy.ndarray)


def test_cupy_bfloat16(cupy):
    try:
        x = cupy.asarray(W.astype(ml_dtypes.bfloat16))
    except (TypeError, ValueError):
        pytest.skip("this CuPy has no bfloat16")
    a = to_device(x, "W")
    assert a.dtype == np.float32 and like(x)(a).dtype == x.dtype
    np.testing.assert_array_equal(a.get(), W)


@pytest.mark.parametrize("bits", range(1, 9))
def test_pack_on_the_device(cupy, bits):
    rng = np.random.default_rng(bits)
    for shape in ((0, 5), (3, 7), (17, 4096), (33, 4112), (9, 5001), (1, 12289), (70_000, 3)):
        codes = rng.integers(0, 1 << bits, shape).astype(np.uint8)
        packed = ql.pack(cupy.asarray(codes), bits)
        np.testing.assert_array_equal(packed.get(), ql.pack(codes, bits))
        np.testing.assert_array_equal(ql.unpack(packed, bits, shape[1]).get(), codes)
    if bits < 8:
        with pytest.raises(ql.InvalidArgumentError, match=f"got a code of {1 << bits}"):
            ql.pack(cupy.full((3, 4097), 1 << bits, np.uint8), bits)


@pytest.mark.parametrize("library", ("torch", "jax"))
def test_pack_gives_the_library_back(library, request):
    codes = np.random.default_rng(0).integers(0, 8, (16, 128)).astype(np.uint8)
    module = request.getfixturevalue(library)
    x = module.from_numpy(codes).cuda() if library == "torch" else module.numpy.asarray(codes)
    packed = ql.pack(x, 3)
    back = ql.unpack(packed, 3, 128)
    assert type(packed) is type(back) is type(x)
    host = packed.cpu().numpy() if library == "torch" else np.asarray(packed)
    np.testing.assert_array_equal(host, ql.pack(codes, 3))
    np.testing.assert_array_equal(to_device(back, "c", integers=True).get(), codes)
