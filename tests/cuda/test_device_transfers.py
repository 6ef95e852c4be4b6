"""What becomes of arrays of every library on the way into CuPy and back, and what is refused."""

import importlib
import pickle
import sys
from contextlib import nullcontext
from types import ModuleType, SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from fake_frameworks import Exporter, Interface

import quiplinalg as ql
from quiplinalg.arrays import to_numpy
from quiplinalg.device_arrays import device_of, to_device, to_host
from quiplinalg.errors import BackendUnavailableError, DTypeError
from quiplinalg.restore import like

W = np.arange(12, dtype=np.float32).reshape(3, 4) / 8 - 0.5
NARROW = ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def on(cuda, number, a=W):
    with cuda.xp.cuda.Device(number):
        return cuda.xp.asarray(a)


# -- in -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", (0, 1))
@pytest.mark.parametrize("make", ("cupy", "torch", "torch grad", "jax", "dlpack"))
@pytest.mark.parametrize("name", ("float16", "float32", "float64"))
def test_to_device_copies_nothing(cuda, torch, jax, make, name, number):
    a = on(cuda, number, W.astype(name))
    x = {
        "cupy": lambda: a,
        "torch": lambda: torch.Tensor(a),
        "torch grad": lambda: torch.Tensor(a, requires_grad=True),
        "jax": lambda: jax(a),
        "dlpack": lambda: Exporter(a, (2, number)),
    }[make]()
    got = to_device(x, "W")
    assert type(got) is cuda.xp.ndarray and got.dtype == name and got.device.id == number
    assert got.data.ptr == a.data.ptr and (make != "cupy" or got is a)
    np.testing.assert_array_equal(got.get(), W)
    assert cuda.xp.cuda.Device().id == 0


def test_to_device_takes_a_bare_interface(cuda, monkeypatch):
    a = on(cuda, 0)
    runtime = sys.modules["cupy"].cuda.runtime
    at = SimpleNamespace(device=0)
    monkeypatch.setattr(runtime, "pointerGetAttributes", lambda _: at, raising=False)
    monkeypatch.setattr(cuda.xp, "asarray", lambda x: a if isinstance(x, Interface) else None)
    assert to_device(Interface(a), "W") is a


@pytest.mark.parametrize("view", [
    lambda a: a[::-1, ::-1], lambda a: a.T, lambda a: a[:, ::2], lambda a: a[:0],
])  # fmt: skip
def test_to_device_takes_any_strides(cuda, view):
    a = view(on(cuda, 0))
    assert to_device(a, "W") is a
    np.testing.assert_array_equal(to_device(view(W), "W").get(), view(W))


@pytest.mark.parametrize("number", (0, 1))
@pytest.mark.parametrize("make", ("torch", "torch grad", "jax", "numpy"))
@pytest.mark.parametrize("name", NARROW)
def test_narrow_floats_are_widened_on_the_device(cuda, torch, jax, make, name, number):
    dtype = np.dtype(getattr(ml_dtypes, name))
    every = np.arange(1 << 8 * dtype.itemsize).astype(f"u{dtype.itemsize}")
    values = every.reshape(-1, 16).T  # every value there is, in strides
    a = on(cuda, number, values)
    x = {
        "torch": lambda: torch.Tensor(a, name),
        "torch grad": lambda: torch.Tensor(a, name, requires_grad=True),
        "jax": lambda: jax(a, dtype),
        "numpy": lambda: values.view(dtype),
    }[make]()
    if make != "numpy":
        got = to_device(x, "W")
    else:
        with cuda.xp.cuda.Device(number):
            got = to_device(x, "W")
    assert got.dtype == np.float32 and got.device.id == number
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(got.get(), values.view(dtype).astype(np.float32))


HOST = {
    "list": lambda: W.tolist(),
    "read-only": lambda: np.broadcast_to(W[:1], (3, 4)),
    "reversed": lambda: W[::-1, ::-1],
    "fortran": lambda: np.asfortranarray(W),
    "big-endian": lambda: W.astype(">f4"),
    "float16": lambda: W.astype(np.float16),
    "longdouble": lambda: W.astype(np.longdouble),
    "dlpack": lambda: Exporter(W, (1, 0)),
}


