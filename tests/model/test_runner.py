"""Running tasks: every job one outcome, a bounded window, and no task lost with another."""

import threading
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor

import pytest
from hypothesis import given as given_that
from hypothesis import strategies as st

from quiplinalg.errors import InvalidArgumentError, WorkerLostError
from quiplinalg.model.executors import Workers, given, serial
from quiplinalg.model.runner import run_tasks


def square(job):
    if job.get("bad"):
        raise ValueError(f"bad job {job['value']}")
    return job["value"] ** 2


def jobs_of(count, bad=()):
    return [{"value": i, "bad": i in bad} for i in range(count)]


def check_outcomes(outcomes, count, bad=(), lost=()):
    """Every index once; results, errors and losses where they belong."""
    assert sorted(index for index, _ in outcomes) == list(range(count))
    for index, outcome in outcomes:
        if index in lost:
            assert isinstance(outcome, WorkerLostError), (index, outcome)
        elif index in bad:
            assert isinstance(outcome, ValueError) and str(index) in str(outcome), (index, outcome)
        else:
            assert outcome == index**2, (index, outcome)


def test_serial_keeps_the_order_and_begins_a_task_only_after_the_last_was_handed_out():
    begun = []

    def task(job):
        begun.append(job["value"])
        return square(job)

    with serial() as workers:
        outcomes = []
        for outcome in run_tasks(task, jobs_of(4, bad=[1]), workers):
            outcomes.append(outcome)
            assert begun == list(range(len(outcomes)))
    assert [index for index, _ in outcomes] == [0, 1, 2, 3]
    check_outcomes(outcomes, 4, bad=[1])


def test_nothing_to_do():
    with serial() as workers:
        assert list(run_tasks(square, [], workers)) == []


class Interrupted:
    def __call__(self, job):
        if job["value"] == 2:
            raise KeyboardInterrupt
        return square(job)


def test_an_interrupt_passes_through_the_serial_executor():
    with pytest.raises(KeyboardInterrupt), serial() as workers:
        for outcome in run_tasks(Interrupted(), jobs_of(4), workers):
            last = outcome
    assert last == (1, 1)


@pytest.mark.parametrize("window", [0, -1, 2.0, True, "2"])
def test_a_window_that_is_no_count_is_refused(window):
    with ThreadPoolExecutor(1) as pool, pytest.raises(InvalidArgumentError, match="window="):
        given(pool, window)


def test_the_default_window_is_more_than_the_workers():
    with ThreadPoolExecutor(50) as pool:
        assert given(pool).window == 100
    assert given(Executor()).window == 64


class Death(BaseException):
    """What a worker of Fragile dies of."""


class Fragile(Executor):
    """Threads that break as a pool of processes does, and that count what is in flight."""

    def __init__(self, threads, log):
        self.pool = ThreadPoolExecutor(threads)
        self.log = log
        self.lock = threading.Lock()
        self.pending = {}
        self.broken = False

    def submit(self, function, job, /):
        future = Future()
        with self.lock:
            if self.broken:
                raise BrokenExecutor("broken")
            self.pending[future] = job["value"]
            self.log.append(frozenset(self.pending.values()))
        self.pool.submit(self._work, future, function, job)
        return future

    def _work(self, future, function, job):
        if self.broken:
            return
        try:
            settle, outcome = future.set_result, function(job)
        except Exception as error:
            settle, outcome = future.set_exception, error
        except Death:
            with self.lock:
                self.broken = True
                for other in self.pending:
                    other.set_exception(BrokenExecutor("broken"))
                self.pending.clear()
            return
        with self.lock:
            if self.pending.pop(future, None) is not None:
                settle(outcome)


class Renewable(Workers):
    """Fragile executors, as many as it takes, or as many as are allowed."""

    def __init__(self, threads, window, most=10**9):
        self.log, self.threads, self.used, self.most = [], threads, [], most
        super().__init__(self._new(), window)

    def _new(self):
        self.used.append(Fragile(self.threads, self.log))
        return self.used[-1]

    def renew(self):
        if len(self.used) >= self.most:
            return False
        self.executor = self._new()
        return True

    def close(self):
        for executor in self.used:
            executor.pool.shutdown()

    abandon = close


