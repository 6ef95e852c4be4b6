"""A process that has imported and compiled everything, and forks a command for each line it gets.

In: one JSON object a line, {"argv", "log", "fault"}.  Out: {"status", "seconds"}.  The command's
stdout and stderr, the layers that it rounds ("round NAME") and the calls that can fail ("call
NAME") are written to the file ``log`` with other suffixes; ``fault`` is {"index", "kind"}: what
happens at that call; with "bug", the program has one that the tests must find.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import sys
from pathlib import Path

PATCHED = ("open", "write", "fsync", "ftruncate", "replace", "link", "unlink", "mkdir", "rmdir")
CODES = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC}


class Faults:
    """Count the calls to the system, and let one of them go wrong.

    Kinds: "kill" (before the call), "torn" (after half of a write), "power" (as "kill", and what
    was not synced is lost), "short" (a write takes half), "EIO" (once), "ENOSPC" (half of a write
    fits, and nothing more from there on).
    """

    def __init__(self, log: str, fault: dict | None):
        self.fault, self.full = fault, False
        self.calls = 0
        self.real = {name: getattr(os, name) for name in PATCHED}
        self.log = self.real["open"](log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        self.synced: dict[str, int] = {}  # bytes that are on the disk, of each file written to
        self.names: dict[str, list[str]] = {}  # new ones not yet on the disk, by directory

    def install(self) -> None:
        for name in PATCHED:
            setattr(os, name, self.patched(name))

    def note(self, text: str) -> None:
        self.real["write"](self.log, f"{text}\n".encode())

    def patched(self, name: str):
        def call(*arguments, **keywords):
            index, self.calls = self.calls, self.calls + 1
            self.note(f"call {name}")
            if self.fault and index == self.fault["index"]:
                return self.strike(name, arguments, keywords)
            if self.full and name in ("write", "mkdir", "link"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return self.do(name, arguments, keywords)

        return call

    def strike(self, name: str, arguments: tuple, keywords: dict):
        kind = self.fault["kind"]
        half = len(arguments[1]) // 2 if name == "write" else 0
        if half and kind in ("torn", "short", "ENOSPC", "power"):
            self.do("write", (arguments[0], bytes(arguments[1][:half])), {})
        if kind == "power":
            self.lose()
        if kind in ("kill", "torn", "power"):
            os.kill(os.getpid(), signal.SIGKILL)
        self.full = kind == "ENOSPC"
        if kind == "short" and not half:
            return self.do(name, arguments, keywords)
        if kind == "short" or (kind == "ENOSPC" and half):
            return half
        raise OSError(CODES[kind], os.strerror(CODES[kind]))

    def do(self, name: str, arguments: tuple, keywords: dict):
        new = None
        if name == "write":
            size = os.fstat(arguments[0]).st_size
            self.synced.setdefault(path_of(arguments[0]), size)
        elif name in ("replace", "link"):
            source, new = map(os.fspath, arguments[:2])
            if source in self.synced:
                self.synced[new] = self.synced[source]
        elif name == "mkdir" or (name == "open" and arguments[1] & os.O_CREAT):
            new = os.fspath(arguments[0])
        if new is not None and not os.path.exists(new):
            self.names.setdefault(os.path.dirname(new), []).append(new)
        if name == "fsync":  # without the wait: the system outlives the process
            if self.fault and self.fault.get("bug") == "no sync":
                return None
            self.synced.pop(path_of(arguments[0]), None)
            self.names.pop(path_of(arguments[0]), None)
            return None
        return self.real[name](*arguments, **keywords)

    def lose(self) -> None:
        """What a power failure may take: data that were not synced, names in the same way."""
        for path, size in self.synced.items():
            if os.path.isfile(path) and os.path.getsize(path) > size:
                os.truncate(path, size)
        for path in [path for names in self.names.values() for path in names]:
            if os.path.isdir(path):
                shutil.rmtree(path)
            elif os.path.exists(path):
                self.real["unlink"](path)


def path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


def command(order: dict) -> int:
    """Run the command in this process, a fork of the zygote; never returns to the loop."""
    from quiplinalg.cli.main import main
    from quiplinalg.model.manifest import Manifest
    from quiplinalg.model.options import LayerOptions

    log = order["log"]
    for number, suffix in ((1, ".out"), (2, ".err")):
        file = os.open(log + suffix, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        os.dup2(file, number)
    faults = Faults(log + ".log", order["fault"])
    quantize = LayerOptions.quantize

    def noted(self, name, W, H):
        faults.note(f"round {name}")
        return quantize(self, name, W, H)

    LayerOptions.quantize = noted
    if order["fault"] and order["fault"].get("bug") == "no record":
        Manifest.append = lambda self, record: self.records.append(record)
    faults.install()
    return main(order["argv"])


def serve() -> None:
    """Warm up by the first command, then fork one for each line."""
    import traceback

    from quiplinalg.cli.main import main

    assert main(json.loads(sys.stdin.readline())) == 0
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            code = 70
            try:
                code = command(order)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        print(json.dumps(os.waitstatus_to_exitcode(status)), flush=True)


class Zygote:
    """The other side: start the process, run commands in it."""

    def __init__(self, warm: list[str]):
        import subprocess

        names = ("QUIPLINALG", "NUMBA", "OPENBLAS", "OMP", "MKL")
        one = {f"{name}_NUM_THREADS": "1" for name in names}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            env={**os.environ, **one},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._say(warm)
        while (line := self.process.stdout.readline()) != "ready\n":
            assert line, "the warm-up failed"

    def run(self, argv: list[str], folder: Path, fault: dict | None = None) -> Ran:
        for old in folder.glob("command.*"):
            old.unlink()
        log = str(folder / "command")
        self._say({"argv": argv, "log": log, "fault": fault})
        status = json.loads(self.process.stdout.readline())
        return Ran(status, *(Path(log + s).read_text() for s in (".out", ".err", ".log")))

    def _say(self, what: object) -> None:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


class Ran:
    """What a command did."""

    def __init__(self, status: int, out: str, err: str, log: str):
        self.status, self.out, self.err = status, out, err
        lines = [line.split(" ", 1) for line in log.splitlines()]
        self.calls = [name for kind, name in lines if kind == "call"]
        self.rounded = [name for kind, name in lines if kind == "round"]
        # a line that was cut by a kill reports nothing
        events = [json.loads(line) for line in out.splitlines(keepends=True) if line[-1] == "\n"]
        self.reported = [event["layer"] for event in events if event["event"] == "layer"]

    def __repr__(self) -> str:
        return f"status {self.status}, reported {self.reported}\n{self.out}{self.err}"


if __name__ == "__main__":
    serve()
