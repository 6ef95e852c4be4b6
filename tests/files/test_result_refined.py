"""Result files of fitted layers: round trips, versions, older layouts, and damage."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.errors import FormatError, InvalidArgumentError
from quiplinalg.files.result_layout import CHECKSUM, layer_checksum


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    X, W = rng.standard_normal((64, 16)), rng.standard_normal((6, 16)).astype(np.float32)
    H = X.T @ X / 64
    plain = ql.ldlq(W, H, 3)
    return {
        "plain": plain,
        "fitted": ql.refit(W, H, plain, fit="both"),
        "levels": ql.lnq(W, H, 3),
        "corrected": ql.low_rank_correction(W, H, plain, 2),
        "all": ql.low_rank_correction(W, H, ql.lnq(W, H, 2, level_dtype="float32"), 3),
    }


@pytest.fixture
def path(tmp_path, layers):
    with ql.ResultWriter(tmp_path / "r.h5") as file:
        for name, q in sorted(layers.items()):
            file.add(name, q)
    return tmp_path / "r.h5"


def test_everything_comes_back(path, layers):
    with ql.open_result(path) as file:
        for name, q in layers.items():
            found = file.layer(name)
            assert (found.__array__() == q.__array__()).all()
            assert (found.refit, found.loss, found.method) == (q.refit, q.loss, q.method)
            assert found.grid.dtype == q.grid.dtype and found.bits_per_weight == q.bits_per_weight
            assert (found.correction is None) == (q.correction is None)
            if q.correction is not None:
                assert (found.correction.left == q.correction.left).all()
                assert (found.correction.right == q.correction.right).all()


def test_only_layers_that_an_older_version_would_misread_have_a_newer_one(path):
    with h5py.File(path) as file:
        versions = {
            name: g.attrs["encoding-version"].decode() for name, g in file["layers"].items()
        }
    assert versions == {
        "plain": "1.0", "fitted": "2.0", "levels": "2.0", "corrected": "2.0", "all": "2.0",
    }  # fmt: skip


def test_they_are_copied_as_they_lie(path, layers, tmp_path):
    with ql.open_result(path) as file, ql.ResultWriter(tmp_path / "copy.h5") as copy:
        for name in file.names:
            copy.add_stored(name, file.stored(name))
    with ql.open_result(tmp_path / "copy.h5") as file:
        for name, q in layers.items():
            assert (file.layer(name).__array__() == q.__array__()).all()
    assert path.read_bytes() == (tmp_path / "copy.h5").read_bytes()


def edit(path, name, change):
    with h5py.File(path, "r+") as file:
        group = file[f"layers/{name}"]
        change(group)
        group.attrs[CHECKSUM] = layer_checksum(name, group, sorted(group))


def drop(key):
    def change(group):
        del group[key]

    return change


@pytest.mark.parametrize(
    "name, change, match",
    [
        ("all", drop("correction_left"), "left and a right side; got one"),
        ("levels", drop("levels"), "scale"),
        ("levels", lambda g: g.attrs.modify("grid_bits", np.int64(2)), "bits"),
        ("levels", lambda g: g.attrs.modify("encoding-version", "3.0"), "2.0 or older; got 3.0"),
        ("levels", lambda g: g.move("levels", "scale"), "zero"),
    ],
)
def test_what_does_not_fit_together_is_refused(path, name, change, match):
    edit(path, name, change)
    with ql.open_result(path) as file, pytest.raises(FormatError, match=match):
        file.layer(name)


def test_layers_at_odds_with_themselves_are_not_written(layers, tmp_path):
    q = layers["all"]
    few = ql.CodebookGrid(q.grid.levels[:2])
    wide = ql.LowRankCorrection(q.correction.left, np.zeros((3, 17), np.float16))
    with ql.ResultWriter(tmp_path / "x.h5") as file:
        for other, match in (
            (dataclasses.replace(q, grid=few), "levels of 6"),
            (dataclasses.replace(q, correction=wide), r"shape \(6, 16\); got \(6, 17\)"),
        ):
            with pytest.raises(InvalidArgumentError, match=match):
                file.add("a", other)
