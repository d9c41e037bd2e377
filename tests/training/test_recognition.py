"""Decoding as a step of its own: checked before training, done when the model is written, as often as one likes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from training.conftest import write_noise
from training.test_parp import finetuning, speech  # noqa: F401, F811 (fixtures)

from pruned_upstream.errors import CheckpointError, ConfigError, DataError
from pruned_upstream.model import memory
from pruned_upstream.model.checkpoint import load
from pruned_upstream.training import parp as parp_training
from pruned_upstream.training import recognition
from pruned_upstream.training.parp import ParpRecipe, run_parp
from pruned_upstream.training.provenance import RECIPE_FILE, read_report
from pruned_upstream.training.recipe import load_recipe
from pruned_upstream.training.recognition import decode_run


def report_of(run: Path) -> dict:
    return json.loads((run / "report.json").read_text())


@pytest.fixture
def run(finetuning, speech: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A run of two steps that decoded what it was trained on."""
    return run_parp(finetuning(**{"optimisation.steps": 2, "data.test": str(speech)})).parent


@pytest.mark.parametrize(
    ("changes", "error", "complaint"),
    [
        ({"data.test": "dev-claen"}, DataError, "no folder or manifest dev-claen"),
        ({"decoding.lm": "none.arpa", "decoding.words": "none.txt"}, ConfigError, "none.txt cannot be read"),
        ({"data.test": ["{speech}", "{speech}/"]}, ConfigError, "would share the file"),
        ({"data.test": ""}, ConfigError, "would be the folder one is in"),  # of a variable that is not set
    ],
)
def test_what_cannot_be_decoded_is_said_before_training(
    finetuning,  # noqa: F811
    speech: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    changes,
    error,
    complaint,  # noqa: F811
) -> None:
    def trained(*_: object) -> None:
        raise AssertionError("training began")

    monkeypatch.setattr(parp_training, "_train", trained)
    if isinstance(changes.get("data.test"), list):
        changes = {"data.test": [source.format(speech=speech) for source in changes["data.test"]]}
    with pytest.raises(error, match=complaint):
        run_parp(finetuning(**changes))


def test_the_model_outlives_a_decoding_that_fails(finetuning, speech: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    recipe = finetuning(**{"optimisation.steps": 2, "data.test": str(speech)})

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parp_training, "decode_run", killed)
        with pytest.raises(KeyboardInterrupt):
            run_parp(recipe)
    assert (tmp_path / "run" / "parp.safetensors").exists()
    assert report_of(tmp_path / "run")["tests"] == {}
    monkeypatch.delattr(parp_training.Trainer, "step")
    run_parp(recipe)
    assert report_of(tmp_path / "run")["tests"][str(speech)]["recordings"] == 7


def test_another_test_set_after_training(run: Path, invoke, tmp_path: Path) -> None:
    before = report_of(run)
    write_noise(tmp_path / "more" / "x.wav", 1500)
    soundfile.write(tmp_path / "more" / "nan.wav", np.full(1500, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
    (tmp_path / "more" / "all.trans.txt").write_text("x TEA\nnan SO\n")
    said = invoke("decode", run, f"data.test={tmp_path / 'more'}", "--name", "more")
    assert "wrote" in said and "WER" in said
    found = json.loads((run / "evaluations" / "more" / "evaluation.json").read_text())
    (results,) = found["tests"].values()
    assert (results["recordings"], results["skipped"]) == (1, 1)
    assert found["tests_skipped"][str(tmp_path / "more")] == {"nan.wav": "it holds samples that are NaN or infinite"}
    assert report_of(run) == before
    assert not (run / RECIPE_FILE).read_text().count("more")


def test_what_is_learned_from_and_tested_on_is_told(
    finetuning,  # noqa: F811
    speech: Path,  # noqa: F811
    invoke,
    tmp_path: Path,
    caplog,
) -> None:
    """Under another name as well: one recording of two."""
    heard = sorted(speech.rglob("*.wav"))[0]
    write_noise(tmp_path / "more" / "own.wav", 1500, seed=77)
    (tmp_path / "more" / "copied.wav").write_bytes(heard.read_bytes())
    (tmp_path / "more" / "all.trans.txt").write_text("own TEA\ncopied SO\n")
    folder = run_parp(finetuning(**{"optimisation.steps": 2, "data.test": str(tmp_path / "more")})).parent
    assert "TRAINING ON WHAT IS TESTED ON: 1 of the 2 recordings" in caplog.text
    assert report_of(folder)["tests"][str(tmp_path / "more")]["learned_from"] == 1
    assert "NOT VALID: 1 RECORDINGS ARE LEARNED FROM" in invoke("decode", folder)
    (tmp_path / "more" / "copied.wav").unlink()
    assert "NOT VALID" not in invoke("decode", folder)


def test_again_with_the_runs_own_settings(run: Path, invoke) -> None:
    before = report_of(run)
    for file in (run / "hypotheses").iterdir():
        file.unlink()
    invoke("decode", run)
    assert report_of(run) == before and len(list((run / "hypotheses").iterdir())) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "complaint"),
    [
        (["optimisation.steps=9"], ConfigError, "optimisation.steps is what the run was trained with"),
        (["data.test=[]"], ConfigError, "nothing to decode"),
        (["decoding.beam=3", "--name", "../x"], ConfigError, "without a path"),
        (["decoding.beam=3", "--name", ".."], ConfigError, "without a path"),
        (["decoding.beam=0"], ConfigError, "beam is 0"),
    ],
)
def test_mistakes_in_the_command(run: Path, invoke, arguments, error, complaint) -> None:
    with pytest.raises(error, match=complaint):
        invoke("decode", run, *arguments)


