"""The frameworks' own arrays, read in place and given back.

A framework that is missing skips its tests; with ``QUIPLINALG_REQUIRE_INTEROP=1`` a missing
PyTorch or JAX (the ``interop`` extra) fails them.
"""

import copy
import gc
import importlib
import os
import pickle
import subprocess
import sys
import weakref

import ml_dtypes
import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.arrays import as_matrix, to_numpy
from quiplinalg.errors import BackendUnavailableError, DTypeError
from quiplinalg.restore import like

# Exact in every float format there is, float8_e5m2 too.
VALUES = np.arange(12.0).reshape(3, 4) % 5 / 2


def framework(name):
    """Import a framework, or skip, or fail where the environment asks for all of them."""
    if os.environ.get("QUIPLINALG_REQUIRE_INTEROP") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


@pytest.fixture
def torch():
    return framework("torch")


@pytest.fixture
def jax():
    return framework("jax")


def problem(m=24, n=32):
    """Return seeded float32 weights and a well-conditioned Hessian."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((4 * n, n)) @ rng.standard_normal((n, n)) / n**0.5
    return (
        rng.standard_normal((m, n)).astype(np.float32),
        (X.T @ X / len(X)).astype(np.float32),
    )


TORCH_DTYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", TORCH_DTYPES)
def test_torch_is_read_in_place_and_restored(torch, name, grad):
    t = torch.from_numpy(VALUES.copy()).to(getattr(torch, name))
    t.requires_grad_(grad)
    a = as_matrix(t, "W")
    assert a.dtype == TORCH_DTYPES[name] and t.requires_grad is grad
    assert a.ctypes.data == t.data_ptr(), "copied"
    np.testing.assert_array_equal(a.astype(np.float64), VALUES)
    back = like(t)(VALUES)
    assert isinstance(back, torch.Tensor) and back.dtype == t.dtype and back.device == t.device
    assert not back.requires_grad
    assert torch.equal(back.float(), t.detach().float())


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_torch_strides(torch, name):
    t = torch.arange(12, dtype=torch.float32).to(getattr(torch, name)).reshape(3, 4)
    for view in (t.T, t[:, ::2], t[1:2].expand(5, 4), t[:0]):
        a = to_numpy(view, "W")
        np.testing.assert_array_equal(a.astype(np.float32), view.float().numpy())


def test_torch_restore_takes_any_numpy_view(torch, recwarn):
    restore = like(torch.zeros(1))
    a = np.arange(6.0).reshape(2, 3)
    fixed = a.astype(np.float32)
    fixed.flags.writeable = False
    for view in (a[::-1, ::-1], np.asfortranarray(a), a.astype(">f8"), a.T, fixed):
        np.testing.assert_array_equal(restore(view).numpy(), view)
    assert not [w for w in recwarn if "writable" in str(w.message)]


def test_torch_parameters_keep_their_data_to_themselves(torch):
    p = torch.nn.Linear(4, 3).weight
    restore, alive = like(p), weakref.ref(p)
    assert to_numpy(p, "W").shape == (3, 4)
    assert pickle.loads(pickle.dumps(restore))(np.ones((3, 4))).dtype == torch.float32
    del p
    gc.collect()
    assert alive() is None


def test_torch_without_numbers(torch):
    with pytest.raises(DTypeError, match="without data"):
        to_numpy(torch.zeros(2, 2, device="meta"), "W")
    with pytest.raises(DTypeError, match=r"sparse.*to_dense"):
        to_numpy(torch.eye(3).to_sparse(), "W")
    with pytest.raises(DTypeError, match=r"W.dtype=int64"):
        to_numpy(torch.ones(2, dtype=torch.int64), "W")
    with pytest.raises(DTypeError, match=r"W.dtype=complex64"):
        to_numpy(torch.ones(2, dtype=torch.complex64), "W")
    assert to_numpy(torch.ones(2, dtype=torch.int64), "k", integers=True).dtype == np.int64


def test_torch_on_a_gpu_is_refused(torch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with pytest.raises(BackendUnavailableError, match=r"W\.detach\(\)\.cpu\(\)"):
        to_numpy(torch.ones(2, 2, device="cuda"), "W")


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "float8_e4m3fn"])
def test_jax_is_read_and_restored(jax, name):
    jnp = jax.numpy
    x = jnp.asarray(VALUES).astype(name)
    a = as_matrix(x, "W")
    assert a.dtype == np.dtype(getattr(ml_dtypes, name, None) or name)
    np.testing.assert_array_equal(a.astype(np.float64), VALUES)
    back = like(x)(VALUES)
    assert isinstance(back, jax.Array) and back.dtype == x.dtype and back.device == x.device
    assert (back == x).all()


@pytest.mark.parametrize("transform", ["jit", "vmap", "grad"])
def test_jax_tracers(jax, transform):
    def f(x):
        to_numpy(x, "W")
        return x.sum()

    with pytest.raises(DTypeError, match=r"W must hold numbers.*pure_callback"):
        getattr(jax, transform)(f)(jax.numpy.ones((2, 2)))


def test_jax_tracers_through_ldlq(jax):
    from quiplinalg import ldlq

    W, H = problem()
    with pytest.raises(DTypeError, match="outside jit"):
        jax.jit(lambda w: ldlq(w, H, bits=2))(jax.numpy.asarray(W))


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_ldlq_on_torch(torch, name, grad):
    from quiplinalg import ldlq

    W, H = problem()
    w = torch.from_numpy(W).to(getattr(torch, name)).requires_grad_(grad)
    h = torch.from_numpy(H.copy())
    kept = w.detach().clone()
    q = ldlq(w, h, bits=2)
    # NumPy gets the same rounded weights in the same dtype.
    plain = ldlq(w.detach().float().numpy().astype(TORCH_DTYPES[name]), H, bits=2)
    np.testing.assert_array_equal(np.asarray(q.codes), plain.codes)
    W_hat = q.dequantize()
    assert isinstance(W_hat, torch.Tensor) and W_hat.dtype == w.dtype and W_hat.device == w.device
    np.testing.assert_array_equal(
        W_hat.float().numpy(), np.asarray(plain.dequantize()).astype(np.float32)
    )
    assert torch.equal(w.detach(), kept) and w.requires_grad is grad
    np.testing.assert_array_equal(h.numpy(), H)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_ldlq_on_jax(jax, name):
    from quiplinalg import ldlq

    W, H = problem()
    w = jax.numpy.asarray(W).astype(name)
    q = ldlq(w, jax.numpy.asarray(H), bits=2)
    plain = ldlq(np.asarray(w), H, bits=2)
    np.testing.assert_array_equal(np.asarray(q.codes), plain.codes)
    W_hat = q.dequantize()
    assert isinstance(W_hat, jax.Array) and W_hat.dtype == w.dtype
    np.testing.assert_array_equal(np.asarray(W_hat), np.asarray(plain.dequantize()))


@pytest.mark.parametrize("make", ["torch", "jax"])
def test_results_pickle(make, request):
    W, H = problem()
    library = request.getfixturevalue(make)
    asarray = library.asarray if make == "torch" else library.numpy.asarray
    for weight, hessian in ((W, H), (W[None], H[None])):
        q = ql.ldlq(asarray(weight), asarray(hessian))
        for again in (pickle.loads(pickle.dumps(q)), copy.deepcopy(q)):
            ours, theirs = q.dequantize(), again.dequantize()
            assert type(theirs) is type(ours) and theirs.device == ours.device
            np.testing.assert_array_equal(np.asarray(theirs), np.asarray(ours))


def test_jax_results_come_back_to_their_device(jax):
    # JAX reads the number of devices of the host when it starts
    text = """
