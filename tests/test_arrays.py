"""Arrays in, arrays out, and what each bad input gets."""

import copy
import gc
import pickle
import weakref

import array_api_strict as strict
import ml_dtypes
import numpy as np
import pytest
import scipy.sparse

from quiplinalg.arrays import as_matrix, check_finite, to_numpy, work_dtype
from quiplinalg.errors import (
    BackendUnavailableError,
    DTypeError,
    InvalidArgumentError,
    NonFiniteError,
)
from quiplinalg.restore import like

W = np.arange(12, dtype=np.float64).reshape(3, 4) / 8


class OnlyDLPack:
    """A host array that exports nothing but DLPack."""

    def __init__(self, a, device=(1, 0)):
        self._a, self._device = a, device

    def __dlpack__(self, **kwargs):
        return self._a.__dlpack__(**kwargs)

    def __dlpack_device__(self):
        return self._device


class OnlyArray:
    """An object that NumPy reads by __array__."""

    def __init__(self, a):
        self._a = a

    def __array__(self, dtype=None, copy=None):
        return self._a


class DynamicJaxprTracer:
    shape, dtype = (3, 4), np.dtype("float32")

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("traced")


VIEWS = {
    "plain": lambda: W,
    "fortran": lambda: np.asfortranarray(W),
    "reversed": lambda: W[::-1, ::-1].copy()[::-1, ::-1],
    "strided": lambda: np.repeat(W, 2, axis=1)[:, ::2],
    "big-endian": lambda: W.astype(">f8"),
    "float16": lambda: W.astype(np.float16),
    "float32": lambda: W.astype(np.float32),
    "longdouble": lambda: W.astype(np.longdouble),
    "bfloat16": lambda: W.astype(ml_dtypes.bfloat16),
    "float8": lambda: W.astype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": lambda: np.minimum(W, 0).astype(ml_dtypes.float8_e5m2),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("readonly", [False, True])
def test_numpy_arrays_pass_without_a_copy(view, readonly):
    a = VIEWS[view]()[:]
    a.flags.writeable = not readonly
    before = a.tobytes()
    got = as_matrix(a, "W")
    assert got is a
    assert got.tobytes() == before and got.flags.writeable is not readonly
    back = like(a)(np.asarray(a, dtype=np.float64))
    assert type(back) is np.ndarray and back.dtype == a.dtype
    np.testing.assert_array_equal(back, a)


@pytest.mark.parametrize("make", [OnlyDLPack, OnlyArray, memoryview, strict.asarray])
def test_other_hosts_pass_without_a_copy(make):
    a = W.copy()
    got = as_matrix(make(a), "W")
    np.testing.assert_array_equal(got, W)
    if make is not strict.asarray:
        assert np.shares_memory(got, a)


def test_only_dlpack_read_only():
    a = W.copy()
    a.flags.writeable = False
    np.testing.assert_array_equal(to_numpy(OnlyDLPack(a), "W"), W)


def test_lists_scalars_and_subclasses():
    np.testing.assert_array_equal(as_matrix(W.tolist(), "W"), W)
    np.testing.assert_array_equal(to_numpy((1.0, 2.0), "w"), [1, 2])
    assert to_numpy(1.5, "w").shape == () and to_numpy(np.float32(1), "w").dtype == np.float32

    class Sub(np.ndarray):
        pass

    assert type(to_numpy(W.view(Sub), "W")) is np.ndarray
    assert to_numpy([[1, 2]], "codes", integers=True).dtype.kind == "i"
    assert to_numpy(np.ones(2, bool), "mask", integers=True).dtype == bool
    assert to_numpy(np.ones(2, ml_dtypes.int4), "codes", integers=True).shape == (2,)


def test_strict_namespace_round_trip():
    x = strict.asarray(W.astype(np.float32))
    back = like(x)(np.asarray(W))
    assert type(back) is type(x) and back.dtype == strict.float32 and back.device == x.device
    np.testing.assert_array_equal(np.asarray(back), W)


@pytest.mark.parametrize("make", [list, OnlyDLPack, memoryview])
def test_like_gives_numpy_where_there_is_no_namespace(make):
    x = W.astype(np.float32)
    back = like(x.tolist() if make is list else make(x))(W)
    assert type(back) is np.ndarray
    assert back.dtype == (np.float64 if make is list else np.float32)


def test_like_integers_keep_the_dtype_of_the_result():
    assert like(np.ones(3, np.int8))(W.astype(np.float32)).dtype == np.float32
    assert like([1, 2])(W).dtype == np.float64


@pytest.mark.parametrize("make", [np.asarray, strict.asarray, OnlyDLPack])
def test_like_keeps_no_data_and_pickles(make):
    class Owner(np.ndarray):
        pass

    a = W.copy().view(Owner)
    alive = weakref.ref(a)
    restore = like(make(a))
    del a
    gc.collect()
    assert alive() is None
    for again in (pickle.loads(pickle.dumps(restore)), copy.deepcopy(restore)):
        assert type(again(W)) is type(restore(W)) and again(W).shape == W.shape


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (W + 0j, ("complex128", ".real")),
        (W.astype(object), ("object", "dtype=float")),
        (W.astype(str), ("<U", "astype(float)")),
        (W.astype(np.int64), ("int64", "astype")),
        (W > 1, ("bool", "astype")),
        (W.astype(np.int8).astype(ml_dtypes.int4), ("int4", "astype")),
        (W.astype("M8[s]"), ("datetime64", "float32")),
        (np.zeros(3, [("a", "f4")]), ("float32",)),
        (np.ma.masked_array(W, W > 1), ("masked", "filled")),
        (np.matrix(W), ("np.matrix", "np.asarray(W)")),
        (scipy.sparse.csr_array(W), ("sparse", "toarray()")),
        (scipy.sparse.coo_matrix(W), ("sparse", "toarray()")),
        (DynamicJaxprTracer(), ("outside jit", "jax.pure_callback")),
        (None, ("None",)),
        ("weights.npy", ("weights.npy", "str")),
        (object(), ("object",)),
        ({"W": W}, ("dict",)),
        ([[1, 2]], ("int64", "astype")),
        ([["a"]], ("<U1",)),
    ],
)
def test_wrong_kinds(value, words):
    with pytest.raises(DTypeError) as caught:
        as_matrix(value, "W")
    for word in ("W", *words):
        assert word in str(caught.value)


