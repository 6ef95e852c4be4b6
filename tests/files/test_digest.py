"""The content of a layer as a digest: the same for the same content, another for any change."""

import h5py
import numpy as np
import pytest

from quiplinalg import open_problem
from quiplinalg.files import ProblemWriter


def write(path, W, H, **keywords):
    with ProblemWriter(path, overwrite=True) as file:
        file.add("a", W, H, **keywords)
        file.add("b", 2 * W, shared_hessian_of="a")
    return path


def digests(path, name="a"):
    with open_problem(path) as problem:
        return problem.digests(name)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.standard_normal((5, 8)).astype(np.float32), np.eye(8, dtype=np.float32)


def test_the_same_content_has_the_same_digest(tmp_path, arrays):
    first = digests(write(tmp_path / "1.h5", *arrays))
    assert first == digests(write(tmp_path / "2.h5", *arrays))
    other = digests(tmp_path / "1.h5", "b")
    assert other[1] == first[1] and other[0] != first[0]  # they share H, not W
    assert all(len(text) == 64 for text in first)


@pytest.mark.parametrize("part", [0, 1])
def test_one_bit_changes_it(tmp_path, arrays, part):
    before = digests(write(tmp_path / "p.h5", *arrays))
    array = arrays[part]
    array.reshape(-1).view(np.uint32)[0] ^= 1
    after = digests(write(tmp_path / "p.h5", *arrays))
    assert [a == b for a, b in zip(before, after, strict=True)] == [part == 1, part == 0]


def test_meaning_is_content(tmp_path, arrays):
    """The same bytes as another shape, dtype or orientation are another layer."""
    W, H = np.ones((8, 8), np.float16), arrays[1]
    first = digests(write(tmp_path / "p.h5", W, H))[0]
    assert digests(write(tmp_path / "p.h5", W, H, orientation="in_out"))[0] != first
    assert digests(write(tmp_path / "p.h5", np.ones((4, 8), np.float16), H))[0] != first


def test_compressed_and_bfloat16_data(tmp_path, arrays):
    import ml_dtypes

    W, H = arrays
    path = write(tmp_path / "p.h5", W.astype(ml_dtypes.bfloat16), H)
    first = digests(path)
    assert first == digests(path)
    found = set()
    for value in (1.0, 2.0):
        path = write(tmp_path / "c.h5", W, H)
        with h5py.File(path, "r+") as file:
            attributes = dict(file["layers/a/weight"].attrs)
            del file["layers/a/weight"]
            W[0, 0] = value
            data = file["layers/a"].create_dataset("weight", data=W, chunks=(2, 4), compression=4)
            data.attrs.update(attributes)
        found.add(digests(path)[0])
    assert len(found) == 2