def test_folders_without_a_head(run: Path, invoke, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not the folder of a training"):
        invoke("decode", tmp_path)
    head = run / "head.safetensors"
    head.write_bytes(head.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"head\.safetensors is damaged"):
        invoke("decode", run)
    head.unlink()
    with pytest.raises(CheckpointError, match=r"there is no .*head\.safetensors"):
        invoke("decode", run)


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("LibriSpeech/dev-clean", "LibriSpeech-dev-clean.tsv"),
        ("lists/dev.tsv", "lists-dev.tsv"),
        ("speech/v1.2", "speech-v1.2.tsv"),
        ("/speech", "speech.tsv"),
        ("a/" + "é" * 150, "é" * 100 + ".tsv"),
    ],
)
def test_names_of_results(source: str, file: str) -> None:
    assert recognition._hypotheses_file(source) == file


def test_the_folder_one_stands_in(run: Path, invoke, speech: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    monkeypatch.chdir(speech)
    assert "WER" in invoke("decode", run, "data.test=.")
    (written,) = (run / "evaluations" / "test").glob("*.tsv")
    assert written.name == f"{tmp_path.name}-{speech.name}.tsv"


def test_a_test_recording_that_memory_has_no_room_for(run: Path, invoke, monkeypatch) -> None:
    """It is named and counted, and the others are decoded."""
    monkeypatch.setattr(memory, "ALWAYS_FINE", 0)
    needed = memory.bytes_needed(load(run / "parp.safetensors").config, 1, 3000)
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed)
    assert "skipped" in invoke("decode", run, "--name", "short")
    (skipped,) = json.loads((run / "evaluations" / "short" / "evaluation.json").read_text())["tests_skipped"].values()
    assert list(skipped) == ["5.wav"] and "GB of cpu memory are free" in skipped["5.wav"]


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 9000])
def test_a_damaged_report_is_said_and_written_anew(run: Path, finetuning, text: str) -> None:  # noqa: F811
    (run / "report.json").write_text(text)
    with pytest.raises(DataError, match=r"report\.json cannot be read .*; the run's command writes it anew"):
        read_report(run)
    with pytest.raises(DataError, match=r"report\.json cannot be read"):
        decode_run(run, load_recipe(run / RECIPE_FILE, ParpRecipe), torch.device("cpu"))


@pytest.mark.parametrize("text", ["3", '{"a": 1}', "[" * 9000])
def test_a_damaged_record_of_launches_is_said(run: Path, finetuning, speech: Path, text: str) -> None:  # noqa: F811
    (run / "launches.json").write_text(text)
    with pytest.raises(ConfigError, match=r"launches\.json cannot be read .*; remove it"):
        run_parp(finetuning(**{"optimisation.steps": 3, "data.test": str(speech)}), amend=True)
