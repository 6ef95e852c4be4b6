"""Tasks on clusters: dask with workers and scheduler killed, MPI, loky.

Skipped where they are not installed; see test_frameworks for what may not be missing.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from test_frameworks import framework
from worker_tasks import act, seen

import quiplinalg as ql
from quiplinalg.errors import InvalidArgumentError, NotPositiveDefiniteError, WorkerLostError
from quiplinalg.model.executors import dask, given
from quiplinalg.model.runner import run_tasks


@pytest.fixture(scope="module")
def cluster():
    distributed = framework("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=":0"
    ) as cluster:
        yield cluster


def jobs_of(count, **special):
    return [{"value": i, **special.get(f"job{i}", {})} for i in range(count)]


def test_dask_finishes_after_a_worker_is_killed(cluster, tmp_path):
    mark = tmp_path / "mark"
    jobs = jobs_of(12, job3={"do": "hold once", "mark": str(mark)}, job5={"do": "raise"})
    killer = threading.Thread(target=lambda: os.kill(seen(mark), signal.SIGKILL))
    killer.start()
    with dask(cluster.scheduler_address) as workers:
        outcomes = list(run_tasks(act, jobs, workers))
    killer.join()
    assert sorted(index for index, _ in outcomes) == list(range(12))
    got = dict(outcomes)
    assert isinstance(got.pop(5), NotPositiveDefiniteError)
    assert got == {i: i * i for i in range(12) if i != 5}


def test_dask_gives_up_a_task_that_kills_its_workers_and_does_the_others(cluster, monkeypatch):
    monkeypatch.setattr(cluster.scheduler, "allowed_failures", 0)
    with dask(cluster.scheduler_address) as workers:
        got = dict(run_tasks(act, jobs_of(6, job2={"do": "die"}), workers))
    error = got.pop(2)
    assert isinstance(error, WorkerLostError) and "alive" in str(error)
    assert got == {i: i * i for i in range(6) if i != 2}


def test_dask_writes_the_same_bytes_as_this_process(cluster, tmp_path):
    source, rng = tmp_path / "model.h5", np.random.default_rng(5)
    with ql.ProblemWriter(source) as file:
        for name in "abcd":
            X = rng.standard_normal((40, 16))
            file.add(name, rng.standard_normal((24, 16)), X.T @ X / 40)
    here, there = tmp_path / "here.h5", tmp_path / "there.h5"
    ql.quantize_model(source, here, bits=2)
    run = ql.quantize_model(source, there, bits=2, workers=dask(cluster.scheduler_address))
    assert not run.failed and len(run.done) == 4
    assert here.read_bytes() == there.read_bytes()


def test_dask_without_its_scheduler_ends_the_run(tmp_path):
    distributed = framework("distributed")
    cluster = distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=":0")
    with pytest.raises(WorkerLostError, match="resume"), dask(cluster.scheduler_address) as workers:
        threading.Timer(0.2, cluster.close).start()
        list(run_tasks(act, jobs_of(20), workers))


def test_dask_without_a_scheduler_says_so(monkeypatch):
    framework("distributed")
    monkeypatch.setattr("quiplinalg.model.executors._PATIENCE", 0.2)
    with pytest.raises(InvalidArgumentError, match="dask scheduler"):
        dask("tcp://127.0.0.1:9")


def test_loky(tmp_path):
    loky = pytest.importorskip("loky")
    with loky.ProcessPoolExecutor(2) as pool, given(pool) as workers:
        got = dict(run_tasks(act, jobs_of(6, job2={"do": "raise"}), workers))
    assert isinstance(got.pop(2), NotPositiveDefiniteError)
    assert got == {i: i * i for i in range(6) if i != 2}


SCRIPT = """
from mpi4py.futures import MPIPoolExecutor
from worker_tasks import act, facts
from quiplinalg.model.executors import given
from quiplinalg.model.runner import run_tasks

if __name__ == "__main__":
    jobs = [{"value": i} for i in range(8)] + [{"value": 9, "do": "raise"}]
    with MPIPoolExecutor() as executor, given(executor) as workers:
        got = dict(run_tasks(act, jobs, workers))
        told = dict(run_tasks(facts, [{}] * 8, workers))
    print([got[i] for i in range(8)], type(got[8]).__name__)
    print({facts["threads"] for facts in told.values()})
"""


def test_mpi(tmp_path):
    pytest.importorskip("mpi4py")
    if not shutil.which("mpiexec"):
        pytest.skip("no mpiexec here")
    (tmp_path / "script.py").write_text(SCRIPT)
    told = subprocess.run(
        ["mpiexec", "-n", "3", sys.executable, "-m", "mpi4py.futures", "script.py"],
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            "QUIPLINALG_NUM_THREADS": "2",
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_rmaps_base_oversubscribe": "1",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stderr
    assert told.stdout.splitlines() == [
        "[0, 1, 4, 9, 16, 25, 36, 49] NotPositiveDefiniteError",
        "{2}",
    ]