@pytest.mark.parametrize("make", HOST)
def test_host_arrays_are_uploaded_where_that_was_asked_for(cuda, make):
    x = HOST[make]()
    with cuda.xp.cuda.Device(1):
        got = to_device(x, "W")
    wanted = to_numpy(x, "W")
    assert got.device.id == 1 and got.dtype.isnative
    kind = np.float64 if make in ("list", "longdouble") else wanted.dtype.newbyteorder("=")
    assert got.dtype == kind
    np.testing.assert_array_equal(got.get(), wanted)


def test_integers(cuda, torch):
    codes = np.arange(12, dtype=np.uint8).reshape(3, 4)
    for x in (codes, on(cuda, 0, codes), torch.Tensor(on(cuda, 0, codes))):
        assert to_device(x, "codes", integers=True).dtype == np.uint8
        with pytest.raises(DTypeError, match=r"W.dtype=uint8. Pass W.astype"):
            to_device(x, "W")
    small = codes.astype(ml_dtypes.int4)
    np.testing.assert_array_equal(to_device(small, "codes", integers=True).get(), small)


@pytest.mark.parametrize("name", ("float16", "float32", *NARROW))
@pytest.mark.parametrize("library", ("torch", "jax"))
def test_the_real_tensors_give_their_bits(cuda, monkeypatch, library, name):
    """Tensors of the host that are said to be on a device, and are read by NumPy's DLPack."""
    real = pytest.importorskip("torch" if library == "torch" else "jax.numpy")
    values = W.astype(getattr(ml_dtypes, name, None) or name)
    if library == "torch":
        x = real.from_numpy(W.copy()).to(getattr(real, name)).requires_grad_(True)
        monkeypatch.setattr(real.cuda, "device", lambda number: nullcontext())
    else:
        x = real.asarray(W).astype(name)
    monkeypatch.setattr("quiplinalg.device_arrays.place_of", lambda x: ("CUDA", 0))
    monkeypatch.setattr(cuda.xp, "from_dlpack", lambda x: cuda.xp.asarray(np.from_dlpack(x)))
    got = to_device(x, "W")
    assert got.dtype == (name if name in ("float16", "float32") else np.float32)
    np.testing.assert_array_equal(got.get(), values.astype(np.float32))


class Sparse:
    layout = "torch.sparse_csr"


class DynamicJaxprTracer:
    shape, dtype = (3, 4), np.dtype("float32")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda t, a: t.Tensor(a, "complex64"), ("W.dtype=complex64", ".real")),
        (lambda t, a: t.Tensor(a, "float4_e2m1fn_x2"), ("float4_e2m1fn_x2", "float32")),
        (lambda t, a: t.Tensor(a, "qint8"), ("W.dtype=qint8", "float32")),
        (lambda t, a: t.Tensor(a, "uint16"), ("W.dtype=uint16", "astype")),
        (lambda t, a: t.Tensor(a, neg=True), ("negative bit", "W.resolve_neg()")),
        (lambda t, a: Sparse(), ("sparse", "W.to_dense()")),
        (lambda t, a: DynamicJaxprTracer(), ("outside jit",)),
        (lambda t, a: W + 0j, ("complex64", ".real")),
        (lambda t, a: "weights", ("weights", "str")),
    ],
)
def test_wrong_kinds(cuda, torch, make, words):
    with pytest.raises(DTypeError) as caught:
        to_device(make(torch, on(cuda, 0)), "W")
    for word in ("W", *words):
        assert word in str(caught.value), str(caught.value)


def test_what_cupy_cannot_read(cuda):
    class Odd(Exporter):
        def __dlpack__(self, **kwargs):
            raise BufferError("no export of this")

    with pytest.raises(DTypeError, match=r"W must be an array of floats.*no export of this"):
        to_device(Odd(None), "W")
    with pytest.raises(DTypeError, match=r"W.dtype=bfloat16 in a .*Odd"):
        odd = Odd(None)
        odd.dtype = np.dtype(ml_dtypes.bfloat16)
        to_device(odd, "W")
    with pytest.raises(BackendUnavailableError, match=r"W must be in host.*ROCm device 1"):
        to_device(Exporter(W, (10, 1)), "W")


