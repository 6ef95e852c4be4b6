"""Keras weight files, by a mapping."""

import h5py
import ml_dtypes
import numpy as np
import pytest

from quiplinalg.errors import FormatError, InvalidArgumentError
from quiplinalg.files import ProblemWriter, open_keras

KERNEL = np.arange(12.0, dtype=np.float32).reshape(4, 3)
H = np.eye(4) + 0.5


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = KERNEL
        file["layers/dense/vars/1"] = np.ones(3, np.float32)
        bits = KERNEL.astype(ml_dtypes.bfloat16).view("V2")
        file.create_dataset("layers/dense_1/vars/0", data=bits).attrs["dtype"] = "bfloat16"
        file["layers/conv/vars/0"] = np.ones((3, 3, 2, 2))
    with ProblemWriter(tmp_path / "stats.h5") as writer:
        writer.add("fc", KERNEL, H, orientation="in_out")
    return path


def test_kernels_and_hessians(path):
    stats = f"{path.parent}/stats.h5:layers/fc/hessian"
    mapping = {
        "fc": {"weight": "layers/dense/vars/0", "hessian": stats},
        "fc_1": {"weight": "layers/dense_1/vars/0", "hessian": stats, "n_samples": 5},
        "own": {"weight": "layers/dense/vars/0", "hessian": H, "normalization": "sum"},
        "own_1": {"weight": "layers/dense/vars/0", "hessian": H},
    }
    before = path.read_bytes(), path.stat().st_mtime_ns
    with open_keras(path, mapping) as problem:
        assert problem.names == tuple(mapping)
        for name in mapping:
            info = problem.info(name)
            assert info.shape == (3, 4) and info.orientation == "in_out"
            np.testing.assert_array_equal(problem.weight(name), KERNEL.T)
            np.testing.assert_array_equal(problem.hessian(name), H)
        assert problem.info("fc_1").dtype == problem.weight("fc_1").dtype == ml_dtypes.bfloat16
        assert problem.info("fc_1").n_samples == 5
        assert problem.info("own").normalization == "sum"
        assert problem.shared() == [["fc", "fc_1"], ["own", "own_1"]]
        np.testing.assert_array_equal(problem.array("layers/dense/vars/1"), np.ones(3))
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    with pytest.raises(InvalidArgumentError, match="closed"):
        problem.weight("fc")


@pytest.mark.parametrize(
    "entry, text",
    [
        ({"weight": "x"}, "missing \\['hessian'\\]"),
        ({"weight": "x", "hessian": H, "hesian": H}, "unknown \\['hesian'\\]"),
        ({"weight": "x", "hessian": H, "orientation": "io"}, "orientation"),
        ({"weight": "x", "hessian": "stats.h5"}, "path/of/dataset"),
        ("layers/dense/vars/0", "must be a dict"),
    ],
)
def test_bad_mappings(path, entry, text):
    with pytest.raises(InvalidArgumentError, match=text):
        open_keras(path, {"fc": entry})


def test_what_the_file_does_not_have(path):
    mapping = {
        "missing": {"weight": "layers/dense/vars/7", "hessian": H},
        "conv": {"weight": "layers/conv/vars/0", "hessian": H},
        "no file": {"weight": "layers/dense/vars/0", "hessian": f"{path.parent}/no.h5:a"},
        "no dataset": {"weight": "layers/dense/vars/0", "hessian": f"{path}:a"},
        "not square": {"weight": "layers/dense/vars/0", "hessian": f"{path}:layers/dense/vars/0"},
    }
    with open_keras(path, mapping) as problem:
        for name in mapping:
            with pytest.raises(FormatError):
                problem.hessian(name)
    with open_keras(path, {"a": {"weight": "layers/dense/vars/0", "hessian": np.eye(3)}}) as bad:
        with pytest.raises(InvalidArgumentError, match="4 inputs"):
            bad.info("a")
