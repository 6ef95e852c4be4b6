"""The run directory: one owner, nothing lost, nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from quiplinalg.errors import FormatError, InvalidArgumentError, QuipLinalgError
from quiplinalg.model.run_directory import RunDirectory, write_shard

PLAN = {"version": "1", "layers": {"a": {"bits": 2}, "b/c": {"bits": 3}}, "name": "é"}

HOLD = """
import sys, time
from quiplinalg.model.run_directory import RunDirectory
run = RunDirectory.open(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.h5.run"


def finish(run, name, data=b"data"):
    run.record({"layer": name, "loss": 0.5, "shard": write_shard(run.path, name, data)})


def files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_what_is_recorded_is_there_when_the_run_goes_on(path):
    with RunDirectory.create(path, PLAN) as run:
        assert run.plan == PLAN and run.done == run.failed == {}
        finish(run, "a")
        run.record({"layer": "b/c", "error": "no"})
        assert list(run.done) == ["a"] and run.failed["b/c"]["error"] == "no"
    with RunDirectory.open(path) as run:
        assert run.plan == PLAN
        assert run.done["a"]["loss"] == 0.5 and run.read_shard("a") == b"data"
        assert run.failed == {"b/c": {"layer": "b/c", "error": "no"}}
        finish(run, "b/c", b"other")  # a later success
        assert list(run.done) == ["a", "b/c"] and not run.failed
        run.record({"layer": "a", "error": "now it fails"})
    with RunDirectory.open(path) as run:
        assert list(run.done) == ["b/c"] and list(run.failed) == ["a"]
        run.remove()
    assert not path.exists()


def test_names_of_layers_are_no_paths(path):
    names = ["../../x", "a", "A", "a/b", "a.b", "é", "x" * 5000]
    with RunDirectory.create(path, PLAN) as run:
        for name in names:
            finish(run, name, name.encode())
        assert len(files(path / "shards")) == len(names)
        assert [run.read_shard(name).decode() for name in names] == names


def test_a_new_run_needs_a_directory_without_one(path):
    with pytest.raises(InvalidArgumentError, match="Leave out --resume"):
        RunDirectory.open(path)
    assert not path.exists()
    RunDirectory.create(path, PLAN).close()
    with pytest.raises(InvalidArgumentError, match=r"unfinished run.*--resume.*--restart"):
        RunDirectory.create(path, PLAN)
    RunDirectory.open(path).close()  # and it gave the lock back


def test_a_removal_that_was_interrupted_is_finished_by_the_next_run(path, monkeypatch):
    with RunDirectory.create(path, PLAN) as run:
        finish(run, "a")
        with monkeypatch.context() as patch:
            patch.setattr(RunDirectory, "_clear", lambda self: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run.remove()
    with pytest.raises(InvalidArgumentError):
        RunDirectory.open(path)
    with RunDirectory.create(path, PLAN) as run:
        assert not run.done
        assert files(path) == ["holder", "lock", "manifest.jsonl", "plan.json"]


def test_the_second_process_is_told_of_the_first(path):
    with RunDirectory.create(path, PLAN):
        for start in (lambda: RunDirectory.open(path), lambda: RunDirectory.create(path, PLAN)):
            with pytest.raises(QuipLinalgError, match=f"process {os.getpid()} on .*Wait for it"):
                start()
    RunDirectory.open(path).close()


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_the_lock_goes_with_its_process(path):
    RunDirectory.create(path, PLAN).close()
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(QuipLinalgError, match=f"process {child.pid} on"):
            RunDirectory.open(path)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    RunDirectory.open(path).close()


def test_a_shard_that_is_lost_or_cut_is_done_again(path):
    with RunDirectory.create(path, PLAN) as run:
        for name in "abc":
            finish(run, name)
        shard = {name: path / "shards" / run.done[name]["shard"]["file"] for name in "abc"}
    shard["a"].unlink()
    shard["b"].write_bytes(b"dat")
    with RunDirectory.open(path) as run:
        assert list(run.done) == ["c"]
        run.sweep()
        assert files(path / "shards") == [shard["c"].name]


def test_a_shard_with_other_bytes_is_refused_and_then_done_again(path):
    with RunDirectory.create(path, PLAN) as run:
        finish(run, "a")
        (path / "shards" / run.done["a"]["shard"]["file"]).write_bytes(b"dAta")
        with pytest.raises(FormatError, match=r"layer 'a'.*--resume"):
            run.read_shard("a")
    with RunDirectory.open(path) as run:
        assert not run.done


def test_no_record_without_a_shard(path):
    with RunDirectory.create(path, PLAN) as run:
        with pytest.raises(QuipLinalgError, match="workers"):
            run.record({"layer": "a", "shard": {"file": "x", "bytes": 3, "crc32": 0}})
        assert not run.done
    with pytest.raises(InvalidArgumentError, match="closed"):
        run.record({"layer": "a", "error": "x"})


def test_sweep_removes_what_has_no_record(path):
    with RunDirectory.create(path, PLAN) as run:
        finish(run, "a")
        kept = files(path)
        write_shard(path, "b", b"not recorded")
        (path / "shards" / ".x.h5.0123.tmp").write_bytes(b"half")
        (path / ".merged.h5.0123.tmp").write_bytes(b"half")
        run.sweep()
        assert files(path) == kept


def test_what_is_somebody_elses_stays(path):
    with RunDirectory.create(path, PLAN) as run:
        (path / "notes.txt").write_text("mine")
        (path / "shards" / "thesis.txt").write_text("mine")
        run.remove()
    assert sorted(p.name for p in path.rglob("*")) == ["notes.txt", "shards", "thesis.txt"]
    with RunDirectory.create(path, PLAN) as run:
        run.sweep()
    assert (path / "shards" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("lost, error", [("plan.json", InvalidArgumentError),
                                         ("manifest.jsonl", FormatError)])  # fmt: skip
def test_layers_without_their_plan_or_records_are_kept(path, lost, error):
    with RunDirectory.create(path, PLAN) as run:
        finish(run, "a")
    (path / lost).unlink()
    with pytest.raises(error, match="--restart"):
        (RunDirectory.create if lost == "plan.json" else RunDirectory.open)(
            path, *([PLAN] if lost == "plan.json" else [])
        )
    assert len(list((path / "shards").glob("*.h5"))) == 1
    RunDirectory.discard(path)
    assert not path.exists()


def test_a_damaged_plan_is_refused(path):
    RunDirectory.create(path, PLAN).close()
    plan = bytearray((path / "plan.json").read_bytes())
    for where in (0, 20, len(plan) // 2, len(plan) - 1):
        damaged = plan.copy()
        damaged[where] ^= 4
        (path / "plan.json").write_bytes(damaged)
        with pytest.raises(FormatError, match="plan"):
            RunDirectory.open(path)
    RunDirectory.discard(path)
    assert not path.exists()


def test_a_start_that_fails_leaves_nothing(path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            RunDirectory.create(path, PLAN)
    assert not path.exists() or not files(path) or files(path) == ["lock"]
    RunDirectory.create(path, PLAN).close()
    with pytest.raises(FileNotFoundError):
        RunDirectory.create(path / "no" / "where", PLAN)
