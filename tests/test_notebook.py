"""The notebook's cells run one after another, in its short form."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "audio_to_answer.ipynb"


def test_the_cells_run(tmp_path, monkeypatch, capsys):
    pytest.importorskip("espeakng_loader")
    pytest.importorskip("s3prl")
    monkeypatch.setenv("NOTEBOOK_FOLDER", str(tmp_path))
    monkeypatch.delenv("NOTEBOOK_FULL", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {"__name__": "notebook"}
    shown = [run_cell("".join(cell["source"]), names) for cell in cells if cell["cell_type"] == "code"]
    assert names["report"].failures == {}
    assert isinstance(names["answer"].best(), str | dict)
    assert all(value is not None for value in shown[1:])
    stored = [output for cell in cells for output in cell.get("outputs", ()) if output["output_type"] == "stream"]
    printed = capsys.readouterr().out
    assert stored and all("".join(output["text"]) in printed for output in stored), "run the notebook and save it anew"


def run_cell(source: str, names: dict[str, object]) -> object:
    """What a notebook shows of a cell: the value of its last expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, str(NOTEBOOK), "exec"), names)  # our own file
    return None if last is None else eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), names)
