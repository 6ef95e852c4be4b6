"""Tasks for the tests of executors: importable by name in processes of their own."""

import os
import signal
import time
from pathlib import Path

from quiplinalg.errors import NotPositiveDefiniteError

PATIENCE = 60  # seconds that a task waits for a test that is gone


def act(job):
    """Do what the job says; return its value squared."""
    what = job.get("do", "")
    mark = Path(job.get("mark", ""))
    if what == "raise":
        raise NotPositiveDefiniteError(3, -1.0, "Raise damp.")
    if what == "die" or (what == "die once" and not mark.exists()):
        if what == "die once":
            mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "leave":
        os._exit(7)
    if what in ("hold", "hold once") and not (what == "hold once" and mark.exists()):
        begin(mark)
        time.sleep(PATIENCE)
    return job["value"] ** 2


def begin(mark):
    """Write the process id so that a reader sees all of it or nothing."""
    draft = mark.with_name(f"{mark.name}.{os.getpid()}")
    draft.write_text(str(os.getpid()))
    draft.replace(mark)


def facts(job):
    """Return what the process was given: its threads, those of its BLAS, no SIGINT."""
    from threadpoolctl import threadpool_info

    from quiplinalg.parallel import thread_count

    return {
        "process": os.getpid(),
        "threads": thread_count(),
        "blas": [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"],
        "ignores Ctrl-C": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "began so": signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    }


def seen(mark, seconds=PATIENCE):
    """Wait for the process id that `begin` writes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if mark.exists():
            return int(mark.read_text())
        time.sleep(0.005)
    raise AssertionError(f"{mark} did not appear within {seconds} s")


def gone(process, seconds=PATIENCE):
    """Wait until a process has ended; zombies count as ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(process, 0)
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.005)
    return False
