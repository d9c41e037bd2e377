"""`pruned-upstream parp` and `masks`: one run, many runs as a sweep, and masks side by side."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tiny import random_encoder, tiny_config
from training.conftest import write_noise

from pruned_upstream.errors import ConfigError
from pruned_upstream.model.checkpoint import save
from pruned_upstream.model.config import CONV_FEATURE_LAYERS


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A recipe file over a tiny teacher with the official strides, and two recordings."""
    strides = tuple((16, kernel, stride) for _, kernel, stride in CONV_FEATURE_LAYERS)
    save(tmp_path / "teacher.safetensors", random_encoder(tiny_config(conv_layers=strides)))
    for number in range(2):
        write_noise(tmp_path / "speech" / f"{number}.wav", 4000, seed=number)
    (tmp_path / "speech" / "all.trans.txt").write_text("0 A\n1 AB\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"""
base: parp_demo
teacher: {tmp_path / "teacher.safetensors"}
data: {{train: {tmp_path / "speech"}, test: {tmp_path / "speech"}}}
optimisation: {{steps: 2}}
run: {{folder: {tmp_path / "runs"}, device: cpu}}
"""
    )
    return path


def test_one_run_and_what_info_says_of_it(invoke, recipe: Path, tmp_path: Path) -> None:
    output = invoke("parp", recipe, "parp.sparsity=0.75")
    assert "75.0000%" in output and "WER" in output
    model = tmp_path / "runs" / "parp.safetensors"
    output = invoke("info", model)
    assert "Zeros in each matrix" in output and "save no computing" in output
    tree = json.loads(invoke("info", model, "--json"))
    assert tree["sparsity"] == 0.75
    assert len(tree["sparsity_by_matrix"]) == 18
    assert tree["parameters"] == tree["parameters_dense"]
    dense = json.loads(invoke("info", tmp_path / "teacher.safetensors", "--json"))
    assert tree["macs"] == dense["macs"]  # zeros earn no credit
    assert dense["sparsity"] == 0.0 and tree["file_bytes"] < dense["file_bytes"] + 20_000


def test_a_grid_of_runs_is_a_sweep(invoke, recipe: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    methods = ("--vary", "parp.method=mpi,parp")
    how = ("--method", "parp", "--launcher", "debug")
    invoke("sweep", recipe, *methods, "--sparsity", "0.3,0.8", "--seeds", "0,1", *how)
    folders = sorted(path.name for path in runs.iterdir() if path.is_dir() and path.name != "jobs")
    assert len(folders) == 8 and folders[0] == "method-mpi_sparsity-0.3_seed-0"
    rows = list(csv.DictReader((runs / "results.csv").open()))
    assert [float(row["sparsity"]) for row in rows if row["parp.method"] == "parp"] == pytest.approx(
        [0.3, 0.3, 0.8, 0.8], abs=1e-4
    )
    source = tmp_path / "speech"
    for row in rows:
        report = json.loads((runs / row["point"] / "report.json").read_text())
        assert float(row[f"WER (%) of {source}"]) == 100 * report["tests"][str(source)]["wer"]
    pictures = runs.glob("trade_off_*R-of-*-speech.png")
    assert sorted(path.name[:13] for path in pictures) == ["trade_off_CER", "trade_off_WER"]
    # by its other name, it finds everything finished
    output = invoke("parp", recipe, *methods, "--vary", "parp.sparsity=0.3,0.8", "--vary", "run.seed=0,1")
    assert output.count(" finished") == 8
    assert output.count("±") == 4 * 4  # sparsity, loss, WER and CER of each cell, over two seeds


def test_masks_of_runs_are_compared(invoke, recipe: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        invoke("parp", recipe, "parp.method=rpi", f"run.seed={ord(name)}", f"run.folder={tmp_path / name}")
    (found,) = json.loads(invoke("masks", tmp_path / "a", tmp_path / "b" / "parp.safetensors", "--json"))
    assert found["whole"] == pytest.approx(1 / 3, abs=0.03)  # half of the weights each, at random
    assert found["chance"] == pytest.approx(1 / 3, abs=1e-3)
    assert set(found["kinds"]) == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    output = invoke("masks", tmp_path / "a", tmp_path / "b")
    assert "Overlap of living weights" in output and "33." in output
    with pytest.raises(ConfigError, match="at least two"):
        invoke("masks", tmp_path / "a")
    with pytest.raises(ConfigError, match="stored dense and has no masks"):
        invoke("masks", tmp_path / "a", tmp_path / "teacher.safetensors")
