"""Result files in memory are the files that the writer makes."""

from __future__ import annotations

import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg import ldlq, obs_prune, open_result, quip
from quiplinalg.errors import DTypeError, FormatError, InvalidArgumentError
from quiplinalg.files import ResultWriter
from quiplinalg.files.image import layer_image, open_image

RNG = np.random.default_rng(5)
W = RNG.standard_normal((6, 10)).astype(np.float32)
X = RNG.standard_normal((10, 40))
H = X @ X.T / 40
STEP = np.full((1, 1), 0.1)
LAYERS = {
    "plain": lambda: ldlq(W, H, bits=3),
    "grouped": lambda: ldlq(W, H, bits=2, group_size=4, order="natural"),
    "unbounded": lambda: ldlq(W, H, grid=ql.UniformGrid(STEP, 0 * STEP, bits=None)),
    "rotated": lambda: quip(W, H, bits=2, seed=1),
    "pruned": lambda: obs_prune(W, H, sparsity=0.5),
    "empty": lambda: ldlq(W[:0], H),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", ["dense", "block/0/q", "é.weight"])
def test_an_image_has_the_bytes_of_a_file(tmp_path, kind, name):
    layer = LAYERS[kind]()
    with ResultWriter(tmp_path / "file.h5") as writer:
        writer.add(name, layer, note="x", energy=1.5)
    image = layer_image(name, layer, note="x", energy=1.5)
    assert (tmp_path / "file.h5").read_bytes() == image
    with open_image(image, "image") as a, open_result(tmp_path / "file.h5") as b:
        assert a.names == b.names == (name,)
        assert a.attributes(name) == b.attributes(name) == {"note": "x", "energy": 1.5}
        read = (a.pruned, b.pruned) if kind == "pruned" else (a.layer, b.layer)
        first, second = (f(name) for f in read)
        for field in ("weights", "mask") if kind == "pruned" else ("codes", "dead"):
            np.testing.assert_array_equal(getattr(first, field), getattr(second, field))
    # what was read, or copied, makes the same bytes again
    assert layer_image(name, first, energy=1.5, note="x") == image
    with open_result(tmp_path / "file.h5") as reader, ResultWriter(tmp_path / "copy.h5") as writer:
        writer.add_stored(name, reader.stored(name))
    assert (tmp_path / "copy.h5").read_bytes() == image


def test_what_is_no_layer_makes_no_image():
    layer = ldlq(W, H)
    with pytest.raises(InvalidArgumentError, match="name"):
        layer_image("../x", layer)
    with pytest.raises(InvalidArgumentError, match="loss"):
        layer_image("x", layer, loss=1.0)
    with pytest.raises(DTypeError, match="Quantized"):
        layer_image("x", W)


@pytest.mark.parametrize("where", [0, 700, -300])
def test_a_damaged_image_is_refused(where):
    image = bytearray(layer_image("dense", ldlq(W, H, bits=3)))
    image[where] ^= 0xFF
    with pytest.raises(FormatError):
        with open_image(bytes(image), "image") as file:
            file.layer("dense")


def test_no_image_is_refused():
    for data in (b"", b"nothing", layer_image("dense", ldlq(W, H))[:500]):
        with pytest.raises(FormatError):
            open_image(data, "image")
