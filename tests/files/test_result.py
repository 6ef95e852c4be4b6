"""Result files: exact round trips, and damage that is found."""

import dataclasses

import h5py
import numpy as np
import pytest

from quiplinalg.errors import DTypeError, FormatError, InvalidArgumentError
from quiplinalg.files import ResultWriter, open_result
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.results import Quantized


def quantized(m=3, n=7, bits=3, groups=2, dtype=np.float16, order="act", seed=0, rows=None):
    rng = np.random.default_rng(seed)
    shape = (m if rows is None else rows, groups)
    grid = UniformGrid(
        scale=rng.uniform(0.1, 1, shape).astype(dtype),
        zero=rng.integers(0, 4, shape).astype(dtype),
        bits=bits,
        group_index=None if groups == 1 else (np.arange(n) % groups).astype(np.int32),
        kind="asym",
    )
    codes = rng.integers(0, 2 ** (bits or 10), (m, n)).astype(grid.code_dtype)
    return Quantized(
        codes=codes if bits else codes - 500,
        grid=grid,
        method="ldlq",
        rounding="nearest",
        order=order,
        permutation=rng.permutation(n) if order == "act" else None,
        loss=rng.random() / 3,
        trace_D=np.pi,
        damp=0.1,
        dead=np.array([1, 2])[: n // 2],
        near_tie_rows=2,
        clipped=1 / 3,
        seed=None if order == "act" else 7,
    )


def assert_same(got, expected):
    for record, other in ((got, expected), (got.grid, expected.grid)):
        for field in dataclasses.fields(record):
            a, b = getattr(record, field.name), getattr(other, field.name)
            if isinstance(b, np.ndarray):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
            elif not dataclasses.is_dataclass(b):
                assert type(a) is type(b) and a == b, field.name


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, None])
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (5, 64), (0, 4), (4, 0)])
def test_round_trip(tmp_path, shape, bits):
    layers = {
        "a/b": quantized(*shape, bits, groups=1, order="natural"),
        "a/c": quantized(*shape, bits, groups=2, dtype=np.float32),
        "d": quantized(*shape, bits, groups=1, dtype=np.float64, rows=1),
    }
    with ResultWriter(tmp_path / "r.h5") as writer:
        for name, layer in layers.items():
            writer.add(name, layer)
    with open_result(tmp_path / "r.h5") as result:
        assert result.names == tuple(layers)
        for name, layer in layers.items():
            assert_same(result.layer(name), layer)


def test_codes_are_one_little_endian_bit_stream_a_row(tmp_path):
    layer = quantized(2, 5, 3)
    with ResultWriter(tmp_path / "r.h5") as writer:
        writer.add("a", layer)
    with h5py.File(tmp_path / "r.h5") as file:
        rows = file["layers/a/codes"][()].reshape(2, 2)
        assert file.attrs["quiplinalg-version"]
    for codes, row in zip(layer.codes.tolist(), rows.tolist(), strict=True):
        assert sum(q << 3 * j for j, q in enumerate(codes)) == row[0] + 256 * row[1]


def test_attributes(tmp_path):
    with ResultWriter(tmp_path / "r.h5") as writer:
        writer.add("a", quantized(), bits=3, seconds=0.25, note="größe", flag=True)
        writer.add("b", quantized())
        with pytest.raises(InvalidArgumentError, match="loss"):
            writer.add("c", quantized(), loss=1.0)
        for value in ([1], 2**63, "a\0b", "\udc80", "a" * 70_000):
            with pytest.raises((DTypeError, InvalidArgumentError), match="extra"):
                writer.add("c", quantized(), extra=value)
    with open_result(tmp_path / "r.h5") as result:
        assert result.names == ("a", "b")
        expected = {"bits": 3, "seconds": 0.25, "note": "größe", "flag": 1}
        assert result.attributes("a") == expected and result.attributes("b") == {}
        with pytest.raises(FormatError, match="expected layer"):
            result.layer("c")
    with pytest.raises(InvalidArgumentError, match="closed"):
        result.layer("a")


def test_layers_at_odds_with_themselves(tmp_path):
    layer = quantized(3, 7)
    replace = dataclasses.replace
    bad = [
        replace(layer, codes=layer.codes.astype(np.int32)),
        replace(layer, codes=layer.codes | 8),
        replace(layer, codes=layer.codes[:, 1:]),
        replace(layer, codes=layer.codes[1:]),
        replace(layer, codes=layer.codes[0]),
        replace(layer, permutation=np.zeros(7, int)),
        replace(layer, dead=np.array([7])),
        replace(layer, dead=np.array([1, 1])),
    ]
    with ResultWriter(tmp_path / "r.h5") as writer:
        for other in bad:
            with pytest.raises(InvalidArgumentError, match="layer 'a': expected"):
                writer.add("a", other)


def test_version_and_missing_parts(tmp_path):
    path = tmp_path / "r.h5"
    for part in ("codes", "scale", "zero", "dead", "permutation", "group_index"):
        with ResultWriter(path, overwrite=True) as writer:
            writer.add("a", quantized())
        with h5py.File(path, "r+") as file:
            del file["layers/a"][part]
        with open_result(path) as result, pytest.raises(FormatError):
            result.layer("a")
    with h5py.File(path, "r+") as file:
        file.attrs["encoding-version"] = "2.0"
    with pytest.raises(FormatError, match="written by a newer quiplinalg"):
        open_result(path)


@pytest.mark.parametrize("bits", [2, None])
def test_every_flipped_byte_of_a_dataset_is_found(tmp_path, bits):
    path = tmp_path / "r.h5"
    with ResultWriter(path) as writer:
        writer.add("a", quantized(2, 6, bits))
    sound = path.read_bytes()
    with h5py.File(path) as file:
        regions = {
            key: (d.id.get_offset(), d.id.get_storage_size()) for key, d in file["layers/a"].items()
        }
    assert len(regions) == 6
    for key, (start, size) in regions.items():
        for position in range(start, start + size):
            mutant = bytearray(sound)
            mutant[position] ^= 1 << position % 8
            path.write_bytes(mutant)
            with open_result(path) as result:
                with pytest.raises(FormatError, match=f"(?s)checksum.*layers/a/{key}"):
                    result.layer("a")


def test_no_flipped_byte_of_the_file_changes_a_layer(tmp_path):
    path = tmp_path / "r.h5"
    layer = quantized(2, 8, 1)
    with ResultWriter(path) as writer:
        writer.add("a", layer, note="n")
    sound = path.read_bytes()
    rng = np.random.default_rng(1)
    for position in rng.choice(len(sound), 150, replace=False):
        mutant = bytearray(sound)
        mutant[position] ^= 1 << rng.integers(8)
        path.write_bytes(mutant)
        try:
            with open_result(path) as result:
                if result.names:
                    assert result.names == ("a",)
                    assert result.attributes("a") == {"note": "n"}
                    assert_same(result.layer("a"), layer)
        except FormatError:
            pass
