"""Executors: processes with a budget that end when they should, and clear words when they fail."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from worker_tasks import act, facts, gone, seen

from quiplinalg.errors import (
    BackendUnavailableError,
    InvalidArgumentError,
    NotPositiveDefiniteError,
    WorkerLostError,
)
from quiplinalg.model.executors import dask, processes, serial
from quiplinalg.model.process_pool import ProcessPool
from quiplinalg.model.runner import run_tasks

SQUARES = [{"value": i} for i in range(6)]


@pytest.fixture(scope="module")
def pool():
    with processes(2, threads=1) as workers:
        yield workers


def run(jobs, workers):
    outcomes = list(run_tasks(act, jobs, workers))
    assert sorted(index for index, _ in outcomes) == list(range(len(jobs)))
    return dict(outcomes)


def test_processes_have_their_threads_and_no_interrupts(pool):
    got = dict(run_tasks(facts, [{}] * 6, pool))
    assert len(got) == 6
    for told in got.values():
        assert told["process"] != os.getpid()
        assert told["threads"] == 1 and told["ignores Ctrl-C"] and told["began so"]
        assert set(told["blas"]) == {1}, told


def test_errors_of_tasks_come_back_whole(pool):
    got = run([*SQUARES, {"value": 9, "do": "raise"}], pool)
    assert [got[i] for i in range(6)] == [0, 1, 4, 9, 16, 25]
    assert isinstance(got[6], NotPositiveDefiniteError) and got[6].index == 3


def test_a_task_that_kills_its_worker_is_found_and_the_others_are_done(pool, tmp_path):
    jobs = [
        *SQUARES,
        {"value": 6, "do": "die"},
        {"value": 7, "do": "die once", "mark": str(tmp_path / "mark")},
        {"value": 8},
    ]
    before = pool.executor
    got = run(jobs[::-1], pool)
    assert pool.executor is not before
    error = got.pop(8 - 6)
    assert isinstance(error, WorkerLostError)
    assert "SIGKILL" in str(error) and "max_memory" in str(error)
    assert got == {8 - i: i * i for i in range(9) if i != 6}


def test_a_worker_that_leaves_is_told_from_one_that_is_killed(pool):
    assert "exit code 7" in str(run([{"value": 0, "do": "leave"}], pool)[0])


def test_the_process_that_broke_the_pool_is_told_from_those_that_fell_with_it(tmp_path):
    marks = [tmp_path / "a", tmp_path / "b"]
    pool = ProcessPool(2, 1)
    for mark in marks:
        pool.submit(act, {"value": 1, "do": "hold", "mark": str(mark)})
    first, second = map(seen, marks)
    os.kill(first, signal.SIGKILL)
    assert pool.bury() == "was killed by SIGKILL"
    assert gone(second)


def test_abandoned_processes_end_at_once(tmp_path):
    marks = [tmp_path / "a", tmp_path / "b"]
    jobs = [{"value": 1, "do": "hold", "mark": str(mark)} for mark in marks] * 2
    workers = processes(2, 1)
    with pytest.raises(KeyboardInterrupt), workers:
        stream = run_tasks(act, jobs, workers)
        threading.Thread(target=_interrupt_when, args=(marks,)).start()
        next(stream)
    assert all(gone(seen(mark), 10) for mark in marks)


def test_ctrl_c_while_the_first_process_starts_leaves_none(monkeypatch):
    workers = processes(1, 1)
    pool, submit, begun = workers.executor, workers.executor.submit, []

    def interrupted(function):
        submit(function)
        begun.extend(pool._processes)
        raise KeyboardInterrupt

    monkeypatch.setattr(pool, "submit", interrupted)
    with pytest.raises(KeyboardInterrupt), workers:
        raise AssertionError("the block must not begin")
    (process,) = begun
    assert gone(process, 10)


def _interrupt_when(marks):
    for mark in marks:
        seen(mark)
    signal.raise_signal(signal.SIGINT) if os.name == "nt" else os.kill(os.getpid(), signal.SIGINT)


SCRIPT = """
import sys
from worker_tasks import act
from quiplinalg.model.executors import processes
from quiplinalg.model.runner import run_tasks

def main():
    jobs = [{"value": 1, "do": "hold", "mark": mark} for mark in sys.argv[1:]]
    with processes(len(jobs), 1) as workers:
        list(run_tasks(act, jobs, workers))

if __name__ == "__main__":
    main()
"""


def launch(tmp_path, script, *arguments):
    path = tmp_path / "script.py"
    path.write_text(script)
    places = [str(Path(__file__).parents[1]), *sys.path]
    return subprocess.Popen(
        [sys.executable, str(path), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(places)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("way", ["Ctrl-C", "killed"])
def test_no_process_outlives_its_parent(tmp_path, way):
    marks = [tmp_path / "a", tmp_path / "b"]
    parent = launch(tmp_path, SCRIPT, *marks)
    for mark in marks:
        seen(mark)
    if way == "killed":
        parent.kill()
    else:  # as a terminal does: to the whole group
        os.killpg(parent.pid, signal.SIGINT)
    _, text = parent.communicate(timeout=30)  # returns when no process holds its stderr
    assert text.count("Traceback") == (way != "killed"), text  # none of a worker
    assert "KeyboardInterrupt" in text or way == "killed"


def test_a_script_without_a_main_guard_gets_a_clear_error(tmp_path):
    script = SCRIPT.replace('if __name__ == "__main__":\n    main()', "main()")
    _, text = launch(tmp_path, script, tmp_path / "a").communicate(timeout=60)
    assert "under if __name__ == '__main__'" in text.splitlines()[-1], text


@pytest.mark.parametrize("jobs,threads", [(0, 1), (1.5, 1), (2, 0), (2, "1")])
def test_counts_are_checked_before_anything_starts(jobs, threads):
    with pytest.raises(InvalidArgumentError, match=r"(jobs|threads)="):
        processes(jobs, threads)


def test_dask_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(BackendUnavailableError, match=r"quiplinalg\[dask\]"):
        dask("tcp://localhost:1")


def test_serial_workers_take_one_task_and_cannot_be_renewed():
    with serial() as workers:
        assert not workers.renew() and workers.window == 1