def test_ragged_lists():
    with pytest.raises(InvalidArgumentError, match="differ in length"):
        to_numpy([[1.0], [1.0, 2.0]], "W")


@pytest.mark.parametrize("device", [(2, 0), (10, 1), (8, 0), (13, 0), (99, 0)])
def test_nothing_leaves_a_device_silently(device):
    with pytest.raises(BackendUnavailableError, match=r"(?s)W must be in host.*silently.*cpu\(\)"):
        to_numpy(OnlyDLPack(W, device), "W")


@pytest.mark.parametrize("device", [(1, 0), (3, 0), (11, 0)])
def test_pinned_memory_is_host_memory(device):
    np.testing.assert_array_equal(to_numpy(OnlyArray(W), "W"), W)
    x = OnlyArray(W)
    x.__class__ = type("Pinned", (OnlyArray,), {"__dlpack_device__": lambda self: device})
    np.testing.assert_array_equal(to_numpy(x, "W"), W)


def test_device_of_the_strict_namespace():
    with pytest.raises(BackendUnavailableError, match="silently"):
        to_numpy(strict.asarray(W, device=strict.Device("device1")), "W")


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (3, 4)])
def test_shapes(shape):
    with pytest.raises(InvalidArgumentError, match=r"H\.shape=") as caught:
        as_matrix(np.zeros(shape), "H", square=True)
    assert "X.T @ X" in str(caught.value)
    if len(shape) != 2:
        with pytest.raises(InvalidArgumentError, match="reshape"):
            as_matrix(np.zeros(shape), "W")


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 0)])
def test_empty_matrices_are_matrices(shape):
    assert as_matrix(np.zeros(shape), "W").shape == shape
    check_finite(np.zeros(shape), "W")


def test_work_dtype():
    f64, f32 = np.zeros(1), np.zeros(1, np.float32)
    assert work_dtype(f64, f32) == work_dtype(f64.astype(">f8")) == np.float64
    assert work_dtype(f64.astype(np.longdouble)) == np.float64
    for dtype in ("f4", "f2", ml_dtypes.bfloat16, ml_dtypes.float8_e5m2, "i8"):
        assert work_dtype(np.zeros(1, dtype), f64) == np.float32


FINITE_VIEWS = {
    "C": lambda a: a,
    "F": np.asfortranarray,
    "reversed": lambda a: a[::-1, ::-1].copy()[::-1, ::-1],
    "strided": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "strided rows": lambda a: np.repeat(a, 2, axis=0)[::2],
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
}


@pytest.mark.parametrize("view", FINITE_VIEWS)
@pytest.mark.parametrize("shape", [(5, 7), (700, 900), (3, 300_000)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_check_finite_names_the_first_in_row_major_order(view, shape, bad):
    a = np.ones(shape, np.float32)
    first = (shape[0] // 2, shape[1] - 2)
    a[first] = a[shape[0] - 1, 0] = a[-1, -1] = bad
    with pytest.raises(NonFiniteError) as caught:
        check_finite(FINITE_VIEWS[view](a), "W")
    assert (caught.value.argument, caught.value.index, caught.value.count) == ("W", first, 3)
    a[~np.isfinite(a)] = np.finfo(np.float32).max
    check_finite(FINITE_VIEWS[view](a), "W")


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble, ml_dtypes.bfloat16])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 4)])
def test_check_finite_dtypes_and_shapes(dtype, shape):
    a = np.ones(shape, dtype)
    check_finite(a, "W")
    last = tuple(s - 1 for s in shape)
    a[last] = np.nan
    with pytest.raises(NonFiniteError) as caught:
        check_finite(a, "W")
    assert caught.value.index == last and caught.value.count == 1
    assert type(caught.value.index) is tuple and all(type(i) is int for i in caught.value.index)


def test_check_finite_makes_no_large_temporary():
    import tracemalloc

    a = np.ones((2000, 2000), np.float32)
    for view in (a, a.T, a[::2], a[:, ::2]):
        tracemalloc.start()
        check_finite(view, "W")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= 1 << 20, peak
