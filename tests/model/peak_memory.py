"""Peak resident memory of tasks, each in a process forked from one that has the kernels loaded.

Run as a program: JSON lines in, ``{"task": ..., "warm": ...}``; a line with the bytes out for each,
after a first one with the resident bytes of the process itself.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path


def resident(key: str) -> int:
    """VmRSS or VmHWM in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(key)


def peak(task: dict) -> int:
    """Bytes beyond those before, at the worst moment of a task."""
    from quiplinalg.model.layer import run_task

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts here
        before = resident("VmRSS")
        errors = [facts["error"] for facts in run_task(task) if "error" in facts]
        found = {"peak": resident("VmHWM") - before, "errors": errors}
        os.write(writing, json.dumps(found).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


def main() -> None:
    """Measure what comes on stdin."""
    from quiplinalg.model.layer import _load
    from quiplinalg.model.options import LayerOptions
    from quiplinalg.parallel import num_threads

    tasks = [json.loads(line) for line in sys.stdin]
    with num_threads(1):  # a pool of threads does not survive the fork
        for task in tasks:
            for layer in task["layers"]:
                _load(LayerOptions.from_json(layer["options"]), False, False)
    gc.collect()
    print(resident("VmRSS"))
    for task in tasks:
        print(json.dumps(peak(task)), flush=True)


if __name__ == "__main__":
    main()
