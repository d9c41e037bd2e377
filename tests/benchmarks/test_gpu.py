"""The command for all GPU figures in its short form, on the CPU: every row is taken, none twice, none too late."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu


def run(folder, monkeypatch, *options: str) -> dict[str, dict]:
    program = ["gpu", "--device", "cpu", "--short", "--tests", "none", "--results", str(folder), *options]
    monkeypatch.setattr("sys.argv", program)
    gpu.main()
    return json.loads((folder / "gpu.rows.json").read_text())["rows"]


def test_every_row_is_taken_and_none_twice(tmp_path, monkeypatch, capsys) -> None:
    for package in ("soundfile", "omegaconf", "s3prl", "transformers"):
        pytest.importorskip(package)
    monkeypatch.setattr(gpu.Bench, "_onnx", lambda self, encoder: 1 / 0)  # an export takes long
    monkeypatch.setattr(torch, "compile", lambda encoder, **options: encoder)  # so does a compiler
    rows = run(tmp_path, monkeypatch)
    failed = {key for key, row in rows.items() if "error" in row}
    assert {row.get("against") for row in rows.values()} == {"s3prl WavLM Base", None}
    assert failed == {key for key in rows if "onnxruntime" in key}
    assert all("ZeroDivisionError" in rows[key]["error"] for key in failed)
    first = next(iter(rows))
    assert "fine-grained heads, eager, fp32, batch 1, 5 s" in first and rows[first]["times faster"] > 0
    assert rows["gated step, bf16"]["hours for 200 000"] > 0
    table = (tmp_path / "gpu.md").read_text()
    assert "graphs" in table and "light front end" in table
    taken = []
    monkeypatch.setattr(gpu.Bench, "_compared", lambda *arguments: taken.append(1) or {"ms": 1.0})
    monkeypatch.setattr(gpu.Bench, "_onnx", lambda self, encoder: None)
    again = run(tmp_path, monkeypatch)
    assert {key: row for key, row in again.items() if key not in failed} == {
        key: row for key, row in rows.items() if key not in failed
    }
    assert not any("error" in row for row in again.values()) and taken


def test_what_is_not_installed_costs_its_own_rows_alone(tmp_path, monkeypatch) -> None:
    for package in ("s3prl", "transformers", "omegaconf", "soundfile", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(torch, "compile", lambda encoder, **options: encoder)
    rows = run(tmp_path, monkeypatch)
    failed = {key for key, row in rows.items() if "error" in row}
    expected = ("s3prl", "transformers", "onnxruntime", "gated step", "loading")
    assert failed == {key for key in rows if key.startswith(expected) or "onnxruntime" in key}
    assert all("is missing; pip install" in rows[key]["error"] for key in failed)
    measured = [row for key, row in rows.items() if key not in failed]
    assert {row["against"].partition(";")[0] for row in measured} == {"ours, dense"}
    assert all("the package 's3prl' is missing" in row["against"] for row in measured)


PYTEST = """import sys, time
print("tests/a.py::test_one[front end too] PASSED [ 10%]")
print("tests/a.py::test_two FAILED [ 20%]")
print("tests/a.py::test_three SKIPPED (there is none) [ 30%]", flush=True)
time.sleep(60 if "slow" in sys.argv else 0)
"""


@pytest.mark.parametrize(("chosen", "ending"), [("slow", "; not through after 2 s"), ("", "")])
def test_what_tests_said_before_their_time_was_over(chosen, ending, tmp_path, monkeypatch) -> None:
    (tmp_path / "pytest.py").write_text(PYTEST)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    said, names = gpu.run_tests("cpu", 2 if chosen else 60, chosen)
    assert said == f"1 passed, 1 failed, 1 skipped{ending}; tests/a.py::test_two"
    assert names == ["tests/a.py::test_one[front end too]"]
    assert not gpu.passed(said) and gpu.passed("56 passed, 8 skipped")
    assert not gpu.passed("56 passed; not through after 150 s")


def test_tests_that_passed_before_the_time_was_over_are_not_run_again(tmp_path, monkeypatch) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        "import pytest\npytestmark = pytest.mark.gpu\n"
        "def test_one(): assert False\n"
        "@pytest.mark.parametrize('name', ['front end too', 'b'])\ndef test_two(name): pass\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = gpu\n")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "TESTS", ["tests/test_a.py"])
    one, two = "tests/test_a.py::test_one", [f"tests/test_a.py::test_two[{name}]" for name in ("front end too", "b")]
    assert gpu.run_tests("cpu", 60, "", [one, two[0]]) == ("3 passed", [one, *two])
    assert gpu.run_tests("cpu", 60, "", [one, *two]) == ("3 passed", [one, *two])
    assert gpu.run_tests("cpu", 60, "") == (f"2 passed, 1 failed; {one}", two)


def test_no_row_is_begun_after_the_time(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "gpu.rows.json").write_text(json.dumps({"machine": {}, "rows": {"kept": {"model": "kept"}}}))
    assert run(tmp_path, monkeypatch, "--minutes", "0") == {"kept": {"model": "kept"}}
    assert "not taken, the same command goes on:\n  ours, fine-grained heads, eager, fp32" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["gpu", "--device", "cpu"])
    with pytest.raises(SystemExit, match="there is no GPU here; --short"):
        gpu.main()


def test_the_page_lists_the_tests_that_a_gpu_runs() -> None:
    here = Path(__file__).parents[1]
    everything = (here / "training/test_gpu.py").read_text()
    assert "pytestmark = pytest.mark.gpu" in everything
    names = set(re.findall(r"^def (test_\w+)", everything, re.MULTILINE))
    for file in here.rglob("test_*.py"):
        names |= set(re.findall(r"^@pytest\.mark\.gpu\n(?:@.*\n)*def (test_\w+)", file.read_text(), re.MULTILINE))
    listed = set(re.findall(r"^\| `(test_\w+)` \|", (here.parent / "docs/speed.md").read_text(), re.MULTILINE))
    assert listed == names