@given_that(st.data())
def test_only_what_breaks_the_executor_alone_is_lost(data):
    count = data.draw(st.integers(1, 12), label="count")
    window = data.draw(st.integers(1, 5), label="window")
    threads = data.draw(st.integers(1, 3), label="threads")
    some = st.sets(st.integers(0, count - 1))
    bad = data.draw(some, label="bad")
    culprits = data.draw(some, label="culprits") - bad
    flaky = data.draw(some, label="flaky") - bad - culprits  # die the first time only
    tried = []

    def task(job):
        index = job["value"]
        tried.append(index)
        if index in culprits or (index in flaky and tried.count(index) == 1):
            raise Death
        return square(job)

    with Renewable(threads, window) as workers:
        outcomes = list(run_tasks(task, jobs_of(count, bad), workers))
    # Some lay in wait when the executor broke, and died alone the first time that they ran.
    unlucky = {i for i in flaky if tried.count(i) == 1}
    check_outcomes(outcomes, count, bad, culprits | unlucky)
    assert max(map(len, workers.log)) <= window
    assert all(tried.count(i) <= 2 for i in range(count))
    assert all(frozenset({i}) in workers.log for i in culprits | flaky)  # the second time, alone
    first_flights = [sorted(flight) for flight in workers.log]
    order = list(dict.fromkeys(i for flight in first_flights for i in flight))
    assert order == list(range(count))  # begun in the order of the jobs


@given_that(st.integers(1, 8), st.integers(1, 4), st.integers(1, 3), st.data())
def test_an_executor_that_cannot_be_replaced_ends_the_run_after_what_was_done(
    count, window, most, data
):
    culprits = data.draw(st.sets(st.integers(0, count - 1), min_size=1))

    def task(job):
        if job["value"] in culprits:
            raise Death
        return square(job)

    outcomes, ended = [], False
    with Renewable(2, window, most) as workers:
        try:
            outcomes.extend(run_tasks(task, jobs_of(count), workers))
        except WorkerLostError as error:
            assert "resume" in str(error)
            ended = True
    if ended:
        assert len(workers.used) == most
        indices = [index for index, _ in outcomes]
        assert len(set(indices)) == len(indices) < count
    else:
        check_outcomes(outcomes, count, lost=culprits)


def test_an_executor_that_broke_while_it_was_idle_blames_no_task():
    with Renewable(1, 2) as workers:
        stream = run_tasks(square, jobs_of(5), workers)
        outcomes = [next(stream) for _ in range(2)]
        while workers.executor.pending:
            pass
        workers.executor.broken = True
        outcomes += stream
    check_outcomes(outcomes, 5)


@pytest.mark.parametrize("idle_break", [False, True])
def test_suspects_run_one_by_one_before_anything_new(idle_break):
    begun = []

    def task(job):
        begun.append(job["value"])
        if begun == [0]:
            while len(workers.executor.pending) < 3:  # until the window is full
                pass
            raise Death
        return square(job)

    with Renewable(1, 3) as workers:
        outcomes = []
        for outcome in run_tasks(task, jobs_of(6), workers):
            outcomes.append(outcome)
            if idle_break and len(outcomes) == 1:  # suspect 0 is done, 1 and 2 wait
                workers.executor.broken = True
    check_outcomes(outcomes, 6)
    assert begun == [0, 0, 1, 2, 3, 4, 5]
    assert workers.log[3:6] == [{0}, {1}, {2}]


def test_closing_the_iterator_cancels_what_has_not_begun():
    hold, begun = threading.Event(), []

    def task(job):
        begun.append(job["value"])
        if job["value"]:
            hold.wait(60)

    with ThreadPoolExecutor(1) as pool, given(pool, 4) as workers:
        stream = run_tasks(task, jobs_of(20), workers)
        assert next(stream) == (0, None)
        stream.close()
        hold.set()
    assert max(begun) <= 1
