"""Merging shards: the bytes of one writer, the name only at the end, and nobody's file lost."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from quiplinalg import ldlq, obs_prune, open_result, quip
from quiplinalg.errors import FormatError, InvalidArgumentError
from quiplinalg.files import ResultWriter
from quiplinalg.files.image import layer_image
from quiplinalg.model import merge as merging
from quiplinalg.model.merge import check_output, merge
from quiplinalg.model.run_directory import RunDirectory, write_shard

RNG = np.random.default_rng(6)
W = RNG.standard_normal((5, 8))
X = RNG.standard_normal((8, 30))
H = X @ X.T / 30


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def layers():
    return {
        "b/q": ldlq(W, H, bits=2),
        "b/k": quip(W, H, bits=2, seed=3),
        "a": ldlq(W, H, bits=3, group_size=4),
        "b0": obs_prune(W, H, sparsity=0.5),
    }


@pytest.fixture
def run(tmp_path, layers):
    with RunDirectory.create(tmp_path / "out.h5.run", {}) as run:
        for name, layer in layers.items():
            record(run, name, layer)
        yield run


def record(run, name, layer):
    shard = write_shard(run.path, name, layer_image(name, layer, note=name))
    run.record({"layer": name, "shard": shard})


def written(path, layers):
    with ResultWriter(path) as writer:
        for name in sorted(layers):
            writer.add(name, layers[name], note=name)
    return path.read_bytes()


def test_a_merged_file_has_the_bytes_of_one_that_was_written(tmp_path, run, layers):
    out = tmp_path / "out.h5"
    assert merge(run, out) == out.stat().st_size
    assert out.read_bytes() == written(tmp_path / "other.h5", layers)
    with open_result(out) as result:
        assert result.names == ("a", "b/k", "b/q", "b0")
        assert result.layer("b/q").loss == layers["b/q"].loss
    assert len(run.done) == 4 and not (run.path / "merged.h5").exists()


def test_some_of_the_layers(tmp_path, run, layers):
    merge(run, tmp_path / "out.h5", ["b0", "a"])
    some = {name: layers[name] for name in ("a", "b0")}
    assert (tmp_path / "out.h5").read_bytes() == written(tmp_path / "other.h5", some)


def test_a_file_that_is_there_is_kept(tmp_path, run):
    out = tmp_path / "out.h5"
    out.write_bytes(b"precious")
    for work in (check_output, merge):
        with pytest.raises(InvalidArgumentError, match="exists"):
            work(run, out)
    assert out.read_bytes() == b"precious"
    merge(run, out, overwrite=True)
    assert out.read_bytes() != b"precious"


@pytest.mark.parametrize("hard_links", [True, False])
def test_a_run_may_replace_its_own_file(tmp_path, run, layers, monkeypatch, hard_links):
    def refuse(*_):
        raise PermissionError

    if not hard_links:
        monkeypatch.setattr(os, "link", refuse)

    def killed(*_):
        raise KeyboardInterrupt

    out = tmp_path / "out.h5"
    merge(run, out, ["a"])
    check_output(run, out)
    with monkeypatch.context() as patch:  # after the note, before the name
        patch.setattr(merging, "commit", killed)
        with pytest.raises(KeyboardInterrupt):
            merge(run, out)
    merge(run, out)
    assert out.read_bytes() == written(tmp_path / "other.h5", layers)
    os.utime(out, ns=(0, 0))  # changed since
    with pytest.raises(InvalidArgumentError, match="exists"):
        merge(run, out)


def test_damaged_shards_are_named_and_no_file_is_made(tmp_path, run):
    for name in ("a", "b/k"):
        path = run.path / "shards" / run.done[name]["shard"]["file"]
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    with pytest.raises(FormatError, match="layers 'a', 'b/k'"):
        merge(run, tmp_path / "out.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["out.h5.run"]


@pytest.mark.parametrize("left", [0, 1_000, 5_000, 12_000])
def test_a_full_disk_leaves_all_as_it_was(tmp_path, run, layers, monkeypatch, left):
    write, room = os.write, [left]

    def disk(descriptor, data):
        count = min(len(data), room[0])
        if not count:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= count
        return write(descriptor, bytes(data[:count]))

    out = tmp_path / "out.h5"
    merge(run, out, ["a"])
    before = out.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", disk)
        with pytest.raises(OSError, match="No space"):
            merge(run, out)
    assert out.read_bytes() == before
    merge(run, out)
    assert out.read_bytes() == written(tmp_path / "other.h5", layers)
