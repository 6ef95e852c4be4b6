"""A whole file, from the library: what is done, what fails, what goes on, and what is refused."""

import errno
import os
import shutil

import h5py
import numpy as np
import pytest

import quiplinalg as ql
from quiplinalg.errors import FormatError, InvalidArgumentError, QuipLinalgError
from quiplinalg.model import executors

NAMES = ("b0.k", "b0.q", "b0.v", "b1.out", "head")


def spd(n, seed):
    X = np.random.default_rng(seed).standard_normal((4 * n, n))
    return (X.T @ X / len(X)).astype(np.float32)


def write(path, indefinite=()):
    """b0.k, b0.q and b0.v share a Hessian; the layers in ``indefinite`` have one that is not."""
    rng = np.random.default_rng(1)
    with ql.ProblemWriter(path, overwrite=True) as file:
        for k, name in enumerate(NAMES):
            W, H = rng.standard_normal((6 + k, 12)).astype(np.float32), spd(12, k)
            if name in indefinite:
                H[0, 1] = H[1, 0] = 1.01 * H[0, 0]
                H[1, 1] = H[0, 0]
            if name in ("b0.q", "b0.v"):
                file.add(name, W, shared_hessian_of="b0.k")
            else:
                file.add(name, W, H)
    return path


@pytest.fixture
def model(tmp_path):
    return str(write(tmp_path / "model.h5"))


