"""Statistics files: exact round trips, damage that is found, and Hessians in problem files."""

import h5py
import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.errors import (
    ConditioningWarning,
    DTypeError,
    FormatError,
    InvalidArgumentError,
)
from quiplinalg.files import Limits, ProblemWriter, open_problem
from quiplinalg.files.elements import checksum
from quiplinalg.files.result_layout import CHECKSUM, layer_checksum


def second(n=5, tokens=40, mean=False, dtype=np.float32, seed=0):
    H = ql.Hessian(n, track_mean=mean)
    rng = np.random.default_rng([seed, n])
    H.add(rng.standard_normal((tokens, n)).astype(dtype), weights=rng.uniform(0, 2, tokens))
    return H


def cross(n=5, tokens=40, seed=0):
    both = ql.CrossMoment(n)
    X, Y = np.random.default_rng([seed, n]).standard_normal((2, tokens, n))
    both.add(X, Y)
    return both


def assert_same(got, expected):
    assert type(got) is type(expected)
    for a, b in zip(got.to_parts(), expected.to_parts(), strict=True):
        assert a.keys() == b.keys()
        for key in a:
            assert np.array_equal(a[key], b[key]) and type(a[key]) is type(b[key]), key


def test_round_trip(tmp_path):
    path = tmp_path / "s.h5"
    entries = {
        "a/q": second(),
        "a/mean": second(mean=True, dtype=np.float64),
        "cross": cross(),
        "empty": ql.Hessian(3),
        "none": ql.Hessian(0, track_mean=True),
        "one": second(1),
        "wide": second(260, 7),
    }
    with ql.StatisticsWriter(path) as writer:
        for name, statistics in entries.items():
            before = statistics.sum()
            writer.add(name, statistics)
            assert (statistics.sum() == before).all()
    with ql.open_statistics(path) as reader:
        assert set(reader.names) == set(entries)
        for name, statistics in entries.items():
            info = reader.info(name)
            assert (info.n, info.count, info.weight) == (
                statistics.n, statistics.count, statistics.weight,
            )  # fmt: skip
            if info.kind == "cross":
                assert_same(reader.cross(name), statistics)
                assert_same(reader.hessian(name), statistics.hessian())
            else:
                assert_same(reader.hessian(name), statistics)
                assert info.precision == statistics.precision
                assert info.tracks_mean == statistics.tracks_mean
                with pytest.raises(FormatError, match="kind 'cross'"):
                    reader.cross(name)
        more = reader.hessian("a/q")
        more.add(np.ones(5))
        assert more.count == entries["a/q"].count + 1
    with pytest.raises(InvalidArgumentError, match="closed"):
        reader.hessian("a/q")


def test_equal_contents_give_equal_bytes_and_the_file_describes_itself(tmp_path):
    for name in ("a.h5", "b.h5"):
        with ql.StatisticsWriter(tmp_path / name) as writer:
            writer.add("x/y", second(mean=True))
            writer.add("x/z", cross())
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5") as file:
        group = file["statistics/x/y"]
        text = {k: v for k, v in group.attrs.items() if isinstance(v, bytes)}
        assert text["damping"] == b"none" and text["normalization"] == b"sum"
        assert group["second"].shape == (15,) and group["second"].dtype == np.float64
        lower = second(mean=True).sum()[np.tril_indices(5)]
        assert (group["second"][()] == lower).all()

        def encoded(_, node):
            assert {"encoding-type", "encoding-version"} <= set(node.attrs)

        file.visititems(encoded)


def test_what_is_refused_leaves_nothing_behind(tmp_path):
    path = tmp_path / "s.h5"
    with ql.StatisticsWriter(path) as writer:
        writer.add("a", second())
        for name in ("a", "a/b", "", "../x"):
            with pytest.raises(InvalidArgumentError, match="name"):
                writer.add(name, second())
        with pytest.raises(DTypeError, match="problem file"):
            writer.add("b", np.eye(3))
    with pytest.raises(InvalidArgumentError, match="overwrite"):
        ql.StatisticsWriter(path)
    with ql.open_statistics(path) as reader:
        assert reader.names == ("a",)
        with pytest.raises(FormatError, match="expected entry 'b'"):
            reader.info("b")
    with pytest.raises(RuntimeError):
        with ql.StatisticsWriter(tmp_path / "t.h5"):
            raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["s.h5"]
    with pytest.raises(FormatError, match="encoding-type='quiplinalg-problem'"):
        open_problem(path)
    with pytest.raises(FormatError, match="encoding-type='quiplinalg-statistics'"):
        with ProblemWriter(tmp_path / "p.h5") as writer:
            writer.add("a", np.eye(2), np.eye(2))
        ql.open_statistics(tmp_path / "p.h5")


@pytest.mark.parametrize("kind", ["second", "first", "cross"])
def test_every_flipped_byte_of_a_dataset_is_found(tmp_path, kind):
    path = tmp_path / "s.h5"
    with ql.StatisticsWriter(path) as writer:
        writer.add("a", cross(3) if kind == "cross" else second(3, mean=True))
    sound = path.read_bytes()
    with h5py.File(path) as file:
        data = file[f"statistics/a/{kind}"].id
        region = range(data.get_offset(), data.get_offset() + data.get_storage_size())
    for position in region:
        mutant = bytearray(sound)
        mutant[position] ^= 1 << position % 8
        path.write_bytes(mutant)
        with ql.open_statistics(path) as reader:
            with pytest.raises(FormatError, match=f"(?s)checksum.*statistics/a/{kind}"):
                reader.cross("a") if kind == "cross" else reader.hessian("a")


