"""Running tasks on threads: order of results and errors, and Ctrl-C."""

import signal
import threading
import time

import pytest

from quiplinalg.parallel import num_threads, run_all


def test_results_and_the_first_error_are_in_task_order():
    for threads in (1, 2, 3):
        with num_threads(threads):
            assert run_all(lambda i, j: (i, j), [(i, -i) for i in range(20)]) == [
                (i, -i) for i in range(20)
            ]

            def fail(i):
                time.sleep(0.002 * (5 - i))  # later ones fail earlier
                if i % 2:
                    raise ValueError(str(i))

            with pytest.raises(ValueError, match="1"):
                run_all(fail, [(i,) for i in range(5)])


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_ctrl_c_ends_a_long_run_and_leaves_no_task_running():
    begun, ended, lock = [], [], threading.Lock()

    def task(i):
        with lock:
            begun.append(i)
        time.sleep(0.01)
        with lock:
            ended.append(i)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with num_threads(2), pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            run_all(task, [(i,) for i in range(1000)])  # 5 s
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(begun) < 500 and sorted(begun) == sorted(ended)