@pytest.fixture
def out(tmp_path):
    return str(tmp_path / "out.h5")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """The bytes of a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("reference")
    ql.quantize_model(write(folder / "model.h5"), folder / "out.h5", bits=3)
    return (folder / "out.h5").read_bytes()


class Listener:
    """Keeps the events; stops the run after some layers."""

    def __init__(self, layers=None):
        self.events, self.left = [], layers

    def __call__(self, event, facts):
        self.events.append((event, facts))
        if event == "layer" and self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise KeyboardInterrupt

    def layers(self, event="layer"):
        return [facts["layer"] for kind, facts in self.events if kind == event]

    def texts(self):
        return " ".join(facts["text"] for kind, facts in self.events if kind == "warning")


def interrupted(model, out, layers=2, **options):
    """A run that was stopped after some layers."""
    listener = Listener(layers)
    with pytest.raises(KeyboardInterrupt):
        ql.quantize_model(model, out, listener=listener, **({"bits": 3} | options))
    assert not os.path.exists(out) and os.path.isdir(out + ".run")
    return listener.layers()


def read(path):
    with open(path, "rb") as file:
        return file.read()


def test_each_layer_is_what_the_function_gives(model, out):
    listener = Listener()
    run = ql.quantize_model(model, out, bits=3, listener=listener)
    assert run.output == out and run.failed == {} and run.resumed == 0
    assert [facts["layer"] for facts in run.done] == list(NAMES)
    assert sorted(listener.layers()) == list(NAMES)
    assert "5 layers done" in repr(run)
    with ql.open_problem(model) as problem, ql.open_result(out) as result:
        assert result.names == NAMES
        for facts in run.done:
            name = facts["layer"]
            W, H = problem.weight(name), problem.hessian(name)
            expected = ql.ldlq(W, H, bits=3)
            q = result.layer(name)
            np.testing.assert_array_equal(q.codes, expected.codes)
            assert q.loss == expected.loss == facts["loss"]
            assert abs(facts["weight_energy"] / ql.proxy_loss(0 * W, W, H) - 1) < 1e-5
            assert abs(facts["nearest_loss"] / expected.nearest_loss(W, H) - 1) < 1e-5
    assert sorted(os.listdir(os.path.dirname(out))) == ["model.h5", "out.h5"]


@pytest.mark.parametrize("stop", [1, 2, 4])
def test_a_stopped_run_ends_in_the_same_bytes(model, out, reference, stop):
    before = interrupted(model, out, stop)
    listener = Listener()
    run = ql.quantize_model(model, out, bits=3, resume=True, listener=listener)
    assert read(out) == reference
    assert run.resumed >= stop and not set(before) & set(listener.layers())
    assert [facts["layer"] for facts in run.done] == list(NAMES)
    assert not os.path.exists(out + ".run")


def test_processes_and_threads_give_the_same_bytes(model, out, reference):
    from concurrent.futures import ThreadPoolExecutor

    assert ql.quantize_model(model, out, bits=3, jobs=2).failed == {}
    assert read(out) == reference
    os.unlink(out)
    with ThreadPoolExecutor(2) as pool:
        ql.quantize_model(model, out, bits=3, workers=executors.given(pool, 3))
    assert read(out) == reference


def test_resume_begins_where_there_is_no_run(model, out, reference):
    ql.quantize_model(model, out, bits=3, resume=True)
    assert read(out) == reference


def test_an_unfinished_run_is_never_thrown_away_by_accident(model, out, reference):
    interrupted(model, out)
    with pytest.raises(InvalidArgumentError, match="unfinished run"):
        ql.quantize_model(model, out, bits=3)
    with pytest.raises(InvalidArgumentError, match="unfinished run"):
        ql.quantize_model(model, out, bits=3, overwrite=True)
    listener = Listener()
    ql.quantize_model(model, out, bits=3, restart=True, listener=listener)
    assert len(listener.layers()) == len(NAMES) and read(out) == reference


def test_retry_failed_wants_a_run(model, out):
    with pytest.raises(InvalidArgumentError, match="run to go on with"):
        ql.quantize_model(model, out, retry_failed=True)
    assert not os.path.exists(out + ".run")


@pytest.mark.parametrize(
    "options, said",
    [
        ({"bits": 2}, "bits 3 in the run, 2 now"),
        ({"group_size": 4}, "group size none in the run, 4 now"),
        ({"method": "gptq"}, "method ldlq in the run, gptq now"),
        ({"exclude": ["head"]}, "head"),
    ],
)
def test_other_options_are_refused(model, out, options, said):
    interrupted(model, out)
    with pytest.raises(InvalidArgumentError, match=said):
        ql.quantize_model(model, out, **({"bits": 3} | options), resume=True)
    assert os.path.isdir(out + ".run")
    assert ql.quantize_model(model, out, bits=3, resume=True).resumed >= 2


def test_another_version_is_refused(model, out, monkeypatch):
    interrupted(model, out)
    monkeypatch.setattr(ql, "__version__", "99.0")
    with pytest.raises(InvalidArgumentError, match=r"in the run, 99\.0 now"):
        ql.quantize_model(model, out, bits=3, resume=True)


def change(model, name, part="weight"):
    with h5py.File(model, "r+") as file:
        data = file[f"layers/{name}/{part}"]
        data[0] = np.asarray(data[0]) * 1.5


def test_a_changed_input_is_refused(model, out):
    done = interrupted(model, out)
    change(model, done[0])
    with pytest.raises(InvalidArgumentError, match=f"{done[0]}.* changed"):
        ql.quantize_model(model, out, bits=3, resume=True)


def test_a_changed_hessian_is_refused(model, out):
    done = interrupted(model, out, 4)
    change(model, done[0], "hessian")
    with pytest.raises(InvalidArgumentError, match=done[0]):
        ql.quantize_model(model, out, bits=3, resume=True)


def test_a_removed_layer_is_refused(model, out):
    done = interrupted(model, out)
    with h5py.File(model, "r+") as file:
        del file[f"layers/{done[0]}"]
    with pytest.raises(InvalidArgumentError, match=done[0]):
        ql.quantize_model(model, out, bits=3, resume=True)


def test_a_copy_of_the_input_will_do(model, out, tmp_path, reference):
    """Another inode, another time, another path: the content decides."""
    interrupted(model, out)
    copy = str(tmp_path / "copy.h5")
    shutil.copy(model, copy)
    os.unlink(model)
    assert ql.quantize_model(copy, out, bits=3, resume=True).resumed >= 2
    assert read(out) == reference


def test_an_input_that_changes_during_the_run_is_found(model, out):
    def meddle(event, facts):
        if event == "layer" and not meddled:
            meddled.append(facts["layer"])
            change(model, facts["layer"])

    meddled = []
    with pytest.raises(InvalidArgumentError, match="changed after being done"):
        ql.quantize_model(model, out, bits=3, listener=meddle)
    assert not os.path.exists(out)


def test_a_layer_that_fails_leaves_the_others_and_can_be_mended(tmp_path, out):
    model = write(tmp_path / "model.h5", indefinite=("head",))
    listener = Listener()
    run = ql.quantize_model(model, out, bits=3, damp=0.0, listener=listener)
    assert list(run.failed) == ["head"] and "positive definite" in run.failed["head"]
    assert listener.layers("layer_failed") == ["head"] and run.run_directory == out + ".run"
    with ql.open_result(out) as result:
        assert result.names == NAMES[:-1]
    again = Listener()  # what failed is not done again by itself
    run = ql.quantize_model(model, out, bits=3, damp=0.0, resume=True, listener=again)
    assert list(run.failed) == ["head"] and again.layers() == again.layers("layer_failed") == []

    again = Listener()
    run = ql.quantize_model(model, out, bits=3, damp="auto", retry_failed=True, listener=again)
    assert run.failed == {} and again.layers() == ["head"] and run.resumed == 4
    assert "stay as they are" in again.texts() and "damp 0.0 in the run, auto now" in again.texts()
    with ql.open_result(out) as result:
        assert result.names == NAMES
        assert result.layer("head").damp > 0 == result.layer("b0.q").damp
    assert not os.path.exists(out + ".run")


def test_where_all_fail_there_is_nothing_to_keep(tmp_path, out):
    model = write(tmp_path / "model.h5", indefinite=("head",))
    run = ql.quantize_model(model, out, damp=0.0, include=["head"])
    assert run.output is None and list(run.failed) == ["head"] and run.run_directory is None
    assert os.listdir(tmp_path) == ["model.h5"]


def test_a_layer_that_cannot_be_read_leaves_the_others(model, out, reference, tmp_path):
    shutil.copy(model, tmp_path / "whole.h5")
    with h5py.File(model, "r+") as file:
        del file["layers/b1.out/hessian"]
    run = ql.quantize_model(model, out, bits=3)
    assert list(run.failed) == ["b1.out"] and "'hessian'" in run.failed["b1.out"]
    os.replace(tmp_path / "whole.h5", model)
    run = ql.quantize_model(model, out, bits=3, retry_failed=True)
    assert run.failed == {} and run.resumed == 4
    assert read(out) == reference


def test_non_finite_weights_fail_their_layer_only(model, out):
    with h5py.File(model, "r+") as file:
        file["layers/b0.q/weight"][1, 2] = np.nan
    run = ql.quantize_model(model, out, bits=3)
    assert list(run.failed) == ["b0.q"] and "W[1, 2]" in run.failed["b0.q"]
    assert len(run.done) == 4


def test_a_full_disk_fails_the_layers_it_hits(model, out, reference, monkeypatch):
    from quiplinalg.model import layer

    writes = []

    def full(run, name, data):
        writes.append(name)
        if len(writes) in (2, 3):
            raise OSError(errno.ENOSPC, "No space left on device")
        return whole(run, name, data)

    whole = layer.write_shard
    monkeypatch.setattr(layer, "write_shard", full)
    run = ql.quantize_model(model, out, bits=3)
    assert sorted(run.failed) == sorted(writes[1:3]) and len(run.done) == 3
    assert all("No space left" in text for text in run.failed.values())
    run = ql.quantize_model(model, out, bits=3, retry_failed=True)
    assert run.failed == {} and read(out) == reference


def test_no_work_for_a_disk_that_is_full(model, out, monkeypatch):
    from quiplinalg.model import layer

    usage = shutil.disk_usage(".")
    monkeypatch.setattr(layer.shutil, "disk_usage", lambda path: usage._replace(free=3))
    run = ql.quantize_model(model, out, bits=3)
    assert len(run.failed) == 5 and "the disk is full" in run.failed["head"]


def test_a_full_disk_at_the_end_loses_nothing(model, out, reference, monkeypatch):
    from quiplinalg.model import run as module

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    whole = module.merge
    monkeypatch.setattr(module, "merge", full)
    with pytest.raises(QuipLinalgError, match="All 5 layers are kept"):
        ql.quantize_model(model, out, bits=3)
    monkeypatch.setattr(module, "merge", whole)
    listener = Listener()
    run = ql.quantize_model(model, out, bits=3, resume=True, listener=listener)
    assert run.resumed == 5 and listener.layers() == [] and read(out) == reference


def test_a_bug_in_a_layer_is_told_with_its_traceback(model, out, monkeypatch):
    from quiplinalg.model import layer

    def bug(name, *arguments, **keywords):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(layer, "layer_image", bug)
    listener = Listener()
    run = ql.quantize_model(model, out, bits=3, listener=listener)
    assert len(run.failed) == 5 and "ZeroDivisionError: a bug" in run.failed["head"]
    facts = [facts for event, facts in listener.events if event == "layer_failed"]
    assert all("Traceback" in each["traceback"] for each in facts)


def test_what_is_in_the_way_is_kept(model, out):
    with open(out, "w") as file:
        file.write("precious")
    with pytest.raises(InvalidArgumentError, match="exists"):
        ql.quantize_model(model, out, bits=3)
    assert read(out) == b"precious" and not os.path.exists(out + ".run")
    assert ql.quantize_model(model, out, bits=3, overwrite=True).failed == {}


def test_a_file_that_came_during_the_run_is_kept(model, out, reference):
    interrupted(model, out)
    with open(out, "w") as file:
        file.write("precious")
    with pytest.raises(InvalidArgumentError, match="exists"):
        ql.quantize_model(model, out, bits=3, resume=True)
    assert read(out) == b"precious"
    ql.quantize_model(model, out, bits=3, resume=True, overwrite=True)
    assert read(out) == reference


def test_paths_that_cannot_be(model, out, tmp_path):
    with pytest.raises(InvalidArgumentError, match="another file"):
        ql.quantize_model(model, model, overwrite=True)
    with pytest.raises(InvalidArgumentError, match="existing directory"):
        ql.quantize_model(model, tmp_path / "no" / "out.h5")
    with pytest.raises(FormatError):
        ql.quantize_model(tmp_path / "none.h5", out)
    (tmp_path / "out.h5.run").write_text("a file where the directory would be")
    with pytest.raises(InvalidArgumentError, match="which is a file"):
        ql.quantize_model(model, out)
    os.unlink(tmp_path / "out.h5.run")
    os.symlink(tmp_path / "elsewhere", tmp_path / "out.h5.run")
    with pytest.raises(InvalidArgumentError, match="which is a link"):
        ql.quantize_model(model, out)
    os.unlink(tmp_path / "out.h5.run")
    with pytest.raises(InvalidArgumentError, match="got both"):
        ql.quantize_model(model, out, resume=True, restart=True)


def test_rules_by_layer(model, out, tmp_path):
    config = tmp_path / "policy.toml"
    config.write_text(
        'bits = 2\nexclude = "b1*"\n'
        "[[rules]]\nmatch = '.*[.]v'\nbits = 4\nmethod = 'nearest'\n"
        "[[rules]]\nmatch = 'head'\nskip = true\n"
        "[[rules]]\nmatch = 'tail'\nbits = 8\n"
    )
    listener = Listener()
    run = ql.quantize_model(model, out, config=config, listener=listener)
    assert run.skipped == ["head"] and "1 skipped" in repr(run)
    assert {f["layer"]: (f["method"], f["bits"]) for f in run.done} == {
        "b0.k": ("ldlq", 2), "b0.q": ("ldlq", 2), "b0.v": ("nearest", 4),
    }  # fmt: skip
    assert "tail" in listener.texts()
    os.unlink(out)
    run = ql.quantize_model(model, out, config=config, bits=3)  # an argument over every rule
    assert {facts["bits"] for facts in run.done} == {3}


def test_rules_that_skip_everything_are_told(model, out, tmp_path):
    (tmp_path / "policy.toml").write_text("[[rules]]\nmatch = '.*'\nskip = true\n")
    with pytest.raises(InvalidArgumentError, match="skip all 5"):
        ql.quantize_model(model, out, config=tmp_path / "policy.toml")


def test_a_run_can_end_without_the_layers_that_fail(tmp_path, out):
    model = write(tmp_path / "model.h5", indefinite=("head",))
    assert list(ql.quantize_model(model, out, damp=0.0).failed) == ["head"]
    run = ql.quantize_model(model, out, damp=0.0, retry_failed=True, exclude=["head"])
    assert run.failed == {} and len(run.done) == 4 and not os.path.exists(out + ".run")


def test_the_rows_that_are_compared_are_part_of_a_run(model, out):
    interrupted(model, out)
    with pytest.raises(InvalidArgumentError, match="compared on 128 rows in the run, on all now"):
        ql.quantize_model(model, out, bits=3, resume=True, compare_rows=None)


def test_one_run_at_a_time(model, out):
    def second(event, facts):
        if event == "layer" and not seen:
            with pytest.raises(QuipLinalgError, match="one process at a time") as caught:
                ql.quantize_model(model, out, bits=3, resume=True)
            seen.append(str(caught.value))

    seen = []
    ql.quantize_model(model, out, bits=3, listener=second)
    assert str(os.getpid()) in seen[0]


def test_a_layer_without_a_method_is_no_layer_of_the_run(model, out):
    with pytest.raises(InvalidArgumentError, match="fits none of"):
        ql.quantize_model(model, out, include=["nothing*"])
    with pytest.raises(InvalidArgumentError, match="did you mean"):
        ql.quantize_model(model, out, wbits=3)
