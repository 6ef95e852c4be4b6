"""Damaged files by the thousand: none crashes, hangs, takes all memory, or passes for sound."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "hostile" / "mutant_run.py"
COUNT = 10_000 if os.environ.get("QUIPLINALG_PROFILE") == "deep" else 288


@pytest.mark.skipif(sys.platform != "linux", reason="fork, and limits of memory")
def test_damaged_files_are_refused_or_read_right():
    one = {"QUIPLINALG_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, str(RUN), "0", str(COUNT)],
        capture_output=True, text=True, check=False, env={**os.environ, **one},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-5000:]
    summary = json.loads(run.stdout)
    assert summary["findings"] == [], run.stderr[-5000:]
    verdicts = summary["verdicts"]
    assert sum(sum(counts.values()) for counts in verdicts.values()) == COUNT
    for kind in ("problem", "result", "statistics", "keras"):  # the mutants reach the readers
        assert verdicts[kind]["refused"] and verdicts[kind]["partly"], kind
