"""The command for all GPU figures in its short form, on the CPU: every row is taken, none twice, none too late."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu


def run(folder, monkeypatch, *options: str) -> dict[str, dict]:
    program = ["gpu", "--device", "cpu", "--short", "--tests", "none", "--results", str(folder), *options]
    monkeypatch.setattr("sys.argv", program)
    gpu.main()
    return json.loads((folder / "gpu.rows.json").read_text())["rows"]


def test_every_row_is_taken_and_none_twice(tmp_path, monkeypatch, capsys) -> None:
    pytest.importorskip("soundfile")
    monkeypatch.setattr(gpu.Bench, "_onnx", lambda self, encoder: 1 / 0)  # an export takes long
    monkeypatch.setattr(torch, "compile", lambda encoder, **options: encoder)  # so does a compiler
    rows = run(tmp_path, monkeypatch)
    failed = {key for key, row in rows.items() if "error" in row}
    assert failed == {key for key in rows if "onnxruntime" in key}
    assert all("ZeroDivisionError" in rows[key]["error"] for key in failed)
    first = next(iter(rows))
    assert "fine-grained heads, eager, fp32, batch 1, 5 s" in first and rows[first]["times faster"] > 0
    assert rows["gated step, bf16"]["hours for 200 000"] > 0
    table = (tmp_path / "gpu.md").read_text()
    assert "graphs" in table and "light front end" in table
    taken = []
    monkeypatch.setattr(gpu.Bench, "_seconds", lambda *arguments: taken.append(1) or 1.0)
    monkeypatch.setattr(gpu.Bench, "_onnx", lambda self, encoder: None)
    again = run(tmp_path, monkeypatch)
    assert {key: row for key, row in again.items() if key not in failed} == {
        key: row for key, row in rows.items() if key not in failed
    }
    assert not any("error" in row for row in again.values()) and taken


def test_no_row_is_begun_after_the_time(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "gpu.rows.json").write_text(json.dumps({"machine": {}, "rows": {"kept": {"model": "kept"}}}))
    assert run(tmp_path, monkeypatch, "--minutes", "0") == {"kept": {"model": "kept"}}
    assert "not taken, the same command goes on:\n  ours, fine-grained heads, eager, fp32" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu"])
    with pytest.raises(SystemExit, match="there is no GPU here; --short"):
        gpu.main()
