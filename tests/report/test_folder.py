"""What a run's folder says of itself when the run is over."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from pruned_upstream.readme import PAGE, README
from pruned_upstream.report.folder import explain
from pruned_upstream.training.guide import CONTENTS

DOCS = Path(__file__).parents[2] / "docs"
FEW = {".lock", README}  # of no use to a reader, or the page itself


@pytest.fixture
def folder(pruned, tmp_path):
    return Path(shutil.copytree(pruned, tmp_path / "run"))


def test_every_file_is_explained(folder):
    state = explain(folder)
    assert state == (folder / "state.pt").stat().st_size
    text = (folder / README).read_text(encoding="utf-8")
    assert {path.name for path in folder.iterdir()} - FEW == set(re.findall(r"^\| `([^`]+)`", text, flags=re.M))
    assert "may be deleted" in text and "finished" in text
    assert (folder / PAGE).read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_a_run_without_a_state_speaks_of_none(folder):
    (folder / "state.pt").unlink()
    assert explain(folder) == 0
    assert "state" not in (folder / README).read_text(encoding="utf-8").partition("| here")[2]


def test_the_page_about_runs_names_the_same_files():
    page = (DOCS / "runs.md").read_text(encoding="utf-8")
    assert [name for name in CONTENTS if name.rstrip("*_") not in page] == []
