"""Where arrays are, and what is said of arrays in two places and of a CuPy without a device."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fake_frameworks import Exporter, Interface

import quiplinalg as ql
from quiplinalg.arrays import to_numpy
from quiplinalg.device_arrays import common_device, device_of, import_cupy, to_device
from quiplinalg.errors import BackendMismatchError, BackendUnavailableError, DTypeError

W = np.arange(12, dtype=np.float32).reshape(3, 4) / 8 - 0.5


def on(cuda, number, a=W):
    with cuda.xp.cuda.Device(number):
        return cuda.xp.asarray(a)


# -- where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", (0, 1))
def test_device_of(cuda, torch, jax, number):
    a = on(cuda, number)
    assert device_of(a) == number
    assert device_of(torch.Tensor(a)) == number
    assert device_of(jax(a)) == number
    assert device_of(Exporter(a, (2, number))) == number
    assert device_of(Exporter(a, (13, number))) == number


@pytest.mark.parametrize("x", [
    W, W.tolist(), 1.0, None, "W", memoryview(W), Exporter(W, (1, 0)), Exporter(W, (3, 0)),
    Exporter(W, (10, 0)), Exporter(W, (8, 1)),
])  # fmt: skip
def test_device_of_what_is_on_no_cuda_device(x):
    assert device_of(x) is None


def test_device_of_a_bare_interface_is_asked_of_cupy(cuda, monkeypatch):
    a = on(cuda, 1)
    attributes = {a.data.ptr: SimpleNamespace(device=1)}
    cupy = sys.modules["cupy"]
    monkeypatch.setattr(
        cupy.cuda.runtime, "pointerGetAttributes", attributes.__getitem__, raising=False
    )
    assert device_of(Interface(a)) == 1
    assert device_of(Interface(cuda.xp.empty((0, 3)))) == 0
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert device_of(Interface(a)) == 0


def test_a_bare_interface_without_a_driver(cuda, monkeypatch):
    a = Interface(on(cuda, 0))
    monkeypatch.setattr(sys.modules["cupy"].cuda.runtime, "getDeviceCount", lambda: 0)
    assert device_of(a) == 0
    for call in (lambda: ql.ldlq(a, np.eye(4)), lambda: ql.nearest(a), lambda: to_device(a, "W")):
        with pytest.raises((BackendUnavailableError, BackendMismatchError)):
            call()
    with pytest.raises(BackendUnavailableError, match="found none"):
        ql.nearest(a)


def test_lists_of_device_arrays(cuda, torch, jax):
    a = on(cuda, 0)
    for make, stack in ((lambda a: a, "cupy"), (torch.Tensor, "torch"), (jax, r"jax\.numpy")):
        for call in (
            lambda x: common_device(W=x, H=a),
            lambda x: common_device(H=a, W=x),
            lambda x: to_device(x, "W"),
            lambda x: to_numpy(x, "W"),
            lambda x: ql.ldlq(x, on(cuda, 0, np.eye(4))),
            lambda x: ql.nearest(x, backend="cuda"),
        ):
            with pytest.raises(DTypeError, match=rf"W must be one array.*{stack}\.stack\(W\)"):
                call([make(a), make(a)])


def test_a_prepared_hessian_on_a_device(cuda):
    weight, ready = on(cuda, 0), ql.prepare(on(cuda, 0, np.eye(4)))
    q = ql.ldlq(weight, ready)
    for call in (
        ql.nearest,
        ql.obq,
        lambda W, H: ql.descend(W, H, q),
        lambda W, H: q.nearest_loss(W, H),
        lambda W, H: ql.proxy_loss(q, W, H),
        lambda W, H: to_device(H, "H"),
    ):
        with pytest.raises(DTypeError, match=r"got a PreparedHessian.*H\.hessian"):
            call(weight, ready)
    assert ql.nearest(weight, ready.hessian).loss >= 0


def test_host_arrays_import_nothing():
    code = (
        "import sys, numpy as np; from quiplinalg.device_arrays import common_device, device_of;"
        "assert device_of([1.0]) is None and device_of(np.ones(2)) is None;"
        "assert common_device(W=np.ones(2), H=[1.0], X=None, damp=0.1) is None;"
        "print(sorted({'cupy', 'torch', 'jax', 'ml_dtypes'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# -- one place ------------------------------------------------------------------------------------


def test_common_device(cuda, torch, jax):
    a, b = on(cuda, 1), on(cuda, 0)
    assert common_device() is None and common_device(W=None) is None
    assert common_device(W=W, H=W.tolist(), damp=0.5, scale=np.float32(1)) is None
    assert common_device(W=b, H=None, damp=0.5) == 0
    assert common_device(W=a, H=torch.Tensor(a), X=jax(a), grid=Exporter(a, (13, 1))) == 1


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda a, b, t, j: {"W": a, "H": W}, ("cupy.asarray(H)", "cupy.asnumpy(W)")),
        (lambda a, b, t, j: {"W": W, "H": a}, ("cupy.asarray(W)", "cupy.asnumpy(H)", "the host")),
        (
            lambda a, b, t, j: {"W": a, "H": b},
            ("with cupy.cuda.Device(0): H = H.copy()", "CUDA device 0", "CUDA device 1"),
        ),
        (
            lambda a, b, t, j: {"W": b, "H": W},
            ("with cupy.cuda.Device(1): H = cupy.asarray(H)", "H (numpy.ndarray) on the host"),
        ),
        (lambda a, b, t, j: {"W": t(a), "H": t(b)}, ("H.to(W.device)", "W.detach().cpu()")),
        (lambda a, b, t, j: {"W": t(a), "H": W}, ("torch.as_tensor(H, device=W.device)",)),
        (lambda a, b, t, j: {"W": a, "H": t(b)}, ("H.to('cuda:0')",)),
        (lambda a, b, t, j: {"W": j(a), "H": j(b)}, ("jax.device_put(H, W.device)",)),
        (lambda a, b, t, j: {"W": a, "H": [1.0]}, ("H (builtins.list) on the host",)),
        (
            lambda a, b, t, j: {"W": a, "H": Exporter(None, (10, 0))},
            ("H (fake_frameworks.Exporter) on ROCm device 0", "CUDA device 0"),
        ),
    ],
)
def test_arrays_in_two_places(cuda, torch, jax, make, words):
    arrays = make(on(cuda, 0), on(cuda, 1), torch.Tensor, jax)
    with pytest.raises(BackendMismatchError, match=r"W and H must be in one place") as caught:
        common_device(**arrays)
    for word in ("silently", *words):
        assert word in str(caught.value), str(caught.value)


@pytest.mark.parametrize("kind", (4, 8, 10, 99))
def test_another_kind_of_accelerator(kind):
    with pytest.raises(BackendUnavailableError, match=r"H must be in host.*only those of one CUDA"):
        common_device(W=W, H=Exporter(W, (kind, 0)))


def test_an_array_in_shards():
    class ArrayImpl:
        shape, dtype = (3, 4), np.dtype("float32")

        def __dlpack_device__(self):
            raise BufferError("__dlpack__ only supported for unsharded arrays.")

        def devices(self):
            return [SimpleNamespace(platform="gpu"), SimpleNamespace(platform="gpu")]

    ArrayImpl.__module__ = "jaxlib._jax"
    assert device_of(ArrayImpl()) is None
    with pytest.raises(BackendUnavailableError, match=r"2 gpu devices, in shards.*device_get\(W\)"):
        common_device(W=ArrayImpl())


# -- CuPy -----------------------------------------------------------------------------------------


def test_import_cupy(cuda, monkeypatch):
    assert import_cupy() is cuda.xp
    runtime = cuda.xp.cuda.runtime

    def fail():
        raise runtime.CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver is too old")

    for count, said in ((fail, "cudaErrorInsufficientDriver"), (lambda: 0, "no device")):
        monkeypatch.setattr(runtime, "getDeviceCount", count)
        with pytest.raises(BackendUnavailableError) as caught:
            import_cupy()
        for word in (said, "nvidia-smi", '"quiplinalg[cuda12]"', '"quiplinalg[cuda13]"'):
            assert word in str(caught.value)


def test_cupy_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install .quiplinalg\[cuda12\]"):
        import_cupy()
    with pytest.raises(BackendUnavailableError, match="CuPy"):
        to_device(W, "W")


def test_cupy_as_it_is_installed():
    cupy = pytest.importorskip("cupy")
    if cupy.cuda.is_available():
        assert import_cupy() is cupy
    else:
        with pytest.raises(BackendUnavailableError, match=r"found none \(.*nvidia-smi"):
            import_cupy()
