"""Problem files: round trips, sharing, and what the writer refuses."""

import h5py
import ml_dtypes
import numpy as np
import pytest

from quiplinalg.errors import DTypeError, FormatError, InvalidArgumentError, NonFiniteError
from quiplinalg.files import Limits, ProblemWriter, open_problem
from quiplinalg.files.triangle import pack_lower, unpack_lower

FLOATS = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]


def layer(m, n, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, n + 1))
    H = np.asarray(X @ X.T, dtype)
    return rng.standard_normal((m, n)).astype(dtype), np.tril(H) + np.tril(H, -1).T


@pytest.mark.parametrize("storage", ["lower", "full"])
@pytest.mark.parametrize("orientation", ["out_in", "in_out"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_round_trip(tmp_path, dtype, orientation, storage):
    W, H = layer(3, 5, dtype)
    stored = W if orientation == "out_in" else W.T
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a/b", stored, H, orientation=orientation, n_samples=7, storage=storage)
    with open_problem(tmp_path / "p.h5") as problem:
        info = problem.info("a/b")
        assert (info.shape, info.dtype, info.hessian_dtype) == ((3, 5), dtype, dtype)
        assert (info.orientation, info.n_samples, info.normalization) == (orientation, 7, "mean")
        for got, expected in ((problem.weight("a/b"), W), (problem.hessian("a/b"), H)):
            assert got.dtype == dtype
            np.testing.assert_array_equal(got, expected)


def test_every_bfloat16_pattern_survives(tmp_path):
    bits = np.arange(2**16, dtype=np.uint16)
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add_array("all", bits.view(ml_dtypes.bfloat16))
    with open_problem(tmp_path / "p.h5") as problem:
        assert problem.array("all").dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(problem.array("all").view(np.uint16), bits)
    with h5py.File(tmp_path / "p.h5") as file:  # and other programs see floats
        assert file["arrays/all"][0x3FC0] == 1.5


@pytest.mark.parametrize("n", [0, 1, 2, 255, 256, 257, 600])
def test_triangle(n):
    H = np.arange(n * n, dtype=float).reshape(n, n)
    H = np.tril(H) + np.tril(H, -1).T
    np.testing.assert_array_equal(pack_lower(H), H[np.tril_indices(n)])
    np.testing.assert_array_equal(unpack_lower(pack_lower(H), n), H)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1)])
def test_empty_and_tiny_layers(tmp_path, shape):
    n = shape[1]
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("lower", np.zeros(shape), np.eye(n))
        writer.add("full", np.zeros(shape), np.eye(n), storage="full")
    with open_problem(tmp_path / "p.h5") as problem:
        for name in problem.names:
            assert problem.weight(name).shape == shape
            np.testing.assert_array_equal(problem.hessian(name), np.eye(n))


def test_odd_memory_layouts(tmp_path):
    W, H = layer(4, 6)
    views = {
        "fortran": (np.asfortranarray(W), np.asfortranarray(H)),
        "big": (W.astype(">f8"), H.astype(">f8")),
        "reversed": (W[::-1, ::-1], H[::-1, ::-1]),
        "list": (W.tolist(), H.tolist()),
    }
    W.setflags(write=False)
    with ProblemWriter(tmp_path / "p.h5") as writer:
        for name, (w, h) in views.items():
            writer.add(name, w, h)
    with open_problem(tmp_path / "p.h5") as problem:
        for name, (w, h) in views.items():
            assert problem.weight(name).dtype.isnative
            np.testing.assert_array_equal(problem.weight(name), np.asarray(w))
            np.testing.assert_array_equal(problem.hessian(name), np.asarray(h))


def test_one_copy_of_a_shared_hessian(tmp_path):
    n = 200
    W, H = layer(2, n)
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("0/q", W, H, n_samples=9)
        writer.add("0/k", W, H, n_samples=9)
        writer.add("0/v", W, H.copy(), n_samples=9)
        writer.add("0/z", W.T, shared_hessian_of="0/q", orientation="in_out")
        H[0, 0] += 1  # the same array object, with other contents
        writer.add("1/q", W, H, n_samples=9)
        H[0, 0] -= 1
        writer.add("1/k", W, H, n_samples=10)  # the same contents of other samples
    packed = 8 * n * (n + 1) // 2
    assert 3 * packed < (tmp_path / "p.h5").stat().st_size < 4 * packed
    with open_problem(tmp_path / "p.h5") as problem:
        assert problem.names == ("0/k", "0/q", "0/v", "0/z", "1/k", "1/q")
        assert problem.shared() == [["0/k", "0/q", "0/v", "0/z"], ["1/k"], ["1/q"]]
        assert problem.info("0/z").n_samples == 9
        np.testing.assert_array_equal(problem.hessian("0/z"), H)
        assert problem.hessian("1/q")[0, 0] == H[0, 0] + 1


def test_names_and_arrays(tmp_path):
    names = ["model.layers.10.q", "a/b/c", "a/b/d", "a/e", "ünï/層", "with space", "a.b/..c"]
    W, H = layer(2, 3)
    with ProblemWriter(tmp_path / "p.h5") as writer:
        for name in names:
            writer.add(name, W, H, n_samples=None, normalization="2mean")
        writer.add_array("held/out/x", np.arange(6).reshape(2, 3))
        writer.add_array("held/out/y", np.float32(3))
        writer.add_array("mask", np.array([True, False]))
    with open_problem(tmp_path / "p.h5") as problem:
        assert set(problem.names) == set(names)
        assert problem.info("ünï/層").n_samples is None
        assert problem.info("a/e").normalization == "2mean"
        assert problem.arrays == ("held/out/x", "held/out/y", "mask")
        np.testing.assert_array_equal(problem.array("held/out/x"), [[0, 1, 2], [3, 4, 5]])
        assert problem.array("held/out/y").shape == ()
        assert problem.array("mask").dtype == bool


