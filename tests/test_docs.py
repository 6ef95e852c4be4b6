"""The page of checked theorems: every claim holds, and every figure it shows is made."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest


def test_every_claim_of_the_page_holds(tmp_path):
    pytest.importorskip("matplotlib", reason="the docs extra is not installed")
    docs = Path(__file__).resolve().parent.parent / "docs"
    runpy.run_path(str(docs / "quip_theorems.py"))["main"](tmp_path)
    page = (tmp_path / "quip-theorems.md").read_text()
    headings = re.findall("^## .*$", page, re.M)
    assert len(headings) == 4
    assert headings == re.findall("^## .*$", (docs / "quip-theorems.md").read_text(), re.M)
    for figure in re.findall(r"\((figures/[^)]*)\)", page):
        assert (tmp_path / figure).stat().st_size > 5000 and (docs / figure).exists()