def test_functions_without_kernels_refuse_device_arrays(cuda):
    with pytest.raises(BackendUnavailableError) as caught:
        to_numpy(on(cuda, 1), "W")
    for word in ("W must be in host", "CUDA device 1", "ldlq, gptq", "but not this function",
                 "cupy.asnumpy(W)"):  # fmt: skip
        assert word in str(caught.value)


# -- back -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", (0, 1))
@pytest.mark.parametrize("name", ("float16", "float32", "float64"))
def test_cupy_gets_cupy_back(cuda, number, name):
    restore = pickle.loads(pickle.dumps(like(on(cuda, number, W.astype(name)))))
    result = on(cuda, number)
    for a in (result, W):  # a result of the host goes to where x was
        back = restore(a)
        assert type(back) is cuda.xp.ndarray and back.device.id == number and back.dtype == name
        np.testing.assert_array_equal(back.get(), W)
    assert name != "float32" or restore(result) is result
    assert cuda.xp.cuda.Device().id == 0


@pytest.mark.parametrize("number", (0, 1))
@pytest.mark.parametrize("name", ("float16", "float32", "bfloat16", "float8_e4m3fn"))
@pytest.mark.parametrize("library", ("torch", "jax"))
def test_torch_and_jax_get_their_own_back(cuda, torch, jax, library, name, number):
    kind = getattr(ml_dtypes, name, None)
    values = W.astype(kind or name)
    a = on(cuda, number, values if kind is None else values.view(f"u{values.dtype.itemsize}"))
    x = torch.Tensor(a, name) if library == "torch" else jax(a, kind or name)
    restore = pickle.loads(pickle.dumps(like(x)))
    for result in (on(cuda, number), on(cuda, number, np.asfortranarray(W))):
        back = restore(result)
        assert type(back) is type(x) and device_of(back) == number
        assert str(back.dtype) == str(x.dtype)
        if name == "float32" and result.flags.c_contiguous:
            assert back._a.data.ptr == result.data.ptr
        np.testing.assert_array_equal(to_device(back, "W").get(), values.astype(np.float32))


def test_integers_leave_the_dtype_alone(cuda, torch):
    codes = on(cuda, 0, np.zeros((2, 2), np.uint8))
    assert like(codes)(on(cuda, 0)).dtype == np.float32
    assert str(like(torch.Tensor(codes))(on(cuda, 0)).dtype) == "torch.float32"


@pytest.mark.parametrize("x", [W, W.astype(np.float16), W.tolist(), memoryview(W)])
def test_host_arrays_get_the_result_on_the_host(cuda, x):
    restore = like(x)
    back = restore(on(cuda, 0))
    assert type(back) is np.ndarray and back.dtype == restore(W).dtype
    np.testing.assert_array_equal(back, W)


def test_host_tensors_get_the_result_on_the_host(cuda):
    torch = pytest.importorskip("torch")
    back = like(torch.zeros(2, dtype=torch.bfloat16))(on(cuda, 0))
    assert isinstance(back, torch.Tensor) and back.dtype == torch.bfloat16
    np.testing.assert_array_equal(back.float().numpy(), W)


def test_to_host(cuda):
    assert to_host(W) is W
    np.testing.assert_array_equal(to_host(on(cuda, 1)), W)


@pytest.mark.parametrize("library", ("cupy", "torch", "jax"))
def test_pack_gives_the_library_of_its_codes_back(cuda, torch, jax, library):
    codes = np.arange(40, dtype=np.uint8).reshape(4, 10) % 8
    a = on(cuda, 1, codes)
    x = {"cupy": a, "torch": torch.Tensor(a), "jax": jax(a)}[library]
    packed = ql.pack(x, 3)
    assert type(packed) is type(x) and device_of(packed) == 1
    np.testing.assert_array_equal(to_device(packed, "p", integers=True).get(), ql.pack(codes, 3))
    back = ql.unpack(packed, 3, 10)
    assert type(back) is type(x)
    np.testing.assert_array_equal(to_device(back, "c", integers=True).get(), codes)


def test_a_pickled_restore_asks_for_cupy_only_when_it_is_used(cuda, monkeypatch):
    text = pickle.dumps(like(on(cuda, 0)))
    monkeypatch.setitem(sys.modules, "cupy", None)
    restore = pickle.loads(text)
    with pytest.raises(BackendUnavailableError, match="CuPy"):
        restore(W)
    assert isinstance(importlib.import_module("quiplinalg"), ModuleType)