def test_every_element_has_an_encoding_and_plain_attributes(tmp_path):
    W, H = layer(2, 3, ml_dtypes.bfloat16)
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a/b/c", W, H)
        writer.add_array("d/e", W)

    def check(_, node):
        assert {"encoding-type", "encoding-version"} <= set(node.attrs)
        for value in node.attrs.values():
            assert isinstance(value, np.bytes_ | np.int64 | np.float64)
        if isinstance(node, h5py.Dataset):
            assert node.chunks is None and node.compression is None

    with h5py.File(tmp_path / "p.h5") as file:
        check("", file)
        file.visititems(check)


@pytest.mark.parametrize(
    "name", ["", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", "a\0b", "\udc80", 3, None]
)
def test_bad_names(tmp_path, name):
    with ProblemWriter(tmp_path / "p.h5") as writer:
        with pytest.raises(InvalidArgumentError, match="name"):
            writer.add(name, np.eye(2), np.eye(2))
        with pytest.raises(InvalidArgumentError, match="name"):
            writer.add_array(name, np.eye(2))


def test_no_name_twice_or_inside_another(tmp_path):
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a/b", np.eye(2), np.eye(2))
        for name in ("a", "a/b", "a/b/c", "a/b/weight"):
            with pytest.raises(InvalidArgumentError, match="inside another"):
                writer.add(name, np.eye(2), np.eye(2))
        writer.add("a/bc", np.eye(2), np.eye(2))


def test_bad_arguments(tmp_path):
    W, H = np.ones((2, 3)), np.eye(3)
    nan = H.copy()
    nan[2, 1] = nan[1, 2] = np.nan
    cases = [
        (InvalidArgumentError, r"Pass weight.T / orientation='in_out' for Keras", (W.T, H), {}),
        (InvalidArgumentError, "orientation='in_out'", (W, np.eye(2)), {}),
        (InvalidArgumentError, "matrix", (np.ones(3), H), {}),
        (InvalidArgumentError, "symmetric", (W, np.triu(np.ones((3, 3)))), {}),
        (InvalidArgumentError, "neither", (W,), {}),
        (InvalidArgumentError, "both", (W, H), {"shared_hessian_of": "ok"}),
        (InvalidArgumentError, "added before", (W,), {"shared_hessian_of": "no"}),
        (InvalidArgumentError, "as many inputs", (W.T,), {"shared_hessian_of": "ok"}),
        (InvalidArgumentError, "one of", (W, H), {"storage": "upper"}),
        (InvalidArgumentError, "one of", (W, H), {"orientation": "io"}),
        (InvalidArgumentError, "one of", (W, H), {"normalization": "max"}),
        (InvalidArgumentError, "n_samples", (W, H), {"n_samples": -1}),
        (InvalidArgumentError, "n_samples", (W, H), {"n_samples": 1.5}),
        (DTypeError, "float", (W.astype(int), H), {}),
        (DTypeError, "float", (W.astype(np.longdouble), H), {}),
        (NonFiniteError, r"hessian\[1, 2\]", (W, nan), {}),
        (NonFiniteError, "weight", (W * np.inf, H), {}),
    ]
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("ok", W, H)
        for error, text, arguments, keywords in cases:
            with pytest.raises(error, match=text):
                writer.add("bad", *arguments, **keywords)
    with open_problem(tmp_path / "p.h5") as problem:  # what failed left nothing behind
        assert problem.names == ("ok",)


def test_unknown_layer_missing_hessian_and_closed(tmp_path):
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a", np.eye(2), np.eye(2))
    with open_problem(tmp_path / "p.h5") as problem:
        with pytest.raises(FormatError, match="expected layer 'b'"):
            problem.weight("b")
    with pytest.raises(InvalidArgumentError, match="closed"):
        problem.weight("a")
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        del file["layers/a/hessian"]
    with open_problem(tmp_path / "p.h5") as problem:
        with pytest.raises(FormatError, match=r"p\.h5:layers/a/hessian"):
            problem.hessian("a")


def test_equal_contents_give_equal_bytes(tmp_path):
    for file in ("a.h5", "b.h5"):
        with ProblemWriter(tmp_path / file) as writer:
            writer.add("x/y", *layer(3, 4))
            writer.add("x/z", *layer(2, 4))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_the_input_file_is_only_read(tmp_path):
    path = tmp_path / "p.h5"
    with ProblemWriter(path) as writer:
        writer.add("a", *layer(3, 4))
    before = path.read_bytes(), path.stat().st_mtime_ns
    path.chmod(0o444)
    with open_problem(path, limits=Limits()) as problem:
        problem.weight("a"), problem.hessian("a"), problem.shared()
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [p.name for p in tmp_path.iterdir()] == ["p.h5"]


@pytest.mark.parametrize("version, text", [("2.0", "newer quiplinalg"), ("x", "got 'x'")])
@pytest.mark.parametrize("node", ["/", "layers/a", "layers/a/hessian"])
def test_versions(tmp_path, node, version, text):
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("a", *layer(3, 4))
    with h5py.File(tmp_path / "p.h5", "r+") as file:
        file[node].attrs["encoding-version"] = version
    with pytest.raises(FormatError, match=text):
        with open_problem(tmp_path / "p.h5") as problem:
            problem.hessian("a")