import jax, numpy as np, pickle
from quiplinalg.restore import like
first, second = jax.devices("cpu")
restore = like(jax.device_put(np.ones(2, np.float32), second))
assert restore(np.ones(3)).device == second
assert pickle.loads(pickle.dumps(restore))(np.ones(3)).device == second
print(pickle.dumps(restore).hex())
"""
    env = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", text], env=env, capture_output=True, text=True, check=True
    )
    restore = pickle.loads(bytes.fromhex(done.stdout))
    assert restore(np.ones(3)).device == jax.devices("cpu")[-1]


def test_mlx():
    mx = pytest.importorskip("mlx.core")
    for dtype in (mx.float32, mx.float16, mx.bfloat16):
        x = mx.array(VALUES).astype(dtype)
        np.testing.assert_array_equal(as_matrix(x, "W").astype(np.float64), VALUES)
        back = like(x)(VALUES)
        assert isinstance(back, mx.array) and back.dtype == dtype and bool((back == x).all())


@pytest.mark.parametrize("name", ["float64", "float32", "float16", "bfloat16"])
def test_tensorflow(name):
    tf = pytest.importorskip("tensorflow")
    tensor = tf.cast(tf.constant(VALUES), name)
    for x in (tensor, tf.Variable(tensor)):
        np.testing.assert_array_equal(as_matrix(x, "W").astype(np.float64), VALUES)
        back = like(x)(VALUES)
        assert isinstance(back, tf.Tensor) and back.dtype == tensor.dtype
        assert back.device == tensor.device and bool(tf.reduce_all(back == tensor))
    with pytest.raises(DTypeError, match="without data"):
        tf.function(lambda x: to_numpy(x, "W"), autograph=False)(tensor)


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_keras_variables(name):
    keras = pytest.importorskip("keras")
    x = keras.Variable(VALUES.astype(np.float32), dtype=name)
    np.testing.assert_array_equal(as_matrix(x, "W").astype(np.float64), VALUES)
    back = like(x)(VALUES)
    assert keras.ops.is_tensor(back) and keras.backend.standardize_dtype(back.dtype) == name
    assert bool(keras.ops.all(back == x.value))


def test_pandas_frames():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(VALUES.astype(np.float32))
    np.testing.assert_array_equal(as_matrix(frame, "W"), VALUES)
    assert like(frame)(VALUES).dtype == np.float32
    frame["text"] = "a"
    with pytest.raises(DTypeError, match="object"):
        as_matrix(frame, "W")


@pytest.mark.parametrize("make", ("torch", "jax"))
def test_quip_gives_the_callers_kind_back(make, request):
    """Rotated, rescaled, refined or bounded: W_hat comes back as what W was, in its dtype."""
    framework = request.getfixturevalue(make)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((64, 24))
    W, H = rng.standard_normal((6, 24)).astype(np.float32), (X.T @ X / 64).astype(np.float32)
    wrap = framework.from_numpy if make == "torch" else framework.numpy.asarray
    kind = framework.Tensor if make == "torch" else framework.Array
    for call in (
        lambda W, H: ql.quip(W, H, 3, refine=None),
        lambda W, H: ql.quip_authors(W, H, 3),
        lambda W, H: ql.safe(W, H, 3),
        lambda W, H: ql.descend(W, H, ql.ldlq(W, H, 3)),
        lambda W, H: ql.ldlq(W, H, 3, order="min-pivot"),
    ):
        ours, theirs = call(W, H), call(wrap(W.copy()), wrap(H.copy()))
        back = theirs.dequantize()
        assert isinstance(back, kind) and "float32" in str(back.dtype)
        np.testing.assert_array_equal(np.asarray(back), ours.dequantize())
