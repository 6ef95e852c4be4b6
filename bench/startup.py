"""What a user waits for before the work begins: import, --help, first call, compilation."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.common import ROOT, Report, Settings, check

COLUMNS = ["what", "s", "beyond", "s of that", "difference s", "limit"]
_FIRST_CALL = """
import time
import numpy as np
rng = np.random.default_rng(0)
X = rng.standard_normal((512, 256)).astype(np.float32)
W, H = rng.standard_normal((256, 256)).astype(np.float32), X.T @ X / np.float32(512)
start = time.perf_counter()
import quiplinalg as ql
q = ql.ldlq(W, H, bits=2)
elapsed = time.perf_counter() - start
assert q.loss < q.nearest_loss(W, H)
print(elapsed)
"""


def run(settings: Settings) -> Report:
    """Time fresh processes."""
    report = Report("startup", "Start-up", COLUMNS, settings)
    times = 3 if settings.quick else 7
    python = [sys.executable]
    help_text = _output(_help_command())
    check("quantize" in help_text, "quiplinalg --help does not name quantize")
    pairs = (
        ("import quiplinalg", [*python, "-c", "import quiplinalg"],
         "import numpy", [*python, "-c", "import numpy"], 0.05),
        ("quiplinalg --help", _help_command(),
         "bare interpreter", [*python, "-c", "pass"], 0.15),
    )  # fmt: skip
    for name, command, other_name, other, limit in pairs:
        above, below = _interleaved(command, other, times)
        difference = median(a - b for a, b in zip(above, below, strict=True))
        report.add(
            [
                name, median(above), other_name, median(below), f"{difference:.3f}",
                report.verdict(difference, limit, name),
            ],
            {
                "what": name, "samples": above, "beyond": other_name, "beyond_samples": below,
                "difference": difference, "limit": limit,
            },
        )  # fmt: skip

    _first_call(None)  # fills the cache
    warm = [_first_call(None) for _ in range(times)]
    _alone(report, "first ldlq call, warm cache", warm, 1.0)
    cold = []
    for _ in range(1 if settings.quick else 3):
        with tempfile.TemporaryDirectory() as empty:
            cold.append(_first_call(empty))
    _alone(report, "first ldlq call, cold compile", cold, 10.0)
    report.notes.append(
        "Wall time, medians over fresh processes, the two of a row in turn. The first call is "
        "`import quiplinalg` and `ldlq` at (256, 256) with default arguments, NumPy already "
        "imported; cold: the cache directory of Numba is new and empty."
    )
    return report


def _alone(report: Report, name: str, samples: list[float], limit: float) -> None:
    value = median(samples)
    report.add(
        [name, value, "", "", "", report.verdict(value, limit, name)],
        {"what": name, "samples": samples, "median": value, "limit": limit},
    )


def _help_command() -> list[str]:
    script = Path(sysconfig.get_path("scripts")) / "quiplinalg"
    if script.exists():
        return [str(script), "--help"]
    call = "import sys; sys.argv = ['quiplinalg', '--help']; from quiplinalg.cli.main import main"
    return [sys.executable, "-c", call + "; sys.exit(main())"]


def _output(command: list[str], **variables: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    check(done.returncode == 0, f"{command[-1][:40]} failed: {done.stderr[-2000:]}")
    return done.stdout


def _first_call(cache: str | None) -> float:
    variables = {} if cache is None else {"NUMBA_CACHE_DIR": cache}
    return float(_output([sys.executable, "-c", _FIRST_CALL], **variables).splitlines()[-1])


def _interleaved(one: list[str], two: list[str], times: int) -> tuple[list[float], list[float]]:
    samples: tuple[list[float], list[float]] = ([], [])
    for r in range(-1, times):
        for command, into in zip((one, two), samples, strict=True):
            start = time.perf_counter()
            _output(command)
            elapsed = time.perf_counter() - start
            if r >= 0:
                into.append(elapsed)
    return samples
