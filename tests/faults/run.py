"""Plant every seeded fault, one at a time, in a copy of the package; see which test kills it.

    python tests/faults/run.py [words of names ...] [--jobs 2] [--output build/faults] [--targeted]

A fault meets the tests that are likely to see it first, and if it survives these, all of the usual
run.  The table is printed and written as faults.md and faults.json.  Exit status 1: a fault lives;
2: a test fails without any.

A copy has a Numba cache of its own, filled once from the sources as they are; the kernels that a
fault changes, and those that are compiled with them, are taken out of it, because Numba looks at
the file of a kernel and not at the files it calls.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

sys.path.insert(0, str(Path(__file__).parent))

from fault import ROOT, Fault
from table import FAULTS

_COPIED = ("quiplinalg", "tests", "src", "pyproject.toml", "setup.py", "README.md", "CHANGELOG.md")
_TARGETED_SECONDS, _ALL_SECONDS = 300, 1500
# compiles what the usual tests need of the kernels: the rest is compiled by who needs it
_WARM = "import sys; from quiplinalg.cli.main import main; sys.exit(main(['warmup']))"


class Copy:
    """A copy of the sources and tests at a fixed place, in which faults are planted."""

    def __init__(self, place: Path):
        self.place = place
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        skip = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc", "faults")
        for name in _COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, place / name, ignore=skip)
            elif source.exists():
                shutil.copy2(source, place / name)
        self.cache, self.clean = place / "cache", place / "cache-clean"
        self.run([sys.executable, "-c", _WARM], _ALL_SECONDS, check=True)
        where = self.run(
            [sys.executable, "-c", "import quiplinalg; print(quiplinalg.__file__)"], 60, check=True
        )
        if not where[1].strip().startswith(str(place)):
            raise RuntimeError(f"the copy does not test itself but {where[1].strip()}")
        shutil.copytree(self.cache, self.clean)

    def run(self, command: list[str], seconds: float, check: bool = False) -> tuple[int, str]:
        """Run in the copy; return the exit status (-1: it took too long) and the output."""
        environment = os.environ | {
            "PYTHONPATH": str(self.place),
            "NUMBA_CACHE_DIR": str(self.cache),
            "PYTHONDONTWRITEBYTECODE": "1",  # a stale .pyc of the same size and second would win
            "QUIPLINALG_PROFILE": "dev",
        }
        process = subprocess.Popen(
            command, cwd=self.place, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return -1, process.communicate()[0]
        if check and process.returncode:
            raise RuntimeError(output)
        return process.returncode, output

    def pytest(self, tests: tuple[str, ...], seconds: float) -> str | None:
        """The first test that fails, or None."""
        shutil.rmtree(self.place / ".hypothesis", ignore_errors=True)
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
        status, output = self.run(command, seconds)
        if status == 0:
            return None
        if status == -1:
            return f"(no end within {seconds:g} s)"
        found = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.M)
        if not found and status != 1:
            return f"(the tests end with status {status})"  # a crash kills too
        return found[1] if found else "(a failure without a name)"

    def try_fault(self, fault: Fault, targeted: bool) -> dict:
        """Plant one fault, run the tests, and take it out again."""
        path = self.place / "quiplinalg" / fault.file
        original, status = path.read_text(), path.stat()
        start = time.perf_counter()
        path.write_text(fault.planted(original))
        if fault.file.startswith("kernels/cpu"):
            for module in dependents(Path(fault.file).stem):
                for kernel in self.cache.rglob(f"{module}.*"):
                    kernel.unlink()
        try:
            stage, killer = "targeted", self.pytest(fault.tests, _TARGETED_SECONDS)
            if killer is None and not targeted:
                stage, killer = "all", self.pytest((), _ALL_SECONDS)
        finally:
            path.write_text(original)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
            if fault.file.startswith("kernels/cpu"):
                shutil.rmtree(self.cache)
                shutil.copytree(self.clean, self.cache)
        return {
            "fault": fault.name,
            "file": fault.file,
            "killed_by": killer,
            "stage": stage,
            "seconds": round(time.perf_counter() - start, 1),
        }


def dependents(module: str) -> set[str]:
    """The kernel modules that a module is compiled into, itself among them."""
    imports = {}
    for path in (ROOT / "quiplinalg" / "kernels").glob("cpu_*.py"):
        tree = ast.parse(path.read_text())
        imports[path.stem] = {
            node.module.rpartition(".")[2]
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module
        }
    found = {module}
    while more := {name for name, used in imports.items() if used & found} - found:
        found |= more
    return found


def markdown(rows: list[dict]) -> str:
    """The table."""
    lines = [
        f"{sum(row['killed_by'] is not None for row in rows)} of {len(rows)} faults are killed.",
        "",
        "| fault | planted in | killed by | s |",
        "|---|---|---|---|",
    ]
    for row in rows:
        killer = f"`{row['killed_by']}`" if row["killed_by"] else "**nothing**"
        lines.append(f"| {row['fault']} | `{row['file']}` | {killer} | {row['seconds']:g} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run; 1 where a fault survives."""
    parser = argparse.ArgumentParser(description="Plant seeded faults; see which test kills them.")
    parser.add_argument("names", nargs="*", help="only faults whose name or file has one of these")
    parser.add_argument("--jobs", type=int, default=2, help="copies at work, default 2")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "faults")
    parser.add_argument("--targeted", action="store_true", help="no full run for survivors")
    arguments = parser.parse_args()
    chosen = [
        fault
        for fault in FAULTS
        if not arguments.names
        or any(word in fault.name or word in fault.file for word in arguments.names)
    ]
    if not chosen:
        parser.error(f"no fault has {' or '.join(arguments.names)} in its name or file")
    # those that compile most first, so that the copies end together
    chosen.sort(key=lambda fault: not fault.file.startswith("kernels/cpu_tile"))
    output = arguments.output.resolve()
    jobs = max(1, min(arguments.jobs, len(chosen)))
    made = [Copy(output / f"copy-{number}") for number in range(jobs)]
    # a test that fails without any fault would kill them all
    failing = made[0].pytest(tuple({test: 0 for f in chosen for test in f.tests}), _ALL_SECONDS)
    if failing:
        print(f"no fault is planted yet, and a test fails: {failing}")
        return 2
    copies: SimpleQueue[Copy] = SimpleQueue()
    for copy in made:
        copies.put(copy)

    def work(fault: Fault) -> dict:
        copy = copies.get()
        try:
            row = copy.try_fault(fault, arguments.targeted)
        finally:
            copies.put(copy)
        print(
            f"{row['seconds']:6.1f} s  {fault.name}: {row['killed_by'] or 'SURVIVES'}", flush=True
        )
        return row

    with ThreadPoolExecutor(jobs) as pool:
        rows = list(pool.map(work, chosen))
    order = [fault.name for fault in FAULTS]
    rows.sort(key=lambda row: order.index(row["fault"]))
    (output / "faults.json").write_text(json.dumps(rows, indent=1) + "\n")
    (output / "faults.md").write_text(markdown(rows))
    print(markdown(rows))
    for number in range(jobs):
        shutil.rmtree(output / f"copy-{number}", ignore_errors=True)
    return int(any(row["killed_by"] is None for row in rows))


if __name__ == "__main__":
    sys.exit(main())
