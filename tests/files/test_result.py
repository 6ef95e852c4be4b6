"""Result files: exact round trips, and damage that is found."""

import dataclasses

import h5py
import numpy as np
import pytest

from quiplinalg import quip
from quiplinalg.errors import DTypeError, FormatError, InvalidArgumentError
from quiplinalg.files import ResultWriter, open_result
from quiplinalg.files.elements import checksum
from quiplinalg.files.result_layout import CHECKSUM, layer_checksum
from quiplinalg.grids.uniform import UniformGrid
from quiplinalg.pruning.result import Pruned
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
    pairs = [(got, expected)] + ([(got.grid, expected.grid)] if hasattr(got, "grid") else [])
    for record, other in pairs:
        for field in dataclasses.fields(record):
            a, b = getattr(record, field.name), getattr(other, field.name)
            if isinstance(b, np.ndarray):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
            elif not dataclasses.is_dataclass(b):
                assert type(a) is type(b) and a == b, field.name


def test_files_of_the_first_layout_lack_newer_fields(tmp_path):
    """Without passes, changed, feedback_bound, candidates or a processing, with their checksum."""
    path, layer = tmp_path / "old.h5", quantized()
    with ResultWriter(path) as writer:
        writer.add("a", layer)
    with h5py.File(path, "r+") as file:
        group = file["layers/a"]
        for name in ("passes", "changed"):
            del group.attrs[name]
        assert not {"feedback_bound", "candidates", "input_rotation"} & set(group.attrs)
        group.attrs[CHECKSUM] = layer_checksum("a", group, sorted(group))
    with open_result(path) as result:
        assert_same(result.layer("a"), layer)


def test_a_processing_that_does_not_fit_is_refused(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "r.h5"
    layer = quip(rng.standard_normal((6, 44)), np.eye(44), rotation="kronecker")
    with ResultWriter(path) as writer:
        writer.add("a", layer)

    def changed(change):
        copy = tmp_path / "copy.h5"
        copy.write_bytes(path.read_bytes())
        with h5py.File(copy, "r+") as file:
            group = file["layers/a"]
            change(group)
            group.attrs[CHECKSUM] = layer_checksum("a", group, sorted(group))
        with open_result(copy) as result:
            return result.layer("a")

    changed(lambda group: None)

    def other(name, value):
        def change(group):
            encoding = dict(group[name].attrs)
            del group[name]
            group[name] = value
            group[name].attrs.update(encoding)
            group[name].attrs["crc32"] = np.int64(checksum(value))

        return change

    factor = np.eye(44) * 1.01
    for change in (
        lambda group: group.__delitem__("input_signs"),
        lambda group: group.__delitem__("input_factor0"),
        lambda group: group.attrs.__delitem__("input_rotation"),
        lambda group: group.attrs.__setitem__("input_seed", np.int64(-1)),
        lambda group: group.attrs.__setitem__("input_rotation", "dct"),
        other("scales", -np.ones(44, np.float16)),
        other("input_factor0", factor),
        other("input_signs", np.zeros(44, np.int8)),
    ):
        with pytest.raises(FormatError):
            changed(change)


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 7, 8, None])
@pytest.mark.parametrize("shape", [(3, 7), (1, 1), (5, 64), (0, 4), (4, 0)])
def test_round_trip(tmp_path, shape, bits):
    layers = {
        "a/b": quantized(*shape, bits, groups=1, order="natural"),
        "a/c": quantized(*shape, bits, groups=2, dtype=np.float32),
        "d": quantized(*shape, bits, groups=1, dtype=np.float64, rows=1),
    }
    mask = np.random.default_rng(2).random(shape) < 0.5
    layers["e"] = dataclasses.replace(layers["a/b"], mask=mask)
    with ResultWriter(tmp_path / "r.h5") as writer:
        for name, layer in layers.items():
            writer.add(name, layer)
    with open_result(tmp_path / "r.h5") as result:
        assert result.names == tuple(layers)
        for name, layer in layers.items():
            assert_same(result.layer(name), layer)


def test_a_mask_has_the_shape_of_the_codes_and_is_checked(tmp_path):
    layer = quantized(3, 7)
    with ResultWriter(tmp_path / "r.h5") as writer:
        for mask in (np.zeros((7, 3), bool), np.zeros((3, 7), np.uint8)):
            with pytest.raises(InvalidArgumentError, match="expected a boolean mask"):
                writer.add("a", dataclasses.replace(layer, mask=mask))
        writer.add("a", dataclasses.replace(layer, mask=np.eye(3, 7, dtype=bool)))
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        file["layers/a/mask"][0] ^= 2
    with open_result(tmp_path / "r.h5") as result:
        with pytest.raises(FormatError, match="crc32"):
            result.layer("a")


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


def pruned(shape=(4, 10), dtype=np.float32, seed=0):
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < 0.5
    return Pruned(
        weights=np.where(mask, 0, rng.standard_normal(shape)).astype(dtype),
        mask=mask,
        pattern="2:4",
        method="obs",
        loss=rng.random() / 3,
        damp=0.1,
        dead=np.arange(1)[: shape[1]],
    )


@pytest.mark.parametrize("shape", [(4, 10), (1, 1), (0, 4), (4, 0)])
def test_pruned_layers_stand_beside_quantised_ones(tmp_path, shape):
    layers = {f"p/{d}": pruned(shape, d) for d in ("float32", "float64")}
    with ResultWriter(tmp_path / "r.h5") as writer:
        for name, layer in layers.items():
            writer.add(name, layer, note="kept")
        writer.add("q", quantized())
    with open_result(tmp_path / "r.h5") as result:
        assert result.names == (*layers, "q") and result.attributes("p/float32") == {"note": "kept"}
        assert [result.kind(name) for name in result.names] == ["pruned", "pruned", "quantized"]
        for name, layer in layers.items():
            assert_same(result.pruned(name), layer)
        with pytest.raises(FormatError, match=r"got a pruned one\. Read it with \.pruned\('p/flo"):
            result.layer("p/float32")
        with pytest.raises(FormatError, match=r"got a quantized one\. Read it with \.layer\('q'\)"):
            result.pruned("q")


def test_pruned_layers_at_odds_with_themselves_are_refused(tmp_path):
    layer = pruned()
    weights = np.full((4, 10), np.nan, np.float32)
    bad = {
        "a boolean mask": {"mask": layer.mask[:, 1:]},
        "zeros where": {"mask": ~layer.mask},
        "finite weights": {"weights": weights},
        "float32 or float64": {"weights": layer.weights.astype(np.float16)},
        "different columns below 10": {"dead": np.array([10])},
    }
    with ResultWriter(tmp_path / "r.h5") as writer:
        for message, change in bad.items():
            with pytest.raises(InvalidArgumentError, match=message):
                writer.add("a", dataclasses.replace(layer, **change))
        with pytest.raises(InvalidArgumentError, match="pattern"):
            writer.add("a", layer, pattern="mine")
        with pytest.raises(DTypeError, match="must be a Quantized or a Pruned; got ndarray"):
            writer.add("a", layer.weights)
        writer.add("a", layer)
    with h5py.File(tmp_path / "r.h5", "r+") as file:
        group = file["layers/a"]
        row, column = np.argwhere(layer.mask)[0]
        group["weight"][row, column] = 1
        group["weight"].attrs["crc32"] = np.int64(checksum(group["weight"][()]))
        group.attrs[CHECKSUM] = layer_checksum("a", group, sorted(group))
    with open_result(tmp_path / "r.h5") as result, pytest.raises(FormatError, match="zeros where"):
        result.pruned("a")
