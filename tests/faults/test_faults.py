"""The table of seeded faults is up to date; planting them is what run.py is for (minutes)."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fault import PACKAGE, ROOT
from table import FAULTS


def test_there_are_enough_and_each_has_a_name_of_its_own():
    assert len(FAULTS) >= 30
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    rooms = {fault.file.partition("/")[0] for fault in FAULTS}
    assert rooms >= {"factor", "rounding", "grids", "kernels", "files", "incoherence"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_still_applies(fault):
    text = (PACKAGE / fault.file).read_text()
    planted = fault.planted(text)
    assert planted != text
    ast.parse(planted)
    for test in fault.tests:
        assert (ROOT / test).exists(), test