def test_no_flipped_byte_of_the_file_changes_an_entry(tmp_path):
    path, expected = tmp_path / "s.h5", second(4, mean=True)
    with ql.StatisticsWriter(path) as writer:
        writer.add("a", expected)
    sound = path.read_bytes()
    rng = np.random.default_rng(1)
    found = 0
    for position in rng.choice(len(sound), 120, replace=False):
        mutant = bytearray(sound)
        mutant[position] ^= 1 << rng.integers(8)
        path.write_bytes(mutant)
        try:
            with ql.open_statistics(path) as reader:
                if reader.names:
                    assert reader.names == ("a",)
                    assert_same(reader.hessian("a"), expected)
        except FormatError:
            found += 1
    assert found


@pytest.mark.parametrize("key, value", [("count", 41), ("weight", 3.0), ("weight_squared", 3.0)])
def test_a_scalar_that_was_changed_is_found(tmp_path, key, value):
    """Each is as possible as the one that was written: the checksum alone can tell."""
    path = tmp_path / "s.h5"
    with ql.StatisticsWriter(path) as writer:
        writer.add("a", second(mean=True))
    with h5py.File(path, "r+") as file:
        assert file["statistics/a"].attrs[key] != value
        file["statistics/a"].attrs.modify(key, value)
    with ql.open_statistics(path) as reader:
        for read in (reader.info, reader.hessian):
            with pytest.raises(FormatError, match="checksum"):
                read("a")


def delete(key):
    return lambda group: group.__delitem__(key)


def attribute(key, value):
    return lambda group: group.attrs.__setitem__(key, value)


def replaced(key, array):
    def change(group):
        marks = dict(group[key].attrs)
        del group[key]
        if array is None:
            group[key] = h5py.SoftLink("/statistics/a/first")
            return
        group[key] = array
        group[key].attrs.update(marks)
        group[key].attrs["crc32"] = np.int64(checksum(array))

    return change


HOSTILE = {
    "no matrix": delete("second"),
    "soft link": replaced("second", None),
    "a short matrix": replaced("second", np.ones(14)),
    "float32": replaced("second", np.ones(15, np.float32)),
    "NaN": replaced("second", np.full(15, np.nan)),
    "a negative diagonal": replaced("second", np.full(15, -1.0)),
    "a long mean": replaced("first", np.ones(6)),
    "a negative n": attribute("n", np.int64(-1)),
    "another n": attribute("n", np.int64(6)),
    "a huge n": attribute("n", np.int64(2**40)),
    "a large n": attribute("n", np.int64(2**30)),
    "a negative count": attribute("count", np.int64(-3)),
    "no tokens": attribute("count", np.int64(0)),
    "an infinite weight": attribute("weight", np.float64(np.inf)),
    "a text for a number": attribute("weight", np.bytes_(b"1")),
    "damped": attribute("damping", np.bytes_(b"0.01")),
    "another kind": attribute("kind", np.bytes_(b"mean")),
    "the kind of the other": attribute("kind", np.bytes_(b"cross")),
    "an unknown precision": attribute("precision", np.bytes_(b"int8")),
    "a newer version": attribute("encoding-version", np.bytes_(b"2.0")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_entries_with_right_checksums(tmp_path, case):
    path = tmp_path / "s.h5"
    with ql.StatisticsWriter(path) as writer:
        writer.add("a", second(mean=True))
    with h5py.File(path, "r+") as file:
        group = file["statistics/a"]
        HOSTILE[case](group)
        if case != "soft link":
            group.attrs[CHECKSUM] = layer_checksum("a", group, sorted(group))
    with pytest.raises(FormatError):
        with ql.open_statistics(path) as reader:
            if case == "the kind of the other":
                reader.cross("a")
            reader.hessian("a")


def test_limits(tmp_path):
    path = tmp_path / "s.h5"
    with ql.StatisticsWriter(path) as writer:
        writer.add("a", second(20))
    # the packed half would fit, the whole matrix does not
    with ql.open_statistics(path, limits=Limits(max_bytes=2000)) as reader:
        with pytest.raises(FormatError, match="max_bytes"):
            reader.hessian("a")


def test_problem_files_take_a_hessian(tmp_path):
    H = second(5, 60)
    W = np.ones((3, 5))
    with ProblemWriter(tmp_path / "p.h5") as writer:
        writer.add("q", W, H)
        writer.add("k", W.T, H, orientation="in_out", storage="lower")
        for options in ({"n_samples": 60}, {"normalization": "sum"}):
            with pytest.raises(InvalidArgumentError, match="left out"):
                writer.add("v", W, H, **options)
        with pytest.raises(InvalidArgumentError, match="count=0"):
            writer.add("v", W, ql.Hessian(5))
        with pytest.raises(InvalidArgumentError, match="must be"):
            writer.add("v", W, second(4))
        with pytest.warns(ConditioningWarning):
            writer.add("v", W, second(5, 3))
    with open_problem(tmp_path / "p.h5") as problem:
        assert problem.shared() == [["k", "q"], ["v"]]
        info = problem.info("q")
        assert (info.n_samples, info.normalization) == (H.count, "mean")
        assert (problem.hessian("k") == H.mean()).all()
